//! State resolution (server-server API, "Room State Resolution", and room versions 1, 2 and 12).
//!
//! [`resolve`] works on the conflict alone: what the states have in common it sees only as far as authorisation
//! looks at it. [`graph`] says what the conflict is, for states and an auth graph in memory.
//!
//! Event ids and pairs of type and state key become small numbers once, on the way in; everything after that is
//! arrays. Nothing is recursive, and all but the sorting is linear.

pub mod graph;
mod hash;
mod mainline;
mod power_order;
mod table;
mod v1;
mod v2;

use canonical::{Event, RoomVersion, StateResolution};
use event_auth::auth_event_keys_of;

/// What states of one room disagree about, and what is needed to decide it.
#[derive(Clone, Copy)]
pub struct Conflict<'l, 'a> {
    /// The room's create event.
    pub create: &'a Event,
    /// Of the state that all states have in common, at least the events of [`needed_pairs`].
    pub unconflicted: &'l [&'a Event],
    /// The conflicted state set: every event that some, but not all states have for its type and state key.
    pub conflicted: &'l [&'a Event],
    /// The events in the full auth chains of some, but not all states; the events of a state count as part of its
    /// chain (see [`graph::AuthGraph::auth_difference`]). Version 1 does not look at it.
    pub auth_difference: &'l [&'a Event],
    /// The conflicted state subgraph. Only version 2.1 looks at it.
    pub subgraph: &'l [&'a Event],
    /// Any other events, so that [`Missing`] does not ask for them.
    pub known: &'l [&'a Event],
    /// The ids of those of the events that were rejected.
    pub rejected: &'l [&'l str],
}

/// The event that a pair of type and state key has after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The type.
    pub kind: &'a str,
    /// The state key.
    pub state_key: &'a str,
    /// The id of the event; `None` if none was allowed.
    pub event_id: Option<&'a str>,
}

/// How a conflict ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution<'a> {
    /// Every conflicted pair. Pairs that no state has, but the auth difference, may follow; they are rare.
    pub decisions: Vec<Decision<'a>>,
    /// The events that were applied, in this order; a later one replaces an earlier one of the same pair.
    pub applied: Vec<&'a str>,
    /// The events that were tried and not allowed, and why, in words.
    pub lost: Vec<(&'a str, String)>,
}

/// Events without which there is no telling: give them as `known`, and call again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing<'a> {
    /// Their ids, sorted.
    pub event_ids: Vec<&'a str>,
}

impl<'a> Missing<'a> {
    fn new(mut event_ids: Vec<&'a str>) -> Self {
        event_ids.sort_unstable();
        event_ids.dedup();
        Self { event_ids }
    }
}

/// Resolve a conflict by the algorithm of the room version. The order in which events are given does not matter.
pub fn resolve<'a>(version: &RoomVersion, conflict: Conflict<'_, 'a>) -> Result<Resolution<'a>, Missing<'a>> {
    match version.state_resolution {
        StateResolution::V1 => Ok(v1::resolve(Conflict { subgraph: &[], auth_difference: &[], ..conflict })),
        StateResolution::V2 => v2::resolve(Conflict { subgraph: &[], ..conflict }, v2::Start::Unconflicted),
        StateResolution::V2_1 => v2::resolve(conflict, v2::Start::Empty),
    }
}

/// The pairs of type and state key that a resolution of these events looks at in the unconflicted state: their own,
/// and those by which they are authorised. Sorted, none twice.
///
/// `events` are the full conflicted set.
pub fn needed_pairs(events: &[&Event]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(events.len() * 2);
    for event in events {
        if let Some(state_key) = event.state_key() {
            pairs.push((event.kind().to_owned(), state_key.to_owned()));
        }
        pairs.extend(auth_event_keys_of(event).into_iter().map(|(kind, key)| (kind.to_owned(), key)));
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}
