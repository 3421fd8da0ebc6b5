//! Signatures: the vectors of the specification, and everything that must not pass.
#![allow(clippy::unwrap_used, reason = "tests")]

use canonical::{Event, EventError, Numbers, Object, ROOM_VERSIONS, RoomVersion, Value, hash, parse_object};
use serde_json::{Value as Json, json};
use signatures::{
    EventFields, SigningKey, add_signature, build_event, public_key, sign_event, sign_json, sign_pdu,
    unsigned_pdu, verify_event, verify_json, verify_text,
};

const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";
/// The seed of the specification has stray bits at its end; we write them as zeros.
const SEED_AS_WRITTEN: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

fn key() -> SigningKey {
    SigningKey::from_seed("1", SEED).unwrap()
}

fn object(value: &Json) -> Object {
    parse_object(value.to_string().as_bytes(), Numbers::Strict).unwrap()
}

fn signed(value: &Json) -> Json {
    let mut object = object(value);
    sign_json(&mut object, "domain", &key());
    serde_json::from_slice(&object.to_bytes()).unwrap()
}

#[test]
fn json_vectors_of_the_appendices() {
    let signature = |text: &str| json!({"domain": {"ed25519:1": text}});
    assert_eq!(
        signed(&json!({}))["signatures"],
        signature("K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ")
    );
    assert_eq!(
        signed(&json!({"one": 1, "two": "Two"})),
        json!({"one": 1, "two": "Two", "signatures": signature(
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
        )})
    );
}

/// Hash and sign fields that need not be a complete event, as the vectors are not.
fn sign_fields(mut fields: Object, version: &RoomVersion) -> Object {
    let content_hash = Value::String(canonical::base64::encode(&hash::content_hash(&fields)));
    fields.insert("hashes", Value::Object(Object::from_entries(vec![("sha256".to_owned(), content_hash)])));
    let signature = key().sign(&hash::signed_bytes(fields.clone(), version));
    add_signature(&mut fields, "domain", "ed25519:1", signature);
    fields
}

