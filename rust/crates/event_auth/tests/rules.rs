//! Every rule in the order of version 12, in each version that has it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "tests"
)]

use std::collections::HashSet;

use canonical::{Event, EventIdFormat, Numbers, ROOM_VERSIONS, RoomVersion, Value, parse_object};
use event_auth::{AuthContext, auth_event_keys, auth_event_keys_of, check_auth, check_state_auth};
use serde_json::{Value as Json, json};
use signatures::{SigningKey, sign_json};

const ALICE: &str = "@alice:one";
const BOB: &str = "@bob:one";
const CAROL: &str = "@carol:two";

/// A room with a creator, and a state to which tests add.
struct Room {
    version: &'static RoomVersion,
    create: Event,
    state: Vec<Event>,
}

fn pdu(version: &RoomVersion, room_id: &str, fields: &Json) -> Json {
    let mut pdu = json!({
        "sender": ALICE, "content": {}, "depth": 1, "origin_server_ts": 1, "prev_events": [], "auth_events": [],
        "hashes": {}, "signatures": {},
    });
    if version.event_id_format == EventIdFormat::InEvent {
        pdu["event_id"] = json!("$id:one");
    }
    if fields["type"] != "m.room.create" || !version.room_id_is_create_hash {
        pdu["room_id"] = json!(room_id);
    }
    for (key, value) in fields.as_object().unwrap() {
        if value.is_null() {
            pdu.as_object_mut().unwrap().remove(key);
        } else {
            pdu[key] = value.clone();
        }
    }
    pdu
}

fn event(version: &'static RoomVersion, room_id: &str, fields: &Json) -> Event {
    Event::parse(pdu(version, room_id, fields).to_string().as_bytes(), version, None).unwrap()
}

impl Room {
    /// Alice made the room and is joined with level 100, Bob is joined.
    fn new(version: &'static RoomVersion) -> Self {
        Self::with(version, &json!({}))
    }

    fn with(version: &'static RoomVersion, more: &Json) -> Self {
        let mut content = json!({"room_version": version.identifier});
        if version.auth.creator_in_content {
            content["creator"] = json!(ALICE);
        }
        content.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let create = event(
            version,
            "!room:one",
            &json!({"type": "m.room.create", "state_key": "", "content": content}),
        );
        let mut room = Self { version, create, state: Vec::new() };
        room.member(ALICE, "join");
        room.member(BOB, "join");
        room
    }

    fn event(&self, fields: &Json) -> Event {
        event(self.version, self.create.room_id(), fields)
    }

    fn add(&mut self, fields: &Json) {
        let event = self.event(fields);
        self.state.retain(|old| !old.is_state(event.kind(), event.state_key().unwrap()));
        self.state.push(event);
    }

    fn member(&mut self, user: &str, membership: &str) {
        self.add(&json!({
            "type": "m.room.member", "sender": user, "state_key": user, "content": {"membership": membership},
        }));
    }

    fn join_rule(&mut self, rule: &str) {
        self.add(&json!({"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": rule}}));
    }

    fn levels(&mut self, content: &Json) {
        self.add(&json!({"type": "m.room.power_levels", "state_key": "", "content": content}));
    }

    /// The verdict against the auth events that the selection chooses, which that against the state equals.
    fn check(&self, fields: &Json) -> Result<(), String> {
        let event = self.event(fields);
        let keys = auth_event_keys_of(&event);
        let mut chosen: Vec<&Event> = self
            .state
            .iter()
            .filter(|event| keys.iter().any(|(kind, state_key)| event.is_state(kind, state_key)))
            .collect();
        if self.version.auth.create_in_auth_events && event.kind() != "m.room.create" {
            chosen.push(&self.create);
        }
        let verdict = self.check_against(&event, &chosen);
        let find = |kind: &str, state_key: &str| {
            self.state.iter().chain([&self.create]).find(|event| event.is_state(kind, state_key))
        };
        let context = AuthContext { create: Some(&self.create), rejected: None };
        let in_state = check_state_auth(&event, &find, context).map_err(|error| error.0);
        assert_eq!(verdict, in_state, "version {}", self.version.identifier);
        verdict
    }

    fn check_against(&self, event: &Event, auth_events: &[&Event]) -> Result<(), String> {
        let context = AuthContext { create: Some(&self.create), rejected: None };
        check_auth(event, auth_events, context).map_err(|error| error.0)
    }

    fn allows(&self, fields: &Json) {
        let verdict = self.check(fields);
        assert_eq!(verdict, Ok(()), "version {}: {fields}", self.version.identifier);
    }

    fn rejects(&self, fields: &Json, reason: &str) {
        match self.check(fields) {
            Ok(()) => panic!("version {} allows {fields}", self.version.identifier),
            Err(found) => assert!(
                found.contains(reason),
                "version {} rejects {fields} as {found:?}, not {reason:?}",
                self.version.identifier
            ),
        }
    }

    /// Allow in versions that have a feature, reject in others.
    fn allows_if(&self, condition: bool, fields: &Json, reason: &str) {
        if condition { self.allows(fields) } else { self.rejects(fields, reason) }
    }
}

