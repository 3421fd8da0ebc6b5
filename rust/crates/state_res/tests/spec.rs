//! The algorithms, sentence by sentence, in the order of the specification.
//!
//! Rooms of versions 1 and 2 have event ids that can be chosen, so the events here have names.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::needless_pass_by_value, reason = "drafts are made where they are passed")]

use std::cmp::Reverse;
use std::collections::HashMap;

use canonical::{Event, RoomVersion};
use serde_json::{Value as Json, json};
use sha1::{Digest, Sha1};
use state_res::graph::{AuthGraph, Entry, State, resolve_states, separate};
use state_res::{Conflict, Missing, Resolution, resolve};

const A: &str = "@a:one";
const B: &str = "@b:one";
const C: &str = "@c:one";

struct Room {
    version: &'static RoomVersion,
    id: String,
    events: Vec<Event>,
    by_name: HashMap<String, usize>,
}

/// What a test says about an event: its name, and type, state key, content and what else matters.
struct Draft<'a> {
    name: &'a str,
    kind: &'a str,
    sender: &'a str,
    state_key: &'a str,
    content: Json,
    auth: &'a [&'a str],
    depth: i64,
    ts: i64,
}

impl Room {
    /// A room of Alice's: `create`, `alice` (her join), `power` and `rules`, and Bob's join, `bob`.
    fn new(version: &str) -> Self {
        let version = RoomVersion::find(version).unwrap();
        let mut room = Self { version, id: "!r:one".to_owned(), events: Vec::new(), by_name: HashMap::new() };
        let mut content = json!({"room_version": version.identifier});
        if version.auth.creator_in_content {
            content["creator"] = json!(A);
        }
        room.add(Draft {
            name: "create",
            kind: "m.room.create",
            sender: A,
            state_key: "",
            content,
            auth: &[],
            depth: 1,
            ts: 1,
        });
        room.id = room.events[0].room_id().to_owned();
        room.member("alice", A, A, "join", &[], 2);
        let users = if version.auth.infinite_creators { json!({B: 50}) } else { json!({A: 100, B: 50}) };
        room.power("power", A, users, &["alice"], 3);
        room.rules("rules", A, "public", &["alice", "power"], 4);
        room.member("bob", B, B, "join", &["power", "rules"], 5);
        room
    }

    fn add(&mut self, draft: Draft<'_>) {
        let mut auth: Vec<&str> = draft.auth.iter().map(|name| self.event(name).event_id()).collect();
        if self.version.auth.create_in_auth_events && draft.kind != "m.room.create" {
            auth.insert(0, self.events[0].event_id());
        }
        let prev: Vec<&str> = self.events.last().iter().map(|event| event.event_id()).collect();
        let references = |ids: &[&str]| -> Json {
            if self.version.references_are_pairs {
                ids.iter().map(|id| json!([id, {"sha256": "x"}])).collect()
            } else {
                json!(ids)
            }
        };
        let mut pdu = json!({
            "type": draft.kind, "sender": draft.sender, "state_key": draft.state_key, "content": draft.content,
            "depth": draft.depth, "origin_server_ts": draft.ts, "prev_events": references(&prev),
            "auth_events": references(&auth), "hashes": {"sha256": "x"}, "signatures": {},
        });
        if self.version.references_are_pairs {
            pdu["event_id"] = json!(format!("${}:one", draft.name));
        }
        if draft.kind != "m.room.create" || !self.version.room_id_is_create_hash {
            pdu["room_id"] = json!(self.id);
        }
        self.by_name.insert(draft.name.to_owned(), self.events.len());
        self.events.push(Event::parse(pdu.to_string().as_bytes(), self.version, None).unwrap());
    }

    fn state(&mut self, name: &str, kind: &str, sender: &str, content: Json, auth: &[&str], ts: i64) {
        self.add(Draft { name, kind, sender, state_key: "", content, auth, depth: ts, ts });
    }

    fn member(&mut self, name: &str, sender: &str, target: &str, membership: &str, auth: &[&str], ts: i64) {
        let content = json!({"membership": membership, "name": name});
        let kind = "m.room.member";
        self.add(Draft { name, kind, sender, state_key: target, content, auth, depth: ts, ts });
    }

    fn power(&mut self, name: &str, sender: &str, users: Json, auth: &[&str], ts: i64) {
        self.state(name, "m.room.power_levels", sender, json!({"users": users, "name": name}), auth, ts);
    }

