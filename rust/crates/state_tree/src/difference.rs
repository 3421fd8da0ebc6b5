//! What states do not have in common.

use std::collections::HashSet;
use std::sync::Arc;

use crate::walk::Held;
use crate::{
    Address, Entry, MASK, MAX_DEPTH, Node, Page, PageId, SLOTS, Source, TreeError, Walk, pair_of, prefix_of,
};

/// The pairs for which several states do not all have the same event; what all share is not read.
#[derive(Debug)]
pub struct Difference {
    held: Held,
    tasks: Vec<Task>,
    seen: HashSet<Address>,
    found: Vec<(u64, Vec<Option<i64>>)>,
}

/// The same part of each state.
#[derive(Debug)]
struct Task {
    depth: u32,
    prefix: u64,
    sides: Vec<Side>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Nothing,
    Node(Address),
    /// What a leaf higher up has in this part, in order.
    Entries(Vec<Entry>),
}

impl Difference {
    pub fn new(roots: &[Option<Address>]) -> Self {
        let sides = roots.iter().map(|root| root.map_or(Side::Nothing, Side::Node)).collect();
        let mut walk =
            Self { held: Held::default(), tasks: Vec::new(), seen: HashSet::new(), found: Vec::new() };
        walk.push(Task { depth: 0, prefix: 0, sides });
        walk
    }

    /// The pairs, in no order, each with the position of its event in each of the states.
    pub fn found(&self) -> &[(u64, Vec<Option<i64>>)] {
        &self.found
    }

    fn push(&mut self, task: Task) {
        if task.sides.windows(2).any(|pair| matches!(pair, [one, other] if one != other)) {
            self.tasks.push(task);
        }
    }

    /// The nodes of the sides, or None if a page must be loaded.
    fn nodes(&mut self, task: &Task, source: &dyn Source) -> Result<Option<Vec<Option<Node>>>, TreeError> {
        let mut nodes = Vec::with_capacity(task.sides.len());
        let mut is_complete = true;
        for side in &task.sides {
            nodes.push(match side {
                Side::Nothing => None,
                Side::Entries(entries) => Some(Node::Leaf(entries.clone())),
                Side::Node(address) => {
                    let node = self.held.node(*address, task.depth, source)?;
                    is_complete &= node.is_some();
                    node
                }
            });
        }
        Ok(is_complete.then_some(nodes))
    }

    fn visit(&mut self, task: &Task, nodes: Vec<Option<Node>>) -> Result<(), TreeError> {
        let own: HashSet<Address> = task
            .sides
            .iter()
            .filter_map(|side| match side {
                Side::Node(address) => Some(*address),
                _ => None,
            })
            .collect();
        // No node is twice in a tree; were it so, by corruption, there would be no end of this.
        if !own.into_iter().all(|address| self.seen.insert(address)) {
            return Err(TreeError::Corrupt("a node is twice in a tree"));
        }
        if nodes.iter().any(|node| matches!(node, Some(Node::Inner(_)))) {
            self.descend(task, nodes)
        } else {
            self.compare(task, &nodes)
        }
    }

    fn descend(&mut self, task: &Task, nodes: Vec<Option<Node>>) -> Result<(), TreeError> {
        if task.depth >= MAX_DEPTH {
            return Err(TreeError::Corrupt("a tree is too deep"));
        }
        let parts: Vec<[Side; SLOTS]> = nodes.into_iter().map(parts).collect();
        for slot in 0..SLOTS {
            let side = |parts: &[Side; SLOTS]| parts.get(slot).cloned().unwrap_or(Side::Nothing);
            self.push(Task {
                depth: task.depth + 1,
                prefix: prefix_of(task.prefix, slot, task.depth),
                sides: parts.iter().map(side).collect(),
            });
        }
        Ok(())
    }

    fn compare(&mut self, task: &Task, nodes: &[Option<Node>]) -> Result<(), TreeError> {
        let entries = |node: &Option<Node>| match node {
            Some(Node::Leaf(entries)) => entries.clone(),
            _ => Vec::new(),
        };
        let sides: Vec<Vec<Entry>> = nodes.iter().map(entries).collect();
        let mut pairs: Vec<u64> = sides.iter().flatten().map(|(rest, _)| *rest).collect();
        pairs.sort_unstable();
        pairs.dedup();
        for rest in pairs {
            let value = |entries: &Vec<Entry>| {
                let index = entries.binary_search_by_key(&rest, |(rest, _)| *rest).ok()?;
                entries.get(index).map(|(_, value)| *value)
            };
            let values: Vec<Option<i64>> = sides.iter().map(value).collect();
            if values.windows(2).any(|pair| matches!(pair, [one, other] if one != other)) {
                self.found.push((pair_of(task.prefix, rest, task.depth)?, values));
            }
        }
        Ok(())
    }
}

/// What each child of a node is, or would be if the node were an inner one.
fn parts(node: Option<Node>) -> [Side; SLOTS] {
    match node {
        None => std::array::from_fn(|_| Side::Nothing),
        Some(Node::Inner(children)) => children.map(|child| child.map_or(Side::Nothing, Side::Node)),
        Some(Node::Leaf(entries)) => {
            let mut parts: [Vec<Entry>; SLOTS] = std::array::from_fn(|_| Vec::new());
            for (rest, value) in entries {
                let slot = usize::try_from(rest & MASK).unwrap_or_default();
                if let Some(part) = parts.get_mut(slot) {
                    part.push((rest >> crate::BITS, value));
                }
            }
            parts.map(|part| if part.is_empty() { Side::Nothing } else { Side::Entries(part) })
        }
    }
}

impl Walk for Difference {
    fn advance(&mut self, source: &dyn Source) -> Result<Vec<PageId>, TreeError> {
        let mut waiting = Vec::new();
        while let Some(task) = self.tasks.pop() {
            match self.nodes(&task, source)? {
                Some(nodes) => self.visit(&task, nodes)?,
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