fn membership(sender: &str, target: &str, membership: &str) -> Json {
    state(sender, "m.room.member", target, &json!({"membership": membership}))
}

fn message(sender: &str) -> Json {
    json!({"type": "m.room.message", "sender": sender})
}

fn state(sender: &str, kind: &str, state_key: &str, content: &Json) -> Json {
    json!({"type": kind, "sender": sender, "state_key": state_key, "content": content})
}

fn each() -> impl Iterator<Item = &'static RoomVersion> {
    ROOM_VERSIONS.iter()
}

fn reference(version: &RoomVersion, id: &str) -> Json {
    if version.references_are_pairs { json!([[id, {"sha256": "x"}]]) } else { json!([id]) }
}

#[test]
fn rule_1_create() {
    for version in each() {
        let room = Room::new(version);
        let content = json!({"creator": ALICE});
        let create = |more: Json| {
            let mut fields = json!({"type": "m.room.create", "state_key": "", "content": content});
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fields
        };
        // 1.1
        room.rejects(&create(json!({"prev_events": reference(version, "$x:one")})), "prev_events");
        // 1.2
        if version.room_id_is_create_hash {
            room.rejects(&create(json!({"room_id": "!room:one"})), "room_id");
        } else {
            room.rejects(&create(json!({"room_id": "!room:two"})), "domain");
            room.rejects(&create(json!({"room_id": "!room"})), "domain");
        }
        // 1.3
        room.rejects(&create(json!({"content": {"creator": ALICE, "room_version": "13"}})), "room version");
        room.rejects(&create(json!({"content": {"creator": ALICE, "room_version": 1}})), "room version");
        room.allows(&create(json!({"content": {"creator": ALICE, "room_version": "1"}})));
        // 1.4 up to version 10
        room.allows_if(
            matches!(version.identifier, "11" | "12"),
            &create(json!({"content": {}})),
            "no creator",
        );
        // 1.4 since version 12
        for wrong in
            [json!(BOB), json!([5]), json!(["bob"]), json!(["@bob"]), json!([BOB, "@bob:not a server"])]
        {
            room.allows_if(
                version.identifier != "12",
                &create(json!({"content": {"creator": ALICE, "additional_creators": wrong}})),
                "additional_creators",
            );
        }
        room.allows(&create(json!({"content": {"creator": ALICE, "additional_creators": [BOB, "@:two"]}})));
        // 1.5
        room.allows(&create(json!({})));
    }
}

#[test]
fn rule_2_room_is_that_of_the_create_event() {
    for version in each().filter(|version| version.room_id_is_create_hash) {
        let room = Room::new(version);
        let other = Room::with(version, &json!({"other": true}));
        let event = room.event(&message(BOB));
        let auth_events = [&room.state[1]];
        let check = |create, rejected: Option<&HashSet<String>>| {
            check_auth(&event, &auth_events, AuthContext { create, rejected }).map_err(|error| error.0)
        };
        assert_eq!(check(Some(&room.create), None), Ok(()));
        assert!(check(None, None).unwrap_err().contains("not known"));
        assert!(check(Some(&other.create), None).unwrap_err().contains("room ID"));
        assert!(check(Some(&room.state[0]), None).unwrap_err().contains("room ID"));
        let rejected = HashSet::from([room.create.event_id().to_owned()]);
        assert!(check(Some(&room.create), Some(&rejected)).unwrap_err().contains("was rejected"));
    }
}