    fn rules(&mut self, name: &str, sender: &str, rule: &str, auth: &[&str], ts: i64) {
        self.state(name, "m.room.join_rules", sender, json!({"join_rule": rule, "name": name}), auth, ts);
    }

    fn topic(&mut self, name: &str, sender: &str, auth: &[&str], ts: i64) {
        self.state(name, "m.room.topic", sender, json!({"topic": name}), auth, ts);
    }

    fn event(&self, name: &str) -> &Event {
        &self.events[self.by_name[name]]
    }

    fn find(&self, names: &[&str]) -> Vec<&Event> {
        names.iter().map(|name| self.event(name)).collect()
    }

    fn name(&self, event_id: &str) -> &str {
        let has_id = |(_, number): &(&String, &usize)| self.events[**number].event_id() == event_id;
        self.by_name.iter().find(has_id).unwrap().0
    }

    fn names(&self, event_ids: &[&str]) -> Vec<&str> {
        event_ids.iter().map(|event_id| self.name(event_id)).collect()
    }

    /// The first five events, replaced and followed by these.
    fn after(&self, names: &[&str]) -> State<'_> {
        let mut state: Vec<Entry<'_>> = Vec::new();
        for event in self.events[..5].iter().chain(names.iter().map(|name| self.event(name))) {
            let (kind, state_key) = (event.kind(), event.state_key().unwrap());
            state.retain(|entry| (entry.kind, entry.state_key) != (kind, state_key));
            state.push(Entry { kind, state_key, event_id: event.event_id() });
        }
        state
    }

    fn resolve(&self, states: &[&[&str]]) -> Resolution<'_> {
        self.resolve_rejecting(states, &[])
    }

    fn resolve_rejecting(&self, states: &[&[&str]], rejected: &[&str]) -> Resolution<'_> {
        let states: Vec<_> = states.iter().map(|names| self.after(names)).collect();
        let rejected: Vec<_> = rejected.iter().map(|name| self.event(name).event_id()).collect();
        let events: Vec<_> = self.events.iter().collect();
        resolve_states(self.version, &self.events[0], &states, &events, &rejected).unwrap()
    }

    /// The names of the events that won, sorted.
    fn winners(&self, resolution: &Resolution<'_>) -> Vec<&str> {
        let won = resolution.decisions.iter().filter_map(|decision| decision.event_id);
        let mut names: Vec<_> = won.map(|event_id| self.name(event_id)).collect();
        names.sort_unstable();
        names
    }

    fn lost(&self, resolution: &Resolution<'_>) -> Vec<&str> {
        resolution.lost.iter().map(|(event_id, _)| self.name(event_id)).collect()
    }
}

// Version 1.

#[test]
fn v1_climbs_power_levels_from_the_lowest_depth_until_one_is_not_allowed() {
    let mut room = Room::new("1");
    room.power("second", A, json!({A: 100, B: 100}), &["alice", "power"], 6);
    // By the levels of `second` Bob may do this, by those before he may not.
    room.power("third", B, json!({A: 100, B: 100, C: 99}), &["bob", "second"], 7);
    room.power("forbidden", C, json!({C: 100}), &["third"], 8);
    room.power("later", A, json!({A: 100, B: 0}), &["alice", "power"], 9);
    let resolution = room.resolve(&[&[], &["forbidden"], &["third"], &["later"], &["second"]]);
    assert_eq!(room.winners(&resolution), ["third"]);
    assert_eq!(room.names(&resolution.applied), ["power", "second", "third"]);
    assert_eq!(room.lost(&resolution), ["forbidden", "later"]);
    assert_eq!(resolution.lost[0].1, format!("{C} is not joined to the room"));
    assert_eq!(resolution.lost[1].1, "comes after $forbidden:one, which is not allowed");
}

#[test]
fn v1_sorts_equal_depths_by_descending_sha1() {
    let mut room = Room::new("1");
    let hash = |name: &&str| <[u8; 20]>::from(Sha1::digest(format!("${name}:one")));
    let mut names = ["x", "y", "z"];
    names.sort_by_key(|name| Reverse(hash(name)));
    for name in ["x", "y", "z"] {
        room.power(name, A, json!({A: 100, "@named:x": 0}), &["alice", "power"], 6);
    }
    let resolution = room.resolve(&[&["x"], &["y"], &["z"]]);
    assert_eq!(room.names(&resolution.applied), names);
    // For other types it is the highest depth, and of those the lowest hash.
    let mut names = ["t", "u", "v"];
    names.sort_by_key(hash);
    for name in ["t", "u", "v"] {
        room.topic(name, A, &["alice", "power"], 6);
    }
    let resolution = room.resolve(&[&["t"], &["u"], &["v"]]);
    assert_eq!(room.winners(&resolution), [names[0]]);
}

