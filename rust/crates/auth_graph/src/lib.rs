//! The graph that `auth_events` make among the state events of a room (rooms v2, "State resolution").
//!
//! Events are known by the positions at which they were stored. An event is stored after the events that it cites, so
//! every edge leads to a lower position, and descending positions are a topological order. Only what a question
//! touches is loaded: a question that needs more says what ([`Step`]), is told, and is asked again.

mod difference;
mod packing;

use std::collections::{BTreeMap, HashMap};

pub use packing::{pack, unpack};

/// A state event: the number of its (type, state key) pair, and the positions of its auth events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub pair: u64,
    pub auth: Vec<u64>,
}

/// What a question came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These events are needed, by position.
    Rows(Vec<u64>),
    /// All state events above this position are needed.
    Above(u64),
    /// For these it must be known whether they are in the unconflicted state.
    Unknown(Vec<u64>),
    /// The answer, ascending.
    Done(Vec<u64>),
}

/// The part of the graph that was loaded.
#[derive(Clone, Debug, Default)]
pub struct AuthGraph {
    rows: BTreeMap<u64, Row>,
    /// All state events of the room above this position are among the rows.
    complete_above: Option<u64>,
    unconflicted: HashMap<u64, bool>,
}

impl AuthGraph {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&mut self, position: u64, row: Row) {
        self.rows.insert(position, row);
    }

    pub fn pair_of(&self, position: u64) -> Option<u64> {
        self.rows.get(&position).map(|row| row.pair)
    }

    /// Every state event above this position was added.
    pub fn set_complete_above(&mut self, position: u64) {
        self.complete_above = Some(self.complete_above.map_or(position, |known| known.min(position)));
    }

    /// Say whether an event is in the unconflicted state: that of all the states that are compared.
    pub fn tell(&mut self, position: u64, is_unconflicted: bool) {
        self.unconflicted.insert(position, is_unconflicted);
    }
}