#[test]
fn rule_3_auth_events() {
    for version in each() {
        let mut room = Room::new(version);
        room.levels(&json!({"users": {}}));
        let event = room.event(&message(BOB));
        let in_list = version.auth.create_in_auth_events;
        let good: Vec<&Event> =
            [&room.state[1], &room.state[2]].into_iter().chain(in_list.then_some(&room.create)).collect();
        assert_eq!(room.check_against(&event, &good), Ok(()));
        let reason = |list: &[&Event]| room.check_against(&event, list).unwrap_err();
        // 3.1
        let copy =
            room.event(&state(BOB, "m.room.member", BOB, &json!({"membership": "join", "copy": true})));
        assert!(reason(&[&good[..], &[&copy]].concat()).contains("twice"));
        // 3.2
        assert!(reason(&[&good[..], &[&room.state[0]]].concat()).contains("needlessly"));
        let unkeyed = room.event(&json!({"type": "m.room.power_levels"}));
        assert!(reason(&[&good[..], &[&unkeyed]].concat()).contains("not a state event"));
        if !in_list {
            assert!(reason(&[&good[..], &[&room.create]].concat()).contains("needlessly"));
        }
        // 3.3
        let rejected = HashSet::from([room.state[2].event_id().to_owned()]);
        let context = AuthContext { create: Some(&room.create), rejected: Some(&rejected) };
        assert!(check_auth(&event, &good, context).unwrap_err().0.contains("was rejected"));
        // 3.4 up to version 11
        if in_list {
            assert!(reason(&good[..2]).contains("no m.room.create"));
        }
        // 3.5
        let foreign = foreign_event(version, &json!({"type": "m.room.power_levels", "state_key": ""}));
        let mut list = good.clone();
        list[1] = &foreign;
        assert!(reason(&list).contains("another room"));
    }
}

/// An event of another room.
fn foreign_event(version: &'static RoomVersion, fields: &Json) -> Event {
    event(version, "!another:one", fields)
}

#[test]
fn rule_4_rooms_closed_to_other_servers() {
    for version in each() {
        let mut room = Room::with(version, &json!({"m.federate": false}));
        room.member(CAROL, "join");
        room.rejects(&message(CAROL), "not open");
        room.allows(&message(BOB));
        let mut room = Room::with(version, &json!({"m.federate": true}));
        room.member(CAROL, "join");
        room.allows(&message(CAROL));
    }
}

#[test]
fn rule_4_of_old_versions_aliases() {
    for version in each() {
        let room = Room::new(version);
        let special = matches!(version.identifier, "1" | "2" | "3" | "4" | "5");
        // Carol is not joined and has no power: only the special rule lets her.
        room.allows_if(special, &state(CAROL, "m.room.aliases", "two", &json!({})), "not joined");
        if special {
            room.rejects(&state(CAROL, "m.room.aliases", "one", &json!({})), "domain");
            room.rejects(&json!({"type": "m.room.aliases", "sender": ALICE}), "domain");
        } else {
            room.allows(&state(ALICE, "m.room.aliases", "two", &json!({})));
        }
    }
}

#[test]
fn rule_5_1_and_5_8_member_fields() {
    for version in each() {
        let room = Room::new(version);
        room.rejects(&json!({"type": "m.room.member", "content": {"membership": "join"}}), "no state key");
        room.rejects(&state(BOB, "m.room.member", BOB, &json!({})), "no membership");
        room.rejects(&state(BOB, "m.room.member", BOB, &json!({"membership": 1})), "no membership");
        room.rejects(&state(BOB, "m.room.member", BOB, &json!({"membership": "other"})), "not known");
    }
}

#[test]
fn rule_5_2_signature_of_the_authorising_server() {
    for version in each() {
        let mut room = Room::new(version);
        room.join_rule("public");
        let join = |user: Json, signers: Json| {
            let mut fields = membership(CAROL, CAROL, "join");
            fields["content"]["join_authorised_via_users_server"] = user;
            fields["signatures"] = signers;
            fields
        };
        let before = !version.auth.restricted;
        room.allows_if(before, &join(json!(BOB), json!({"two": {"ed25519:1": "x"}})), "not signed");
        room.allows_if(before, &join(json!(BOB), json!({"one": {"other:1": "x"}})), "not signed");
        room.allows_if(before, &join(json!("bob"), json!({"one": {"ed25519:1": "x"}})), "not a user ID");
        room.allows_if(before, &join(json!(5), json!({"one": {"ed25519:1": "x"}})), "not a user ID");
        room.allows(&join(json!(BOB), json!({"one": {"ed25519:1": "x"}})));
    }
}