#[test]
fn event_vectors_of_the_appendices() {
    let version = RoomVersion::find("1").unwrap();
    let minimal = json!({
        "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain", "origin_server_ts": 1_000_000,
        "signatures": {}, "hashes": {}, "type": "X", "content": {}, "prev_events": [], "auth_events": [], "depth": 3,
        "unsigned": {"age_ts": 1_000_000},
    });
    let mut expected = minimal.clone();
    expected["hashes"] = json!({"sha256": "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"});
    expected["signatures"] = json!({"domain": {"ed25519:1":
        "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}});
    assert_eq!(sign_fields(object(&minimal), version), object(&expected));
    // The same through the function that makes whole events, in a version without event ids in the event.
    let event = sign_pdu(object(&minimal), RoomVersion::find("3").unwrap(), "domain", &key()).unwrap();
    expected.as_object_mut().unwrap().remove("unsigned");
    assert_eq!(event.to_object(), object(&expected));

    let redactable = json!({
        "content": {"body": "Here is the message content"}, "event_id": "$0:domain", "origin": "domain",
        "origin_server_ts": 1_000_000, "type": "m.room.message", "room_id": "!r:domain", "sender": "@u:domain",
        "signatures": {}, "unsigned": {"age_ts": 1_000_000},
    });
    let mut expected = redactable.clone();
    expected["hashes"] = json!({"sha256": "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"});
    expected["signatures"] = json!({"domain": {"ed25519:1":
        "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"}});
    assert_eq!(sign_fields(object(&redactable), version), object(&expected));
}

#[test]
fn keys_keep_their_seed_and_do_not_take_others() {
    let key = key();
    assert_eq!((key.key_id(), key.seed().as_str()), ("ed25519:1", SEED_AS_WRITTEN));
    assert!(SigningKey::from_seed("1", &format!("{SEED}=")).is_ok());
    for (version, seed) in [("", SEED), ("a b", SEED), ("1:2", SEED), ("1", ""), ("1", "AAAA"), ("1", "!")] {
        assert!(SigningKey::from_seed(version, seed).is_err());
    }
    for text in ["", "AAAA", "not base64", &"A".repeat(86)] {
        assert!(public_key(text).is_err());
    }
}

#[test]
fn other_signatures_and_unsigned_stay() {
    let value =
        json!({"a": 1, "unsigned": {"b": 2}, "signatures": {"domain": {"ed25519:0": "x"}, "x": {"y": "z"}}});
    let result = signed(&value);
    assert_eq!(result["unsigned"], value["unsigned"]);
    assert_eq!(result["signatures"]["x"], value["signatures"]["x"]);
    assert_eq!(result["signatures"]["domain"]["ed25519:0"], "x");
    assert_eq!(
        result["signatures"]["domain"]["ed25519:1"],
        signed(&json!({"a": 1}))["signatures"]["domain"]["ed25519:1"]
    );
}

#[test]
fn only_good_signatures_verify() {
    let key = key();
    let public = public_key(&key.public_key()).unwrap();
    let good = signed(&json!({"a": 1, "unsigned": {"b": 2}}));
    let check =
        |value: &Json| verify_json(&object(value), "domain", "ed25519:1", &public).map_err(|error| error.0);
    assert_eq!(check(&good), Ok(()));
    let mut changed = good.clone();
    changed["unsigned"] = json!({});
    assert_eq!(check(&changed), Ok(()));
    changed["a"] = json!(2);
    assert!(check(&changed).unwrap_err().contains("does not match"));
    assert!(verify_json(&object(&good), "other", "ed25519:1", &public).is_err());
    assert!(verify_json(&object(&good), "domain", "ed25519:2", &public).is_err());
    assert!(verify_json(&object(&good), "domain", "rsa:1", &public).unwrap_err().0.contains("algorithm"));
    let other = public_key(&SigningKey::new("1", [3; 32]).unwrap().public_key()).unwrap();
    assert!(verify_json(&object(&good), "domain", "ed25519:1", &other).is_err());
    for wrong in [json!(5), json!(""), json!("AAAA"), json!("*"), json!({})] {
        let mut changed = good.clone();
        changed["signatures"]["domain"]["ed25519:1"] = wrong;
        assert!(check(&changed).is_err());
    }
    for wrong in [json!(5), json!({}), json!({"domain": 5}), json!(null)] {
        let mut changed = good.clone();
        changed["signatures"] = wrong;
        assert!(check(&changed).is_err());
    }
    assert!(verify_text(b"not json", "domain", "ed25519:1", &public).is_err());
}

#[test]
fn keys_of_small_order_sign_nothing() {
    // The neutral element as key and as R, with S = 0, satisfies the plain equation for every message.
    let neutral = format!("AQ{}", "A".repeat(41));
    let signature = format!("AQ{}", "A".repeat(84));
    let value = json!({"a": 1, "signatures": {"domain": {"ed25519:1": signature}}});
    if let Ok(key) = public_key(&neutral) {
        assert!(verify_json(&object(&value), "domain", "ed25519:1", &key).is_err());
    }
}

fn fields<'a>(version: &RoomVersion, content: &'a [u8]) -> EventFields<'a> {
    EventFields {
        room_id: Some("!r:domain"),
        kind: "m.room.message",
        sender: "@a:domain",
        state_key: None,
        content,
        origin_server_ts: 5,
        depth: 6,
        prev_events: vec![],
        auth_events: vec![],
        redacts: None,
        event_id: version.references_are_pairs.then_some("$id:domain"),
    }
}

#[test]
fn built_events_are_complete_and_signed() {
    let key = key();
    let public = public_key(&key.public_key()).unwrap();
    for version in &ROOM_VERSIONS {
        let first = build_event(version, "domain", &key, &fields(version, b"{}")).unwrap();
        let mut second = fields(version, br#"{"body":"x"}"#);
        second.prev_events = vec![&first];
        second.auth_events = vec![&first];
        let event = build_event(version, "domain", &key, &second).unwrap();
        assert!(event.content_hash_matches());
        assert_eq!(event.prev_events(), [first.event_id()]);
        assert_eq!(Event::parse(event.pdu(), version, None).unwrap().event_id(), event.event_id());
        let pdu: Json = serde_json::from_slice(event.pdu()).unwrap();
        if version.references_are_pairs {
            let hash = canonical::base64::encode(first.reference_hash());
            assert_eq!(pdu["auth_events"], json!([["$id:domain", {"sha256": hash}]]));
        } else {
            assert_eq!(pdu["auth_events"], json!([first.event_id()]));
            assert!(pdu.get("event_id").is_none());
        }
        for form in [event.to_object(), event.redacted().unwrap().to_object()] {
            assert_eq!(verify_event(form, version, "domain", "ed25519:1", &public), Ok(()));
        }
        let other = SigningKey::new("2", [4; 32]).unwrap();
        let twice = sign_event(&event, "other", &other).unwrap();
        assert_eq!(twice.event_id(), event.event_id());
        let other = public_key(&other.public_key()).unwrap();
        assert_eq!(verify_event(twice.to_object(), version, "other", "ed25519:2", &other), Ok(()));
        assert_eq!(verify_event(twice.to_object(), version, "domain", "ed25519:1", &public), Ok(()));
        let mut changed = event.to_object();
        changed.insert("depth", Value::Int(7));
        assert!(verify_event(changed, version, "domain", "ed25519:1", &public).is_err());
    }
}

#[test]
fn redacts_goes_where_the_version_has_it() {
    for version in &ROOM_VERSIONS {
        for (content, redacts) in [
            (&br#"{"reason":"r"}"#[..], Some("$x")),
            (&br#"{"reason":"r","redacts":"$x"}"#[..], None),
            (&br#"{"reason":"r","redacts":"$other"}"#[..], Some("$x")),
        ] {
            let mut fields = fields(version, content);
            fields.kind = "m.room.redaction";
            fields.redacts = redacts;
            let event = build_event(version, "domain", &key(), &fields).unwrap();
            assert_eq!(event.redacts(), Some("$x"));
            assert_eq!(event.content().contains("redacts"), version.redacts_in_content);
            assert_eq!(event.to_object().contains("redacts"), !version.redacts_in_content);
        }
        let mut fields = fields(version, b"{}");
        fields.redacts = Some("$x");
        assert!(build_event(version, "domain", &key(), &fields).is_err());
    }
}

#[test]
fn events_that_cannot_be_are_not_built() {
    for version in &ROOM_VERSIONS {
        let fails = |change: &dyn Fn(&mut EventFields<'_>)| {
            let mut fields = fields(version, b"{}");
            change(&mut fields);
            build_event(version, "domain", &key(), &fields).unwrap_err()
        };
        let large = format!("{{\"body\":\"{}\"}}", "x".repeat(65_536));
        let mut too_large = fields(version, large.as_bytes());
        too_large.room_id = Some("!r:domain");
        let error = build_event(version, "domain", &key(), &too_large).unwrap_err();
        assert!(matches!(error, EventError::TooLarge(_)));
        let name = "x".repeat(256);
        let with_name =
            build_event(version, "domain", &key(), &EventFields { kind: &name, ..fields(version, b"{}") });
        assert!(matches!(with_name, Err(EventError::TooLarge(_))));
        assert!(matches!(fails(&|fields| fields.content = b"[]"), EventError::Json(_)));
        assert!(matches!(fails(&|fields| fields.content = br#"{"a":"\ud800"}"#), EventError::Json(_)));
        assert!(matches!(fails(&|fields| fields.depth = -1), EventError::Malformed(_)));
        assert!(matches!(fails(&|fields| fields.room_id = None), EventError::Malformed(_)));
        assert!(matches!(fails(&|fields| fields.sender = "a"), EventError::Malformed(_)));
        let wrong_id = if version.references_are_pairs { None } else { Some("$id:domain") };
        assert!(matches!(fails(&|fields| fields.event_id = wrong_id), EventError::Malformed(_)));
        let float = build_event(version, "domain", &key(), &fields(version, br#"{"a":1.5}"#));
        assert_eq!(float.is_ok(), version.numbers == Numbers::Lenient);
        let deep = build_event(
            version,
            "domain",
            &key(),
            &EventFields { depth: i64::MAX, ..fields(version, b"{}") },
        );
        assert_eq!(deep.unwrap().depth(), version.max_depth);
        let create = |room_id| EventFields {
            kind: "m.room.create",
            state_key: Some(""),
            room_id,
            ..fields(version, b"{}")
        };
        assert_eq!(
            build_event(version, "domain", &key(), &create(None)).is_ok(),
            version.room_id_is_create_hash
        );
        assert_eq!(
            build_event(version, "domain", &key(), &create(Some("!r:domain"))).is_err(),
            version.room_id_is_create_hash
        );
        let one = build_event(version, "domain", &key(), &fields(version, b"{}")).unwrap();
        for (prev, auth, good) in [(20, 10, true), (21, 10, false), (20, 11, false)] {
            let fields = EventFields {
                prev_events: vec![&one; prev],
                auth_events: vec![&one; auth],
                ..fields(version, b"{}")
            };
            assert_eq!(unsigned_pdu(version, &fields).is_ok(), good);
        }
    }
}