#[test]
fn v1_decides_power_levels_before_join_rules_before_members_before_the_rest() {
    let mut room = Room::new("1");
    room.power("demoted", A, json!({A: 100}), &["alice", "power"], 6);
    room.rules("closed", B, "invite", &["bob", "power"], 7);
    room.rules("invited", A, "invite", &["alice", "power"], 5);
    room.member("carol", C, C, "join", &["power", "rules"], 8);
    room.topic("topic", C, &["carol", "power"], 9);
    let resolution =
        room.resolve(&[&["rules", "carol"], &["demoted", "invited"], &["closed", "topic", "carol"]]);
    // Without power levels Bob's join rules are not allowed, but Alice's are.
    assert_eq!(room.names(&resolution.applied), ["power", "demoted", "rules", "invited", "carol", "topic"]);
    assert_eq!(room.lost(&resolution), ["closed"]);
}

#[test]
fn v1_keeps_the_event_that_was_tried_last_where_none_is_allowed() {
    let mut room = Room::new("1");
    room.topic("early", C, &["power"], 6);
    room.topic("late", C, &["power"], 7);
    let resolution = room.resolve(&[&["late"], &["early"], &[]]);
    assert_eq!(room.winners(&resolution), ["early"]);
    assert_eq!(room.lost(&resolution), ["late"]);
}

// Version 2: definitions.

#[test]
fn v2_pair_is_unconflicted_only_if_every_state_has_it_with_the_same_value() {
    let mut room = Room::new("2");
    room.topic("one", A, &["alice", "power"], 6);
    room.topic("two", A, &["alice", "power"], 6);
    room.member("carol", C, C, "join", &["power", "rules"], 6);
    let states = [room.after(&["one"]), room.after(&["two", "carol"]), room.after(&["one", "carol"])];
    let separated = separate(&states);
    let ids = |entries: &[Entry<'_>]| {
        let mut names: Vec<_> = entries.iter().map(|entry| room.name(entry.event_id).to_owned()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(ids(&separated.unconflicted), ["alice", "bob", "create", "power", "rules"]);
    assert_eq!(ids(&separated.conflicted), ["carol", "one", "two"]);
    // Of one state nothing is in conflict with anything.
    assert_eq!(separate(&states[..1]).conflicted, []);
    assert_eq!(separate(&[]), separate(&[Vec::new()]));
}

fn names_of<'r>(room: &'r Room, events: &[&Event]) -> Vec<&'r str> {
    let mut names: Vec<_> = events.iter().map(|event| room.name(event.event_id())).collect();
    names.sort_unstable();
    names
}

#[test]
fn v2_auth_difference_is_what_is_not_in_every_chain() {
    let mut room = Room::new("2");
    room.power("levels", A, json!({A: 100, B: 50}), &["alice", "power"], 6);
    room.topic("one", A, &["alice", "levels"], 7);
    room.topic("two", A, &["alice", "power"], 7);
    let events: Vec<_> = room.events.iter().collect();
    let graph = AuthGraph::new(&events);
    let difference = |states: &[State<'_>]| -> Vec<&str> {
        let states: Vec<State<'_>> = states
            .iter()
            .map(|state| {
                let entry = |entry: &Entry<'_>| {
                    let event = graph.find(entry.event_id).unwrap();
                    Entry {
                        kind: event.kind(),
                        state_key: event.state_key().unwrap(),
                        event_id: event.event_id(),
                    }
                };
                state.iter().map(entry).collect()
            })
            .collect();
        names_of(&room, &graph.auth_difference(&states).unwrap())
    };
    assert_eq!(difference(&[room.after(&["one"]), room.after(&["two"])]), ["levels", "one", "two"]);
    // All states have `levels`; that only some of them cite it makes no difference.
    assert_eq!(difference(&[room.after(&["one", "levels"]), room.after(&["levels"])]), ["one"]);
    // More states than a machine word has bits.
    let mut many = vec![room.after(&[]); 70];
    many.push(room.after(&["levels"]));
    assert_eq!(difference(&many), ["levels"]);
}

