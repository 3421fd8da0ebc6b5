//! An event (a persistent data unit) of a known room version.

use std::sync::OnceLock;

use crate::base64;
use crate::error::EventError;
use crate::hash;
use crate::identifiers;
use crate::parse::parse_object;
use crate::redaction::redact;
use crate::room_version::{EventIdFormat, RoomVersion};
use crate::value::{Object, Value};
use crate::write;

/// The largest size of an event in federation format, signatures included.
pub const MAX_EVENT_BYTES: usize = 65_536;
/// The largest size of `sender`, `room_id`, `event_id`, `state_key` and `type`.
pub const MAX_FIELD_BYTES: usize = 255;

/// An event whose fields have the types that its room version demands. It is never changed.
#[allow(clippy::struct_field_names, reason = "`event_id` is the name of the specification")]
#[derive(Debug)]
pub struct Event {
    version: &'static RoomVersion,
    event_id: String,
    room_id: String,
    kind: String,
    state_key: Option<String>,
    sender: String,
    redacts: Option<String>,
    depth: i64,
    origin_server_ts: i64,
    prev_events: Vec<String>,
    auth_events: Vec<String>,
    has_room_id: bool,
    content: Object,
    signatures: Object,
    pdu: Vec<u8>,
    reference_hash: OnceLock<[u8; 32]>,
}

fn text(event: &Object, key: &str) -> Result<String, EventError> {
    let value = event.get(key).ok_or_else(|| EventError::malformed(format!("{key} is missing")))?;
    let text = value.as_str().ok_or_else(|| EventError::malformed(format!("{key} is not a string")))?;
    small(key, text)?;
    Ok(text.to_owned())
}

fn small(key: &str, text: &str) -> Result<(), EventError> {
    if text.len() > MAX_FIELD_BYTES {
        return Err(EventError::TooLarge(format!("{key} is longer than {MAX_FIELD_BYTES} bytes")));
    }
    Ok(())
}

fn int(event: &Object, key: &str) -> Result<i64, EventError> {
    let value = event.get(key).ok_or_else(|| EventError::malformed(format!("{key} is missing")))?;
    value.as_int().ok_or_else(|| EventError::malformed(format!("{key} is not an integer")))
}

fn object(event: &mut Object, key: &str) -> Result<Object, EventError> {
    match event.remove(key) {
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(EventError::malformed(format!("{key} is not an object"))),
        None => Err(EventError::malformed(format!("{key} is missing"))),
    }
}

fn references(event: &Object, key: &str, version: &RoomVersion) -> Result<Vec<String>, EventError> {
    let wrong = || EventError::malformed(format!("{key} is not a list of references to events"));
    let items = event.get(key).and_then(Value::as_array).ok_or_else(wrong)?;
    items
        .iter()
        .map(|item| {
            let id = match item {
                Value::String(id) if !version.references_are_pairs => Some(id.as_str()),
                Value::Array(pair) if version.references_are_pairs => match pair.as_slice() {
                    [Value::String(id), Value::Object(_)] => Some(id.as_str()),
                    _ => None,
                },
                _ => None,
            };
            let id = id.ok_or_else(wrong)?;
            small(key, id)?;
            Ok(id.to_owned())
        })
        .collect()
}

fn has_content_hash(event: &Object) -> bool {
    let claimed =
        event.get_object("hashes").and_then(|hashes| hashes.get_str("sha256")).and_then(base64::decode);
    claimed.is_some_and(|claimed| claimed == hash::content_hash(event))
}

/// A reference to an event, as `prev_events` and `auth_events` of this version hold it.
pub fn reference(event: &Event) -> Value {
    if event.version.references_are_pairs {
        let hash = Value::String(base64::encode(event.reference_hash()));
        let hashes = Object::from_entries(vec![("sha256".to_owned(), hash)]);
        Value::Array(vec![Value::String(event.event_id.clone()), Value::Object(hashes)])
    } else {
        Value::String(event.event_id.clone())
    }
}

impl Event {
    /// Parse an event in federation format. `unsigned` is dropped.
    ///
    /// With `event_id` given, the id is taken as it is: for text out of storage that was checked once.
    pub fn parse(
        raw: &[u8],
        version: &'static RoomVersion,
        event_id: Option<String>,
    ) -> Result<Self, EventError> {
        Self::from_object(parse_object(raw, version.numbers)?, version, event_id)
    }

