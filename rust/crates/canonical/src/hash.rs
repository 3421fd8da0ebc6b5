//! Content hash and reference hash (server-server API, "Signing Events").

use sha2::{Digest, Sha256};

use crate::base64;
use crate::redaction::redact;
use crate::room_version::{EventIdFormat, RoomVersion};
use crate::value::Object;

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The hash over the whole event, but for `unsigned`, `signatures` and `hashes`.
pub fn content_hash(event: &Object) -> [u8; 32] {
    sha256(&event.to_bytes_without(&["hashes", "signatures", "unsigned"]))
}

/// The bytes that signatures and the reference hash cover: the redacted event without its signatures.
pub fn signed_bytes(mut event: Object, version: &RoomVersion) -> Vec<u8> {
    redact(&mut event, version.redaction);
    event.to_bytes_without(&["signatures", "unsigned"])
}

/// The hash over what a redaction leaves, without signatures.
pub fn reference_hash(event: Object, version: &RoomVersion) -> [u8; 32] {
    sha256(&signed_bytes(event, version))
}

/// The event id that follows from a reference hash; `None` where the event itself carries its id.
pub fn event_id(hash: &[u8; 32], version: &RoomVersion) -> Option<String> {
    match version.event_id_format {
        EventIdFormat::InEvent => None,
        EventIdFormat::Hash => Some(format!("${}", base64::encode(hash))),
        EventIdFormat::UrlSafeHash => Some(format!("${}", base64::encode_url_safe(hash))),
    }
}
