//! Which bytes are an event of a room version, and the forms of an event.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use canonical::{Event, EventError, EventIdFormat, MAX_EVENT_BYTES, ROOM_VERSIONS, RoomVersion, identifiers};
use serde_json::{Value as Json, json};

fn version(name: &str) -> &'static RoomVersion {
    RoomVersion::find(name).unwrap()
}

fn pdu(version: &RoomVersion) -> Json {
    let reference =
        if version.references_are_pairs { json!([["$p", {"sha256": "x"}]]) } else { json!(["$p"]) };
    let mut pdu = json!({
        "type": "m.room.topic", "state_key": "", "sender": "@a:one", "room_id": "!r:one", "depth": 7,
        "origin_server_ts": 9, "content": {"topic": "t"}, "prev_events": reference, "auth_events": reference,
        "hashes": {"sha256": "x"}, "signatures": {"one": {"ed25519:1": "y"}}, "unsigned": {"age": 5},
    });
    if version.event_id_format == EventIdFormat::InEvent {
        pdu["event_id"] = json!("$id:one");
    }
    pdu
}

fn parse(pdu: &Json, version: &'static RoomVersion) -> Result<Event, EventError> {
    Event::parse(pdu.to_string().as_bytes(), version, None)
}

#[test]
fn an_event_has_its_fields_and_loses_unsigned() {
    for version in &ROOM_VERSIONS {
        let event = parse(&pdu(version), version).unwrap();
        assert_eq!((event.kind(), event.state_key(), event.sender()), ("m.room.topic", Some(""), "@a:one"));
        assert_eq!((event.depth(), event.origin_server_ts(), event.room_id()), (7, 9, "!r:one"));
        assert_eq!(
            (event.prev_events(), event.auth_events()),
            (&["$p".to_owned()][..], &["$p".to_owned()][..])
        );
        assert!(!String::from_utf8(event.pdu().to_vec()).unwrap().contains("unsigned"));
        let again = Event::parse(event.pdu(), version, None).unwrap();
        assert_eq!((again.pdu(), again.event_id()), (event.pdu(), event.event_id()));
        let trusted = Event::parse(event.pdu(), version, Some(event.event_id().to_owned())).unwrap();
        assert_eq!(trusted.reference_hash(), event.reference_hash());
    }
}

#[test]
fn wrong_fields_are_malformed() {
    for version in &ROOM_VERSIONS {
        for key in [
            "type",
            "sender",
            "room_id",
            "depth",
            "origin_server_ts",
            "content",
            "prev_events",
            "auth_events",
            "hashes",
            "signatures",
        ] {
            let mut event = pdu(version);
            event.as_object_mut().unwrap().remove(key);
            assert!(parse(&event, version).is_err(), "without {key}");
            event[key] = json!(null);
            assert!(parse(&event, version).is_err(), "{key} is null");
            event[key] = json!([5]);
            assert!(parse(&event, version).is_err(), "{key} is a list");
        }
        for (key, wrong) in [
            ("sender", json!("a")),
            ("sender", json!("@a")),
            ("sender", json!("@a:")),
            ("sender", json!("@a:o ne")),
            ("room_id", json!("r:one")),
            ("state_key", json!(5)),
            ("state_key", json!(null)),
            ("depth", json!(-1)),
            ("depth", json!("1")),
            ("prev_events", json!([5])),
            ("prev_events", json!([["$p"]])),
            ("prev_events", json!([["$p", "x"]])),
        ] {
            let mut event = pdu(version);
            event[key] = wrong;
            assert!(parse(&event, version).is_err(), "{event}");
        }
        let mut event = pdu(version);
        event["prev_events"] = if version.references_are_pairs { json!(["$p"]) } else { json!([["$p", {}]]) };
        assert!(parse(&event, version).is_err());
        for text in ["", "[]", "5", "{", "{}"] {
            assert!(Event::parse(text.as_bytes(), version, None).is_err());
        }
    }
    let mut event = pdu(version("1"));
    event["event_id"] = json!("id");
    assert!(parse(&event, version("1")).is_err());
}

#[test]
fn depth_has_the_limit_of_the_version() {
    let with = |name: &str, depth: &str| {
        let text = pdu(version(name)).to_string().replace("\"depth\":7", &format!("\"depth\":{depth}"));
        Event::parse(text.as_bytes(), version(name), None)
    };
    assert_eq!(with("5", "9223372036854775807").unwrap().depth(), i64::MAX);
    assert!(with("5", "9223372036854775808").is_err());
    assert!(with("6", "9007199254740991").is_ok());
    assert!(with("6", "9007199254740992").is_err());
}

#[test]
fn sizes_are_limited() {
    for version in &ROOM_VERSIONS {
        let mut event = pdu(version);
        let base = parse(&event, version).unwrap().pdu().len();
        event["content"]["topic"] = json!("x".repeat(MAX_EVENT_BYTES - base + 1));
        // Unsigned data does not count.
        event["unsigned"] = json!({"x": "x".repeat(1000)});
        assert_eq!(parse(&event, version).unwrap().pdu().len(), MAX_EVENT_BYTES);
        event["content"]["topic"] = json!("x".repeat(MAX_EVENT_BYTES - base + 2));
        assert!(matches!(parse(&event, version), Err(EventError::TooLarge(_))));
        for key in ["type", "state_key"] {
            let mut event = pdu(version);
            event[key] = json!("\u{e9}".repeat(127) + "x");
            assert!(parse(&event, version).is_ok());
            event[key] = json!("\u{e9}".repeat(128));
            assert!(matches!(parse(&event, version), Err(EventError::TooLarge(_))));
        }
    }
}