#[test]
fn rule_5_3_join() {
    for version in each() {
        let mut room = Room::new(version);
        let known = room.create.event_id().to_owned();
        // 5.3.1
        room.state.clear();
        let mut first = membership(ALICE, ALICE, "join");
        first["prev_events"] = reference(version, &known);
        room.allows(&first);
        first["sender"] = json!(BOB);
        first["state_key"] = json!(BOB);
        room.rejects(&first, "not invited");
        let mut later = membership(ALICE, ALICE, "join");
        later["prev_events"] = reference(version, "$x:one");
        room.rejects(&later, "not invited");

        let mut room = Room::new(version);
        room.join_rule("public");
        // 5.3.2
        room.rejects(&membership(BOB, CAROL, "join"), "another user");
        // 5.3.6
        room.allows(&membership(CAROL, CAROL, "join"));
        // 5.3.3
        room.member(CAROL, "ban");
        room.rejects(&membership(CAROL, CAROL, "join"), "banned");
        // 5.3.4 and 5.3.5.1: who is invited may join, by any rule that the version knows.
        for (rule, exists) in [
            ("invite", true),
            ("knock", version.auth.knock),
            ("restricted", version.auth.restricted),
            ("knock_restricted", version.auth.knock_restricted),
            ("private", false),
            ("other", false),
        ] {
            room.join_rule(rule);
            for present in ["invite", "join"] {
                room.member(CAROL, present);
                room.allows_if(exists, &membership(CAROL, CAROL, "join"), "not invited");
            }
            // 5.3.7 and 5.3.5.2
            room.member(CAROL, "leave");
            assert!(room.check(&membership(CAROL, CAROL, "join")).is_err());
        }
        // Without a join rule, invitations are needed.
        room.state.retain(|event| event.kind() != "m.room.join_rules");
        room.rejects(&membership(CAROL, CAROL, "join"), "not invited");
        room.member(CAROL, "invite");
        room.allows(&membership(CAROL, CAROL, "join"));
    }
}

#[test]
fn rule_5_3_5_restricted_join() {
    for version in each().filter(|version| version.auth.restricted) {
        for rule in ["restricted", "knock_restricted"] {
            let exists = rule == "restricted" || version.auth.knock_restricted;
            let mut room = Room::new(version);
            room.join_rule(rule);
            let mut join = membership(CAROL, CAROL, "join");
            // 5.3.5.2
            room.rejects(&join, if exists { "authorising user" } else { "not invited" });
            join["signatures"] = json!({"one": {"ed25519:1": "x"}});
            join["content"]["join_authorised_via_users_server"] = json!(BOB);
            // 5.3.5.3
            room.allows_if(exists, &join, "not invited");
            if exists {
                room.levels(&json!({"invite": 1}));
                room.rejects(&join, "may not invite");
                room.levels(&json!({"invite": 1, "users": {BOB: 1}}));
                room.allows(&join);
                room.member(BOB, "leave");
                room.rejects(&join, "not joined");
            }
        }
    }
}

#[test]
fn rule_5_4_1_third_party_invite() {
    let key = SigningKey::new("1", [1; 32]).unwrap();
    let other = SigningKey::new("1", [2; 32]).unwrap();
    for version in each() {
        let signed = |content: Json, key: &SigningKey| {
            let mut object = parse_object(content.to_string().as_bytes(), Numbers::Strict).unwrap();
            sign_json(&mut object, "identity", key);
            let signed: Json = serde_json::from_slice(&Value::Object(object).to_bytes()).unwrap();
            let mut fields = membership(BOB, CAROL, "invite");
            fields["content"]["third_party_invite"] = json!({"display_name": "c", "signed": signed});
            fields
        };
        let offer = |content: Json| json!({"type": "m.room.third_party_invite", "sender": BOB, "state_key": "t", "content": content});
        let good = signed(json!({"mxid": CAROL, "token": "t"}), &key);
        let mut room = Room::new(version);
        // Inviting takes more than Bob has: that rule is not asked.
        room.levels(&json!({"invite": 50}));
        // 5.4.1.5
        room.rejects(&good, "no m.room.third_party_invite");
        room.add(&offer(json!({"public_key": key.public_key()})));
        // 5.4.1.7
        room.allows(&good);
        room.add(&offer(
            json!({"public_keys": [{"public_key": "bad"}, {}, 5, {"public_key": key.public_key()}]}),
        ));
        room.allows(&good);
        let url_safe = key.public_key().replace('+', "-").replace('/', "_");
        room.add(&offer(json!({"public_key": url_safe})));
        room.allows(&good);
        // 5.4.1.8
        room.rejects(&signed(json!({"mxid": CAROL, "token": "t"}), &other), "not signed");
        let mut changed = good.clone();
        changed["content"]["third_party_invite"]["signed"]["more"] = json!(1);
        room.rejects(&changed, "not signed");
        changed["content"]["third_party_invite"]["signed"]["signatures"] =
            json!({"identity": {"ed25519:1": 5}});
        room.rejects(&changed, "not signed");
        // 5.4.1.6
        let mut by_other = good.clone();
        by_other["sender"] = json!(ALICE);
        room.rejects(&by_other, "another user");
        // 5.4.1.4
        room.rejects(&signed(json!({"mxid": ALICE, "token": "t"}), &key), "another user");
        // 5.4.1.3
        room.rejects(&signed(json!({"token": "t"}), &key), "lacks");
        room.rejects(&signed(json!({"mxid": CAROL}), &key), "lacks");
        // 5.4.1.2
        let mut unsigned = good.clone();
        unsigned["content"]["third_party_invite"] = json!({});
        room.rejects(&unsigned, "no signed");
        unsigned["content"]["third_party_invite"] = json!("x");
        room.rejects(&unsigned, "no signed");
        // 5.4.1.1
        room.member(CAROL, "ban");
        room.rejects(&good, "banned");
    }
}

