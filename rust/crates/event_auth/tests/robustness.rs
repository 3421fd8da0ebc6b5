//! Nothing that another server may send makes us panic: events with parts replaced, bytes flipped, cut off.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use canonical::{Event, ROOM_VERSIONS, RoomVersion};
use event_auth::{AuthContext, PowerLevels, check_auth, check_state_auth};
use serde_json::{Value as Json, json};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

fn events(version: &RoomVersion) -> Vec<Json> {
    let users = json!({"@a:one": 100, "@b:two": "50", "@c:two": 1.5});
    let bodies = [
        (
            "m.room.create",
            json!({"creator": "@a:one", "additional_creators": ["@b:two"], "m.federate": true}),
        ),
        (
            "m.room.power_levels",
            json!({"users": users, "events": {"x": 5}, "notifications": {"room": 5}, "ban": 1}),
        ),
        ("m.room.join_rules", json!({"join_rule": "restricted", "allow": []})),
        ("m.room.member", json!({"membership": "join", "join_authorised_via_users_server": "@b:two"})),
        (
            "m.room.member",
            json!({"membership": "invite", "third_party_invite": {"signed": {
            "mxid": "@a:one", "token": "@a:one", "signatures": {"x": {"ed25519:1": "AAAA"}}}}}),
        ),
        ("m.room.third_party_invite", json!({"public_key": "AAAA", "public_keys": [{"public_key": "AAAA"}]})),
        ("m.room.redaction", json!({"redacts": "$x:one"})),
    ];
    let reference =
        if version.references_are_pairs { json!([["$p:one", {"sha256": "x"}]]) } else { json!(["$p"]) };
    bodies
        .into_iter()
        .map(|(kind, content)| {
            json!({
                "type": kind, "content": content, "state_key": if kind == "m.room.member" { "@a:one" } else { "" },
                "sender": "@a:one", "room_id": "!r:one", "event_id": "$e:one", "depth": 1, "origin_server_ts": 1,
                "prev_events": if kind == "m.room.create" { json!([]) } else { reference.clone() },
                "auth_events": reference, "hashes": {"sha256": "AAAA"}, "signatures": {"two": {"ed25519:1": "x"}},
                "redacts": "$x:one",
            })
        })
        .collect()
}

/// Replace one part somewhere inside.
fn disturb(value: &mut Json, random: &mut Random) {
    let junk = [
        Json::Null,
        json!(true),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(1.5),
        json!(""),
        json!("@"),
        json!(":"),
        json!("@\u{0}:[::"),
        json!("$"),
        json!("\u{1f600}"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"": {"": []}}),
        json!("-"),
        json!(" +"),
        json!("99999999999999999999"),
        json!("-99999999999999999999"),
    ];
    match value {
        Json::Object(map) if !map.is_empty() && random.below(4) > 0 => {
            let index = random.below(map.len());
            disturb(map.values_mut().nth(index).unwrap(), random);
        }
        Json::Array(items) if !items.is_empty() && random.below(4) > 0 => {
            let index = random.below(items.len());
            disturb(&mut items[index], random);
        }
        _ => *value = junk[random.below(junk.len())].clone(),
    }
}

#[test]
fn no_event_makes_it_panic() {
    let random = &mut Random(0x5eed_5eed_5eed_5eed);
    let mut parsed = 0;
    for _ in 0..3000 {
        for version in &ROOM_VERSIONS {
            let mut events_now = Vec::new();
            for mut event in events(version) {
                if random.below(2) == 0 {
                    disturb(&mut event, random);
                }
                let mut text = event.to_string().into_bytes();
                match random.below(12) {
                    0 => text.truncate(random.below(text.len())),
                    1 => {
                        let index = random.below(text.len());
                        text[index] ^= 1 << random.below(8);
                    }
                    _ => {}
                }
                events_now.extend(Event::parse(&text, version, None));
            }
            parsed += events_now.len();
            for event in &events_now {
                let _ = (event.client_json(true), event.stripped_json(), event.content_hash_matches());
                // What a redaction leaves of an event is an event.
                event.redacted().unwrap();
                let others: Vec<&Event> = events_now.iter().collect();
                let context = AuthContext { create: others.first().copied(), rejected: None };
                let _ = check_auth(event, &others, context);
                let find = |kind: &str, key: &str| events_now.iter().find(|other| other.is_state(kind, key));
                let _ = check_state_auth(event, &find, context);
                let levels = PowerLevels::new(Some(event), context.create, &version.auth);
                let _ =
                    (levels.of_user("@a:one"), levels.for_event("x", true), levels.for_notification("room"));
            }
        }
    }
    assert!(parsed > 100_000, "{parsed}");
}
