//! Answers on generated graphs, against the definitions taken literally.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use auth_graph::{AuthGraph, Row, Step, pack, unpack};

/// A small generator of numbers; the seed is printed by what fails.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Events 1..=n, each citing some before it, with a pair each; and states over them.
struct Room {
    rows: BTreeMap<u64, Row>,
    states: Vec<BTreeMap<u64, u64>>,
}

fn room(seed: u64) -> Room {
    let mut random = Seeded(seed);
    let events = 3 + random.below(60);
    let mut rows = BTreeMap::new();
    for at in 1..=events {
        let citations = if at == 1 { 0 } else { 1 + random.below(3) };
        let auth: BTreeSet<u64> = (0..citations).map(|_| 1 + random.below(at - 1)).collect();
        rows.insert(
            at * 10,
            Row { pair: random.below(12), auth: auth.into_iter().map(|cited| cited * 10).collect() },
        );
    }
    let count = 2 + usize::try_from(random.below(4)).unwrap();
    let mut base = BTreeMap::new();
    for (&at, row) in &rows {
        if random.below(3) > 0 {
            base.insert(row.pair, at);
        }
    }
    let states = (0..count)
        .map(|_| {
            let mut state = base.clone();
            for (&at, row) in &rows {
                if random.below(12) == 0 {
                    state.insert(row.pair, at);
                }
            }
            state
        })
        .collect();
    Room { rows, states }
}

/// The event and its auth chain.
fn chain(rows: &BTreeMap<u64, Row>, from: impl Iterator<Item = u64>) -> BTreeSet<u64> {
    let mut open: Vec<u64> = from.collect();
    let mut found = BTreeSet::new();
    while let Some(at) = open.pop() {
        if found.insert(at) {
            open.extend(&rows[&at].auth);
        }
    }
    found
}

/// Ask, and answer what is asked back; how many rows were loaded in the end.
fn ask(room: &Room, conflicted: &BTreeSet<u64>, question: impl Fn(&AuthGraph) -> Step) -> (Vec<u64>, usize) {
    let mut graph = AuthGraph::new();
    let mut loaded = BTreeSet::new();
    for _ in 0..1000 {
        match question(&graph) {
            Step::Done(found) => return (found, loaded.len()),
            Step::Rows(positions) => {
                for at in positions {
                    assert!(loaded.insert(at), "asked twice for {at}");
                    graph.add(at, room.rows[&at].clone());
                }
            }
            Step::Above(position) => {
                for (&at, row) in room.rows.range(position + 1..) {
                    loaded.insert(at);
                    graph.add(at, row.clone());
                }
                graph.set_complete_above(position);
            }
            Step::Unknown(positions) => {
                for at in positions {
                    let pair = room.rows[&at].pair;
                    let everywhere = room.states.iter().all(|state| state.get(&pair) == Some(&at));
                    graph.tell(at, everywhere && !conflicted.contains(&at));
                }
            }
        }
    }
    panic!("the question never ends");
}

fn conflicted_of(room: &Room) -> BTreeSet<u64> {
    let pairs: BTreeSet<u64> = room.states.iter().flat_map(|state| state.keys().copied()).collect();
    let differs = |pair: &u64| room.states.iter().any(|state| state.get(pair) != room.states[0].get(pair));
    let pairs: BTreeSet<u64> = pairs.into_iter().filter(|pair| differs(pair)).collect();
    room.states.iter().flatten().filter(|(pair, _)| pairs.contains(pair)).map(|(_, &at)| at).collect()
}

#[test]
fn differences_are_those_of_the_definition() {
    for seed in 0..20_000 {
        let room = room(seed);
        let conflicted = conflicted_of(&room);
        let sets: Vec<Vec<u64>> = room
            .states
            .iter()
            .map(|state| state.values().copied().filter(|at| conflicted.contains(at)).collect())
            .collect();
        let chains: Vec<BTreeSet<u64>> =
            room.states.iter().map(|state| chain(&room.rows, state.values().copied())).collect();
        let all: BTreeSet<u64> = chains.iter().flatten().copied().collect();
        let expected: Vec<u64> = all
            .into_iter()
            .filter(|at| !conflicted.contains(at) && !chains.iter().all(|chain| chain.contains(at)))
            .collect();
        let (found, _) = ask(&room, &conflicted, |graph| graph.difference(&sets));
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn subgraphs_are_those_of_the_definition() {
    for seed in 0..20_000 {
        let room = room(seed);
        let conflicted = conflicted_of(&room);
        let below = chain(&room.rows, conflicted.iter().copied());
        let expected: Vec<u64> = below
            .into_iter()
            .filter(|&at| {
                chain(&room.rows, std::iter::once(at)).iter().any(|cited| conflicted.contains(cited))
            })
            .collect();
        let ends: Vec<u64> = conflicted.iter().copied().collect();
        let (found, _) = ask(&room, &conflicted, |graph| graph.subgraph(&ends));
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn a_small_conflict_in_a_large_room_loads_little() {
    // 10,000 joins on top of three events, then a conflict about the last of them.
    let mut rows = BTreeMap::from([
        (1, Row { pair: 0, auth: vec![] }),
        (2, Row { pair: 1, auth: vec![1] }),
        (3, Row { pair: 2, auth: vec![1, 2] }),
    ]);
    for at in 4..10_004 {
        rows.insert(at, Row { pair: at, auth: vec![1, 2, 3] });
    }
    let base: BTreeMap<u64, u64> = rows.iter().map(|(&at, row)| (row.pair, at)).collect();
    rows.insert(20_000, Row { pair: 5, auth: vec![1, 2, 5] });
    rows.insert(20_001, Row { pair: 5, auth: vec![1, 2, 5] });
    let states =
        [20_000, 20_001].map(|at| base.iter().map(|(&p, &e)| (p, if p == 5 { at } else { e })).collect());
    let room = Room { rows, states: states.to_vec() };
    let conflicted = BTreeSet::from([20_000, 20_001]);
    let (found, loaded) = ask(&room, &conflicted, |graph| graph.difference(&[vec![20_000], vec![20_001]]));
    assert_eq!(found, vec![]);
    assert!(loaded < 10, "{loaded} rows were loaded");
}

#[test]
fn hundreds_of_states_are_compared_at_once() {
    let mut rows = BTreeMap::from([(1, Row { pair: 0, auth: vec![] })]);
    for at in 2..302 {
        rows.insert(at, Row { pair: 1, auth: vec![1] });
    }
    let states: Vec<_> = (2..302).map(|at| BTreeMap::from([(0, 1), (1, at)])).collect();
    let room = Room { rows, states };
    let sets: Vec<Vec<u64>> = (2..302).map(|at| vec![at]).collect();
    let (found, _) = ask(&room, &(2..302).collect(), |graph| graph.difference(&sets));
    assert_eq!(found, vec![]);
}

#[test]
fn packed_positions_are_unpacked() {
    let cases: [(u64, Vec<u64>); 4] =
        [(5, vec![]), (300, vec![1, 299, 172]), (1 << 40, vec![1, (1 << 40) - 1]), (10, vec![9])];
    for (position, auth) in cases {
        let bytes = pack(position, &auth).unwrap();
        assert_eq!(unpack(position, &bytes), Some(auth));
    }
    assert_eq!(pack(5, &[5]), None);
    assert_eq!(unpack(5, &[9]), None);
    assert_eq!(unpack(1 << 60, &[0x80]), None);
    assert_eq!(unpack(1 << 60, &[0xff; 40]), None);
}
