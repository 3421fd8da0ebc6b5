//! Making events: content hash, signature and event id in the format of the room version.

use canonical::{
    Event, EventError, EventIdFormat, MAX_FIELD_BYTES, Object, RoomVersion, Value, base64, hash,
    parse_object, reference,
};

use crate::{SigningKey, add_signature};

/// The most `prev_events` that an event may have.
const MAX_PREV_EVENTS: usize = 20;
/// The most `auth_events` that an event may have.
const MAX_AUTH_EVENTS: usize = 10;

/// What a new event consists of.
pub struct EventFields<'a> {
    /// The room; `None` for a create event where the room id is the create event's hash.
    pub room_id: Option<&'a str>,
    /// The event's `type`.
    pub kind: &'a str,
    /// The sender's user id.
    pub sender: &'a str,
    /// The state key of a state event.
    pub state_key: Option<&'a str>,
    /// The JSON text of the content.
    pub content: &'a [u8],
    /// When it is made, in milliseconds.
    pub origin_server_ts: i64,
    /// The depth; held at the version's limit.
    pub depth: i64,
    /// The previous events.
    pub prev_events: Vec<&'a Event>,
    /// The authorisation events.
    pub auth_events: Vec<&'a Event>,
    /// The event that a redaction is about.
    pub redacts: Option<&'a str>,
    /// The event id, where the version has the server choose it.
    pub event_id: Option<&'a str>,
}

fn malformed<T>(reason: &str) -> Result<T, EventError> {
    Err(EventError::Malformed(reason.to_owned()))
}

/// The event in federation format without hashes and signatures, as `make_join` hands it out.
pub fn unsigned_pdu(version: &'static RoomVersion, fields: &EventFields<'_>) -> Result<Object, EventError> {
    let small = [
        ("room_id", fields.room_id),
        ("type", Some(fields.kind)),
        ("sender", Some(fields.sender)),
        ("state_key", fields.state_key),
        ("event_id", fields.event_id),
    ];
    for (key, text) in small {
        if text.is_some_and(|text| text.len() > MAX_FIELD_BYTES) {
            return Err(EventError::TooLarge(format!("{key} is longer than {MAX_FIELD_BYTES} bytes")));
        }
    }
    if fields.prev_events.len() > MAX_PREV_EVENTS {
        return malformed("there are more than 20 prev_events");
    }
    if fields.auth_events.len() > MAX_AUTH_EVENTS {
        return malformed("there are more than 10 auth_events");
    }
    if fields.depth < 0 {
        return malformed("depth is out of range");
    }

    let mut content = parse_object(fields.content, version.numbers)?;
    let mut entries = Vec::with_capacity(14);
    let mut field = |key: &str, value: Value| entries.push((key.to_owned(), value));

    if fields.kind == "m.room.redaction" {
        // Clients write `redacts` into the content whatever the version; it moves to where the version has it.
        let in_content = if version.redacts_in_content { None } else { content.remove("redacts") };
        if let Some(redacts) = fields.redacts {
            if version.redacts_in_content {
                content.insert("redacts", redacts.into());
            } else {
                field("redacts", redacts.into());
            }
        } else if let Some(redacts) = in_content {
            if redacts.as_str().is_none() {
                return malformed("redacts is not a string");
            }
            field("redacts", redacts);
        }
    } else if fields.redacts.is_some() {
        return malformed("only m.room.redaction has redacts");
    }

    let is_hash_create = version.room_id_is_create_hash && fields.kind == "m.room.create";
    match fields.room_id {
        Some(_) if is_hash_create => {
            return malformed("the create event of this room version has no room_id");
        }
        Some(room_id) => field("room_id", room_id.into()),
        None if is_hash_create => {}
        None => return malformed("room_id is missing"),
    }
    match (version.event_id_format, fields.event_id) {
        (EventIdFormat::InEvent, Some(event_id)) => field("event_id", event_id.into()),
        (EventIdFormat::InEvent, None) => return malformed("this room version needs an event_id"),
        (_, Some(_)) => return malformed("event IDs of this room version are computed"),
        (_, None) => {}
    }
    if let Some(state_key) = fields.state_key {
        field("state_key", state_key.into());
    }
    field("type", fields.kind.into());
    field("sender", fields.sender.into());
    field("origin_server_ts", Value::Int(fields.origin_server_ts));
    field("depth", Value::Int(fields.depth.min(version.max_depth)));
    field("prev_events", Value::Array(fields.prev_events.iter().map(|event| reference(event)).collect()));
    field("auth_events", Value::Array(fields.auth_events.iter().map(|event| reference(event)).collect()));
    field("content", Value::Object(content));
    Ok(Object::from_entries(entries))
}

/// Make, hash and sign an event.
pub fn build_event(
    version: &'static RoomVersion,
    server_name: &str,
    key: &SigningKey,
    fields: &EventFields<'_>,
) -> Result<Event, EventError> {
    sign_pdu(unsigned_pdu(version, fields)?, version, server_name, key)
}

/// Give an event without hashes and signatures its content hash, this server's signature and its id.
pub fn sign_pdu(
    mut pdu: Object,
    version: &'static RoomVersion,
    server_name: &str,
    key: &SigningKey,
) -> Result<Event, EventError> {
    pdu.remove("unsigned");
    pdu.remove("signatures");
    let content_hash = Value::String(base64::encode(&hash::content_hash(&pdu)));
    pdu.insert("hashes", Value::Object(Object::from_entries(vec![("sha256".to_owned(), content_hash)])));
    // The signature and the reference hash cover the same bytes.
    let signed = hash::signed_bytes(pdu.clone(), version);
    let event_id = hash::event_id(&hash::sha256(&signed), version);
    add_signature(&mut pdu, server_name, key.key_id(), key.sign(&signed));
    Event::from_object(pdu, version, event_id)
}

/// The same event with one more signature.
pub fn sign_event(event: &Event, server_name: &str, key: &SigningKey) -> Result<Event, EventError> {
    let mut pdu = event.to_object();
    let signature = key.sign(&hash::signed_bytes(pdu.clone(), event.version()));
    add_signature(&mut pdu, server_name, key.key_id(), signature);
    Event::from_object(pdu, event.version(), Some(event.event_id().to_owned()))
}
