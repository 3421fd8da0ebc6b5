//! Events and pairs of type and state key as small numbers.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers come from this table, and its lists are as long as its numbers go"
)]

use canonical::Event;

use crate::hash::{self, table};
use crate::{Conflict, Decision};

/// The number of an event or of a pair; `NONE` is no number.
pub type Index = u32;
pub const NONE: Index = Index::MAX;

/// The numbers of the pairs that decide about others.
pub const POWER_LEVELS: Index = 0;
pub const JOIN_RULES: Index = 1;
pub const CREATE: Index = 2;

/// Numbers of pairs of type and state key.
pub struct Pairs<'a> {
    pub list: Vec<(&'a str, &'a str)>,
    members: hash::Table<&'a str, Index>,
    others: hash::Table<(&'a str, &'a str), Index>,
}

impl<'a> Pairs<'a> {
    pub fn with_capacity(capacity: usize) -> Self {
        let mut pairs =
            Self { list: Vec::with_capacity(capacity), members: table(capacity), others: table(0) };
        for kind in ["m.room.power_levels", "m.room.join_rules", "m.room.create"] {
            pairs.add(kind, "");
        }
        pairs
    }

    /// The number of a pair, a new one if it has none yet.
    pub fn add(&mut self, kind: &'a str, state_key: &'a str) -> Index {
        let next = index(self.list.len());
        let found = if kind == "m.room.member" {
            *self.members.entry(state_key).or_insert(next)
        } else {
            *self.others.entry((kind, state_key)).or_insert(next)
        };
        if found == next {
            self.list.push((kind, state_key));
        }
        found
    }

    /// The number of a pair that may have none.
    pub fn find(&self, kind: &str, state_key: &str) -> Index {
        let found = match (kind, state_key) {
            ("m.room.power_levels", "") => return POWER_LEVELS,
            ("m.room.join_rules", "") => return JOIN_RULES,
            ("m.room.create", "") => return CREATE,
            ("m.room.member", user) => self.members.get(user),
            pair => self.others.get(&pair),
        };
        found.copied().unwrap_or(NONE)
    }
}

/// All events that were given. The numbers of the conflicted ones come first, and then those of the others of the full
/// conflicted set.
pub struct Table<'a> {
    pub create: &'a Event,
    pub events: Vec<&'a Event>,
    /// The pair of each event; `NONE` for what is not state.
    pub pair: Vec<Index>,
    pub rejected: Vec<bool>,
    pub pairs: Pairs<'a>,
    /// The event of each pair in the unconflicted state.
    pub unconflicted: Vec<Index>,
    by_id: hash::Table<&'a str, Index>,
    conflicted_count: Index,
    full_count: Index,
}

impl<'a> Table<'a> {
    pub fn new(conflict: &Conflict<'_, 'a>) -> Self {
        let lists = [
            conflict.conflicted,
            conflict.subgraph,
            conflict.auth_difference,
            conflict.unconflicted,
            conflict.known,
        ];
        let count = 1 + lists.iter().map(|list| list.len()).sum::<usize>();
        let mut table = Self {
            create: conflict.create,
            events: Vec::with_capacity(count),
            pair: Vec::with_capacity(count),
            rejected: Vec::new(),
            pairs: Pairs::with_capacity(count),
            unconflicted: Vec::new(),
            by_id: table(count),
            conflicted_count: 0,
            full_count: 0,
        };
        for event in conflict.conflicted {
            table.add(event);
        }
        table.conflicted_count = index(table.events.len());
        for event in conflict.subgraph.iter().chain(conflict.auth_difference) {
            table.add(event);
        }
        table.full_count = index(table.events.len());
        let unconflicted: Vec<Index> = conflict.unconflicted.iter().map(|event| table.add(event)).collect();
        for event in conflict.known.iter().chain([&conflict.create]) {
            table.add(event);
        }

        table.unconflicted = vec![NONE; table.pairs.list.len()];
        for event in unconflicted {
            let pair = table.pair[event as usize];
            if pair != NONE {
                table.unconflicted[pair as usize] = event;
            }
        }
        table.rejected = vec![false; table.events.len()];
        for event_id in conflict.rejected {
            if let Some(event) = table.find(event_id) {
                table.rejected[event as usize] = true;
            }
        }
        table
    }

    fn add(&mut self, event: &'a Event) -> Index {
        let next = index(self.events.len());
        let found = *self.by_id.entry(event.event_id()).or_insert(next);
        if found == next {
            self.events.push(event);
            self.pair
                .push(event.state_key().map_or(NONE, |state_key| self.pairs.add(event.kind(), state_key)));
        }
        found
    }

    /// The number of an event that was given.
    pub fn find(&self, event_id: &str) -> Option<Index> {
        self.by_id.get(event_id).copied()
    }

    fn is_state(&self, event: Index) -> bool {
        self.pair[event as usize] != NONE
    }

    /// The conflicted state set.
    pub fn conflicted(&self) -> impl Iterator<Item = Index> {
        (0..self.conflicted_count).filter(|event| self.is_state(*event))
    }

    /// The full conflicted set.
    pub fn full(&self) -> impl Iterator<Item = Index> {
        (0..self.full_count).filter(|event| self.is_state(*event))
    }

    /// How many numbers there are for the full conflicted set.
    pub const fn full_count(&self) -> usize {
        self.full_count as usize
    }

    /// Whether an event is in the full conflicted set.
    pub fn is_full(&self, event: Index) -> bool {
        event < self.full_count && self.is_state(event)
    }

    /// What became of every conflicted pair, and which pairs besides have an event now that no state has.
    ///
    /// What is not in conflict stays as it is, whatever was applied to it on the way.
    pub fn decisions(&self, state: &[Index]) -> Vec<Decision<'a>> {
        let mut done: Vec<bool> = self.unconflicted.iter().map(|event| *event != NONE).collect();
        let mut decisions = Vec::with_capacity(self.full_count());
        for event in self.full() {
            let pair = self.pair[event as usize] as usize;
            let winner = state[pair];
            if done[pair] || (winner == NONE && event >= self.conflicted_count) {
                continue;
            }
            done[pair] = true;
            let (kind, state_key) = self.pairs.list[pair];
            let event_id = (winner != NONE).then(|| self.events[winner as usize].event_id());
            decisions.push(Decision { kind, state_key, event_id });
        }
        decisions
    }
}

/// A number of something of which there are fewer than 2^32 in memory.
pub fn index(number: usize) -> Index {
    Index::try_from(number).unwrap_or(NONE)
}
