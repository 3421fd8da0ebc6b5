//! Entries of states.

use std::sync::Arc;

use crate::walk::Held;
use crate::{
    Address, Entry, MAX_DEPTH, Node, Page, PageId, SLOTS, Source, TreeError, Walk, rest_of, slot_of,
};

/// The entries of these pairs in each of the states.
#[derive(Debug)]
pub struct Find {
    held: Held,
    tasks: Vec<Task>,
    found: Vec<Vec<Entry>>,
}

#[derive(Debug)]
struct Task {
    root: usize,
    address: Address,
    depth: u32,
    pairs: Vec<u64>,
}

impl Find {
    pub fn new(roots: &[Address], pairs: &[u64]) -> Self {
        let tasks = roots.iter().enumerate().filter(|_| !pairs.is_empty());
        Self {
            held: Held::default(),
            tasks: tasks
                .map(|(root, address)| Task { root, address: *address, depth: 0, pairs: pairs.to_vec() })
                .collect(),
            found: vec![Vec::new(); roots.len()],
        }
    }

    /// The entries by state, in no order.
    pub fn found(&self) -> &[Vec<Entry>] {
        &self.found
    }

    fn visit(&mut self, task: Task, node: Node) -> Result<(), TreeError> {
        let Task { root, depth, pairs, .. } = task;
        match node {
            Node::Leaf(entries) => {
                let value = |pair: &u64| {
                    let index = entries.binary_search_by_key(&rest_of(*pair, depth), |(rest, _)| *rest);
                    index.ok().and_then(|index| entries.get(index)).map(|(_, value)| (*pair, *value))
                };
                if let Some(found) = self.found.get_mut(root) {
                    found.extend(pairs.iter().filter_map(value));
                }
            }
            Node::Inner(_) if depth >= MAX_DEPTH => return Err(TreeError::Corrupt("a tree is too deep")),
            Node::Inner(children) => {
                let mut below: [Vec<u64>; SLOTS] = std::array::from_fn(|_| Vec::new());
                for pair in pairs {
                    if let Some(below) = below.get_mut(slot_of(pair, depth)) {
                        below.push(pair);
                    }
                }
                for (child, pairs) in children.into_iter().zip(below) {
                    if let Some(address) = child
                        && !pairs.is_empty()
                    {
                        self.tasks.push(Task { root, address, depth: depth + 1, pairs });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Walk for Find {
    fn advance(&mut self, source: &dyn Source) -> Result<Vec<PageId>, TreeError> {
        let mut waiting = Vec::new();
        while let Some(task) = self.tasks.pop() {
            match self.held.node(task.address, task.depth, source)? {
                Some(node) => self.visit(task, node)?,
                None => waiting.push(task),
            }
        }
        self.tasks = waiting;
        Ok(self.held.take_wanted())
    }

    fn give(&mut self, page: Arc<Page>) {
        self.held.give(page);
    }
}
