//! Any sequence of changes, against plain maps; and bytes that are no pages.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use state_tree::{
    Address, Cache, Difference, Find, Items, Page, PageId, Source, TreeError, Unreachable, Walk, Writer,
};

type State = BTreeMap<u64, i64>;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

struct Nowhere;

impl Source for Nowhere {
    fn page(&self, _: PageId) -> Option<Arc<Page>> {
        None
    }
}

/// What a database would hold.
#[derive(Default)]
struct Store {
    bodies: HashMap<PageId, Vec<u8>>,
    loads: usize,
    loaded: usize,
}

impl Store {
    fn run(&mut self, walk: &mut dyn Walk, source: &dyn Source) -> Result<(), TreeError> {
        loop {
            let wanted = walk.advance(source)?;
            if wanted.is_empty() {
                return Ok(());
            }
            self.loads += 1;
            for id in wanted {
                self.loaded += 1;
                let body = self.bodies.get(&id).ok_or(TreeError::Missing(id))?;
                walk.give(Arc::new(Page::parse(id, body)?));
            }
        }
    }

    fn change(
        &mut self,
        writer: &Writer,
        root: Option<Address>,
        changes: &[(u64, Option<i64>)],
        position: u64,
    ) -> Address {
        let pairs: Vec<u64> = changes.iter().map(|(pair, _)| *pair).collect();
        if let Some(root) = root {
            let mut walk = Find::new(&[root], &pairs);
            loop {
                let wanted = walk.advance(writer).unwrap();
                if wanted.is_empty() {
                    break;
                }
                for id in wanted {
                    let page = Arc::new(Page::parse(id, &self.bodies[&id]).unwrap());
                    writer.give(page.clone());
                    walk.give(page);
                }
            }
        }
        writer.change(root, changes, position).unwrap()
    }

    fn commit(&mut self, writer: &Writer) {
        for page in writer.take() {
            assert!(page.body().len() < 4_000);
            assert!(self.bodies.insert(page.id(), page.body().to_vec()).is_none());
        }
        writer.keep();
    }

    fn items(&mut self, root: Address) -> State {
        let mut walk = Items::new(&[root]);
        self.run(&mut walk, &Nowhere).unwrap();
        let found = &walk.found()[0];
        let state: State = found.iter().copied().collect();
        assert_eq!(state.len(), found.len());
        state
    }

    fn find(&mut self, roots: &[Address], pairs: &[u64], source: &dyn Source) -> Vec<State> {
        let mut walk = Find::new(roots, pairs);
        self.run(&mut walk, source).unwrap();
        walk.found().iter().map(|found| found.iter().copied().collect()).collect()
    }

    fn difference(&mut self, roots: &[Option<Address>]) -> BTreeMap<u64, Vec<Option<i64>>> {
        let mut walk = Difference::new(roots);
        self.run(&mut walk, &Nowhere).unwrap();
        walk.found().iter().cloned().collect()
    }

    fn unreachable(&mut self, given_up: &[Address], kept: &[Address]) -> BTreeSet<PageId> {
        let mut walk = Unreachable::new(given_up, kept);
        self.run(&mut walk, &Nowhere).unwrap();
        walk.found().clone()
    }
}

fn model_difference(states: &[&State]) -> BTreeMap<u64, Vec<Option<i64>>> {
    let pairs: BTreeSet<u64> = states.iter().flat_map(|state| state.keys().copied()).collect();
    let values = |pair: u64| states.iter().map(|state| state.get(&pair).copied()).collect::<Vec<_>>();
    pairs
        .into_iter()
        .map(|pair| (pair, values(pair)))
        .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
        .collect()
}

/// Pairs of a small room, of a large one, with the same low bits, and any at all.
fn pair(random: &mut Random) -> u64 {
    match random.below(5) {
        0 => random.below(20),
        1 | 2 => random.below(3_000),
        3 => random.below(50) << (58 - random.below(8)),
        _ => random.below(u64::MAX) >> random.below(64),
    }
}

