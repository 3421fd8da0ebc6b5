//! State resolution of room versions 2 to 11, and, as "2.1", of version 12.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers come from the table, and its lists are as long as its numbers go"
)]

use canonical::Event;
use event_auth::{AuthContext, PowerLevels, check_state_auth};

use crate::mainline::mainline_order;
use crate::power_order::power_order;
use crate::table::{CREATE, Index, JOIN_RULES, NONE, POWER_LEVELS, Table};
use crate::{Conflict, Missing, Resolution};

/// The state at which the iterative auth checks begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The unconflicted state map.
    Unconflicted,
    /// The empty state map: version 2.1.
    Empty,
}

/// The auth events of each event of the full conflicted set.
pub struct AuthEvents {
    starts: Vec<usize>,
    list: Vec<Index>,
}

impl AuthEvents {
    /// Fails with the ids of all that were not given.
    fn new<'a>(table: &Table<'a>) -> Result<Self, Missing<'a>> {
        let mut starts = Vec::with_capacity(table.full_count() + 1);
        let mut list = Vec::with_capacity(table.full_count() * 5);
        let mut missing = Vec::new();
        starts.push(0);
        // Most events cite much the same as the one before them, in the same places.
        let mut before: Vec<(&str, Index)> = Vec::new();
        for event in &table.events[..table.full_count()] {
            for (place, event_id) in event.auth_events().iter().enumerate() {
                let found = match before.get(place) {
                    Some((known, found)) if known == event_id => Some(*found),
                    _ => table.find(event_id),
                };
                let Some(found) = found else {
                    missing.push(event_id.as_str());
                    continue;
                };
                list.push(found);
                match before.get_mut(place) {
                    Some(entry) => *entry = (event_id, found),
                    None => before.push((event_id, found)),
                }
            }
            starts.push(list.len());
        }
        if missing.is_empty() { Ok(Self { starts, list }) } else { Err(Missing::new(missing)) }
    }

    /// The auth events of an event of the full conflicted set.
    pub fn of(&self, event: Index) -> &[Index] {
        &self.list[self.starts[event as usize]..self.starts[event as usize + 1]]
    }

    /// The `m.room.power_levels` event among them.
    pub fn power_levels_of(&self, table: &Table<'_>, event: Index) -> Option<Index> {
        self.of(event).iter().copied().find(|auth_event| table.pair[*auth_event as usize] == POWER_LEVELS)
    }
}

pub fn resolve<'a>(conflict: Conflict<'_, 'a>, start: Start) -> Result<Resolution<'a>, Missing<'a>> {
    // "The full conflicted set is the union of the conflicted state set, the conflicted state subgraph [2.1], and
    // the auth difference."
    let table = Table::new(&conflict);
    let auth_events = AuthEvents::new(&table)?;

    // 1. "Select the set X of all power events that appear in the full conflicted set. For each such power event P,
    // enlarge X by adding the events in the auth chain of P which also belong to the full conflicted set."
    let mut in_x = vec![false; table.events.len()];
    let mut x: Vec<Index> = table.full().filter(|event| is_power_event(&table, *event)).collect();
    for event in &x {
        in_x[*event as usize] = true;
    }
    let mut next = 0;
    while let Some(event) = x.get(next).copied() {
        next += 1;
        for auth_event in auth_events.of(event) {
            // Where the chain leaves the full conflicted set it is not followed further. For version 2.1 there is
            // nothing behind, by the definition of the subgraph; for version 2 all implementations stop there.
            if table.is_full(*auth_event) && !std::mem::replace(&mut in_x[*auth_event as usize], true) {
                x.push(*auth_event);
            }
        }
    }
    // "Sort X into a list using the reverse topological power ordering."
    let rules = &conflict.create.version().auth;
    let level = |event: Index| {
        let power_levels = auth_events.power_levels_of(&table, event);
        let power_levels = power_levels.map(|power_levels| table.events[power_levels as usize]);
        PowerLevels::new(power_levels, Some(conflict.create), rules)
            .of_user(table.events[event as usize].sender())
    };
    let x = power_order(&table, &auth_events, x, level);

    // 2. "Apply the iterative auth checks algorithm, starting from the unconflicted state map [2.1: an empty state
    // map], to the list of events from the previous step to get a partially resolved state."
    let state = match start {
        Start::Unconflicted => table.unconflicted.clone(),
        Start::Empty => vec![NONE; table.pairs.list.len()],
    };
    let mut checks =
        Checks { table: &table, auth_events: &auth_events, state, resolution: Resolution::default() };
    checks.apply(&x);
    checks.give_up_circles(table.full().filter(|event| in_x[*event as usize]), &x);

    // 3. "Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based on
    // the power level in the partially resolved state obtained in step 2."
    let rest: Vec<Index> = table.full().filter(|event| !in_x[*event as usize]).collect();
    let power_levels = checks.state[POWER_LEVELS as usize];
    let rest = mainline_order(&table, &auth_events, rest, (power_levels != NONE).then_some(power_levels))?;

    // 4. "Apply the iterative auth checks algorithm on the partial resolved state and the list of events from the
    // previous step."
    checks.apply(&rest);

    // 5. "Update the result by replacing any event with the event with the same key from the unconflicted state map,
    // if such an event exists, to get the final resolved state."
    let Checks { state, mut resolution, .. } = checks;
    resolution.decisions = table.decisions(&state);
    Ok(resolution)
}