#[test]
fn rule_5_4_invite() {
    for version in each() {
        let mut room = Room::new(version);
        // 5.4.2
        room.rejects(&membership(CAROL, "@d:two", "invite"), "not joined");
        // 5.4.3
        room.rejects(&membership(ALICE, BOB, "invite"), "joined to the room already");
        room.member(CAROL, "ban");
        room.rejects(&membership(ALICE, CAROL, "invite"), "banned");
        // 5.4.4
        room.member(CAROL, "knock");
        room.allows(&membership(BOB, CAROL, "invite"));
        // 5.4.5
        room.levels(&json!({"invite": 1}));
        room.rejects(&membership(BOB, CAROL, "invite"), "below the invite level 1");
    }
}

#[test]
fn rule_5_5_leave() {
    for version in each() {
        let mut room = Room::new(version);
        // 5.5.1
        for present in ["join", "invite", "knock"] {
            room.member(CAROL, present);
            room.allows_if(
                present != "knock" || version.auth.knock,
                &membership(CAROL, CAROL, "leave"),
                "not in",
            );
        }
        for present in ["leave", "ban"] {
            room.member(CAROL, present);
            room.rejects(&membership(CAROL, CAROL, "leave"), "not in the room");
        }
        room.rejects(&membership("@d:two", "@d:two", "leave"), "not in the room");
        // 5.5.2
        room.member(CAROL, "invite");
        room.rejects(&membership(CAROL, BOB, "leave"), "not joined");
        // 5.5.4
        room.levels(&json!({"kick": 40, "ban": 60, "users": {BOB: 40, CAROL: 39}}));
        room.allows(&membership(BOB, CAROL, "leave"));
        // 5.5.3
        room.member(CAROL, "ban");
        room.rejects(&membership(BOB, CAROL, "leave"), "below the ban level 60");
        room.levels(&json!({"kick": 40, "ban": 40, "users": {BOB: 40, CAROL: 39}}));
        room.allows(&membership(BOB, CAROL, "leave"));
        // 5.5.5
        room.levels(&json!({"kick": 40, "users": {BOB: 39}}));
        room.member(CAROL, "join");
        room.rejects(&membership(BOB, CAROL, "leave"), "below the kick level 40");
        room.levels(&json!({"kick": 40, "users": {BOB: 40, CAROL: 40}}));
        room.rejects(&membership(BOB, CAROL, "leave"), "not above");
    }
}

#[test]
fn rule_5_6_ban() {
    for version in each() {
        let mut room = Room::new(version);
        // 5.6.1
        room.rejects(&membership(CAROL, BOB, "ban"), "not joined");
        // 5.6.2
        room.levels(&json!({"ban": 40, "kick": 100, "users": {BOB: 40, CAROL: 39}}));
        room.allows(&membership(BOB, CAROL, "ban"));
        // 5.6.3
        room.levels(&json!({"ban": 40, "users": {BOB: 39}}));
        room.rejects(&membership(BOB, CAROL, "ban"), "below the ban level 40");
        room.levels(&json!({"ban": 40, "users": {BOB: 40, CAROL: 40}}));
        room.rejects(&membership(BOB, CAROL, "ban"), "not above");
        // The default is 50.
        room.levels(&json!({"users": {BOB: 49}}));
        room.rejects(&membership(BOB, CAROL, "ban"), "below the ban level 50");
    }
}

