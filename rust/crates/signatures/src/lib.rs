//! Ed25519 signatures over canonical JSON (appendices, "Signing JSON"), and building signed events.

mod build;

use std::fmt;

use canonical::{EventError, Numbers, Object, RoomVersion, Value, base64, hash, parse_object};
use ed25519_dalek::{Signature, Signer as _, SigningKey as Ed25519Key, VerifyingKey};

pub use build::{EventFields, build_event, sign_event, sign_pdu, unsigned_pdu};
pub use ed25519_dalek::VerifyingKey as PublicKey;

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureError(pub String);

impl fmt::Display for SignatureError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for SignatureError {}

fn wrong<T>(reason: impl Into<String>) -> Result<T, SignatureError> {
    Err(SignatureError(reason.into()))
}

/// A server's private key with the version under which it is known.
pub struct SigningKey {
    key: Ed25519Key,
    key_id: String,
}

impl SigningKey {
    /// The key of a seed. The version is made of letters, digits and underscores.
    pub fn new(version: &str, seed: [u8; 32]) -> Result<Self, SignatureError> {
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return wrong("a key version is made of letters, digits and underscores");
        }
        Ok(Self { key: Ed25519Key::from_bytes(&seed), key_id: format!("ed25519:{version}") })
    }

    /// The key of a seed in base64.
    pub fn from_seed(version: &str, seed: &str) -> Result<Self, SignatureError> {
        match base64::decode(seed).and_then(|seed| seed.try_into().ok()) {
            Some(seed) => Self::new(version, seed),
            None => wrong("a seed is 32 bytes in base64"),
        }
    }

    /// `ed25519:` and the version.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key in unpadded base64.
    pub fn public_key(&self) -> String {
        base64::encode(self.key.verifying_key().as_bytes())
    }

    /// The seed in unpadded base64.
    pub fn seed(&self) -> String {
        base64::encode(self.key.as_bytes())
    }

    /// The signature over bytes, in unpadded base64.
    pub fn sign(&self, message: &[u8]) -> String {
        base64::encode(&self.key.sign(message).to_bytes())
    }
}

/// Put a signature into a signed object, beside those that are there.
pub fn add_signature(object: &mut Object, signer: &str, key_id: &str, signature: String) {
    let mut signatures = match object.remove("signatures") {
        Some(Value::Object(signatures)) => signatures,
        _ => Object::new(),
    };
    let mut of_signer = match signatures.remove(signer) {
        Some(Value::Object(of_signer)) => of_signer,
        _ => Object::new(),
    };
    of_signer.insert(key_id, Value::String(signature));
    signatures.insert(signer, Value::Object(of_signer));
    object.insert("signatures", Value::Object(signatures));
}

/// Sign an object; `signatures` and `unsigned` are kept and not covered.
pub fn sign_json(object: &mut Object, signer: &str, key: &SigningKey) {
    let signature = key.sign(&object.to_bytes_without(&["signatures", "unsigned"]));
    add_signature(object, signer, key.key_id(), signature);
}

/// Read a public key in unpadded base64.
pub fn public_key(text: &str) -> Result<VerifyingKey, SignatureError> {
    let bytes: Option<[u8; 32]> = base64::decode(text).and_then(|bytes| bytes.try_into().ok());
    match bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok()) {
        Some(key) => Ok(key),
        None => wrong("the public key is not an ed25519 key in base64"),
    }
}

/// Check one signature over bytes.
pub fn verify_bytes(message: &[u8], signature: &str, key: &VerifyingKey) -> Result<(), SignatureError> {
    let bytes: Option<[u8; 64]> = base64::decode(signature).and_then(|bytes| bytes.try_into().ok());
    let Some(bytes) = bytes else { return wrong("the signature is not 64 bytes in base64") };
    // The strict form refuses keys and points of small order, as NaCl does.
    match key.verify_strict(message, &Signature::from_bytes(&bytes)) {
        Ok(()) => Ok(()),
        Err(_) => wrong("the signature does not match"),
    }
}

fn find_signature<'a>(object: &'a Object, signer: &str, key_id: &str) -> Result<&'a str, SignatureError> {
    if !key_id.starts_with("ed25519:") {
        return wrong(format!("the algorithm of {key_id} is not known"));
    }
    let Some(of_signer) = object.get_object("signatures").and_then(|all| all.get_object(signer)) else {
        return wrong(format!("there is no signature of {signer}"));
    };
    match of_signer.get_str(key_id) {
        Some(signature) => Ok(signature),
        None => wrong(format!("there is no signature of {signer} with {key_id}")),
    }
}

/// Check that an object carries a good signature of this signer with this key.
pub fn verify_json(
    object: &Object,
    signer: &str,
    key_id: &str,
    key: &VerifyingKey,
) -> Result<(), SignatureError> {
    let signature = find_signature(object, signer, key_id)?;
    verify_bytes(&object.to_bytes_without(&["signatures", "unsigned"]), signature, key)
}

/// As [`verify_json`] from JSON text. Numbers are read leniently, as old rooms need it: what a signature
/// covers is decided by the bytes, and strictness is checked where an event is parsed.
pub fn verify_text(raw: &[u8], signer: &str, key_id: &str, key: &VerifyingKey) -> Result<(), SignatureError> {
    match parse_object(raw, Numbers::Lenient) {
        Ok(object) => verify_json(&object, signer, key_id, key),
        Err(error) => wrong(error.to_string()),
    }
}

/// Check that an event in federation format, redacted or not, carries a good signature.
pub fn verify_event(
    event: Object,
    version: &RoomVersion,
    signer: &str,
    key_id: &str,
    key: &VerifyingKey,
) -> Result<(), SignatureError> {
    let signature = find_signature(&event, signer, key_id)?.to_owned();
    verify_bytes(&hash::signed_bytes(event, version), &signature, key)
}

impl From<SignatureError> for EventError {
    fn from(error: SignatureError) -> Self {
        Self::Malformed(error.0)
    }
}
