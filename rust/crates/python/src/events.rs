//! `homeserver._rust.events`

use ::canonical::{self as core, EventError, RoomVersion, base64, hash, parse_object, redaction};
use ::signatures as ed25519;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict};

use crate::signing::SigningKey;
use crate::{convert, errors};

pub fn room_version(identifier: &str) -> PyResult<&'static RoomVersion> {
    RoomVersion::find(identifier)
        .ok_or_else(|| errors::parsing(EventError::UnknownVersion(identifier.to_owned())))
}

#[pyclass(frozen, module = "homeserver._rust.events")]
pub struct Event {
    inner: core::Event,
    client: PyOnceLock<Py<PyBytes>>,
    client_without_room: PyOnceLock<Py<PyBytes>>,
}

impl From<core::Event> for Event {
    fn from(inner: core::Event) -> Self {
        Self { inner, client: PyOnceLock::new(), client_without_room: PyOnceLock::new() }
    }
}

impl Event {
    pub const fn inner(&self) -> &core::Event {
        &self.inner
    }
}

#[pymethods]
impl Event {
    #[staticmethod]
    #[pyo3(signature = (pdu, version, event_id=None))]
    fn parse(pdu: &[u8], version: &str, event_id: Option<String>) -> PyResult<Self> {
        core::Event::parse(pdu, room_version(version)?, event_id).map(Self::from).map_err(errors::parsing)
    }

    #[getter]
    fn event_id(&self) -> &str {
        self.inner.event_id()
    }

    #[getter]
    fn room_id(&self) -> &str {
        self.inner.room_id()
    }

    #[getter]
    fn r#type(&self) -> &str {
        self.inner.kind()
    }

    #[getter]
    fn state_key(&self) -> Option<&str> {
        self.inner.state_key()
    }

    #[getter]
    fn is_state(&self) -> bool {
        self.inner.state_key().is_some()
    }

    #[getter]
    fn sender(&self) -> &str {
        self.inner.sender()
    }

    #[getter]
    fn depth(&self) -> i64 {
        self.inner.depth()
    }

    #[getter]
    fn origin_server_ts(&self) -> i64 {
        self.inner.origin_server_ts()
    }

    #[getter]
    fn room_version(&self) -> &str {
        self.inner.version().identifier
    }

    #[getter]
    fn redacts(&self) -> Option<&str> {
        self.inner.redacts()
    }

    #[getter]
    fn prev_events(&self) -> Vec<&str> {
        self.inner.prev_events().iter().map(String::as_str).collect()
    }

    #[getter]
    fn auth_events(&self) -> Vec<&str> {
        self.inner.auth_events().iter().map(String::as_str).collect()
    }

    #[getter]
    fn membership(&self) -> Option<&str> {
        self.inner.membership()
    }

    #[getter]
    fn pdu<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.inner.pdu())
    }

    #[getter]
    fn size(&self) -> usize {
        self.inner.pdu().len()
    }

    #[getter]
    fn content<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        convert::to_dict(py, self.inner.content())
    }

    #[getter]
    fn content_json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.content().to_bytes())
    }

    #[getter]
    fn signatures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        convert::to_dict(py, self.inner.signatures())
    }

    #[getter]
    fn reference_hash(&self) -> String {
        base64::encode(self.inner.reference_hash())
    }

    #[pyo3(signature = (*, include_room_id=true))]
    fn client_json(&self, py: Python<'_>, include_room_id: bool) -> Py<PyBytes> {
        let cache = if include_room_id { &self.client } else { &self.client_without_room };
        cache
            .get_or_init(py, || PyBytes::new(py, &self.inner.client_json(include_room_id)).unbind())
            .clone_ref(py)
    }

    fn stripped_json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.stripped_json())
    }

    fn redacted(&self) -> PyResult<Self> {
        self.inner.redacted().map(Self::from).map_err(errors::parsing)
    }

    fn content_hash_matches(&self) -> bool {
        self.inner.content_hash_matches()
    }

    fn __repr__(&self) -> String {
        format!("<Event {} {:?}>", self.inner.event_id(), self.inner.kind())
    }
}