#[test]
fn rule_5_7_knock() {
    for version in each() {
        let mut room = Room::new(version);
        if !version.auth.knock {
            room.join_rule("knock");
            room.rejects(&membership(CAROL, CAROL, "knock"), "not known");
            continue;
        }
        // 5.7.1
        for rule in ["public", "invite", "restricted", "private"] {
            room.join_rule(rule);
            room.rejects(&membership(CAROL, CAROL, "knock"), "does not allow knocking");
        }
        room.join_rule("knock_restricted");
        room.allows_if(version.auth.knock_restricted, &membership(CAROL, CAROL, "knock"), "knocking");
        room.join_rule("knock");
        // 5.7.2
        room.rejects(&membership(BOB, CAROL, "knock"), "another user");
        // 5.7.3
        for (present, allowed) in
            [("leave", true), ("knock", true), ("ban", false), ("invite", false), ("join", false)]
        {
            room.member(CAROL, present);
            room.allows_if(allowed, &membership(CAROL, CAROL, "knock"), "cannot knock");
        }
    }
}

#[test]
fn rules_6_to_9_levels_of_other_events() {
    for version in each() {
        let mut room = Room::new(version);
        // 6
        for present in ["leave", "invite", "ban", "knock"] {
            room.member(CAROL, present);
            room.rejects(&message(CAROL), "not joined");
        }
        room.rejects(&message("@d:two"), "not joined");
        // 7
        let offer = state(BOB, "m.room.third_party_invite", "t", &json!({}));
        room.allows(&offer);
        room.levels(&json!({"invite": 10, "events": {"m.room.third_party_invite": 0}, "users": {BOB: 9}}));
        room.rejects(&offer, "below the invite level 10");
        room.levels(&json!({"invite": 10, "events": {"m.room.third_party_invite": 99}, "users": {BOB: 10}}));
        room.allows(&offer);
        // 8
        let name = state(BOB, "m.room.name", "", &json!({}));
        room.levels(&json!({"users": {BOB: 49}}));
        room.rejects(&name, "sender's power level 49 is below the level 50 required for m.room.name");
        room.allows(&message(BOB));
        room.levels(&json!({"users": {BOB: 50}}));
        room.allows(&name);
        room.levels(&json!({"users_default": 5, "state_default": 5, "events_default": 6}));
        room.allows(&name);
        room.rejects(&message(BOB), "level 6 required");
        room.levels(&json!({"events": {"m.room.name": 7, "m.room.message": 0}, "events_default": 6, "users": {BOB: 7}}));
        room.allows(&name);
        room.allows(&message(BOB));
        // Without power levels the creator has 100 (or infinity), all others 0.
        room.state.retain(|event| event.kind() != "m.room.power_levels");
        room.rejects(&name, "level 50 required");
        room.allows(&state(ALICE, "m.room.name", "", &json!({})));
        // 9
        room.rejects(&state(ALICE, "org.example", BOB, &json!({})), "must be the sender's");
        room.allows(&state(ALICE, "org.example", ALICE, &json!({})));
        room.allows(&state(ALICE, "org.example", "bob", &json!({})));
    }
}

fn levels_event(sender: &str, content: &Json) -> Json {
    state(sender, "m.room.power_levels", "", content)
}

#[test]
fn rules_10_1_to_10_5_form_of_power_levels() {
    for version in each() {
        let old = json!({"users": {BOB: 100}, "events": {}});
        let mut room = Room::new(version);
        room.levels(&old);
        let strings = version.auth.string_power_levels;
        // 10.1
        for key in ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"] {
            for wrong in [json!([]), json!("x"), json!(true)] {
                room.rejects(&levels_event(BOB, &json!({"users": {BOB: 100}, key: wrong})), "not an integer");
            }
            room.allows_if(
                strings,
                &levels_event(BOB, &json!({"users": {BOB: 100}, key: " +0050 "})),
                "integer",
            );
        }
        // 10.2
        for key in ["events", "notifications"] {
            let guarded = key == "events" || version.auth.guards_notifications;
            let with = |value: Json| levels_event(BOB, &json!({"users": {BOB: 100}, key: value}));
            room.allows_if(!guarded, &with(json!([])), "not an object");
            room.allows_if(!guarded, &with(json!({"x": []})), "no integer");
            room.allows_if(strings || !guarded, &with(json!({"x": "-5"})), "no integer");
        }
        // 10.3
        let users = |users: Json| levels_event(BOB, &json!({"users": users}));
        room.rejects(&users(json!([])), "not an object");
        room.rejects(&users(json!({BOB: 100, CAROL: null})), "no integer");
        room.rejects(&users(json!({BOB: 100, "carol": 1})), "not a user ID");
        room.allows_if(strings, &users(json!({BOB: 100, CAROL: "50"})), "no integer");
        // 10.4
        let infinite = version.auth.infinite_creators;
        room.allows_if(!infinite, &users(json!({BOB: 100, ALICE: 1})), "creator");
        let mut creators = Room::with(version, &json!({"additional_creators": [CAROL]}));
        creators.levels(&old);
        creators.allows_if(!infinite, &users(json!({BOB: 100, CAROL: 1})), "creator");
        // 10.5
        let room = Room::new(version);
        room.allows(&levels_event(ALICE, &json!({"users": {BOB: 1000}, "ban": 1000})));
        room.allows_if(
            !version.auth.checks_integer_levels,
            &levels_event(ALICE, &json!({"ban": []})),
            "integer",
        );
    }
}

