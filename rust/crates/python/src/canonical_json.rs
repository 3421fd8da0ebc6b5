//! `homeserver._rust.canonical`

use ::canonical::{Numbers, base64, hash, outline, parse};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{convert, errors};

/// Text of so many bytes is gone through without the interpreter lock.
const LARGE: usize = 100_000;

const fn numbers(strict: bool) -> Numbers {
    if strict { Numbers::Strict } else { Numbers::Lenient }
}

#[pyfunction]
#[pyo3(signature = (value, /))]
fn canonical_json<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &convert::from_python(value, 0)?.to_bytes()))
}

#[pyfunction]
#[pyo3(signature = (raw, /))]
fn check_canonical(raw: &[u8]) -> PyResult<()> {
    parse(raw, Numbers::Strict).map(|_| ()).map_err(errors::json)
}

#[pyfunction]
#[pyo3(signature = (raw, /, *, strict=true))]
fn canonicalize<'py>(py: Python<'py>, raw: &[u8], strict: bool) -> PyResult<Bound<'py, PyBytes>> {
    let canonical = || parse(raw, numbers(strict)).map(|value| value.to_bytes());
    let made = if raw.len() < LARGE { canonical() } else { py.detach(canonical) };
    Ok(PyBytes::new(py, &made.map_err(errors::json)?))
}

#[pyfunction]
#[pyo3(signature = (raw, /))]
fn count_values(raw: &[u8]) -> usize {
    outline::count_values(raw)
}

#[pyfunction]
#[pyo3(signature = (raw, most, /))]
fn items<'py>(py: Python<'py>, raw: &[u8], most: usize) -> PyResult<Option<Vec<Bound<'py, PyBytes>>>> {
    let found = outline::items(raw, most).map_err(errors::json)?;
    Ok(found.map(|items| items.into_iter().map(|item| PyBytes::new(py, item)).collect()))
}

#[pyfunction]
#[pyo3(signature = (data, /))]
fn sha256_base64(data: &[u8]) -> String {
    base64::encode(&hash::sha256(data))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(canonical_json, module)?)?;
    module.add_function(wrap_pyfunction!(check_canonical, module)?)?;
    module.add_function(wrap_pyfunction!(canonicalize, module)?)?;
    module.add_function(wrap_pyfunction!(count_values, module)?)?;
    module.add_function(wrap_pyfunction!(items, module)?)?;
    module.add_function(wrap_pyfunction!(sha256_base64, module)?)
}
