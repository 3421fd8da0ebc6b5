//! `homeserver._rust.state_tree`

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::state_tree as core;
use core::{Address, Page, PageId};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::errors;

/// From this many pages on, others may run in the meantime.
const MANY: usize = 50;

#[pyclass(frozen, module = "homeserver._rust.state_tree")]
struct Cache {
    inner: Arc<core::Cache>,
}

#[pymethods]
impl Cache {
    #[new]
    fn new(budget: usize) -> Self {
        Self { inner: Arc::new(core::Cache::new(budget)) }
    }

    #[getter]
    fn size(&self) -> usize {
        self.inner.size()
    }
}

#[pyclass(frozen, module = "homeserver._rust.state_tree")]
struct Writer {
    inner: Arc<core::Writer>,
}

#[pymethods]
impl Writer {
    #[new]
    fn new(cache: &Cache) -> Self {
        Self { inner: Arc::new(core::Writer::new(cache.inner.clone())) }
    }

    fn change(&self, root: Option<u64>, changes: Vec<core::Change>, position: u64) -> PyResult<u64> {
        let root = root.map(Address::from_number).transpose().map_err(errors::state_tree)?;
        let root = self.inner.change(root, &changes, position).map_err(errors::state_tree)?;
        Ok(root.number())
    }

    fn take<'py>(&self, py: Python<'py>) -> Vec<(u64, Bound<'py, PyBytes>)> {
        let pages = self.inner.take();
        pages.iter().map(|page| (page.id().number(), PyBytes::new(py, page.body()))).collect()
    }

    fn keep(&self) {
        self.inner.keep();
    }
}