/// Borrow the Rust events of a list of Python ones.
pub fn inner<'a>(events: &'a [PyRef<'_, Event>]) -> Vec<&'a core::Event> {
    events.iter().map(|event| event.inner()).collect()
}

#[allow(clippy::too_many_arguments, reason = "named arguments in Python")]
#[pyfunction]
#[pyo3(signature = (version, *, server_name, key, room_id, r#type, sender, state_key, content, origin_server_ts,
                    depth, prev_events, auth_events, redacts=None, event_id=None))]
fn build_event(
    version: &str,
    server_name: &str,
    key: &SigningKey,
    room_id: Option<&str>,
    r#type: &str,
    sender: &str,
    state_key: Option<&str>,
    content: &[u8],
    origin_server_ts: i64,
    depth: i64,
    prev_events: Vec<PyRef<'_, Event>>,
    auth_events: Vec<PyRef<'_, Event>>,
    redacts: Option<&str>,
    event_id: Option<&str>,
) -> PyResult<Event> {
    let fields = ed25519::EventFields {
        room_id,
        kind: r#type,
        sender,
        state_key,
        content,
        origin_server_ts,
        depth,
        prev_events: inner(&prev_events),
        auth_events: inner(&auth_events),
        redacts,
        event_id,
    };
    ed25519::build_event(room_version(version)?, server_name, &key.0, &fields)
        .map(Event::from)
        .map_err(errors::building)
}

#[allow(clippy::too_many_arguments, reason = "named arguments in Python")]
#[pyfunction]
#[pyo3(signature = (version, *, room_id, r#type, sender, state_key, content, origin_server_ts, depth, prev_events,
                    auth_events, redacts=None, event_id=None))]
fn build_template<'py>(
    py: Python<'py>,
    version: &str,
    room_id: Option<&str>,
    r#type: &str,
    sender: &str,
    state_key: Option<&str>,
    content: &[u8],
    origin_server_ts: i64,
    depth: i64,
    prev_events: Vec<PyRef<'_, Event>>,
    auth_events: Vec<PyRef<'_, Event>>,
    redacts: Option<&str>,
    event_id: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let fields = ed25519::EventFields {
        room_id,
        kind: r#type,
        sender,
        state_key,
        content,
        origin_server_ts,
        depth,
        prev_events: inner(&prev_events),
        auth_events: inner(&auth_events),
        redacts,
        event_id,
    };
    let pdu = ed25519::unsigned_pdu(room_version(version)?, &fields).map_err(errors::building)?;
    Ok(PyBytes::new(py, &pdu.to_bytes()))
}

#[pyfunction]
fn redact_pdu<'py>(py: Python<'py>, pdu: &[u8], version: &str) -> PyResult<Bound<'py, PyBytes>> {
    let version = room_version(version)?;
    let mut event = parse_object(pdu, version.numbers).map_err(errors::json)?;
    redaction::redact(&mut event, version.redaction);
    Ok(PyBytes::new(py, &event.to_bytes()))
}

#[pyfunction]
fn event_id_of(pdu: &[u8], version: &str) -> PyResult<String> {
    let version = room_version(version)?;
    let event = parse_object(pdu, version.numbers).map_err(errors::json)?;
    let event_id = match event.get_str("event_id") {
        Some(event_id) if version.references_are_pairs => Some(event_id.to_owned()),
        _ => hash::event_id(&hash::reference_hash(event, version), version),
    };
    event_id.ok_or_else(|| errors::parsing(EventError::Malformed("event_id is missing".to_owned())))
}

/// The events, each with whether its content hash matches, or what is wrong with them.
#[pyfunction]
fn receive_events(py: Python<'_>, pdus: Vec<PyBackedBytes>, version: &str) -> PyResult<Vec<Py<PyAny>>> {
    let version = room_version(version)?;
    let received: Vec<_> = py.detach(|| pdus.iter().map(|pdu| core::Event::receive(pdu, version)).collect());
    received
        .into_iter()
        .map(|event| match event {
            Ok((event, matches)) => Ok((Event::from(event), matches).into_pyobject(py)?.into_any().unbind()),
            Err(error) => Ok(error.to_string().into_pyobject(py)?.into_any().unbind()),
        })
        .collect()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Event>()?;
    module.add_function(wrap_pyfunction!(build_event, module)?)?;
    module.add_function(wrap_pyfunction!(build_template, module)?)?;
    module.add_function(wrap_pyfunction!(event_id_of, module)?)?;
    module.add_function(wrap_pyfunction!(receive_events, module)?)?;
    module.add_function(wrap_pyfunction!(redact_pdu, module)?)
}
