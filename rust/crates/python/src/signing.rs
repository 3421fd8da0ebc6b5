//! `homeserver._rust.signing`

use std::collections::HashMap;

use ::canonical::{Numbers, RoomVersion, parse_object};
use ::signatures::{self as ed25519, SignatureError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::errors;
use crate::events::{Event, room_version};

#[pyclass(frozen, module = "homeserver._rust.signing")]
pub struct SigningKey(pub ed25519::SigningKey);

#[pymethods]
impl SigningKey {
    #[staticmethod]
    fn from_seed(version: &str, seed_base64: &str) -> PyResult<Self> {
        ed25519::SigningKey::from_seed(version, seed_base64).map(Self).map_err(errors::signature)
    }

    #[staticmethod]
    fn generate(version: &str, seed: &[u8]) -> PyResult<Self> {
        let seed =
            seed.try_into().map_err(|_| errors::signature(SignatureError("a seed is 32 bytes".into())))?;
        ed25519::SigningKey::new(version, seed).map(Self).map_err(errors::signature)
    }

    #[getter]
    fn key_id(&self) -> &str {
        self.0.key_id()
    }

    #[getter]
    fn public_key(&self) -> String {
        self.0.public_key()
    }

    #[getter]
    fn seed(&self) -> String {
        self.0.seed()
    }

    fn sign(&self, message: &[u8]) -> String {
        self.0.sign(message)
    }

    fn __repr__(&self) -> String {
        // The seed must not show up in logs.
        format!("<SigningKey {} {}>", self.0.key_id(), self.0.public_key())
    }
}

#[pyfunction]
fn sign_json<'py>(
    py: Python<'py>,
    raw: &[u8],
    signer: &str,
    key: &SigningKey,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut object = parse_object(raw, Numbers::Lenient).map_err(errors::json)?;
    ed25519::sign_json(&mut object, signer, &key.0);
    Ok(PyBytes::new(py, &object.to_bytes()))
}

#[pyfunction]
fn verify_json(raw: &[u8], signer: &str, key_id: &str, public_key: &str) -> PyResult<()> {
    ed25519::public_key(public_key)
        .and_then(|key| ed25519::verify_text(raw, signer, key_id, &key))
        .map_err(errors::signature)
}

#[pyfunction]
fn verify_signature(message: &[u8], signature: &str, public_key: &str) -> PyResult<()> {
    ed25519::public_key(public_key)
        .and_then(|key| ed25519::verify_bytes(message, signature, &key))
        .map_err(errors::signature)
}

/// Public keys by their text, so that one that occurs often is read once.
#[derive(Default)]
struct Keys(HashMap<String, Result<ed25519::PublicKey, SignatureError>>);

impl Keys {
    fn get(&mut self, text: &str) -> Result<ed25519::PublicKey, SignatureError> {
        if let Some(key) = self.0.get(text) {
            return key.clone();
        }
        let key = ed25519::public_key(text);
        self.0.insert(text.to_owned(), key.clone());
        key
    }
}

#[pyfunction]
fn verify_batch(py: Python<'_>, items: Vec<(PyBackedBytes, String, String, String)>) -> Vec<Option<String>> {
    py.detach(|| {
        let mut keys = Keys::default();
        let check = |(raw, signer, key_id, public_key): &(PyBackedBytes, String, String, String)| {
            let key = keys.get(public_key)?;
            ed25519::verify_text(raw, signer, key_id, &key)
        };
        items.iter().map(check).map(|result| result.err().map(|error| error.0)).collect()
    })
}

#[pyfunction]
fn verify_events(py: Python<'_>, items: Vec<(Py<Event>, String, String, String)>) -> Vec<Option<String>> {
    py.detach(|| {
        let mut keys = Keys::default();
        let check = |(event, signer, key_id, public_key): &(Py<Event>, String, String, String)| {
            let key = keys.get(public_key)?;
            let event = event.get().inner();
            ed25519::verify_event(event.to_object(), event.version(), signer, key_id, &key)
        };
        items.iter().map(check).map(|result| result.err().map(|error| error.0)).collect()
    })
}

#[pyfunction]
fn sign_pdu(pdu: &[u8], version: &str, server_name: &str, key: &SigningKey) -> PyResult<Event> {
    let version: &'static RoomVersion = room_version(version)?;
    let pdu = parse_object(pdu, version.numbers).map_err(errors::json)?;
    ed25519::sign_pdu(pdu, version, server_name, &key.0).map(Event::from).map_err(errors::building)
}

#[pyfunction]
fn sign_event(event: &Event, server_name: &str, key: &SigningKey) -> PyResult<Event> {
    ed25519::sign_event(event.inner(), server_name, &key.0).map(Event::from).map_err(errors::building)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<SigningKey>()?;
    module.add_function(wrap_pyfunction!(sign_event, module)?)?;
    module.add_function(wrap_pyfunction!(sign_json, module)?)?;
    module.add_function(wrap_pyfunction!(sign_pdu, module)?)?;
    module.add_function(wrap_pyfunction!(verify_batch, module)?)?;
    module.add_function(wrap_pyfunction!(verify_events, module)?)?;
    module.add_function(wrap_pyfunction!(verify_json, module)?)?;
    module.add_function(wrap_pyfunction!(verify_signature, module)?)
}
