//! `homeserver._rust.auth_graph`

use ::auth_graph::{self as core, Row, Step};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

#[pyclass(module = "homeserver._rust.auth_graph")]
struct AuthGraph {
    inner: core::AuthGraph,
}

/// A step as Python reads it: its kind, and positions.
fn told(step: Step) -> (&'static str, Vec<u64>) {
    match step {
        Step::Rows(positions) => ("rows", positions),
        Step::Above(position) => ("above", vec![position]),
        Step::Unknown(positions) => ("unknown", positions),
        Step::Done(positions) => ("done", positions),
    }
}

#[pymethods]
impl AuthGraph {
    #[new]
    fn new() -> Self {
        Self { inner: core::AuthGraph::new() }
    }

    fn add(&mut self, rows: Vec<(u64, u64, Vec<u8>)>) -> PyResult<()> {
        for (position, pair, packed) in rows {
            self.add_unstored(position, pair, unpack(position, &packed)?);
        }
        Ok(())
    }

    fn add_unstored(&mut self, position: u64, pair: u64, auth: Vec<u64>) {
        self.inner.add(position, Row { pair, auth });
    }

    fn set_complete_above(&mut self, position: u64) {
        self.inner.set_complete_above(position);
    }

    fn tell(&mut self, known: Vec<(u64, bool)>) {
        for (position, is_unconflicted) in known {
            self.inner.tell(position, is_unconflicted);
        }
    }

    fn pair_of(&self, position: u64) -> Option<u64> {
        self.inner.pair_of(position)
    }

    fn difference(&self, py: Python<'_>, sets: Vec<Vec<u64>>) -> (&'static str, Vec<u64>) {
        told(py.detach(|| self.inner.difference(&sets)))
    }

    fn subgraph(&self, py: Python<'_>, conflicted: Vec<u64>) -> (&'static str, Vec<u64>) {
        told(py.detach(|| self.inner.subgraph(&conflicted)))
    }
}

#[pyfunction]
fn pack(py: Python<'_>, position: u64, auth: Vec<u64>) -> PyResult<Bound<'_, PyBytes>> {
    match core::pack(position, &auth) {
        Some(packed) => Ok(PyBytes::new(py, &packed)),
        None => Err(PyValueError::new_err("an auth event does not lie below the event")),
    }
}

#[pyfunction]
fn unpack(position: u64, packed: &[u8]) -> PyResult<Vec<u64>> {
    core::unpack(position, packed).ok_or_else(|| PyValueError::new_err("these are no packed auth events"))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<AuthGraph>()?;
    module.add_function(wrap_pyfunction!(pack, module)?)?;
    module.add_function(wrap_pyfunction!(unpack, module)?)
}