fn history(seed: u64) -> (Store, Cache, Vec<(Address, State)>) {
    let mut random = Random(seed);
    let mut store = Store::default();
    let cache = Arc::new(Cache::new(20_000));
    let mut states: Vec<(Address, State)> = Vec::new();
    let bits = random.below(40);
    let mut position = random.below(1 << bits) + 1;
    for _ in 0..60 {
        let writer = Writer::new(cache.clone());
        for _ in 0..=random.below(8) {
            position += random.below(3);
            let count = *random.of(&[1, 1, 1, 1, 3, 40, 600]);
            let changes: Vec<_> = (0..count)
                .map(|_| {
                    let value = match random.below(6) {
                        0 => None,
                        1 => Some(position as i64 - random.below(1 << 40) as i64),
                        _ => Some(position as i64),
                    };
                    (pair(&mut random), value)
                })
                .collect();
            let newest = states.len().saturating_sub(6);
            let from = if states.is_empty() || random.below(30) == 0 {
                None
            } else if random.below(10) == 0 {
                Some(random.of(&states).clone())
            } else {
                Some(random.of(&states[newest..]).clone())
            };
            let (root, mut state) = from.map_or((None, State::new()), |(root, state)| (Some(root), state));
            let root = store.change(&writer, root, &changes, position);
            for (pair, value) in changes {
                match value {
                    Some(value) => state.insert(pair, value),
                    None => state.remove(&pair),
                };
            }
            states.push((root, state));
            // What is not stored yet is seen through its writer.
            let mut walk = Items::new(&[root]);
            store.run(&mut walk, &writer).unwrap();
            assert_eq!(walk.found()[0].iter().copied().collect::<State>(), states.last().unwrap().1);
        }
        store.commit(&writer);
        position += 1;
    }
    let cache = Arc::into_inner(cache).unwrap();
    (store, cache, states)
}

