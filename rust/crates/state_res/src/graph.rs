//! What the conflict between states is, where states and auth graph are in memory.
//!
//! A server with a database has other ways to find it; this is for tests, measurements and small uses.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers come from the lists of events and pairs, and the other lists are as long"
)]

use canonical::{Event, RoomVersion, StateResolution};

use crate::hash::{self, table};
use crate::table::{Index, NONE, Pairs, index};
use crate::{Conflict, Missing, Resolution, resolve};

/// One entry of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry<'a> {
    /// The type.
    pub kind: &'a str,
    /// The state key.
    pub state_key: &'a str,
    /// The id of the event.
    pub event_id: &'a str,
}

/// A state of a room: no pair of type and state key comes twice.
pub type State<'a> = Vec<Entry<'a>>;

/// States, divided into what they have in common and what they have not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Separated<'a> {
    /// The unconflicted state map.
    pub unconflicted: Vec<Entry<'a>>,
    /// The conflicted state set.
    pub conflicted: Vec<Entry<'a>>,
}

/// "If a given key K is present in every Si with the same value V in each state map, then the pair (K, V) belongs to
/// the unconflicted state map. Otherwise, V belongs to the conflicted state set."
pub fn separate<'a>(states: &[State<'a>]) -> Separated<'a> {
    struct Seen<'a> {
        first: Entry<'a>,
        count: usize,
        others: Vec<Entry<'a>>,
    }
    let mut pairs = Pairs::with_capacity(states.first().map_or(0, Vec::len));
    let mut seen: Vec<Option<Seen<'_>>> = Vec::new();
    for entry in states.iter().flatten() {
        let pair = pairs.add(entry.kind, entry.state_key) as usize;
        if pair >= seen.len() {
            seen.resize_with(pairs.list.len(), || None);
        }
        match &mut seen[pair] {
            Some(seen) if seen.first.event_id == entry.event_id => seen.count += 1,
            Some(seen) if seen.others.contains(entry) => {}
            Some(seen) => seen.others.push(*entry),
            empty => *empty = Some(Seen { first: *entry, count: 1, others: Vec::new() }),
        }
    }
    let mut separated = Separated::default();
    for seen in seen.into_iter().flatten() {
        if seen.count == states.len() {
            separated.unconflicted.push(seen.first);
        } else {
            separated.conflicted.push(seen.first);
            separated.conflicted.extend(seen.others);
        }
    }
    separated
}

/// The graph that `auth_events` form.
pub struct AuthGraph<'a> {
    events: Vec<&'a Event>,
    by_id: hash::Table<&'a str, Index>,
    starts: Vec<usize>,
    /// `NONE` for events that were not given.
    cited: Vec<Index>,
}

impl<'a> AuthGraph<'a> {
    /// The graph of these events.
    pub fn new(events: &[&'a Event]) -> Self {
        let mut by_id = table(events.len());
        let mut distinct = Vec::with_capacity(events.len());
        for event in events {
            by_id.entry(event.event_id()).or_insert_with(|| {
                distinct.push(*event);
                index(distinct.len() - 1)
            });
        }
        let mut starts = Vec::with_capacity(distinct.len() + 1);
        let mut cited = Vec::with_capacity(distinct.len() * 4);
        starts.push(0);
        for event in &distinct {
            cited.extend(
                event
                    .auth_events()
                    .iter()
                    .map(|event_id| by_id.get(event_id.as_str()).copied().unwrap_or(NONE)),
            );
            starts.push(cited.len());
        }
        Self { events: distinct, by_id, starts, cited }
    }

    /// The event of this id.
    pub fn find(&self, event_id: &str) -> Option<&'a Event> {
        self.by_id.get(event_id).map(|event| self.events[*event as usize])
    }

    fn numbers(&self, entries: &[Entry<'a>]) -> Result<Vec<Index>, Missing<'a>> {
        let mut missing = Vec::new();
        let mut numbers = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.by_id.get(entry.event_id) {
                Some(event) => numbers.push(*event),
                None => missing.push(entry.event_id),
            }
        }
        if missing.is_empty() { Ok(numbers) } else { Err(Missing::new(missing)) }
    }

    /// The events in the order in which they were given: what lies beside each other in memory is read faster.
    fn events_of(&self, entries: &[Entry<'a>]) -> Result<Vec<&'a Event>, Missing<'a>> {
        let mut numbers = self.numbers(entries)?;
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|event| self.events[event as usize]).collect())
    }

    fn cited_by(&self, event: Index) -> &[Index] {
        &self.cited[self.starts[event as usize]..self.starts[event as usize + 1]]
    }

