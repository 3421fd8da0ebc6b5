//! Canonical JSON, redaction, hashes and event ids against the Ruma crates, over generated events.
//!
//! A failure prints its seed; `ORACLE_SEED=n cargo test` runs that one alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use canonical::{
    Event, EventIdFormat, Numbers, Object, ROOM_VERSIONS, RoomVersion, Value, base64, hash, redaction,
};
use ruma_common::{CanonicalJsonObject, RoomVersionId, room_version_rules::RoomVersionRules};

/// Small, and the same everywhere: xorshift.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }
}

const TYPES: [&str; 9] = [
    "m.room.member",
    "m.room.create",
    "m.room.join_rules",
    "m.room.power_levels",
    "m.room.history_visibility",
    "m.room.aliases",
    "m.room.redaction",
    "m.room.message",
    "org.example.\u{1f600}",
];
const CONTENT_KEYS: [&str; 26] = [
    "membership",
    "join_authorised_via_users_server",
    "third_party_invite",
    "creator",
    "room_version",
    "join_rule",
    "allow",
    "ban",
    "events",
    "events_default",
    "invite",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
    "notifications",
    "history_visibility",
    "aliases",
    "redacts",
    "body",
    "signed",
    "\u{e9}",
    "\u{ffff}",
    "\u{1f600}",
    "a\"\\\n\u{7f}",
];
const TOP_LEVEL_KEYS: [&str; 8] =
    ["origin", "membership", "prev_state", "redacts", "unsigned", "org.example.more", "age", "state_key"];

fn value(random: &mut Random, depth: u64) -> String {
    match random.below(if depth > 3 { 6 } else { 8 }) {
        0 => "null".to_owned(),
        1 => "true".to_owned(),
        2 => (i64::try_from(random.below(1 << 54)).unwrap() - (1 << 53) + 1)
            .min(canonical::MAX_INT)
            .to_string(),
        3 => "50".to_owned(),
        4 => r#""\u65e5\u672c \ud83d\ude00 \u0001\/\b""#.to_owned(),
        5 => "\"plain\"".to_owned(),
        6 => {
            let items: Vec<_> = (0..random.below(4)).map(|_| value(random, depth + 1)).collect();
            format!("[{}]", items.join(" , "))
        }
        _ => object(random, depth + 1),
    }
}

fn object(random: &mut Random, depth: u64) -> String {
    let entries: Vec<_> = (0..random.below(9))
        .map(|_| {
            let key = random.pick(&CONTENT_KEYS);
            let value = match key {
                "third_party_invite" if random.below(3) == 0 => object(random, depth + 3),
                "third_party_invite" => {
                    format!(r#"{{"signed": {}, "display_name": "x"}}"#, value(random, depth))
                }
                _ => value(random, depth),
            };
            format!("{}: {value}", serde_json::to_string(key).unwrap())
        })
        .collect();
    format!("{{ {} }}", entries.join(", "))
}

fn event(random: &mut Random, version: &RoomVersion) -> String {
    let kind = serde_json::to_string(random.pick(&TYPES)).unwrap();
    let reference =
        if version.references_are_pairs { r#"[["$p:one", {"sha256": "x"}]]"# } else { r#"["$p"]"# };
    let mut entries = vec![
        format!("\"type\": {kind}"),
        format!("\"content\": {}", object(random, 0)),
        format!("\"prev_events\": {reference}, \"auth_events\": {reference}"),
        r#""sender": "@a:one", "depth": 5, "origin_server_ts": 1700000000000"#.to_owned(),
        format!(
            r#""hashes": {{"sha256": "{}"}}, "signatures": {{"one": {{"ed25519:1": "c2ln"}}}}"#,
            base64::encode(&[7; 32])
        ),
    ];
    if version.event_id_format == EventIdFormat::InEvent {
        entries.push(r#""event_id": "$opaque:one""#.to_owned());
    }
    if !(version.room_id_is_create_hash && kind == "\"m.room.create\"") {
        entries.push(r#""room_id": "!room:one""#.to_owned());
    }
    for key in TOP_LEVEL_KEYS {
        if random.below(3) == 0 {
            let value = match key {
                "unsigned" => object(random, 2),
                _ => "\"text\"".to_owned(),
            };
            entries.push(format!("\"{key}\": {value}"));
        }
    }
    format!("{{{}}}", entries.join(",\n"))
}

fn rules(version: &RoomVersion) -> RoomVersionRules {
    RoomVersionId::try_from(version.identifier).unwrap().rules().unwrap()
}

fn compare(seed: u64) {
    let mut random = Random::new(seed);
    for version in &ROOM_VERSIONS {
        let text = event(&mut random, version);
        let context = format!("seed {seed}, version {}, event {text}", version.identifier);
        let rules = rules(version);

        let theirs: CanonicalJsonObject = serde_json::from_str(&text).expect(&context);
        let Value::Object(ours) = canonical::parse(text.as_bytes(), Numbers::Strict).expect(&context) else {
            panic!("{context}");
        };
        assert_eq!(text_of(&ours), serde_json::to_string(&theirs).unwrap(), "canonical JSON: {context}");

        let their_hash = ruma_signatures::content_hash(&theirs).expect(&context);
        assert_eq!(hash::content_hash(&ours).as_slice(), their_hash.as_bytes(), "content hash: {context}");

        let their_redacted =
            ruma_common::canonical_json::redact(theirs.clone(), &rules.redaction, None).expect(&context);
        let mut redacted = ours.clone();
        redaction::redact(&mut redacted, version.redaction);
        assert_eq!(
            text_of(&redacted),
            serde_json::to_string(&their_redacted).unwrap(),
            "redaction: {context}"
        );

        let their_reference = ruma_signatures::reference_hash(&theirs, &rules).expect(&context);
        let reference = hash::reference_hash(ours, version);
        let event = Event::parse(text.as_bytes(), version, None).expect(&context);
        assert_eq!(event.reference_hash(), &reference);
        match version.event_id_format {
            EventIdFormat::InEvent => assert_eq!(event.event_id(), "$opaque:one"),
            EventIdFormat::Hash => {
                assert_eq!(base64::encode(&reference), their_reference, "reference hash: {context}");
                assert_eq!(event.event_id(), format!("${their_reference}"), "event id: {context}");
            }
            EventIdFormat::UrlSafeHash => {
                assert_eq!(event.event_id(), format!("${their_reference}"), "event id: {context}");
            }
        }
        assert_eq!(event.redacted().expect(&context).reference_hash(), &reference);
    }
}

fn text_of(object: &Object) -> String {
    String::from_utf8(object.to_bytes()).unwrap()
}

#[test]
fn generated_events_have_the_same_forms_hashes_and_ids() {
    match std::env::var("ORACLE_SEED") {
        Ok(seed) => compare(seed.parse().unwrap()),
        Err(_) => (1..=1500).for_each(compare),
    }
}
