//! Whole states.

use std::collections::HashSet;
use std::sync::Arc;

use crate::walk::Held;
use crate::{Address, Entry, MAX_DEPTH, Node, Page, PageId, Source, TreeError, Walk, pair_of, prefix_of};

/// All entries of each of the states.
#[derive(Debug)]
pub struct Items {
    held: Held,
    tasks: Vec<Task>,
    /// No node is twice in a tree; were it so, by corruption, there would be no end of entries.
    seen: HashSet<(usize, Address)>,
    found: Vec<Vec<Entry>>,
}

#[derive(Debug)]
struct Task {
    root: usize,
    address: Address,
    depth: u32,
    prefix: u64,
}

impl Items {
    pub fn new(roots: &[Address]) -> Self {
        Self {
            held: Held::default(),
            tasks: roots
                .iter()
                .enumerate()
                .map(|(root, address)| Task { root, address: *address, depth: 0, prefix: 0 })
                .collect(),
            seen: HashSet::new(),
            found: vec![Vec::new(); roots.len()],
        }
    }

    /// The entries by state, in no order.
    pub fn found(&self) -> &[Vec<Entry>] {
        &self.found
    }

    fn visit(&mut self, task: &Task, node: Node) -> Result<(), TreeError> {
        let Task { root, address, depth, prefix } = *task;
        if !self.seen.insert((root, address)) {
            return Err(TreeError::Corrupt("a node is twice in a tree"));
        }
        match node {
            Node::Leaf(entries) => {
                let Some(found) = self.found.get_mut(root) else { return Ok(()) };
                for (rest, value) in entries {
                    found.push((pair_of(prefix, rest, depth)?, value));
                }
            }
            Node::Inner(_) if depth >= MAX_DEPTH => return Err(TreeError::Corrupt("a tree is too deep")),
            Node::Inner(children) => {
                self.tasks.extend(children.into_iter().enumerate().filter_map(|(slot, child)| {
                    let prefix = prefix_of(prefix, slot, depth);
                    child.map(|address| Task { root, address, depth: depth + 1, prefix })
                }));
            }
        }
        Ok(())
    }
}

impl Walk for Items {
    fn advance(&mut self, source: &dyn Source) -> Result<Vec<PageId>, TreeError> {
        let mut waiting = Vec::new();
        while let Some(task) = self.tasks.pop() {
            match self.held.node(task.address, task.depth, source)? {
                Some(node) => self.visit(&task, node)?,
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
