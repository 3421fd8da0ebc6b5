//! `homeserver._rust.canonical`

use ::canonical::{Numbers, base64, hash, parse};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{convert, errors};

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
    let value = parse(raw, numbers(strict)).map_err(errors::json)?;
    Ok(PyBytes::new(py, &value.to_bytes()))
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
    module.add_function(wrap_pyfunction!(sha256_base64, module)?)
}
