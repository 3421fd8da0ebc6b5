//! Canonical JSON, hashes, redaction and events: everything about an event's bytes but its signatures.

pub mod base64;
mod error;
mod event;
pub mod hash;
pub mod identifiers;
pub mod outline;
mod parse;
pub mod redaction;
mod room_version;
mod value;
mod write;

pub use error::{EventError, JsonError};
pub use event::{Event, MAX_EVENT_BYTES, MAX_FIELD_BYTES, reference};
pub use parse::{MAX_DEPTH, MAX_INT, Numbers, parse, parse_object};
pub use room_version::{
    AuthRules, EventIdFormat, ROOM_VERSIONS, RedactionRules, RoomVersion, StateResolution,
};
pub use value::{Object, Value};
