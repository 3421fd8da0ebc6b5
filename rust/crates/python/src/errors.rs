//! The exceptions, and which error becomes which: nowhere else is this decided.

use ::canonical::{EventError, JsonError};
use ::event_auth::AuthError as AuthReason;
use ::signatures::SignatureError as SignatureReason;
use ::state_tree::TreeError;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

create_exception!(
    homeserver._rust.errors,
    CanonicalJsonError,
    PyValueError,
    "A value or text has no canonical JSON."
);
create_exception!(
    homeserver._rust.errors,
    MalformedEvent,
    PyValueError,
    "Bytes or fields are not an event of the room version."
);
create_exception!(
    homeserver._rust.errors,
    EventTooLarge,
    MalformedEvent,
    "An event or one of its fields is too large."
);
create_exception!(
    homeserver._rust.errors,
    SignatureError,
    PyValueError,
    "A signature is missing or wrong, or a key is not a key."
);
create_exception!(
    homeserver._rust.errors,
    AuthError,
    PyException,
    "The authorisation rules forbid an event; the message says why."
);

create_exception!(
    homeserver._rust.errors,
    StateTreeError,
    PyValueError,
    "Pages of the state tree are corrupt or missing, or a change is too large for it."
);

pub fn json(error: JsonError) -> PyErr {
    CanonicalJsonError::new_err(error.to_string())
}

pub fn signature(error: SignatureReason) -> PyErr {
    SignatureError::new_err(error.0)
}

pub fn auth(error: AuthReason) -> PyErr {
    AuthError::new_err(error.0)
}

pub fn state_tree(error: TreeError) -> PyErr {
    StateTreeError::new_err(error.to_string())
}

/// The result of a walk was asked for while it wanted pages.
pub fn unfinished() -> PyErr {
    StateTreeError::new_err("the walk is not done")
}

/// An error on the way to making an event.
pub fn building(error: EventError) -> PyErr {
    match error {
        EventError::Json(error) => json(error),
        EventError::TooLarge(reason) => EventTooLarge::new_err(reason),
        EventError::Malformed(_) | EventError::UnknownVersion(_) => {
            MalformedEvent::new_err(error.to_string())
        }
    }
}

/// An error on the way to reading an event: whatever is wrong, it is malformed.
pub fn parsing(error: EventError) -> PyErr {
    match error {
        EventError::TooLarge(reason) => EventTooLarge::new_err(reason),
        _ => MalformedEvent::new_err(error.to_string()),
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("AuthError", py.get_type::<AuthError>())?;
    module.add("CanonicalJsonError", py.get_type::<CanonicalJsonError>())?;
    module.add("EventTooLarge", py.get_type::<EventTooLarge>())?;
    module.add("MalformedEvent", py.get_type::<MalformedEvent>())?;
    module.add("SignatureError", py.get_type::<SignatureError>())?;
    module.add("StateTreeError", py.get_type::<StateTreeError>())
}
