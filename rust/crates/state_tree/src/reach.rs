//! Which pages nobody can reach any more.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::walk::Held;
use crate::{Address, MAX_DEPTH, Node, Page, PageId, Source, TreeError, Walk};

/// How many pages are asked for at once.
const MANY: usize = 2_000;

/// The pages that states need which are given up, and that no state needs which is kept.
///
/// What is kept is walked first. What is given up need then be followed no further than to where it meets that.
#[derive(Debug)]
pub struct Unreachable {
    held: Held,
    /// Nodes with their depths.
    tasks: Vec<(Address, u32)>,
    /// The roots of what is given up, until what is kept is known.
    given_up: Option<Vec<Address>>,
    seen: HashSet<Address>,
    kept: HashSet<PageId>,
    found: BTreeSet<PageId>,
}

impl Unreachable {
    pub fn new(given_up: &[Address], kept: &[Address]) -> Self {
        Self {
            held: Held::default(),
            tasks: kept.iter().map(|root| (*root, 0)).collect(),
            given_up: Some(given_up.to_vec()),
            seen: HashSet::new(),
            kept: HashSet::new(),
            found: BTreeSet::new(),
        }
    }

    /// The pages, in order.
    pub fn found(&self) -> &BTreeSet<PageId> {
        &self.found
    }

    fn visit(&mut self, address: Address, depth: u32, node: &Node) -> Result<(), TreeError> {
        self.seen.insert(address);
        if self.given_up.is_some() {
            self.kept.insert(address.page());
        } else if !self.kept.contains(&address.page()) {
            self.found.insert(address.page());
        }
        match node {
            Node::Leaf(_) => {}
            Node::Inner(_) if depth >= MAX_DEPTH => return Err(TreeError::Corrupt("a tree is too deep")),
            Node::Inner(children) => {
                self.tasks.extend(children.iter().flatten().map(|child| (*child, depth + 1)));
            }
        }
        Ok(())
    }
}

impl Walk for Unreachable {
    fn advance(&mut self, source: &dyn Source) -> Result<Vec<PageId>, TreeError> {
        loop {
            let mut waiting = Vec::new();
            while let Some((address, depth)) = self.tasks.pop() {
                if self.seen.contains(&address) {
                    continue;
                }
                match self.held.node(address, depth, source)? {
                    Some(node) => self.visit(address, depth, &node)?,
                    None => waiting.push((address, depth)),
                }
            }
            self.tasks = waiting;
            let mut wanted = self.held.take_wanted();
            if !wanted.is_empty() {
                wanted.truncate(MANY);
                return Ok(wanted);
            }
            let Some(given_up) = self.given_up.take() else { return Ok(wanted) };
            self.tasks = given_up.into_iter().map(|root| (root, 0)).collect();
        }
    }

    fn give(&mut self, page: Arc<Page>) {
        self.held.give(page);
    }
}