    /// These events and all of their auth chains; each event comes after those that it cites.
    fn chain(&self, roots: impl Iterator<Item = Index>) -> Result<Vec<Index>, Missing<'a>> {
        let mut missing = Vec::new();
        let mut entered = vec![false; self.events.len()];
        let mut chain = Vec::new();
        // An event, and how many of its auth events have been entered.
        let mut path: Vec<(Index, usize)> = Vec::new();
        for root in roots {
            if std::mem::replace(&mut entered[root as usize], true) {
                continue;
            }
            path.push((root, 0));
            while let Some((event, next)) = path.last_mut() {
                let Some(cited) = self.cited_by(*event).get(*next).copied() else {
                    chain.push(*event);
                    path.pop();
                    continue;
                };
                if cited == NONE {
                    missing.push(self.events[*event as usize].auth_events()[*next].as_str());
                    *next += 1;
                    continue;
                }
                *next += 1;
                if !std::mem::replace(&mut entered[cited as usize], true) {
                    path.push((cited, 0));
                }
            }
        }
        if missing.is_empty() { Ok(chain) } else { Err(Missing::new(missing)) }
    }

    /// "If Ci is the full auth chain of Si, then the auth difference is ∪ Ci − ∩ Ci."
    ///
    /// The events of a state are counted as part of its full auth chain, as the servers of the network do. By the
    /// letter they are part of it only where other events of the state cite them, and an event that all states have,
    /// but not all cite, would be in the difference.
    pub fn auth_difference(&self, states: &[State<'a>]) -> Result<Vec<&'a Event>, Missing<'a>> {
        let states: Result<Vec<_>, _> = states.iter().map(|state| self.numbers(state)).collect();
        let states = states?;
        let chain = self.chain(states.iter().flatten().copied())?;
        // One bit for each state, set for the events in its full auth chain.
        let words = states.len().div_ceil(64);
        let mut bits = vec![0_u64; words * self.events.len()];
        for (number, state) in states.iter().enumerate() {
            let (word, bit) = (number / 64, 1 << (number % 64));
            for event in state {
                bits[*event as usize * words + word] |= bit;
            }
        }
        for event in chain.iter().rev() {
            for word in 0..words {
                let inherited = bits[*event as usize * words + word];
                if inherited != 0 {
                    for cited in self.cited_by(*event) {
                        bits[*cited as usize * words + word] |= inherited;
                    }
                }
            }
        }
        let differs = |event: &Index| {
            let ones: u32 = (0..words).map(|word| bits[*event as usize * words + word].count_ones()).sum();
            ones != 0 && ones != index(states.len())
        };
        Ok(chain.into_iter().filter(differs).map(|event| self.events[event as usize]).collect())
    }

    /// "Starting from an event in the conflicted state set and following `auth_events` edges may lead to another event
    /// in the conflicted state set. The union of all such paths between any pair of events in the conflicted state set
    /// (including endpoints) forms [...] the conflicted state subgraph."
    pub fn subgraph(&self, conflicted: &[Entry<'a>]) -> Result<Vec<&'a Event>, Missing<'a>> {
        let conflicted = self.numbers(conflicted)?;
        // All that a conflicted event leads to; of that, what leads to a conflicted event itself.
        let chain = self.chain(conflicted.iter().copied())?;
        let mut leads = vec![false; self.events.len()];
        for event in conflicted {
            leads[event as usize] = true;
        }
        for event in &chain {
            leads[*event as usize] |= self.cited_by(*event).iter().any(|cited| leads[*cited as usize]);
        }
        let on_path = chain.into_iter().filter(|event| leads[*event as usize]);
        Ok(on_path.map(|event| self.events[event as usize]).collect())
    }
}

/// Resolve states, given the events in them and in their auth chains.
pub fn resolve_states<'a>(
    version: &RoomVersion,
    create: &'a Event,
    states: &[State<'a>],
    events: &[&'a Event],
    rejected: &[&str],
) -> Result<Resolution<'a>, Missing<'a>> {
    let separated = separate(states);
    if separated.conflicted.is_empty() {
        return Ok(Resolution::default());
    }
    let graph = AuthGraph::new(events);
    let unconflicted = graph.events_of(&separated.unconflicted)?;
    let conflicted = graph.events_of(&separated.conflicted)?;
    let (auth_difference, subgraph) = match version.state_resolution {
        StateResolution::V1 => (Vec::new(), Vec::new()),
        StateResolution::V2 => (graph.auth_difference(states)?, Vec::new()),
        StateResolution::V2_1 => (graph.auth_difference(states)?, graph.subgraph(&separated.conflicted)?),
    };
    let conflict = Conflict {
        create,
        unconflicted: &unconflicted,
        conflicted: &conflicted,
        auth_difference: &auth_difference,
        subgraph: &subgraph,
        known: events,
        rejected,
    };
    resolve(version, conflict)
}
