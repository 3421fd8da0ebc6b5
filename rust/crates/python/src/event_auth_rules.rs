//! `homeserver._rust.event_auth`

use std::collections::HashSet;

use ::canonical::{self as core, AuthRules, parse_object};
use ::event_auth::{self as rules, Action, AuthContext, Level, PowerLevels};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors;
use crate::events::{Event, inner, room_version};

#[pyfunction]
#[pyo3(signature = (version, *, r#type, sender, state_key, content))]
fn auth_event_keys(
    version: &str,
    r#type: &str,
    sender: &str,
    state_key: Option<&str>,
    content: &[u8],
) -> PyResult<Vec<(&'static str, String)>> {
    let version = room_version(version)?;
    let content = parse_object(content, version.numbers).map_err(errors::json)?;
    Ok(rules::auth_event_keys(version, r#type, sender, state_key, &content))
}

/// Which of the events that will be looked at are in the Python set.
fn rejected_among(
    rejected: Option<&Bound<'_, PyAny>>,
    events: &[&core::Event],
    create: Option<&core::Event>,
) -> PyResult<HashSet<String>> {
    let mut found = HashSet::new();
    if let Some(rejected) = rejected {
        for event in events.iter().copied().chain(create) {
            if rejected.contains(event.event_id())? {
                found.insert(event.event_id().to_owned());
            }
        }
    }
    Ok(found)
}

#[pyfunction]
#[pyo3(signature = (event, auth_events, *, create=None, rejected=None))]
fn check_auth(
    event: &Event,
    auth_events: Vec<PyRef<'_, Event>>,
    create: Option<PyRef<'_, Event>>,
    rejected: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let auth_events = inner(&auth_events);
    let create = create.as_ref().map(|create| create.inner());
    let rejected = rejected_among(rejected, &auth_events, create)?;
    let context = AuthContext { create, rejected: Some(&rejected) };
    rules::check_auth(event.inner(), &auth_events, context).map_err(errors::auth)
}

#[pyfunction]
#[pyo3(signature = (event, state, *, create=None, rejected=None))]
fn check_state_auth(
    event: &Event,
    state: Vec<PyRef<'_, Event>>,
    create: Option<PyRef<'_, Event>>,
    rejected: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let state = inner(&state);
    let create = create.as_ref().map(|create| create.inner());
    let rejected = rejected_among(rejected, &[], create)?;
    let context = AuthContext { create, rejected: Some(&rejected) };
    let find = |kind: &str, state_key: &str| {
        state.iter().copied().find(|candidate| candidate.is_state(kind, state_key))
    };
    rules::check_state_auth(event.inner(), &find, context).map_err(errors::auth)
}

fn rules_of(power_levels: Option<&core::Event>) -> PyResult<&'static AuthRules> {
    // Without an event only defaults are read, and those are the same in all versions.
    match power_levels {
        Some(event) => Ok(&event.version().auth),
        None => Ok(&room_version("12")?.auth),
    }
}

#[pyfunction]
fn power_level_of(
    user_id: &str,
    power_levels: Option<PyRef<'_, Event>>,
    create: &Event,
) -> PyResult<Option<i64>> {
    let power_levels = power_levels.as_ref().map(|event| event.inner());
    let levels = PowerLevels::new(power_levels, Some(create.inner()), &create.inner().version().auth);
    match levels.of_user(user_id).map_err(errors::auth)? {
        Level::Finite(level) => Ok(Some(level)),
        Level::Infinite => Ok(None),
    }
}

#[pyfunction]
fn level_for_event(r#type: &str, is_state: bool, power_levels: Option<PyRef<'_, Event>>) -> PyResult<i64> {
    let power_levels = power_levels.as_ref().map(|event| event.inner());
    let levels = PowerLevels::new(power_levels, None, rules_of(power_levels)?);
    levels.for_event(r#type, is_state).map_err(errors::auth)
}

#[pyfunction]
fn level_for_action(action: &str, power_levels: Option<PyRef<'_, Event>>) -> PyResult<i64> {
    let Some(action) = Action::find(action) else {
        return Err(PyValueError::new_err("an action is invite, kick, ban or redact"));
    };
    let power_levels = power_levels.as_ref().map(|event| event.inner());
    let levels = PowerLevels::new(power_levels, None, rules_of(power_levels)?);
    levels.for_action(action).map_err(errors::auth)
}

#[pyfunction]
fn notification_level(key: &str, power_levels: Option<PyRef<'_, Event>>) -> PyResult<i64> {
    let power_levels = power_levels.as_ref().map(|event| event.inner());
    let levels = PowerLevels::new(power_levels, None, rules_of(power_levels)?);
    levels.for_notification(key).map_err(errors::auth)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(auth_event_keys, module)?)?;
    module.add_function(wrap_pyfunction!(check_auth, module)?)?;
    module.add_function(wrap_pyfunction!(check_state_auth, module)?)?;
    module.add_function(wrap_pyfunction!(level_for_action, module)?)?;
    module.add_function(wrap_pyfunction!(level_for_event, module)?)?;
    module.add_function(wrap_pyfunction!(notification_level, module)?)?;
    module.add_function(wrap_pyfunction!(power_level_of, module)?)
}