#[test]
fn rules_10_6_to_10_8_levels_and_events() {
    for version in each() {
        for key in ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"] {
            let mut room = Room::new(version);
            let base = json!({"users": {BOB: 60}});
            let with = |value: i64| {
                let mut content = base.clone();
                content[key] = json!(value);
                content
            };
            // Added.
            room.levels(&base);
            room.allows(&levels_event(BOB, &with(60)));
            room.rejects(&levels_event(BOB, &with(61)), "below the level 61");
            // Changed and removed.
            room.levels(&with(55));
            room.allows(&levels_event(BOB, &with(0)));
            room.allows(&levels_event(BOB, &base));
            if key != "events_default" && key != "state_default" {
                room.levels(&with(61));
                room.allows(&levels_event(BOB, &with(61)));
                room.rejects(&levels_event(BOB, &with(60)), "below the level 61");
                room.rejects(&levels_event(BOB, &base), "below the level 61");
            }
        }
        // A level that is not there has its default: removing or adding `ban` touches 50.
        let mut room = Room::new(version);
        let base = json!({"users": {BOB: 40}, "state_default": 0});
        let mut with_ban = base.clone();
        with_ban["ban"] = json!(10);
        room.levels(&with_ban);
        room.rejects(&levels_event(BOB, &base), "below the level 50");
        room.levels(&base);
        room.rejects(&levels_event(BOB, &with_ban), "below the level 50");

        for map in ["events", "notifications"] {
            let guarded = map == "events" || version.auth.guards_notifications;
            let with = |entries: Json| json!({"users": {BOB: 60}, map: entries});
            let mut room = Room::new(version);
            room.levels(&with(json!({"same": 90, "high": 61, "low": 60})));
            let to = |entries: Json| levels_event(BOB, &with(entries));
            room.allows(&to(json!({"same": 90, "high": 61, "low": 0})));
            // 10.7 changed, removed
            room.allows_if(!guarded, &to(json!({"same": 90, "high": 60, "low": 60})), "below the level 61");
            room.allows_if(!guarded, &to(json!({"same": 90, "low": 60})), "below the level 61");
            room.allows(&to(json!({"same": 90, "high": 61})));
            // 10.8 added, changed
            room.allows(&to(json!({"same": 90, "high": 61, "low": 60, "new": 60})));
            room.allows_if(
                !guarded,
                &to(json!({"same": 90, "high": 61, "low": 60, "new": 61})),
                "below the level 61",
            );
            room.allows_if(!guarded, &to(json!({"same": 90, "high": 61, "low": 61})), "below the level 61");
        }
    }
}

#[test]
fn rules_10_9_and_10_10_users() {
    for version in each() {
        let mut room = Room::new(version);
        let with = |entries: Json| json!({"users": entries});
        room.levels(&with(json!({BOB: 60, CAROL: 60, "@low:two": 59, "@same:two": 90})));
        let to = |entries: Json| levels_event(BOB, &with(entries));
        room.allows(&to(json!({BOB: 60, CAROL: 60, "@low:two": 59, "@same:two": 90})));
        // 10.9
        room.rejects(&to(json!({BOB: 60, CAROL: 59, "@low:two": 59, "@same:two": 90})), "not above");
        room.rejects(&to(json!({BOB: 60, "@low:two": 59, "@same:two": 90})), "not above");
        room.allows(&to(json!({BOB: 60, CAROL: 60, "@same:two": 90})));
        room.allows(&to(json!({BOB: 0, CAROL: 60, "@low:two": 59, "@same:two": 90})));
        room.allows(&to(json!({CAROL: 60, "@low:two": 59, "@same:two": 90})));
        // 10.10
        room.allows(&to(json!({BOB: 60, CAROL: 60, "@low:two": 60, "@same:two": 90})));
        room.rejects(&to(json!({BOB: 60, CAROL: 60, "@low:two": 61, "@same:two": 90})), "below the level 61");
        room.rejects(&to(json!({BOB: 61, CAROL: 60, "@low:two": 59, "@same:two": 90})), "below the level 61");
        room.rejects(
            &to(json!({BOB: 60, CAROL: 60, "@low:two": 59, "@same:two": 90, "@new:x": 61})),
            "below",
        );
        // The same number in another form is no change.
        if version.auth.string_power_levels {
            room.allows(&to(json!({BOB: 60, CAROL: " 060", "@low:two": 59, "@same:two": "+90"})));
        }
        if version.auth.float_power_levels {
            let fields = to(json!({BOB: 60, CAROL: 60.9, "@low:two": 5.9e1, "@same:two": 90}));
            room.allows(&fields);
        }
    }
}

