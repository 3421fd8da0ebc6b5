//! The redaction algorithm (client-server API, "Redactions", and each room version).

use crate::room_version::RedactionRules;
use crate::value::{Object, Value};

const ALWAYS_KEPT: [&str; 12] = [
    "auth_events",
    "content",
    "depth",
    "event_id",
    "hashes",
    "origin_server_ts",
    "prev_events",
    "room_id",
    "sender",
    "signatures",
    "state_key",
    "type",
];
const OBSOLETE: [&str; 3] = ["membership", "origin", "prev_state"];
const POWER_LEVELS: [&str; 8] =
    ["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"];

/// Strip an event in federation format down to what a redaction leaves.
pub fn redact(event: &mut Object, rules: RedactionRules) {
    event.retain(|key, _| keeps_top_level(key, rules));
    let kind = event.get_str("type").unwrap_or_default().to_owned();
    if let Some(Value::Object(mut content)) = event.remove("content") {
        redact_content(&kind, &mut content, rules);
        event.insert("content", Value::Object(content));
    }
}

/// Whether a redaction leaves this top-level key.
pub fn keeps_top_level(key: &str, rules: RedactionRules) -> bool {
    ALWAYS_KEPT.contains(&key) || (rules.keeps_obsolete_keys && OBSOLETE.contains(&key))
}

/// Strip the content of an event of this type.
pub fn redact_content(kind: &str, content: &mut Object, rules: RedactionRules) {
    if kind == "m.room.create" && rules.keeps_v11_content {
        return;
    }
    if kind == "m.room.member" && rules.keeps_v11_content {
        // Of `third_party_invite` only `signed` stays. One without `signed` stays as an empty object: the specification
        // leaves it open, but all servers must come to the same id, and the others do this.
        let invite = match content.remove("third_party_invite") {
            Some(Value::Object(mut invite)) => Some(invite.remove("signed")),
            _ => None,
        };
        content.retain(|key, _| keeps_content(kind, key, rules));
        if let Some(signed) = invite {
            let kept = signed.into_iter().map(|signed| ("signed".to_owned(), signed)).collect();
            content.insert("third_party_invite", Value::Object(Object::from_entries(kept)));
        }
        return;
    }
    content.retain(|key, _| keeps_content(kind, key, rules));
}

fn keeps_content(kind: &str, key: &str, rules: RedactionRules) -> bool {
    match kind {
        "m.room.member" => {
            key == "membership" || (rules.keeps_authorising_user && key == "join_authorised_via_users_server")
        }
        "m.room.create" => key == "creator",
        "m.room.join_rules" => key == "join_rule" || (rules.keeps_allow && key == "allow"),
        "m.room.power_levels" => POWER_LEVELS.contains(&key) || (rules.keeps_v11_content && key == "invite"),
        "m.room.history_visibility" => key == "history_visibility",
        "m.room.aliases" => rules.keeps_aliases && key == "aliases",
        "m.room.redaction" => rules.keeps_v11_content && key == "redacts",
        _ => false,
    }
}