#[test]
fn numbers_are_strict_since_version_6() {
    for version in &ROOM_VERSIONS {
        let text = pdu(version).to_string().replace("\"t\"", "[1.50,12345678901234567890]");
        let event = Event::parse(text.as_bytes(), version, None);
        if matches!(version.identifier, "1" | "2" | "3" | "4" | "5") {
            let content = event.unwrap().content().to_bytes();
            assert_eq!(content, b"{\"topic\":[1.50,12345678901234567890]}");
        } else {
            assert!(matches!(event, Err(EventError::Json(_))));
        }
    }
}

#[test]
fn the_room_of_a_create_event_follows_from_its_id_in_version_12() {
    let mut event = pdu(version("12"));
    event["type"] = json!("m.room.create");
    event.as_object_mut().unwrap().remove("room_id");
    let parsed = parse(&event, version("12")).unwrap();
    assert_eq!(parsed.room_id(), format!("!{}", &parsed.event_id()[1..]));
    assert!(!parsed.has_room_id());
    assert!(parse(&event, version("11")).is_err());
    event["room_id"] = json!("!r:one");
    assert!(parse(&event, version("12")).unwrap().has_room_id());
}

#[test]
fn clients_see_redacts_in_both_places() {
    for version in &ROOM_VERSIONS {
        let mut event = pdu(version);
        event["type"] = json!("m.room.redaction");
        event.as_object_mut().unwrap().remove("state_key");
        if version.redacts_in_content {
            event["content"] = json!({"redacts": "$x", "reason": "r"});
            event["redacts"] = json!("$wrong");
        } else {
            event["content"] = json!({"redacts": "$wrong", "reason": "r"});
            event["redacts"] = json!("$x");
        }
        let event = parse(&event, version).unwrap();
        assert_eq!(event.redacts(), Some("$x"));
        let shown: Json = serde_json::from_slice(&event.client_json(true)).unwrap();
        let expected = json!({
            "type": "m.room.redaction", "sender": "@a:one", "room_id": "!r:one", "origin_server_ts": 9,
            "event_id": event.event_id(), "redacts": "$x", "content": {"redacts": "$x", "reason": "r"},
        });
        assert_eq!(shown, expected);
        // Only a redaction redacts.
        let mut other = pdu(version);
        other["redacts"] = json!("$x");
        other["content"]["redacts"] = json!("$x");
        let other = parse(&other, version).unwrap();
        assert_eq!(other.redacts(), None);
        let shown: Json = serde_json::from_slice(&other.client_json(false)).unwrap();
        assert!(shown.get("redacts").is_none() && shown.get("room_id").is_none());
        let stripped: Json = serde_json::from_slice(&other.stripped_json()).unwrap();
        assert_eq!(
            stripped,
            json!({"type": "m.room.topic", "sender": "@a:one", "state_key": "", "content": {"topic": "t", "redacts": "$x"}})
        );
    }
}

#[test]
fn the_content_hash_shows_changes() {
    for version in &ROOM_VERSIONS {
        let mut event = pdu(version);
        let hash = {
            let canonical::Value::Object(object) =
                canonical::parse(event.to_string().as_bytes(), version.numbers).unwrap()
            else {
                panic!();
            };
            canonical::base64::encode(&canonical::hash::content_hash(&object))
        };
        assert!(!parse(&event, version).unwrap().content_hash_matches());
        event["hashes"] = json!({"sha256": format!("{hash}=")});
        let parsed = parse(&event, version).unwrap();
        assert!(parsed.content_hash_matches());
        assert!(!parsed.redacted().unwrap().content_hash_matches());
        assert_eq!(parsed.redacted().unwrap().event_id(), parsed.event_id());
        event["content"]["topic"] = json!("other");
        assert!(!parse(&event, version).unwrap().content_hash_matches());
        event["hashes"] = json!({"sha256": 5});
        assert!(!parse(&event, version).unwrap().content_hash_matches());
    }
}

#[test]
fn user_ids_and_server_names_follow_the_grammar() {
    let good = [
        "@a:one",
        "@:one",
        "@A b\u{1}\u{e9}:one",
        "@a:1.2.3.4",
        "@a:[::1]",
        "@a:[1234:5678::abcd]:5678",
        "@a:x-y.Z:12345",
        "@a:one:8448",
    ];
    for text in good {
        assert!(identifiers::is_user_id(text), "{text}");
    }
    let long = format!("@{}:one", "a".repeat(251));
    let bad = [
        "",
        "@",
        "a:one",
        "@a",
        "@a:",
        "@a\0:one",
        "@a:one:",
        "@a:one:123456",
        "@a:one:x",
        "@a:o_e",
        "@a:o e",
        "@a:[::1",
        "@a:[::g]",
        "@a:[::1]x",
        "@a:[]",
        "@a:\u{e9}",
        "@a:b:one",
        &long,
    ];
    for text in bad {
        assert!(!identifiers::is_user_id(text), "{text}");
    }
}
