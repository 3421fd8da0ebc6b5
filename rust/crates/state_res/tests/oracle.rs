//! Resolved states against those of the Ruma crates, over generated rooms.
//!
//! A failure prints its seed; `ORACLE_SEED=n cargo test -p state_res` runs that one alone, and `ORACLE_ROOMS=n` runs so
//! many of each version.
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the trait of the oracle, and comparisons"
)]

mod generator;

use std::collections::{BTreeMap, HashMap, HashSet};

use canonical::{Event, ROOM_VERSIONS, RoomVersion, StateResolution};
use generator::{Room, State, small_room};
use oracle::TheirEvent;
use ruma_common::{EventId, OwnedEventId, RoomVersionId};
use ruma_events::StateEventType;
use state_res::graph::{resolve_states, separate};

type Whole = BTreeMap<(String, String), String>;

/// The events that each event of a room leads to by its auth events: found the slow and obvious way.
fn auth_chains(room: &Room) -> HashMap<&str, HashSet<&str>> {
    let mut chains: HashMap<&str, HashSet<&str>> = HashMap::new();
    for event in &room.events {
        let mut chain = HashSet::new();
        for cited in event.auth_events() {
            chain.insert(cited.as_str());
            chain.extend(&chains[cited.as_str()]);
        }
        chains.insert(event.event_id(), chain);
    }
    chains
}

struct Oracle<'r> {
    room: &'r Room,
    chains: HashMap<&'r str, HashSet<&'r str>>,
    events: HashMap<OwnedEventId, TheirEvent>,
}

impl<'r> Oracle<'r> {
    fn new(room: &'r Room) -> Self {
        let theirs = |event: &Event| {
            let event = TheirEvent::new(event, room.rejected.iter().any(|id| id == event.event_id()));
            (event.event_id.clone(), event)
        };
        let events = room.events.iter().map(|event| theirs(event)).collect();
        Self { room, chains: auth_chains(room), events }
    }

    fn resolve(&self, states: &[State]) -> Whole {
        let id = |event: usize| EventId::parse(self.room.events[event].event_id()).unwrap();
        let rules = RoomVersionId::try_from(self.room.version.identifier).unwrap().rules().unwrap();
        let maps: Vec<ruma_state_res::StateMap<OwnedEventId>> = states
            .iter()
            .map(|state| {
                let entry = |((kind, state_key), event): (&(String, String), &usize)| {
                    ((StateEventType::from(kind.as_str()), state_key.clone()), id(*event))
                };
                state.iter().map(entry).collect()
            })
            .collect();
        // With the events of the states themselves: see `AuthGraph::auth_difference`.
        let chains = states
            .iter()
            .map(|state| {
                let ids: Vec<&str> =
                    state.values().map(|event| self.room.events[*event].event_id()).collect();
                let chain = ids.iter().flat_map(|id| &self.chains[id]).chain(&ids);
                chain.map(|id| EventId::parse(*id).unwrap()).collect()
            })
            .collect();
        let subgraph = |conflicted: &ruma_state_res::StateMap<Vec<OwnedEventId>>| {
            let conflicted: Vec<&str> = conflicted.values().flatten().map(|id| id.as_str()).collect();
            let leads_to_one =
                |id: &str| conflicted.iter().any(|other| *other == id || self.chains[id].contains(other));
            let all = self.room.events.iter().map(|event| event.event_id());
            let on_path = all.filter(|id| {
                let is_led_to = conflicted.iter().any(|other| other == id || self.chains[other].contains(id));
                is_led_to && leads_to_one(id)
            });
            Some(on_path.map(|id| EventId::parse(id).unwrap()).collect())
        };
        let resolved = ruma_state_res::resolve(
            &rules.authorization,
            rules.state_res.v2_rules().unwrap(),
            &maps,
            chains,
            |id| self.events.get(id),
            subgraph,
        );
        let resolved = resolved.unwrap_or_else(|error| panic!("{error}: seed {}", self.room.seed));
        let entry = |((kind, key), id): ((StateEventType, String), OwnedEventId)| {
            ((kind.to_string(), key), id.to_string())
        };
        resolved.into_iter().map(entry).collect()
    }
}