#[test]
fn v2_power_order_is_topological_then_by_level_then_time_then_id() {
    let mut room = Room::new("2");
    room.rules("b late", B, "invite", &["bob", "power"], 6);
    room.rules("a later", A, "invite", &["alice", "power"], 9);
    room.rules("a early", A, "public", &["alice", "power"], 8);
    room.rules("a equal", A, "public", &["alice", "power"], 9);
    room.power("levels", A, json!({A: 100, B: 50}), &["alice", "power"], 6);
    // It is the oldest, but cites what is not.
    room.member("ban", A, C, "ban", &["alice", "levels"], 1);
    let resolution =
        room.resolve(&[&["b late", "ban"], &["a later", "levels"], &["a early", "ban"], &["a equal"]]);
    assert_eq!(
        room.names(&resolution.applied),
        ["power", "levels", "ban", "a early", "a equal", "a later", "b late"]
    );
    assert_eq!(room.winners(&resolution), ["b late", "ban", "levels"]);
}

#[test]
fn v2_power_events_are_those_that_may_take_something_from_somebody() {
    let mut room = Room::new("2");
    // By mainline order all of these would come in the order of their times.
    room.member("carol", C, C, "join", &["power", "rules"], 6);
    room.member("left", C, C, "leave", &["power", "carol"], 7);
    room.topic("topic", A, &["alice", "power"], 8);
    room.member("kick", A, B, "leave", &["alice", "bob", "power"], 9);
    room.member("ban", A, "@d:one", "ban", &["alice", "power"], 10);
    room.rules("closed", A, "invite", &["alice", "power"], 11);
    room.power("levels", A, json!({A: 100}), &["alice", "power"], 12);
    let resolution = room.resolve(&[&["left", "topic"], &["kick", "ban", "closed", "levels"]]);
    // First the power events, with what is in conflict and in their chains (`power`, `rules`, `bob`), by level: the
    // kick waits for `bob`. Leaving by oneself is nothing of the kind.
    assert_eq!(
        room.names(&resolution.applied),
        ["power", "rules", "ban", "closed", "levels", "kick", "left", "topic"]
    );
    // When their turn comes, nobody may join any more.
    assert_eq!(room.lost(&resolution), ["bob", "carol"]);
}

#[test]
fn v2_event_that_is_not_allowed_is_ignored_and_the_reason_said() {
    let mut room = Room::new("2");
    room.topic("topic", B, &["bob", "power"], 6);
    room.member("ban", A, B, "ban", &["alice", "bob", "power"], 7);
    let resolution = room.resolve(&[&["topic"], &["ban"]]);
    assert_eq!(room.winners(&resolution), ["ban"]);
    assert_eq!(resolution.lost, [("$topic:one", format!("{B} is not joined to the room"))]);
    let topic = resolution.decisions.iter().find(|decision| decision.kind == "m.room.topic").unwrap();
    assert_eq!(topic.event_id, None);
}

#[test]
fn v2_auth_events_stand_in_for_what_the_state_lacks_unless_rejected() {
    let mut room = Room::new("2");
    room.member("carol", C, C, "join", &["power", "rules"], 6);
    room.state("own", "org.example", C, json!({}), &["power", "carol"], 7);
    room.power("all", A, json!({A: 100, C: 50}), &["alice", "power"], 8);
    room.state("state", "org.example", C, json!({}), &["all", "carol"], 9);
    // Neither state has Carol; both events cite her join.
    let states: [&[&str]; 2] = [&["all", "own"], &["all", "state"]];
    let resolution = room.resolve(&states);
    assert_eq!(room.winners(&resolution), ["state"]);
    assert_eq!(resolution.lost, []);
    let resolution = room.resolve_rejecting(&states, &["carol"]);
    assert_eq!(room.winners(&resolution), Vec::<&str>::new());
    assert_eq!(room.lost(&resolution), ["own", "state"]);
    // An event that was rejected is tried as any other, "as usual".
    let resolution = room.resolve_rejecting(&states, &["state"]);
    assert_eq!(room.winners(&resolution), ["state"]);
}

