//! The mainline ordering.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers come from the table, and its lists are as long as its numbers go"
)]

use std::cmp::Reverse;

use crate::Missing;
use crate::table::{Index, NONE, POWER_LEVELS, Table};
use crate::v2::AuthEvents;

/// The mainline position of an event that is not based on the mainline.
const INFINITE: Index = NONE;
/// The position is not known yet.
const UNKNOWN: Index = NONE - 1;

/// Order events by the mainline of a power levels event.
pub fn mainline_order<'a>(
    table: &Table<'a>,
    auth_events: &AuthEvents,
    mut events: Vec<Index>,
    power_levels: Option<Index>,
) -> Result<Vec<Index>, Missing<'a>> {
    let positions = positions(table, auth_events, &events, power_levels)?;
    // "x < y if (1) the mainline position of x is greater than the mainline position of y [...]; or (2) the mainline
    // positions of the events are the same, but x's origin_server_ts is less than y's; or (3) [...] the events have the
    // same origin_server_ts, but x's event_id is less than y's event_id."
    let mut keys: Vec<(Reverse<Index>, i64, &str, Index)> = events
        .iter()
        .zip(positions)
        .map(|(event, position)| {
            let found = table.events[*event as usize];
            (Reverse(position), found.origin_server_ts(), found.event_id(), *event)
        })
        .collect();
    keys.sort_unstable();
    for (place, key) in events.iter_mut().zip(keys) {
        *place = key.3;
    }
    Ok(events)
}

/// The mainline position of each event.
fn positions<'a>(
    table: &Table<'a>,
    auth_events: &AuthEvents,
    events: &[Index],
    power_levels: Option<Index>,
) -> Result<Vec<Index>, Missing<'a>> {
    // Without P there is no mainline to be on.
    let Some(power_levels) = power_levels else {
        return Ok(vec![INFINITE; events.len()]);
    };
    let mut position = vec![UNKNOWN; table.events.len()];

    // e1, "the m.room.power_levels event in the auth_events of e0", of each event e0.
    let first: Vec<Option<Index>> =
        events.iter().map(|event| auth_events.power_levels_of(table, *event)).collect();
    let mut wanted = vec![false; table.events.len()];
    let mut open = 0_usize;
    for event in first.iter().copied().flatten() {
        if !std::mem::replace(&mut wanted[event as usize], true) {
            open += 1;
        }
    }

    // "Starting with i = 0, repeatedly fetch Pi+1, the m.room.power_levels event in the auth_events of Pi. Increment i
    // and repeat until Pi has no m.room.power_levels event in its auth_events."
    // Once every e1 has been met, what comes further down changes nothing.
    let mut current = Some(power_levels);
    let mut depth = 0;
    while let Some(event) = current.filter(|event| position[*event as usize] == UNKNOWN) {
        position[event as usize] = depth;
        depth += 1;
        if wanted[event as usize] {
            open -= 1;
        }
        if open == 0 {
            break;
        }
        current = parent(table, event).map_err(Missing::new)?;
    }

    // "Find the smallest index j >= 1 for which ej belongs to the mainline of P. If such a j exists, then ej = Pi for
    // some unique index i >= 0. Otherwise set i = ∞."
    // Every event on the way has the same position, so each is walked over once.
    let mut missing = Vec::new();
    let mut path = Vec::new();
    for event in first.iter().copied().flatten() {
        let mut current = Some(event);
        let found = loop {
            let Some(event) = current else {
                break INFINITE;
            };
            if position[event as usize] != UNKNOWN {
                break position[event as usize];
            }
            // Until the end of the walk: events that cite each other in a circle lead nowhere.
            position[event as usize] = INFINITE;
            path.push(event);
            match parent(table, event) {
                Ok(next) => current = next,
                Err(ids) => {
                    missing.extend(ids);
                    break INFINITE;
                }
            }
        };
        for event in path.drain(..) {
            position[event as usize] = found;
        }
    }
    if !missing.is_empty() {
        return Err(Missing::new(missing));
    }
    Ok(first.into_iter().map(|first| first.map_or(INFINITE, |event| position[event as usize])).collect())
}

/// The power levels event that a power levels event cites. Fails with the ids among which it may be.
fn parent<'a>(table: &Table<'a>, event: Index) -> Result<Option<Index>, Vec<&'a str>> {
    let mut unknown = Vec::new();
    for event_id in table.events[event as usize].auth_events() {
        match table.find(event_id) {
            Some(cited) if table.pair[cited as usize] == POWER_LEVELS => return Ok(Some(cited)),
            Some(_) => {}
            None => unknown.push(event_id.as_str()),
        }
    }
    if unknown.is_empty() { Ok(None) } else { Err(unknown) }
}
