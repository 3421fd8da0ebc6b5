//! Events and pairs of type and state key as small numbers.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers come from this table, and its lists are as long as its numbers go"
)]

use std::collections::HashMap;

use canonical::Event;

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
    members: HashMap<&'a str, Index>,
    others: HashMap<(&'a str, &'a str), Index>,
}

impl<'a> Pairs<'a> {
    pub fn with_capacity(capacity: usize) -> Self {
        let mut pairs = Self {
            list: Vec::with_capacity(capacity),
            members: HashMap::with_capacity(capacity),
            others: HashMap::new(),
        };
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

/// All events that were given, and the state that is being built.
pub struct Table<'a> {
    pub create: &'a Event,
    pub events: Vec<&'a Event>,
    /// The pair of each event; `NONE` for what is not state.
    pub pair: Vec<Index>,
    pub rejected: Vec<bool>,
    pub pairs: Pairs<'a>,
    by_id: HashMap<&'a str, Index>,
    /// The event of each pair in the unconflicted state.
    pub unconflicted: Vec<Index>,
}

impl<'a> Table<'a> {
    pub fn new(conflict: &Conflict<'_, 'a>) -> Self {
        let lists = [
            conflict.conflicted,
            conflict.auth_difference,
            conflict.subgraph,
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
            by_id: HashMap::with_capacity(count),
            unconflicted: Vec::new(),
        };
        // In this order, so that events that are looked at one after the other lie beside each other.
        for event in lists.into_iter().flatten().chain([&conflict.create]) {
            table.add(event);
        }
        table.rejected = vec![false; table.events.len()];
        for event_id in conflict.rejected {
            if let Some(event) = table.find(event_id) {
                table.rejected[event as usize] = true;
            }
        }
        table.unconflicted = vec![NONE; table.pairs.list.len()];
        for event in conflict.unconflicted {
            let event = table.add(event);
            let pair = table.pair[event as usize];
            if pair != NONE {
                table.unconflicted[pair as usize] = event;
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

    /// The state events of these lists, none twice, in the order of their numbers.
    pub fn state_events(&self, lists: &[&[&'a Event]]) -> Vec<Index> {
        let mut wanted = vec![false; self.events.len()];
        for event in lists.iter().copied().flatten() {
            if let Some(event) = self.find(event.event_id()) {
                wanted[event as usize] = self.pair[event as usize] != NONE;
            }
        }
        (0..index(self.events.len())).filter(|event| wanted[*event as usize]).collect()
    }

    /// What became of every conflicted pair, and which pairs besides have an event now that no state has.
    ///
    /// What is not in conflict stays as it is, whatever was applied to it on the way.
    pub fn decisions(&self, conflicted: &[&'a Event], tried: &[Index], state: &[Index]) -> Vec<Decision<'a>> {
        let mut done: Vec<bool> = self.unconflicted.iter().map(|event| *event != NONE).collect();
        let mut decisions = Vec::with_capacity(conflicted.len());
        let mut decide = |event: Index, even_if_none: bool| {
            let pair = self.pair[event as usize];
            if pair == NONE || done[pair as usize] || (state[pair as usize] == NONE && !even_if_none) {
                return;
            }
            done[pair as usize] = true;
            let (kind, state_key) = self.pairs.list[pair as usize];
            let winner = state[pair as usize];
            let event_id = (winner != NONE).then(|| self.events[winner as usize].event_id());
            decisions.push(Decision { kind, state_key, event_id });
        };
        for event in conflicted.iter().filter_map(|event| self.find(event.event_id())) {
            decide(event, true);
        }
        for event in tried {
            decide(*event, false);
        }
        decisions
    }
}

/// A number of something of which there are fewer than 2^32 in memory.
pub fn index(number: usize) -> Index {
    Index::try_from(number).unwrap_or(NONE)
}