#[test]
fn rule_11_of_old_versions_redaction() {
    for version in each() {
        let redaction =
            |redacts: &str| json!({"type": "m.room.redaction", "sender": BOB, "redacts": redacts});
        let mut room = Room::new(version);
        let rule = matches!(version.identifier, "1" | "2");
        // 11.2
        room.allows(&redaction("$x:one"));
        // 11.3
        room.allows_if(!rule, &redaction("$x:two"), "below the redact level 50");
        room.allows_if(!rule, &redaction("$x"), "below the redact level 50");
        room.allows_if(
            !rule,
            &json!({"type": "m.room.redaction", "sender": BOB}),
            "below the redact level 50",
        );
        // 11.1
        room.levels(&json!({"redact": 10, "users": {BOB: 10}}));
        room.allows(&redaction("$x:two"));
    }
}

#[test]
fn creators_stand_above_every_number_since_version_12() {
    for version in each() {
        let mut room = Room::with(version, &json!({"additional_creators": [CAROL]}));
        room.member(CAROL, "join");
        let top = canonical::MAX_INT;
        let mut users = json!({BOB: top});
        if !version.auth.infinite_creators {
            users[ALICE] = json!(0);
            users[CAROL] = json!(0);
        }
        room.levels(&json!({"users": users, "ban": top, "kick": top}));
        let infinite = version.auth.infinite_creators;
        for creator in [ALICE, CAROL] {
            room.allows_if(infinite, &membership(creator, BOB, "ban"), "below the ban level");
            room.allows_if(infinite, &levels_event(creator, &json!({"users": {BOB: 1}})), "level");
            // Not even the highest number is above a creator.
            room.allows_if(!infinite, &membership(BOB, creator, "ban"), "not above");
        }
        // And creators are not above each other.
        let verdict = room.check(&membership(ALICE, CAROL, "leave")).unwrap_err();
        assert!(verdict.contains(if infinite { "not above" } else { "below the kick level" }));
    }
}

#[test]
fn auth_events_are_selected_by_type_and_membership() {
    for version in each() {
        let keys = |kind: &str, state_key: Option<&str>, content: Json| -> Vec<String> {
            let content = parse_object(content.to_string().as_bytes(), Numbers::Strict).unwrap();
            auth_event_keys(version, kind, BOB, state_key, &content)
                .into_iter()
                .map(|(kind, state_key)| format!("{} {state_key}", kind.trim_start_matches("m.room.")))
                .collect()
        };
        let base = || {
            let create = version.auth.create_in_auth_events.then(|| "create ".to_owned());
            create
                .into_iter()
                .chain(["power_levels ".to_owned(), format!("member {BOB}")])
                .collect::<Vec<_>>()
        };
        let with = |more: &[&str]| {
            let mut keys = base();
            keys.extend(more.iter().map(|key| (*key).to_owned()));
            keys
        };
        let carol = format!("member {CAROL}");
        assert!(keys("m.room.create", Some(""), json!({})).is_empty());
        assert_eq!(keys("m.room.message", None, json!({})), base());
        assert_eq!(keys("m.room.member", Some(BOB), json!({"membership": "leave"})), base());
        assert_eq!(keys("m.room.member", Some(CAROL), json!({"membership": "ban"})), with(&[&carol]));
        assert_eq!(keys("m.room.member", Some(BOB), json!({"membership": "knock"})), with(&["join_rules "]));
        assert_eq!(
            keys("m.room.member", Some(CAROL), json!({"membership": "invite"})),
            with(&[&carol, "join_rules "])
        );
        let invite = json!({"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}});
        assert_eq!(
            keys("m.room.member", Some(CAROL), invite),
            with(&[&carol, "join_rules ", "third_party_invite t"])
        );
        let join = json!({"membership": "join", "join_authorised_via_users_server": CAROL});
        let wanted: &[&str] =
            if version.auth.restricted { &["join_rules ", &carol] } else { &["join_rules "] };
        assert_eq!(keys("m.room.member", Some(BOB), join), with(wanted));
    }
}
