//! What holds of every resolution, over generated rooms.
//!
//! A failure prints its seed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "comparisons")]

mod generator;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use canonical::{Event, ROOM_VERSIONS, StateResolution};
use generator::{Random, Room, large_room, small_room};
use state_res::graph::{AuthGraph, Entry, State, resolve_states, separate};
use state_res::{Conflict, Resolution, needed_pairs, resolve};

const ROOMS: u64 = 60;

fn events(room: &Room) -> Vec<&Event> {
    room.events.iter().map(|event| &**event).collect()
}

fn rejected(room: &Room) -> Vec<&str> {
    room.rejected.iter().map(String::as_str).collect()
}

/// The events of pairs, whatever the order in which they were decided.
fn decided<'a>(resolution: &Resolution<'a>) -> BTreeMap<(&'a str, &'a str), Option<&'a str>> {
    let decision =
        |decision: &state_res::Decision<'a>| ((decision.kind, decision.state_key), decision.event_id);
    resolution.decisions.iter().map(decision).collect()
}

/// Call the function with each generated room and the states of each of its merges.
fn for_each_merge(check: impl Fn(&Room, &[State<'_>], &Resolution<'_>, &str)) {
    for version in &ROOM_VERSIONS {
        for seed in 1..=ROOMS {
            let room = small_room(seed, version);
            for (number, states) in room.merges.iter().enumerate() {
                let states: Vec<_> = states.iter().map(|state| room.entries(state)).collect();
                let resolution =
                    resolve_states(version, room.create(), &states, &events(&room), &rejected(&room))
                        .unwrap();
                let place = format!("version {}, seed {seed}, merge {number}", version.identifier);
                check(&room, &states, &resolution, &place);
            }
        }
    }
}

#[test]
fn order_of_input_does_not_matter() {
    for_each_merge(|room, states, resolution, place| {
        let mut random = Random::new(room.seed);
        let mut events = events(room);
        let mut states = states.to_vec();
        for _ in 0..3 {
            random.shuffle(&mut events);
            random.shuffle(&mut states);
            for state in &mut states {
                random.shuffle(state);
            }
            let again =
                resolve_states(room.version, room.create(), &states, &events, &rejected(room)).unwrap();
            assert_eq!(decided(&again), decided(resolution), "{place}");
            if room.version.state_resolution != StateResolution::V1 {
                assert_eq!(
                    (again.applied, again.lost),
                    (resolution.applied.clone(), resolution.lost.clone())
                );
            }
        }
    });
}

#[test]
fn states_given_twice_count_once() {
    for_each_merge(|room, states, resolution, place| {
        let twice = [states, states].concat();
        let again =
            resolve_states(room.version, room.create(), &twice, &events(room), &rejected(room)).unwrap();
        assert_eq!(decided(&again), decided(resolution), "{place}");
    });
}

#[test]
fn every_decision_is_for_one_of_the_events_of_its_pair() {
    for_each_merge(|room, states, resolution, place| {
        let separated = separate(states);
        let conflicted: BTreeSet<_> =
            separated.conflicted.iter().map(|entry| (entry.kind, entry.state_key)).collect();
        let decisions = decided(resolution);
        assert!(conflicted.iter().all(|pair| decisions.contains_key(pair)), "{place}");
        assert_eq!(decisions.len(), resolution.decisions.len(), "{place}");
        for entry in &separated.unconflicted {
            assert!(!decisions.contains_key(&(entry.kind, entry.state_key)), "{place}");
        }
        for (pair, event_id) in decisions {
            assert!(conflicted.contains(&pair) || event_id.is_some(), "{place}");
        }
        // What was tried was either applied or not.
        let lost: BTreeSet<_> = resolution.lost.iter().map(|(event_id, _)| *event_id).collect();
        assert!(resolution.applied.iter().all(|event_id| !lost.contains(event_id)), "{place}");
        // Version 1 tries the others of a pair no more when it has found one.
        let tried = |event_id| lost.contains(event_id) || resolution.applied.contains(&event_id);
        let tries_all = room.version.state_resolution != StateResolution::V1;
        assert!(!tries_all || separated.conflicted.iter().all(|entry| tried(entry.event_id)), "{place}");
    });
}

/// Resolve with no more than a server loads that knows the conflict and nothing else.
fn resolve_alone<'a>(
    room: &'a Room,
    graph: &AuthGraph<'a>,
    states: &[State<'a>],
) -> (Resolution<'a>, Vec<&'a Event>) {
    let find = |entries: &[Entry<'a>]| -> Vec<&'a Event> {
        entries.iter().map(|entry| graph.find(entry.event_id).unwrap()).collect()
    };
    let separated = separate(states);
    let conflicted = find(&separated.conflicted);
    let auth_difference = graph.auth_difference(states).unwrap();
    let subgraph = graph.subgraph(&separated.conflicted).unwrap();
    let rejected = rejected(room);
    let common: HashMap<_, _> =
        separated.unconflicted.iter().map(|entry| ((entry.kind, entry.state_key), *entry)).collect();
    let needed = needed_pairs(&[&conflicted[..], &auth_difference, &subgraph].concat());
    let loaded: Vec<Entry<'_>> =
        needed.iter().filter_map(|(kind, key)| common.get(&(kind.as_str(), key.as_str())).copied()).collect();
    let unconflicted = find(&loaded);
    let mut known = Vec::new();
    loop {
        let conflict = Conflict {
            create: room.create(),
            unconflicted: &unconflicted,
            conflicted: &conflicted,
            auth_difference: &auth_difference,
            subgraph: &subgraph,
            known: &known,
            rejected: &rejected,
        };
        match resolve(room.version, conflict) {
            Ok(resolution) => return (resolution, known),
            Err(missing) => {
                assert!(!missing.event_ids.is_empty());
                known.extend(missing.event_ids.iter().map(|event_id| graph.find(event_id).unwrap()));
            }
        }
    }
}

#[test]
fn conflict_alone_is_enough() {
    for_each_merge(|room, states, resolution, place| {
        let events = events(room);
        let graph = AuthGraph::new(&events);
        let (alone, _) = resolve_alone(room, &graph, states);
        assert_eq!(decided(&alone), decided(resolution), "{place}");
        let mut lost = (alone.lost, resolution.lost.clone());
        lost.0.sort();
        lost.1.sort();
        assert_eq!(lost.0, lost.1, "{place}");
    });
}

#[test]
fn what_is_loaded_follows_the_conflict_and_not_the_room() {
    for version in &ROOM_VERSIONS {
        let mut loaded = Vec::new();
        for size in [100, 1_000] {
            let mut room = large_room(3, version, size);
            // The same conflict in either room: one member changes on one side.
            let mut states = room.merges[0].clone();
            states[1] = states[0].clone();
            let last = *states[0].values().max().unwrap();
            let changed = &room.events[last];
            let pair = (changed.kind().to_owned(), changed.state_key().unwrap().to_owned());
            states[1].remove(&pair);
            room.merges = vec![states];
            let states: Vec<_> = room.merges[0].iter().map(|state| room.entries(state)).collect();
            let events = events(&room);
            let graph = AuthGraph::new(&events);
            let (resolution, known) = resolve_alone(&room, &graph, &states);
            assert!(resolution.decisions.iter().any(|decision| decision.kind == pair.0));
            // Beside it, the mainline of power levels.
            loaded.push(known.iter().filter(|event| event.kind() != "m.room.power_levels").count());
        }
        assert!(loaded[1] <= loaded[0] + 10, "version {}: {loaded:?}", version.identifier);
    }
}