/// What we make of it; and how many events were in conflict, and lost.
fn ours(room: &Room, states: &[State]) -> (Whole, usize, usize) {
    let entries: Vec<_> = states.iter().map(|state| room.entries(state)).collect();
    let events: Vec<&Event> = room.events.iter().map(|event| &**event).collect();
    let rejected: Vec<&str> = room.rejected.iter().map(String::as_str).collect();
    let resolution = resolve_states(room.version, room.create(), &entries, &events, &rejected).unwrap();
    let separated = separate(&entries);
    let mut whole: Whole = separated
        .unconflicted
        .iter()
        .map(|entry| ((entry.kind.to_owned(), entry.state_key.to_owned()), entry.event_id.to_owned()))
        .collect();
    for decision in resolution.decisions {
        let pair = (decision.kind.to_owned(), decision.state_key.to_owned());
        if let Some(event_id) = decision.event_id {
            assert!(whole.insert(pair, event_id.to_owned()).is_none());
        }
    }
    (whole, separated.conflicted.len(), resolution.lost.len())
}

#[derive(Default)]
struct Tally {
    rooms: usize,
    merges: usize,
    conflicted: usize,
    lost: usize,
}

fn compare(seed: u64, version: &'static RoomVersion, tally: &mut Tally) {
    let room = small_room(seed, version);
    let oracle = Oracle::new(&room);
    tally.rooms += 1;
    for states in &room.merges {
        let theirs = oracle.resolve(states);
        let (ours, conflicted, lost) = ours(&room, states);
        tally.merges += usize::from(conflicted > 0);
        tally.conflicted += conflicted;
        tally.lost += lost;
        if ours != theirs {
            let only = |one: &Whole, other: &Whole| -> Vec<String> {
                one.iter()
                    .filter(|(pair, id)| other.get(*pair) != Some(*id))
                    .map(|entry| format!("{entry:?}"))
                    .collect()
            };
            panic!(
                "seed {seed}, version {}\nours   {:#?}\ntheirs {:#?}\nstates {:#?}\nrejected {:#?}\nevents\n{}",
                version.identifier,
                only(&ours, &theirs),
                only(&theirs, &ours),
                states.iter().map(|state| room.entries(state)).collect::<Vec<_>>(),
                room.rejected,
                room.events
                    .iter()
                    .map(|event| format!("{} {}", event.event_id(), String::from_utf8_lossy(event.pdu())))
                    .collect::<Vec<_>>()
                    .join("\n")
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn compare_all(versions: &[&str]) {
    let rooms = number("ORACLE_ROOMS").unwrap_or(1_000);
    let seeds: Vec<u64> = number("ORACLE_SEED").map_or_else(|| (1..=rooms).collect(), |seed| vec![seed]);
    for version in ROOM_VERSIONS.iter().filter(|version| versions.contains(&version.identifier)) {
        assert_ne!(version.state_resolution, StateResolution::V1);
        let mut tally = Tally::default();
        for seed in &seeds {
            compare(*seed, version, &mut tally);
        }
        println!(
            "version {}: {} rooms, {} merges with conflicts, {} conflicted events, {} attempts lost",
            version.identifier, tally.rooms, tally.merges, tally.conflicted, tally.lost
        );
        // A comparison of nothing would say nothing.
        assert!(seeds.len() < 100 || tally.merges > tally.rooms && tally.lost > tally.rooms);
    }
}

// Several tests, since each has a core of its own.

#[test]
fn generated_rooms_of_versions_2_to_4_come_to_the_same_state() {
    compare_all(&["2", "3", "4"]);
}

#[test]
fn generated_rooms_of_versions_5_to_7_come_to_the_same_state() {
    compare_all(&["5", "6", "7"]);
}

#[test]
fn generated_rooms_of_versions_8_to_10_come_to_the_same_state() {
    compare_all(&["8", "9", "10"]);
}

#[test]
fn generated_rooms_of_versions_11_and_12_come_to_the_same_state() {
    compare_all(&["11", "12"]);
}
