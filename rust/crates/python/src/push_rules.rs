//! `homeserver._rust.push`

use ::canonical::{Numbers, Value, parse_object};
use ::push as core;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::events::Event;
use crate::{convert, errors};

/// From this many readers on, others may run in the meantime.
const MANY: usize = 200;

static NOTHING: PyOnceLock<Py<Outcome>> = PyOnceLock::new();

#[pyclass(frozen, module = "homeserver._rust.push")]
struct Outcome {
    #[pyo3(get)]
    notify: bool,
    #[pyo3(get)]
    highlight: bool,
    actions: Vec<Value>,
}

#[pymethods]
impl Outcome {
    #[getter]
    fn actions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let actions: PyResult<Vec<_>> =
            self.actions.iter().map(|action| convert::to_python(py, action)).collect();
        PyList::new(py, actions?)
    }

    fn __repr__(&self) -> String {
        format!("<Outcome notify={} highlight={}>", self.notify, self.highlight)
    }
}

#[pyclass(frozen, module = "homeserver._rust.push")]
struct Ruleset {
    inner: core::Ruleset,
    outcomes: Vec<Py<Outcome>>,
}

#[pymethods]
impl Ruleset {
    #[new]
    fn new(py: Python<'_>, rules: &[u8]) -> PyResult<Self> {
        let inner = core::Ruleset::new(&parse_object(rules, Numbers::Lenient).map_err(errors::json)?);
        let outcome = |rule: &core::Rule| Outcome {
            notify: rule.notifies(),
            highlight: rule.highlights(),
            actions: rule.actions().to_vec(),
        };
        let outcomes: PyResult<_> = inner.rules().iter().map(|rule| Py::new(py, outcome(rule))).collect();
        Ok(Self { outcomes: outcomes?, inner })
    }

    fn __len__(&self) -> usize {
        self.inner.rules().len()
    }
}

#[pyclass(frozen, module = "homeserver._rust.push")]
struct ServerAcl {
    inner: core::ServerAcl,
}

#[pymethods]
impl ServerAcl {
    #[new]
    fn new(content: &[u8]) -> PyResult<Self> {
        let content = parse_object(content, Numbers::Lenient).map_err(errors::json)?;
        Ok(Self { inner: core::ServerAcl::new(&content) })
    }

    fn allows(&self, server_name: &str) -> bool {
        self.inner.allows(server_name)
    }
}

#[pyfunction]
#[pyo3(signature = (event, readers, *, member_count, power_levels, create))]
fn evaluate(
    py: Python<'_>,
    event: &Event,
    readers: Vec<(Py<Ruleset>, PyBackedStr, Option<PyBackedStr>)>,
    member_count: u64,
    power_levels: Option<PyRef<'_, Event>>,
    create: &Event,
) -> PyResult<Vec<Py<Outcome>>> {
    let power_levels = power_levels.as_ref().map(|event| event.inner());
    let (event, create) = (event.inner(), create.inner());
    let find = || -> Vec<Option<usize>> {
        let occasion = core::Occasion::new(event, member_count, power_levels, create);
        readers
            .iter()
            .map(|(ruleset, user_id, name)| {
                occasion.first_met(&ruleset.get().inner, user_id, name.as_deref())
            })
            .collect()
    };
    let met = if readers.len() < MANY { find() } else { py.detach(find) };
    let nothing = NOTHING
        .get_or_try_init(py, || Py::new(py, Outcome { notify: false, highlight: false, actions: vec![] }))?;
    let outcome = |(reader, met): (&(Py<Ruleset>, _, _), Option<usize>)| {
        met.and_then(|rule| reader.0.get().outcomes.get(rule)).unwrap_or(nothing).clone_ref(py)
    };
    Ok(readers.iter().zip(met).map(outcome).collect())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Outcome>()?;
    module.add_class::<Ruleset>()?;
    module.add_class::<ServerAcl>()?;
    module.add_function(wrap_pyfunction!(evaluate, module)?)
}
