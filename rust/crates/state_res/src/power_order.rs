//! The reverse topological power ordering.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers come from the table, and its lists are as long as its numbers go"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use event_auth::{AuthError, Level};

use crate::table::{Index, NONE, Table, index};
use crate::v2::AuthEvents;

/// "The reverse topological power ordering of a set of events is the lexicographically smallest topological ordering
/// based on the DAG formed by auth events, [...] from earliest event to latest."
///
/// `level` is the power level of an event's sender, by the event's own auth events.
pub fn power_order(
    table: &Table<'_>,
    auth_events: &AuthEvents,
    mut events: Vec<Index>,
    level: impl Fn(Index) -> Result<Level, AuthError>,
) -> Vec<Index> {
    // "x < y if (1) x's sender has greater power level than y's sender, when looking at their respective auth_events;
    // or (2) the senders have the same power level, but x's origin_server_ts is less than y's; or (3) [...] the events
    // have the same origin_server_ts, but x's event_id is less than y's event_id."
    // Sorted by that once, an event's rank is all that is compared below.
    // Levels that old rooms have written as something else than a number are taken as 0.
    let mut keys: Vec<(Reverse<Level>, i64, &str, Index)> = events
        .iter()
        .map(|event| {
            let found = table.events[*event as usize];
            let level = level(*event).unwrap_or(Level::Finite(0));
            (Reverse(level), found.origin_server_ts(), found.event_id(), *event)
        })
        .collect();
    keys.sort_unstable();
    for (place, key) in events.iter_mut().zip(&keys) {
        *place = key.3;
    }
    let mut rank = vec![NONE; table.events.len()];
    for (place, event) in (0..).zip(&events) {
        rank[*event as usize] = place;
    }

    // Edges lead from an event to those that cite it.
    let mut uncited = vec![0_usize; events.len() + 1];
    let mut open = vec![0_usize; events.len()];
    let cited_ranks = |event: Index| {
        auth_events.of(event).iter().map(|auth_event| rank[*auth_event as usize]).filter(|rank| *rank != NONE)
    };
    for (place, event) in events.iter().enumerate() {
        for cited in cited_ranks(*event) {
            open[place] += 1;
            uncited[cited as usize] += 1;
        }
    }
    let mut ends = uncited;
    let mut total = 0;
    for end in &mut ends {
        let count = *end;
        *end = total;
        total += count;
    }
    let starts = ends.clone();
    let mut citing = vec![NONE; total];
    for (place, event) in events.iter().enumerate() {
        for cited in cited_ranks(*event) {
            citing[ends[cited as usize]] = index(place);
            ends[cited as usize] += 1;
        }
    }

    // "[...] can be found by sorting the events using Kahn's algorithm for topological sorting, and at each step
    // selecting, among all the candidate vertices, the smallest vertex using the above comparison relation."
    let mut candidates: BinaryHeap<Reverse<Index>> =
        (0..).zip(&open).filter(|(_, open)| **open == 0).map(|(place, _)| Reverse(place)).collect();
    let mut ordered = Vec::with_capacity(events.len());
    while let Some(Reverse(place)) = candidates.pop() {
        let place = place as usize;
        ordered.push(events[place]);
        for next in &citing[starts[place]..starts[place + 1]] {
            open[*next as usize] -= 1;
            if open[*next as usize] == 0 {
                candidates.push(Reverse(*next));
            }
        }
    }
    ordered
}