fn seeds() -> impl Iterator<Item = u64> {
    let count = std::env::var("SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(6);
    (1..=count).map(|seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn every_state_of_random_histories_reads_as_its_model() {
    for seed in seeds() {
        let (mut store, cache, states) = history(seed);
        let mut random = Random(seed ^ 1);
        for (root, state) in &states {
            assert_eq!(&store.items(*root), state, "seed {seed}");
        }
        let roots: Vec<Address> = states.iter().map(|(root, _)| *root).collect();
        let pairs: BTreeSet<u64> = (0..60).map(|_| pair(&mut random)).collect();
        let pairs: Vec<u64> = pairs.into_iter().collect();
        let found = store.find(&roots, &pairs, &cache);
        for (found, (_, state)) in found.iter().zip(&states) {
            let expected = pairs.iter().filter_map(|pair| Some((*pair, *state.get(pair)?)));
            assert_eq!(found, &expected.collect::<State>(), "seed {seed}");
        }
        assert!(cache.size() <= 20_000);
    }
}

#[test]
fn differences_of_two_and_more_states_are_those_of_the_models() {
    for seed in seeds() {
        let (mut store, _, states) = history(seed);
        let mut random = Random(seed ^ 2);
        for count in [1, 2, 2, 2, 2, 2, 3, 7, 20] {
            for _ in 0..8 {
                let chosen: Vec<_> = (0..count).map(|_| random.of(&states).clone()).collect();
                let mut roots: Vec<_> = chosen.iter().map(|(root, _)| Some(*root)).collect();
                let mut models: Vec<_> = chosen.iter().map(|(_, state)| state).collect();
                let nothing = State::new();
                if random.below(5) == 0 {
                    roots.push(None);
                    models.push(&nothing);
                }
                assert_eq!(store.difference(&roots), model_difference(&models), "seed {seed}");
            }
        }
    }
}

#[test]
fn what_is_kept_reads_the_same_when_unreachable_pages_are_gone() {
    for seed in seeds() {
        let (mut store, _, mut states) = history(seed);
        let mut random = Random(seed ^ 3);
        while states.len() > 3 {
            // The oldest go, and some others.
            let mut given_up: Vec<_> = states.drain(..=states.len() / 4).collect();
            let at = usize::try_from(random.below(states.len() as u64)).unwrap();
            given_up.push(states.remove(at));
            let roots =
                |states: &[(Address, State)]| states.iter().map(|(root, _)| *root).collect::<Vec<_>>();
            for page in store.unreachable(&roots(&given_up), &roots(&states)) {
                store.bodies.remove(&page).unwrap();
            }
            for (root, state) in &states {
                assert_eq!(&store.items(*root), state, "seed {seed}");
            }
        }
        // And nothing is left behind.
        let rest: Vec<Address> = states.iter().map(|(root, _)| *root).collect();
        let left: BTreeSet<PageId> = store.bodies.keys().copied().collect();
        assert_eq!(store.unreachable(&rest, &[]), left, "seed {seed}");
    }
}

#[test]
fn a_change_of_a_large_state_writes_little_and_a_difference_reads_little() {
    let mut store = Store::default();
    let cache = Arc::new(Cache::new(0));
    let writer = Writer::new(cache.clone());
    let all: Vec<_> = (1..=50_000).map(|pair| (pair, Some(7))).collect();
    let root = store.change(&writer, None, &all, 7);
    store.commit(&writer);
    let writer = Writer::new(cache);
    let changed = store.change(&writer, Some(root), &[(777, Some(8))], 8);
    let again = store.change(&writer, Some(root), &[(777, Some(7)), (60_000, None)], 8);
    assert_eq!(again, root);
    let [page] = writer.take().try_into().unwrap();
    assert!(page.body().len() < 250);
    store.bodies.insert(page.id(), page.body().to_vec());
    store.loaded = 0;
    let difference = store.difference(&[Some(root), Some(changed)]);
    assert_eq!(difference, BTreeMap::from([(777, vec![Some(7), Some(8)])]));
    assert!(store.loaded < 12);
}

#[test]
fn changes_of_one_transaction_share_a_page_and_a_later_one_begins_its_own() {
    let mut store = Store::default();
    let cache = Arc::new(Cache::new(0));
    let writer = Writer::new(cache.clone());
    let mut root = None;
    for position in 1..=8 {
        root = Some(store.change(&writer, root, &[(position, Some(position as i64))], position));
    }
    store.commit(&writer);
    assert_eq!(store.bodies.len(), 1);
    let writer = Writer::new(cache.clone());
    let one = store.change(&writer, root, &[(1, Some(9))], 9);
    let other = store.change(&writer, root, &[(2, Some(9))], 9);
    store.commit(&writer);
    assert_eq!(store.bodies.len(), 3);
    assert_ne!(one.page(), other.page());
}

#[test]
fn positions_that_are_too_large_are_refused() {
    let writer = Writer::new(Arc::new(Cache::new(0)));
    assert_eq!(writer.change(None, &[(1, Some(1))], 1 << 50), Err(TreeError::TooLarge));
}

#[test]
fn corrupt_pages_are_errors() {
    let (store, _, states) = history(77);
    let mut random = Random(5);
    let mut failures = 0;
    for round in 0..6_000 {
        let mut ids: Vec<PageId> = store.bodies.keys().copied().collect();
        ids.sort_unstable();
        let mut bodies = store.bodies.clone();
        for _ in 0..=random.below(4) {
            let body = bodies.get_mut(random.of(&ids)).unwrap();
            match random.below(5) {
                0 => body.truncate(usize::try_from(random.below(body.len() as u64)).unwrap()),
                1 => body.extend((0..random.below(300)).map(|_| random.below(256) as u8)),
                2 => body.iter_mut().for_each(|byte| *byte = random.below(256) as u8),
                _ => {
                    let at = usize::try_from(random.below(body.len().max(1) as u64)).unwrap();
                    if let Some(byte) = body.get_mut(at) {
                        *byte = random.below(256) as u8;
                    }
                }
            }
        }
        let mut broken = Store { bodies, ..Store::default() };
        let (one, other) = (random.of(&states).0, random.of(&states).0);
        let mut walks: [Box<dyn Walk>; 4] = [
            Box::new(Items::new(&[one, other])),
            Box::new(Find::new(&[one, other], &[1, 5, 700, u64::MAX])),
            Box::new(Difference::new(&[Some(one), Some(other), None])),
            Box::new(Unreachable::new(&[one], &[other])),
        ];
        let walk = &mut walks[round % 4];
        failures += usize::from(broken.run(walk.as_mut(), &Nowhere).is_err());
    }
    assert!(failures > 100);
}

#[test]
fn any_bytes_are_a_page_or_an_error() {
    let mut random = Random(9);
    for _ in 0..300_000 {
        let bytes: Vec<u8> = (0..random.below(40))
            .map(|_| (if random.below(3) == 0 { random.below(4) } else { random.below(256) }) as u8)
            .collect();
        let bits = random.below(41);
        let id = PageId::new(random.below(1 << bits), random.below(3)).unwrap();
        if let Ok(page) = Page::parse(id, &bytes) {
            assert!(!page.is_empty());
        }
    }
}
