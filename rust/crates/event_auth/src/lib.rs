//! The authorisation rules of events (server-server API, "Authorisation rules", and each room version).

mod power;
mod rules;
mod selection;

use std::fmt;

pub use power::{Action, Level, PowerLevels};
pub use rules::{AuthContext, check_auth, check_state_auth};
pub use selection::{StateKey, auth_event_keys, auth_event_keys_of};

/// Why an event is not allowed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError(pub String);

impl fmt::Display for AuthError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for AuthError {}

fn reject<T>(reason: impl Into<String>) -> Result<T, AuthError> {
    Err(AuthError(reason.into()))
}
