//! JSON values between Python and Rust.

use ::canonical::{JsonError, MAX_DEPTH, MAX_INT, Object, Value};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::errors;

fn fail<T>(reason: &'static str) -> PyResult<T> {
    Err(errors::json(JsonError::new(reason)))
}

fn text(value: &Bound<'_, PyString>) -> PyResult<String> {
    // Only a lone surrogate keeps a Python string from being UTF-8.
    value.to_cow().map(std::borrow::Cow::into_owned).or_else(|_| fail("a string contains a lone surrogate"))
}

/// A strict JSON value of a Python one inside of `depth` arrays and objects.
pub fn from_python(value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if let Ok(value) = value.cast::<PyString>() {
        return Ok(Value::String(text(value)?));
    }
    if value.is_none() {
        return Ok(Value::Null);
    }
    if let Ok(value) = value.cast::<PyBool>() {
        return Ok(Value::Bool(value.is_true()));
    }
    if let Ok(value) = value.cast::<PyInt>() {
        return match value.extract::<i64>() {
            Ok(number) if (-MAX_INT..=MAX_INT).contains(&number) => Ok(Value::Int(number)),
            _ => fail("an integer is outside of the range of canonical JSON"),
        };
    }
    if depth >= MAX_DEPTH {
        return fail("values are nested too deeply");
    }
    if let Ok(value) = value.cast::<PyDict>() {
        let mut entries = Vec::with_capacity(value.len());
        for (key, item) in value.iter() {
            let Ok(key) = key.cast::<PyString>() else {
                return fail("a key is not a string");
            };
            entries.push((text(key)?, from_python(&item, depth + 1)?));
        }
        return Ok(Value::Object(Object::from_entries(entries)));
    }
    if let Ok(value) = value.cast::<PyList>() {
        let items: PyResult<_> = value.iter().map(|item| from_python(&item, depth + 1)).collect();
        return Ok(Value::Array(items?));
    }
    if let Ok(value) = value.cast::<PyTuple>() {
        let items: PyResult<_> = value.iter().map(|item| from_python(&item, depth + 1)).collect();
        return Ok(Value::Array(items?));
    }
    if value.is_instance_of::<PyFloat>() {
        return fail("a number has a fraction or an exponent");
    }
    Err(errors::CanonicalJsonError::new_err(format!("{} is not a JSON type", value.get_type().name()?)))
}

/// A new Python value.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Value::Int(number) => number.into_pyobject(py)?.into_any(),
        Value::Number(text) => {
            if text.contains(['.', 'e', 'E']) {
                let number: f64 = text.parse().map_err(|_| PyTypeError::new_err("not a number"))?;
                PyFloat::new(py, number).into_any()
            } else {
                py.get_type::<PyInt>().call1((text.as_ref(),))?
            }
        }
        Value::String(text) => PyString::new(py, text).into_any(),
        Value::Array(items) => {
            let items: PyResult<Vec<_>> = items.iter().map(|item| to_python(py, item)).collect();
            PyList::new(py, items?)?.into_any()
        }
        Value::Object(object) => to_dict(py, object)?.into_any(),
    })
}

/// A new Python dictionary.
pub fn to_dict<'py>(py: Python<'py>, object: &Object) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (key, item) in object.iter() {
        dict.set_item(key, to_python(py, item)?)?;
    }
    Ok(dict)
}
