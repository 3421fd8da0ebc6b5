//! What can be wrong with JSON text or with an event.

use std::fmt;

/// JSON text, or a value, that has no canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong, in words.
    pub reason: &'static str,
    /// The byte at which it was noticed, where there is a text.
    pub offset: Option<usize>,
}

impl JsonError {
    pub(crate) const fn at(reason: &'static str, offset: usize) -> Self {
        Self { reason, offset: Some(offset) }
    }

    /// An error that has no place in a text.
    pub const fn new(reason: &'static str) -> Self {
        Self { reason, offset: None }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(formatter, "{} at byte {offset}", self.reason),
            None => formatter.write_str(self.reason),
        }
    }
}

impl std::error::Error for JsonError {}

/// Why bytes are not an event of their room version, or why an event cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventError {
    /// The JSON text itself is wrong.
    Json(JsonError),
    /// A field is missing, has the wrong type or the wrong form.
    Malformed(String),
    /// The event or one of its fields is larger than the specification allows.
    TooLarge(String),
    /// No such room version.
    UnknownVersion(String),
}

impl EventError {
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }
}

impl From<JsonError> for EventError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl fmt::Display for EventError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(formatter),
            Self::Malformed(reason) | Self::TooLarge(reason) => formatter.write_str(reason),
            Self::UnknownVersion(version) => write!(formatter, "unknown room version {version:?}"),
        }
    }
}

impl std::error::Error for EventError {}