/// "A power event is a state event with type `m.room.power_levels` or `m.room.join_rules`, or a state event with type
/// `m.room.member` where the `membership` is `leave` or `ban` and the `sender` does not match the `state_key`."
///
/// All implementations take only empty state keys, and the create event, as well.
fn is_power_event(table: &Table<'_>, event: Index) -> bool {
    if matches!(table.pair[event as usize], POWER_LEVELS | JOIN_RULES | CREATE) {
        return true;
    }
    let event = table.events[event as usize];
    matches!(event.membership(), Some("leave" | "ban")) && event.state_key() != Some(event.sender())
}

/// The iterative auth checks.
struct Checks<'t, 'a> {
    table: &'t Table<'a>,
    auth_events: &'t AuthEvents,
    /// The event of each pair; `NONE` where there is none.
    state: Vec<Index>,
    resolution: Resolution<'a>,
}

impl<'a> Checks<'_, 'a> {
    /// "[...] constructs a new room state by iterating through the event list and applying the state event to the
    /// room state if the state event is allowed by the authorisation rules. If the state event is not allowed by the
    /// authorisation rules, then the event is ignored."
    fn apply(&mut self, events: &[Index]) {
        for number in events {
            let event = self.table.events[*number as usize];
            let context = AuthContext { create: Some(self.table.create), rejected: None };
            let verdict = check_state_auth(
                event,
                &|kind, state_key| self.find(*number, event, kind, state_key),
                context,
            );
            match verdict {
                Ok(()) => {
                    self.state[self.table.pair[*number as usize] as usize] = *number;
                    self.resolution.applied.push(event.event_id());
                }
                Err(reason) => self.resolution.lost.push((event.event_id(), reason.0)),
            }
        }
    }

    /// Events that cite each other in a circle have no order. Only ids that are chosen freely (versions 1 and 2) allow
    /// to write such events, and no server accepts them.
    fn give_up_circles(&mut self, wanted: impl Iterator<Item = Index>, ordered: &[Index]) {
        let mut has_place = vec![false; self.table.full_count()];
        for event in ordered {
            has_place[*event as usize] = true;
        }
        for event in wanted.filter(|event| !has_place[*event as usize]) {
            let event_id = self.table.events[event as usize].event_id();
            self.resolution.lost.push((event_id, "its auth events lead in a circle".to_owned()));
        }
    }

    /// What the rules see. "If a `(event_type, state_key)` key that is required for checking the authorisation rules is
    /// not present in the state, then the appropriate state event from the event's `auth_events` is used if the auth
    /// event is not rejected."
    ///
    /// An event of the state that was rejected counts as not present here, for all implementations.
    fn find(&self, number: Index, event: &Event, kind: &str, state_key: &str) -> Option<&'a Event> {
        let table = self.table;
        let pair = if kind == event.kind() && Some(state_key) == event.state_key() {
            table.pair[number as usize]
        } else {
            table.pairs.find(kind, state_key)
        };
        if pair == CREATE {
            return Some(table.create);
        }
        if pair == NONE {
            return None;
        }
        let usable = |found: &Index| *found != NONE && !table.rejected[*found as usize];
        let in_state = Some(self.state[pair as usize]).filter(usable);
        let cited = || {
            let of_pair =
                |cited: &Index| table.pair[*cited as usize] == pair && !table.rejected[*cited as usize];
            self.auth_events.of(number).iter().copied().find(of_pair)
        };
        in_state.or_else(cited).map(|found| table.events[found as usize])
    }
}