    /// Parse an event that came from elsewhere, and say whether its content is what it was hashed with.
    pub fn receive(raw: &[u8], version: &'static RoomVersion) -> Result<(Self, bool), EventError> {
        let event = parse_object(raw, version.numbers)?;
        let matches = has_content_hash(&event);
        Ok((Self::from_object(event, version, None)?, matches))
    }

    /// Check the fields of an event in federation format, and take it.
    pub fn from_object(
        mut event: Object,
        version: &'static RoomVersion,
        event_id: Option<String>,
    ) -> Result<Self, EventError> {
        event.remove("unsigned");
        let pdu = event.to_bytes();
        if pdu.len() > MAX_EVENT_BYTES {
            return Err(EventError::TooLarge(format!("the event is larger than {MAX_EVENT_BYTES} bytes")));
        }

        let kind = text(&event, "type")?;
        let sender = text(&event, "sender")?;
        if !identifiers::is_user_id(&sender) {
            return Err(EventError::malformed("sender is not a user ID"));
        }
        let state_key = if event.contains("state_key") { Some(text(&event, "state_key")?) } else { None };
        let depth = int(&event, "depth")?;
        if !(0..=version.max_depth).contains(&depth) {
            return Err(EventError::malformed("depth is out of range"));
        }
        let origin_server_ts = int(&event, "origin_server_ts")?;
        let prev_events = references(&event, "prev_events", version)?;
        let auth_events = references(&event, "auth_events", version)?;
        if event.get_object("hashes").is_none() {
            return Err(EventError::malformed("hashes is missing or not an object"));
        }
        let signatures = event
            .get_object("signatures")
            .cloned()
            .ok_or_else(|| EventError::malformed("signatures is missing or not an object"))?;
        let top_level_redacts = event.get_str("redacts").map(str::to_owned);

        let mut computed = None;
        let event_id = if let Some(event_id) = event_id {
            event_id
        } else if version.event_id_format == EventIdFormat::InEvent {
            let event_id = text(&event, "event_id")?;
            if !event_id.starts_with('$') {
                return Err(EventError::malformed("event_id is not an event ID"));
            }
            event_id
        } else {
            let hash = hash::reference_hash(event.clone(), version);
            computed = Some(hash);
            hash::event_id(&hash, version).unwrap_or_default()
        };

        let has_room_id = event.contains("room_id");
        let room_id = if version.room_id_is_create_hash && kind == "m.room.create" {
            format!("!{}", event_id.strip_prefix('$').unwrap_or(&event_id))
        } else {
            let room_id = text(&event, "room_id")?;
            if !room_id.starts_with('!') {
                return Err(EventError::malformed("room_id is not a room ID"));
            }
            room_id
        };

        let content = object(&mut event, "content")?;
        let redacts = if version.redacts_in_content {
            content.get_str("redacts").map(str::to_owned)
        } else {
            top_level_redacts
        };
        let redacts = redacts.filter(|_| kind == "m.room.redaction");

        let reference_hash = OnceLock::new();
        if let Some(hash) = computed {
            let _ = reference_hash.set(hash);
        }
        Ok(Self {
            version,
            event_id,
            room_id,
            kind,
            state_key,
            sender,
            redacts,
            depth,
            origin_server_ts,
            prev_events,
            auth_events,
            has_room_id,
            content,
            signatures,
            pdu,
            reference_hash,
        })
    }