/// Where a walk looks for pages first.
#[derive(FromPyObject)]
enum Source<'py> {
    Cache(PyRef<'py, Cache>),
    Writer(PyRef<'py, Writer>),
}

enum Pages {
    Cache(Arc<core::Cache>),
    Writer(Arc<core::Writer>),
}

enum Kind {
    Find(Vec<u64>, core::Find),
    Items(Vec<u64>, core::Items),
    Difference(core::Difference),
    Unreachable(core::Unreachable),
}

impl Kind {
    fn walk(&mut self) -> &mut (dyn core::Walk + Send) {
        match self {
            Self::Find(_, walk) => walk,
            Self::Items(_, walk) => walk,
            Self::Difference(walk) => walk,
            Self::Unreachable(walk) => walk,
        }
    }
}

struct State {
    kind: Kind,
    /// What was asked for and not given yet.
    wanted: Vec<PageId>,
    is_done: bool,
}

#[pyclass(frozen, module = "homeserver._rust.state_tree")]
struct Walk {
    pages: Pages,
    state: Mutex<State>,
}

impl Walk {
    fn new(source: Source<'_>, kind: Kind) -> Self {
        let pages = match source {
            Source::Cache(cache) => Pages::Cache(cache.inner.clone()),
            Source::Writer(writer) => Pages::Writer(writer.inner.clone()),
        };
        Self { pages, state: Mutex::new(State { kind, wanted: Vec::new(), is_done: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self) -> Result<Vec<u64>, core::TreeError> {
        let mut state = self.lock();
        if let Some(missing) = state.wanted.first() {
            return Err(core::TreeError::Missing(*missing));
        }
        let source: &dyn core::Source = match &self.pages {
            Pages::Cache(cache) => cache.as_ref(),
            Pages::Writer(writer) => writer.as_ref(),
        };
        let wanted = state.kind.walk().advance(source)?;
        state.is_done = wanted.is_empty();
        state.wanted.clone_from(&wanted);
        Ok(wanted.into_iter().map(PageId::number).collect())
    }

    fn take(&self, pages: &[(u64, PyBackedBytes)], keep: bool) -> Result<(), core::TreeError> {
        let mut state = self.lock();
        for (id, body) in pages {
            let page = Arc::new(Page::parse(PageId::from_number(*id)?, body)?);
            match &self.pages {
                Pages::Cache(cache) if keep => cache.keep(page.clone()),
                Pages::Cache(_) => {}
                Pages::Writer(writer) => writer.give(page.clone()),
            }
            state.kind.walk().give(page);
        }
        let given: std::collections::HashSet<u64> = pages.iter().map(|(id, _)| *id).collect();
        state.wanted.retain(|id| !given.contains(&id.number()));
        Ok(())
    }
}

#[pymethods]
impl Walk {
    #[classmethod]
    fn __class_getitem__(cls: &Bound<'_, PyType>, _item: &Bound<'_, PyAny>) -> Py<PyType> {
        cls.clone().unbind()
    }

    fn wanted(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        let is_short = matches!(self.lock().kind, Kind::Find(..));
        let wanted = if is_short { self.advance() } else { py.detach(|| self.advance()) };
        wanted.map_err(errors::state_tree)
    }

    fn give(&self, py: Python<'_>, pages: &Bound<'_, PyDict>, keep: bool) -> PyResult<()> {
        let pages: Vec<(u64, PyBackedBytes)> =
            pages.iter().map(|(id, body)| Ok((id.extract()?, body.extract()?))).collect::<PyResult<_>>()?;
        let taken =
            if pages.len() < MANY { self.take(&pages, keep) } else { py.detach(|| self.take(&pages, keep)) };
        taken.map_err(errors::state_tree)
    }

    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let state = self.lock();
        if !state.is_done {
            return Err(errors::unfinished());
        }
        match &state.kind {
            Kind::Find(roots, walk) => by_root(py, roots, walk.found()),
            Kind::Items(roots, walk) => by_root(py, roots, walk.found()),
            Kind::Difference(walk) => {
                let found = PyDict::new(py);
                for (pair, values) in walk.found() {
                    found.set_item(pair, PyTuple::new(py, values)?)?;
                }
                Ok(found.into_any())
            }
            Kind::Unreachable(walk) => {
                let pages: Vec<u64> = walk.found().iter().map(|page| page.number()).collect();
                pages.into_pyobject(py)
            }
        }
    }
}

fn by_root<'py>(py: Python<'py>, roots: &[u64], found: &[Vec<core::Entry>]) -> PyResult<Bound<'py, PyAny>> {
    let states = PyDict::new(py);
    for (root, entries) in roots.iter().zip(found) {
        let state = PyDict::new(py);
        for (pair, value) in entries {
            state.set_item(pair, value)?;
        }
        states.set_item(root, state)?;
    }
    Ok(states.into_any())
}

fn addresses(roots: &[u64]) -> PyResult<Vec<Address>> {
    let addresses: Result<_, _> = roots.iter().map(|root| Address::from_number(*root)).collect();
    addresses.map_err(errors::state_tree)
}

#[pyfunction]
fn find(source: Source<'_>, roots: Vec<u64>, pairs: Vec<u64>) -> PyResult<Walk> {
    let walk = core::Find::new(&addresses(&roots)?, &pairs);
    Ok(Walk::new(source, Kind::Find(roots, walk)))
}

#[pyfunction]
fn items(source: Source<'_>, roots: Vec<u64>) -> PyResult<Walk> {
    let walk = core::Items::new(&addresses(&roots)?);
    Ok(Walk::new(source, Kind::Items(roots, walk)))
}

#[pyfunction]
fn difference(source: Source<'_>, roots: Vec<Option<u64>>) -> PyResult<Walk> {
    let addresses: Result<Vec<_>, _> =
        roots.into_iter().map(|root| root.map(Address::from_number).transpose()).collect();
    let walk = core::Difference::new(&addresses.map_err(errors::state_tree)?);
    Ok(Walk::new(source, Kind::Difference(walk)))
}

#[pyfunction]
fn unreachable(source: Source<'_>, given_up: Vec<u64>, kept: Vec<u64>) -> PyResult<Walk> {
    let walk = core::Unreachable::new(&addresses(&given_up)?, &addresses(&kept)?);
    Ok(Walk::new(source, Kind::Unreachable(walk)))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Cache>()?;
    module.add_class::<Walk>()?;
    module.add_class::<Writer>()?;
    module.add_function(wrap_pyfunction!(difference, module)?)?;
    module.add_function(wrap_pyfunction!(find, module)?)?;
    module.add_function(wrap_pyfunction!(items, module)?)?;
    module.add_function(wrap_pyfunction!(unreachable, module)?)
}