#[test]
fn v2_mainline_order_puts_first_what_rests_on_older_power_levels() {
    let mut room = Room::new("2");
    room.power("p1", A, json!({A: 100, B: 51}), &["alice", "power"], 6);
    room.power("p2", A, json!({A: 100, B: 52}), &["alice", "p1"], 7);
    // Beside the mainline, on a branch from `power`.
    room.power("side", A, json!({A: 100, B: 53}), &["alice", "power"], 2);
    // All states have it, so that `side` itself is not in the auth difference.
    room.member("eve", "@e:one", "@e:one", "join", &["side", "rules"], 3);
    room.topic("on p2", A, &["alice", "p2"], 1);
    room.topic("on p1 a", A, &["alice", "p1"], 8);
    room.topic("on p1 b", A, &["alice", "p1"], 8);
    room.topic("on side", A, &["alice", "side"], 9);
    room.topic("on nothing", A, &["alice"], 20);
    let resolution = room.resolve(&[
        &["p2", "eve", "on p2"],
        &["p2", "eve", "on p1 a"],
        &["p2", "eve", "on p1 b"],
        &["p2", "eve", "on side"],
        &["p2", "eve", "on nothing"],
    ]);
    assert_eq!(room.names(&resolution.applied), ["on nothing", "on side", "on p1 a", "on p1 b", "on p2"]);
    assert_eq!(room.winners(&resolution), ["on p2"]);
}

#[test]
fn v2_what_is_not_in_conflict_stays_whatever_was_applied() {
    let mut room = Room::new("2");
    room.rules("closed", A, "invite", &["alice", "power"], 6);
    room.rules("open", A, "public", &["alice", "power"], 7);
    room.member("carol", C, C, "join", &["power", "open"], 8);
    // Both states have `closed`; `open` is in the auth difference.
    let resolution = room.resolve(&[&["carol", "closed"], &["closed"]]);
    assert!(room.names(&resolution.applied).contains(&"open"));
    assert_eq!(room.winners(&resolution), ["carol"]);
}

// Version 2.1.

#[test]
fn v2_1_begins_with_the_empty_state() {
    // Both states have `closed`, but Carol joined by `rules`, which she cites.
    for (version, lost) in [("11", vec!["carol"]), ("12", vec![])] {
        let mut room = Room::new(version);
        room.rules("closed", A, "invite", &["alice", "power"], 6);
        room.member("carol", C, C, "join", &["power", "rules"], 8);
        let resolution = room.resolve(&[&["closed", "carol"], &["closed"]]);
        assert_eq!(room.lost(&resolution), lost, "version {version}");
        assert_eq!(resolution.decisions.len(), 1);
        assert_eq!(resolution.decisions[0].event_id.is_none(), version == "11");
    }
}

#[test]
fn v2_1_subgraph_is_all_that_lies_between_conflicted_events() {
    let mut room = Room::new("12");
    room.power("p1", A, json!({B: 51}), &["alice", "power"], 6);
    room.member("between", B, B, "join", &["p1", "bob", "rules"], 7);
    room.member("beside", C, C, "join", &["power", "rules"], 7);
    room.topic("end", B, &["p1", "between"], 8);
    room.topic("start", B, &["power", "bob"], 8);
    let events: Vec<_> = room.events.iter().collect();
    let graph = AuthGraph::new(&events);
    let entries = |names: &[&str]| -> Vec<Entry<'_>> {
        let entry = |event: &'_ Event| {
            let event = graph.find(event.event_id()).unwrap();
            Entry { kind: event.kind(), state_key: event.state_key().unwrap(), event_id: event.event_id() }
        };
        room.find(names).into_iter().map(entry).collect()
    };
    let subgraph = |names: &[&str]| names_of(&room, &graph.subgraph(&entries(names)).unwrap());
    assert_eq!(subgraph(&["end", "power"]), ["between", "bob", "end", "p1", "power", "rules"]);
    assert_eq!(subgraph(&["end", "bob"]), ["between", "bob", "end"]);
    // No path leads from one to the other.
    assert_eq!(subgraph(&["end", "beside"]), ["beside", "end"]);
    assert_eq!(subgraph(&[]), Vec::<&str>::new());
}

#[test]
fn v2_1_replays_the_subgraph() {
    // A state reset, and what version 2.1 makes of it: the join of Bob between `power` and his topic is in all auth
    // chains, so nothing but the subgraph brings it back.
    let mut room = Room::new("12");
    room.power("p1", A, json!({B: 60}), &["alice", "power"], 6);
    room.member("renamed", B, B, "join", &["p1", "bob", "rules"], 7);
    room.power("p2", B, json!({B: 60, C: 1}), &["p1", "renamed"], 8);
    let resolution = room.resolve(&[&["p2"], &["power"], &["p2", "renamed"]]);
    let applied = room.names(&resolution.applied);
    for name in ["power", "rules", "bob", "p1", "renamed", "p2"] {
        assert!(applied.contains(&name), "{name}: {applied:?}");
    }
    assert_eq!(room.winners(&resolution), ["p2", "renamed"]);
}

