//! Signed events and their verification against the Ruma crates, over generated events of all versions.
#![allow(clippy::unwrap_used, reason = "tests")]

use canonical::{EventIdFormat, Numbers, ROOM_VERSIONS, parse_object};
use ruma_common::{CanonicalJsonObject, RoomVersionId};
use ruma_signatures::{Ed25519KeyPair, PublicKeyMap, Verified, hash_and_sign_event, verify_event};
use serde_json::{Value as Json, json};
use signatures::{SigningKey, public_key, sign_pdu};

const SEED: [u8; 32] = [9; 32];

/// The seed in the only form that the oracle reads.
fn their_key() -> Ed25519KeyPair {
    let mut document = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    document.extend(SEED);
    Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap()
}

fn contents() -> Vec<(&'static str, Json)> {
    vec![
        (
            "m.room.message",
            json!({"body": "\u{1f600} \u{0}\n\"\\", "n": [1, -5, true, null, {"b": {}, "a": []}]}),
        ),
        (
            "m.room.member",
            json!({
                "membership": "join", "displayname": "x", "join_authorised_via_users_server": "@a:one",
                "third_party_invite": {"signed": {"mxid": "@a:one"}, "display_name": "y"},
            }),
        ),
        ("m.room.create", json!({"creator": "@a:one", "room_version": "x", "m.federate": true})),
        ("m.room.join_rules", json!({"join_rule": "restricted", "allow": [{"type": "x"}], "other": 1})),
        (
            "m.room.power_levels",
            json!({"ban": 1, "invite": 2, "users": {"@a:one": 3}, "notifications": {"room": 4}}),
        ),
        ("m.room.history_visibility", json!({"history_visibility": "shared", "other": 1})),
        ("m.room.aliases", json!({"aliases": ["#a:one"], "other": 1})),
        ("m.room.redaction", json!({"redacts": "$x", "reason": "y"})),
    ]
}

#[test]
fn signed_events_are_the_same_and_verify_on_both_sides() {
    let (ours, theirs) = (SigningKey::new("1", SEED).unwrap(), their_key());
    let public = public_key(&ours.public_key()).unwrap();
    let mut keys = PublicKeyMap::new();
    let encoded = ruma_common::serde::Base64::parse(ours.public_key()).unwrap();
    keys.entry("one".to_owned()).or_default().insert("ed25519:1".to_owned(), encoded);
    for version in &ROOM_VERSIONS {
        let rules = RoomVersionId::try_from(version.identifier).unwrap().rules().unwrap();
        for (kind, mut content) in contents() {
            if version.auth.restricted && !version.redaction.keeps_authorising_user {
                // Version 8 loses the key in a redaction; the oracle wants it all the same.
                content.as_object_mut().unwrap().remove("join_authorised_via_users_server");
            }
            let mut pdu = json!({
                "type": kind, "sender": "@a:one", "state_key": "", "content": content, "depth": 4,
                "origin_server_ts": 5, "prev_events": [], "auth_events": [], "origin": "one", "org.more": 1,
            });
            if version.event_id_format == EventIdFormat::InEvent {
                pdu["event_id"] = json!("$id:one");
            }
            if kind != "m.room.create" || !version.room_id_is_create_hash {
                pdu["room_id"] = json!("!r:one");
            }
            let context = format!("version {}, {kind}", version.identifier);
            let text = pdu.to_string();
            let mut their_event: CanonicalJsonObject = serde_json::from_str(&text).unwrap();
            hash_and_sign_event("one", &theirs, &mut their_event, &rules.redaction).unwrap();
            let object = parse_object(text.as_bytes(), Numbers::Strict).unwrap();
            let event = sign_pdu(object, version, "one", &ours).unwrap();
            let our_text = String::from_utf8(event.pdu().to_vec()).unwrap();
            assert_eq!(our_text, serde_json::to_string(&their_event).unwrap(), "{context}");

            let verdict = verify_event(&keys, &their_event, &rules);
            assert!(matches!(verdict, Ok(Verified::All)), "{context}: {verdict:?}");
            let result = signatures::verify_event(event.to_object(), version, "one", "ed25519:1", &public);
            assert_eq!(result, Ok(()), "{context}");

            let redacted = event.redacted().unwrap();
            let their_redacted: CanonicalJsonObject = serde_json::from_slice(redacted.pdu()).unwrap();
            let verdict = verify_event(&keys, &their_redacted, &rules);
            let changed = redacted.content() != event.content() || event.to_object().contains("org.more");
            let expected = if changed { Verified::Signatures } else { Verified::All };
            assert_eq!(verdict.unwrap(), expected, "{context}");
        }
    }
}
