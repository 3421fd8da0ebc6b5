//! Which state events authorise an event (server-server API, "Auth events selection").

use canonical::{Event, Object, RoomVersion};

/// The type and state key of a state event.
pub type StateKey = (&'static str, String);

/// The state whose current events belong into `auth_events` of an event. The order is that of the
/// specification; no pair comes twice.
pub fn auth_event_keys(
    version: &RoomVersion,
    kind: &str,
    sender: &str,
    state_key: Option<&str>,
    content: &Object,
) -> Vec<StateKey> {
    let mut keys: Vec<StateKey> = Vec::with_capacity(6);
    if kind == "m.room.create" {
        return keys;
    }
    if version.auth.create_in_auth_events {
        keys.push(("m.room.create", String::new()));
    }
    keys.push(("m.room.power_levels", String::new()));
    keys.push(("m.room.member", sender.to_owned()));
    if kind != "m.room.member" {
        return keys;
    }
    let mut add = |key: StateKey| {
        if !keys.contains(&key) {
            keys.push(key);
        }
    };
    if let Some(target) = state_key {
        add(("m.room.member", target.to_owned()));
    }
    let membership = content.get_str("membership").unwrap_or_default();
    if matches!(membership, "join" | "invite" | "knock") {
        add(("m.room.join_rules", String::new()));
    }
    if membership == "invite" {
        let token = content
            .get_object("third_party_invite")
            .and_then(|invite| invite.get_object("signed"))
            .and_then(|signed| signed.get_str("token"));
        if let Some(token) = token {
            add(("m.room.third_party_invite", token.to_owned()));
        }
    }
    if membership == "join"
        && version.auth.restricted
        && let Some(user) = content.get_str("join_authorised_via_users_server")
    {
        add(("m.room.member", user.to_owned()));
    }
    keys
}

/// As [`auth_event_keys`], for an event that exists.
pub fn auth_event_keys_of(event: &Event) -> Vec<StateKey> {
    auth_event_keys(event.version(), event.kind(), event.sender(), event.state_key(), event.content())
}