// What is missing.

fn alone<'a>(room: &'a Room, conflicted: &[&str], known: &[&str]) -> Result<Resolution<'a>, Missing<'a>> {
    let (conflicted, known) = (room.find(conflicted), room.find(known));
    let unconflicted: Vec<_> = room.find(&["create", "p3"]);
    let conflict = Conflict {
        create: &room.events[0],
        unconflicted: &unconflicted,
        conflicted: &conflicted,
        auth_difference: &[],
        subgraph: &[],
        known: &known,
        rejected: &[],
    };
    resolve(room.version, conflict)
}

#[test]
fn auth_events_and_links_of_the_mainline_are_asked_for() {
    let mut room = Room::new("2");
    room.power("p1", A, json!({A: 100, B: 51}), &["alice", "power"], 6);
    room.power("p2", A, json!({A: 100, B: 52}), &["alice", "p1"], 7);
    room.power("p3", A, json!({A: 100, B: 53}), &["alice", "p2"], 8);
    room.topic("one", A, &["alice", "p1"], 9);
    room.topic("two", B, &["bob", "p3"], 9);
    let missing = alone(&room, &["one", "two"], &[]).unwrap_err();
    assert_eq!(room.names(&missing.event_ids), ["alice", "bob", "p1"]);
    // `p3` is the current one; whether it comes from `p1` only `p2` can say.
    let missing = alone(&room, &["one", "two"], &["alice", "bob", "p1"]).unwrap_err();
    assert_eq!(room.names(&missing.event_ids), ["p2"]);
    // `p1` has been met then, and what is before it does not matter.
    let resolution = alone(&room, &["one", "two"], &["alice", "bob", "p1", "p2"]).unwrap();
    assert_eq!(room.names(&resolution.applied), ["one", "two"]);
}

#[test]
fn events_of_states_and_chains_that_were_not_given_are_asked_for() {
    let mut room = Room::new("11");
    room.topic("one", A, &["alice", "power"], 6);
    room.topic("two", A, &["alice", "power"], 6);
    let states = [room.after(&["one"]), room.after(&["two"])];
    let events = room.find(&["create", "rules", "power", "bob", "one"]);
    let missing = resolve_states(room.version, &room.events[0], &states, &events, &[]).unwrap_err();
    assert!(room.names(&missing.event_ids).contains(&"alice"));
}

// Bounds.

#[test]
fn chain_of_a_hundred_thousand_power_levels_is_no_problem() {
    let mut room = Room::new("2");
    let mut before = "power".to_owned();
    for number in 0..100_000 {
        let name = format!("p{number}");
        room.power(&name, A, json!({A: 100, B: 50}), &["alice", &before], 6 + number);
        before = name;
    }
    room.topic("old", A, &["alice", "p0"], 9);
    room.topic("new", A, &["alice", "p99999"], 9);
    let resolution = room.resolve(&[&["old"], &["new", "p99999"]]);
    assert_eq!(room.winners(&resolution), ["new", "p99999"]);
    // `p0` is in both chains.
    assert_eq!(resolution.applied.len(), 100_002);
}

#[test]
fn events_that_cite_each_other_in_a_circle_end_nowhere() {
    // No server accepts such events, but ids that can be chosen allow to write them.
    let mut room = Room::new("2");
    for (name, other) in [("x", "y"), ("y", "x")] {
        let pdu = json!({
            "type": "m.room.power_levels", "sender": A, "state_key": "", "content": {"users": {A: 100}},
            "depth": 6, "origin_server_ts": 6, "prev_events": [], "hashes": {"sha256": "x"}, "signatures": {},
            "auth_events": [["$create:one", {}], ["$alice:one", {}], [format!("${other}:one"), {}]],
            "event_id": format!("${name}:one"), "room_id": "!r:one",
        });
        room.by_name.insert(name.to_owned(), room.events.len());
        room.events.push(Event::parse(pdu.to_string().as_bytes(), room.version, None).unwrap());
    }
    let resolution = room.resolve(&[&["x"], &[]]);
    assert_eq!(room.winners(&resolution), ["power"]);
    assert_eq!(room.lost(&resolution), ["x", "y"]);
    // On the way along the mainline.
    room.topic("one", A, &["alice", "x"], 7);
    room.topic("two", A, &["alice", "y"], 8);
    let resolution = room.resolve(&[&["one"], &["two"], &["x"]]);
    assert_eq!(room.winners(&resolution), ["one", "x"]);
}
