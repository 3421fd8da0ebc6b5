//! `homeserver._rust.state_res`

use ::canonical as core;
use ::state_res::{self as resolving, Conflict, Missing, Resolution as Outcome, graph};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping, PyString};

use crate::events::{Event, inner, room_version};

#[pyclass(frozen, module = "homeserver._rust.state_res")]
struct Resolution {
    #[pyo3(get)]
    state: Py<PyDict>,
    #[pyo3(get)]
    lost: Py<PyList>,
    #[pyo3(get)]
    applied: Py<PyList>,
    #[pyo3(get)]
    missing: Py<PyList>,
}

impl Resolution {
    fn new(py: Python<'_>, outcome: Result<Outcome<'_>, Missing<'_>>) -> PyResult<Self> {
        let (outcome, missing) = match outcome {
            Ok(outcome) => (outcome, Vec::new()),
            Err(missing) => (Outcome::default(), missing.event_ids),
        };
        let state = PyDict::new(py);
        for decision in &outcome.decisions {
            if let Some(event_id) = decision.event_id {
                state.set_item((decision.kind, decision.state_key), event_id)?;
            }
        }
        Ok(Self {
            state: state.unbind(),
            lost: PyList::new(py, outcome.lost)?.unbind(),
            applied: PyList::new(py, outcome.applied)?.unbind(),
            missing: PyList::new(py, missing)?.unbind(),
        })
    }
}

fn texts<'py>(items: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyString>>> {
    items.try_iter()?.map(|item| Ok(item?.cast_into()?)).collect()
}

fn as_strs<'a>(texts: &'a [Bound<'_, PyString>]) -> PyResult<Vec<&'a str>> {
    texts.iter().map(|text| text.to_str()).collect()
}

#[allow(clippy::too_many_arguments, reason = "named arguments in Python")]
#[pyfunction]
#[pyo3(signature = (version, *, create, unconflicted, conflicted, auth_difference, subgraph, known, rejected))]
fn resolve(
    py: Python<'_>,
    version: &str,
    create: PyRef<'_, Event>,
    unconflicted: Vec<PyRef<'_, Event>>,
    conflicted: Vec<PyRef<'_, Event>>,
    auth_difference: Vec<PyRef<'_, Event>>,
    subgraph: Vec<PyRef<'_, Event>>,
    known: Vec<PyRef<'_, Event>>,
    rejected: &Bound<'_, PyAny>,
) -> PyResult<Resolution> {
    let version = room_version(version)?;
    let rejected = texts(rejected)?;
    let rejected = as_strs(&rejected)?;
    let create = create.inner();
    let (unconflicted, conflicted) = (inner(&unconflicted), inner(&conflicted));
    let (auth_difference, subgraph, known) = (inner(&auth_difference), inner(&subgraph), inner(&known));
    let outcome = py.detach(|| {
        let conflict = Conflict {
            create,
            unconflicted: &unconflicted,
            conflicted: &conflicted,
            auth_difference: &auth_difference,
            subgraph: &subgraph,
            known: &known,
            rejected: &rejected,
        };
        resolving::resolve(version, conflict)
    });
    Resolution::new(py, outcome)
}

type TextEntry<'py> = (Bound<'py, PyString>, Bound<'py, PyString>, Bound<'py, PyString>);

fn state<'py>(state: &Bound<'py, PyAny>) -> PyResult<Vec<TextEntry<'py>>> {
    let entries = state.cast::<PyMapping>()?.items()?;
    let entry = |entry: Bound<'py, PyAny>| {
        let ((kind, state_key), event_id) = entry.extract()?;
        Ok((kind, state_key, event_id))
    };
    entries.iter().map(entry).collect()
}

fn entries<'a>(state: &'a [TextEntry<'_>]) -> PyResult<graph::State<'a>> {
    let entry = |entry: &'a TextEntry<'_>| {
        let (kind, state_key, event_id) = (entry.0.to_str()?, entry.1.to_str()?, entry.2.to_str()?);
        Ok(graph::Entry { kind, state_key, event_id })
    };
    state.iter().map(entry).collect()
}

#[pyfunction]
#[pyo3(signature = (version, states, events, rejected=None))]
fn resolve_states(
    py: Python<'_>,
    version: &str,
    states: Vec<Bound<'_, PyAny>>,
    events: Vec<PyRef<'_, Event>>,
    rejected: Option<&Bound<'_, PyAny>>,
) -> PyResult<Resolution> {
    let version = room_version(version)?;
    let rejected = rejected.map(texts).transpose()?.unwrap_or_default();
    let rejected = as_strs(&rejected)?;
    let states: PyResult<Vec<_>> = states.iter().map(state).collect();
    let states = states?;
    let states: PyResult<Vec<_>> = states.iter().map(|state| entries(state)).collect();
    let states = states?;
    let events = inner(&events);
    let Some(create) = events.iter().copied().find(|event| event.is_state("m.room.create", "")) else {
        return Err(PyValueError::new_err("there is no m.room.create among the events"));
    };
    let outcome = py.detach(|| graph::resolve_states(version, create, &states, &events, &rejected));
    Resolution::new(py, outcome)
}

#[pyfunction]
fn needed_pairs(py: Python<'_>, events: Vec<PyRef<'_, Event>>) -> Vec<(String, String)> {
    let events: Vec<&core::Event> = inner(&events);
    py.detach(|| resolving::needed_pairs(&events))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Resolution>()?;
    module.add_function(wrap_pyfunction!(needed_pairs, module)?)?;
    module.add_function(wrap_pyfunction!(resolve, module)?)?;
    module.add_function(wrap_pyfunction!(resolve_states, module)?)
}
