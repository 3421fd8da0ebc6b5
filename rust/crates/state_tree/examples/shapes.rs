//! What a shape of the tree costs: run it after changing `BITS` or `LEAF`.
//!
//!     cargo run --release --manifest-path rust/Cargo.toml -p state_tree --example shapes
//!
//! A room of 50,000 members and 100,000 changes, each in a transaction of its own: first everybody joins, then members
//! change at random. The ids of pairs are dense, or every 100th; positions follow one another, or are every 10th.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use state_tree::{Address, BITS, Cache, Find, Items, LEAF, Page, PageId, Source, TreeError, Walk, Writer};

const MEMBERS: u64 = 50_000;
const CHANGES: u64 = 100_000;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Every page, none of which a walk finds before it asks.
#[derive(Default)]
struct Store {
    pages: HashMap<PageId, Arc<Page>>,
    rounds: u64,
    loads: HashSet<PageId>,
}

struct Nowhere;

impl Source for Nowhere {
    fn page(&self, _: PageId) -> Option<Arc<Page>> {
        None
    }
}

impl Store {
    fn run(&mut self, walk: &mut dyn Walk) -> Result<(), TreeError> {
        loop {
            let wanted = walk.advance(&Nowhere)?;
            if wanted.is_empty() {
                return Ok(());
            }
            self.rounds += 1;
            for id in wanted {
                self.loads.insert(id);
                walk.give(self.pages.get(&id).ok_or(TreeError::Missing(id))?.clone());
            }
        }
    }
}

fn measure(pair_step: u64, position_step: u64) -> Result<(), TreeError> {
    let mut random = Random(7);
    let mut store = Store::default();
    let cache = Arc::new(Cache::new(1 << 30));
    let mut root = None;
    let mut roots: Vec<Address> = Vec::new();
    let mut bytes = 0;
    for number in 1..=CHANGES {
        let member = if number <= MEMBERS { number } else { random.below(MEMBERS) + 1 };
        let (pair, position) = (member * pair_step, number * position_step);
        let writer = Writer::new(cache.clone());
        if let Some(root) = root {
            Find::new(&[root], &[pair]).advance(&writer)?;
        }
        let value = i64::try_from(position).unwrap_or_default();
        root = Some(writer.change(root, &[(pair, Some(value))], position)?);
        roots.extend(root);
        for page in writer.take() {
            bytes += page.body().len();
            store.pages.insert(page.id(), page);
        }
        writer.keep();
    }
    let per_change = u64::try_from(bytes).unwrap_or_default() / CHANGES;
    for _ in 0..1000 {
        let old = usize::try_from(random.below(CHANGES)).unwrap_or_default();
        let old = roots.get(old).copied().into_iter().collect::<Vec<_>>();
        store.run(&mut Find::new(&old, &[(random.below(MEMBERS) + 1) * pair_step]))?;
    }
    let hops = store.rounds;
    store.loads.clear();
    store.rounds = 0;
    let mut items = Items::new(&root.into_iter().collect::<Vec<_>>());
    store.run(&mut items)?;
    println!(
        "| {} | {LEAF} | {pair_step} | {position_step} | {per_change} | {}.{:02} | {} | {} |",
        1 << BITS,
        hops / 1000,
        hops % 1000 / 10,
        store.loads.len(),
        store.rounds,
    );
    Ok(())
}

fn main() -> Result<(), TreeError> {
    println!(
        "| fan-out | leaf | pairs | positions | bytes a change | loads for an entry | pages of a state | rounds |"
    );
    for (pair_step, position_step) in [(1, 1), (100, 1), (1, 10)] {
        measure(pair_step, position_step)?;
    }
    Ok(())
}