    /// The room version.
    pub const fn version(&self) -> &'static RoomVersion {
        self.version
    }

    /// The event id.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// The room id; for a create event of version 12 derived from the event id.
    pub fn room_id(&self) -> &str {
        &self.room_id
    }

    /// Whether the event in federation format has a `room_id`.
    pub const fn has_room_id(&self) -> bool {
        self.has_room_id
    }

    /// The event's `type`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The state key; `None` for an event that is not state.
    pub fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    /// Whether this is the state event of this type and state key.
    pub fn is_state(&self, kind: &str, state_key: &str) -> bool {
        self.kind == kind && self.state_key() == Some(state_key)
    }

    /// The sender's user id.
    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// The id of the event that a redaction is about.
    pub fn redacts(&self) -> Option<&str> {
        self.redacts.as_deref()
    }

    /// The depth in the room's graph.
    pub const fn depth(&self) -> i64 {
        self.depth
    }

    /// When the sender's server says it made the event, in milliseconds.
    pub const fn origin_server_ts(&self) -> i64 {
        self.origin_server_ts
    }

    /// The ids of the previous events.
    pub fn prev_events(&self) -> &[String] {
        &self.prev_events
    }

    /// The ids of the authorisation events.
    pub fn auth_events(&self) -> &[String] {
        &self.auth_events
    }

    /// The content.
    pub const fn content(&self) -> &Object {
        &self.content
    }

    /// The signatures: servers to key ids to signatures.
    pub const fn signatures(&self) -> &Object {
        &self.signatures
    }

    /// `content.membership` of a member event.
    pub fn membership(&self) -> Option<&str> {
        if self.kind == "m.room.member" { self.content.get_str("membership") } else { None }
    }

    /// The event in federation format, canonical, without `unsigned`.
    pub fn pdu(&self) -> &[u8] {
        &self.pdu
    }

    /// The fields in federation format.
    pub fn to_object(&self) -> Object {
        // The bytes came out of an object, so they parse.
        parse_object(&self.pdu, self.version.numbers).unwrap_or_default()
    }

    /// SHA-256 over what a redaction leaves.
    pub fn reference_hash(&self) -> &[u8; 32] {
        self.reference_hash.get_or_init(|| {
            let hash = self.event_id.strip_prefix('$').and_then(|hash| match self.version.event_id_format {
                EventIdFormat::InEvent => None,
                EventIdFormat::Hash => base64::decode(hash),
                EventIdFormat::UrlSafeHash => base64::decode_url_safe(hash),
            });
            hash.and_then(|hash| hash.try_into().ok())
                .unwrap_or_else(|| hash::reference_hash(self.to_object(), self.version))
        })
    }

    /// Whether `hashes.sha256` is the hash of this event. If not, only the redacted form may be used.
    pub fn content_hash_matches(&self) -> bool {
        has_content_hash(&self.to_object())
    }

    /// What a redaction leaves of this event, under the same id.
    pub fn redacted(&self) -> Result<Self, EventError> {
        let mut event = self.to_object();
        redact(&mut event, self.version.redaction);
        Self::from_object(event, self.version, Some(self.event_id.clone()))
    }

    /// The event in the format that clients see, without `unsigned`.
    ///
    /// A redaction has `redacts` both at the top level and in its content, whatever the room version.
    pub fn client_json(&self, include_room_id: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.pdu.len() + 128);
        out.extend_from_slice(b"{\"content\":");
        if let (Some(redacts), false) = (self.redacts(), self.version.redacts_in_content) {
            let mut content = self.content.clone();
            content.insert("redacts", redacts.into());
            write::object(&mut out, &content, |_| true);
        } else {
            write::object(&mut out, &self.content, |_| true);
        }
        let field = |out: &mut Vec<u8>, key: &str, text: &str| {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            write::string(out, text);
        };
        field(&mut out, "event_id", &self.event_id);
        out.extend_from_slice(b",\"origin_server_ts\":");
        write::int(&mut out, self.origin_server_ts);
        if let Some(redacts) = self.redacts() {
            field(&mut out, "redacts", redacts);
        }
        if include_room_id {
            field(&mut out, "room_id", &self.room_id);
        }
        field(&mut out, "sender", &self.sender);
        if let Some(state_key) = self.state_key() {
            field(&mut out, "state_key", state_key);
        }
        field(&mut out, "type", &self.kind);
        out.push(b'}');
        out
    }

    /// The stripped form: content, sender, state key and type.
    pub fn stripped_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"content\":");
        write::object(&mut out, &self.content, |_| true);
        out.extend_from_slice(b",\"sender\":");
        write::string(&mut out, &self.sender);
        out.extend_from_slice(b",\"state_key\":");
        write::string(&mut out, self.state_key().unwrap_or_default());
        out.extend_from_slice(b",\"type\":");
        write::string(&mut out, &self.kind);
        out.push(b'}');
        out
    }
}
