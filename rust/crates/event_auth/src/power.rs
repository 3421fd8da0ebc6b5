//! Power levels: reading them out of `m.room.power_levels`, and the levels of users and actions.

use std::fmt;

use canonical::{AuthRules, Event, Object, Value};

use crate::{AuthError, reject};

/// A power level. Creators of version 12 stand above every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A number.
    Finite(i64),
    /// The level of a creator of version 12.
    Infinite,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finite(level) => level.fmt(formatter),
            Self::Infinite => formatter.write_str("infinity"),
        }
    }
}

/// What needs a level of its own, beside sending events of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Invite a user.
    Invite,
    /// Remove a user.
    Kick,
    /// Ban a user.
    Ban,
    /// Redact events of others.
    Redact,
}

impl Action {
    /// The key in the content of `m.room.power_levels`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Invite => "invite",
            Self::Kick => "kick",
            Self::Ban => "ban",
            Self::Redact => "redact",
        }
    }

    /// The action of this key.
    pub fn find(key: &str) -> Option<Self> {
        [Self::Invite, Self::Kick, Self::Ban, Self::Redact].into_iter().find(|action| action.key() == key)
    }

    const fn default(self) -> i64 {
        match self {
            Self::Invite => 0,
            Self::Kick | Self::Ban | Self::Redact => 50,
        }
    }
}

/// Read one power level; `None` if the value is not one in this room version.
pub(crate) fn read_level(value: &Value, rules: &AuthRules) -> Option<i64> {
    match value {
        Value::Int(level) => Some(*level),
        Value::Number(text) if rules.float_power_levels => read_number(text),
        Value::String(text) if rules.string_power_levels => read_string(text),
        _ => None,
    }
}

/// An integer too large for 64 bits, or a float: the exponent is applied, then the fraction is cut off.
fn read_number(text: &str) -> Option<i64> {
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    #[allow(clippy::cast_possible_truncation, reason = "the cast saturates, which keeps the order of levels")]
    Some(number.trunc() as i64)
}

/// Blanks round an optional sign and digits, with any number of leading zeros.
fn read_string(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only a number too large for 64 bits fails to parse here; it is held at the limit.
    let limit = if negative { i64::MIN } else { i64::MAX };
    let magnitude: Option<i64> = digits.parse().ok();
    Some(magnitude.map_or(limit, |magnitude| if negative { -magnitude } else { magnitude }))
}

/// The power levels that hold in a room at a moment.
#[derive(Clone, Copy)]
pub struct PowerLevels<'a> {
    content: Option<&'a Object>,
    create: Option<&'a Event>,
    rules: &'a AuthRules,
}

impl<'a> PowerLevels<'a> {
    /// The levels by the current `m.room.power_levels` event, if there is one, and the create event.
    pub fn new(current: Option<&'a Event>, create: Option<&'a Event>, rules: &'a AuthRules) -> Self {
        Self { content: current.map(Event::content), create, rules }
    }

    fn read(&self, key: &str, value: &Value) -> Result<i64, AuthError> {
        match read_level(value, self.rules) {
            Some(level) => Ok(level),
            None => reject(format!("the room's power levels have no integer in {key}")),
        }
    }

    fn field(&self, key: &str, default: i64) -> Result<i64, AuthError> {
        match self.content.and_then(|content| content.get(key)) {
            Some(value) => self.read(key, value),
            None => Ok(default),
        }
    }

    fn entry(&self, map: &str, key: &str) -> Result<Option<i64>, AuthError> {
        match self.content.and_then(|content| content.get(map)) {
            None => Ok(None),
            Some(Value::Object(entries)) => entries.get(key).map(|value| self.read(map, value)).transpose(),
            Some(_) => reject(format!("the room's power levels have no object in {map}")),
        }
    }

    /// The level of a user.
    pub fn of_user(&self, user_id: &str) -> Result<Level, AuthError> {
        if self.rules.infinite_creators && self.create.is_some_and(|create| is_creator(create, user_id)) {
            return Ok(Level::Infinite);
        }
        if self.content.is_none() {
            let is_creator = self.create.and_then(|create| creator(create)) == Some(user_id);
            return Ok(Level::Finite(if is_creator { 100 } else { 0 }));
        }
        match self.entry("users", user_id)? {
            Some(level) => Ok(Level::Finite(level)),
            None => self.field("users_default", 0).map(Level::Finite),
        }
    }

    /// The level needed for an action.
    pub fn for_action(&self, action: Action) -> Result<i64, AuthError> {
        self.field(action.key(), action.default())
    }

    /// The level needed to send an event of a type.
    pub fn for_event(&self, kind: &str, is_state: bool) -> Result<i64, AuthError> {
        match self.entry("events", kind)? {
            Some(level) => Ok(level),
            None if is_state => self.field("state_default", 50),
            None => self.field("events_default", 0),
        }
    }

    /// The level needed to set off a notification of this kind, such as `room`.
    pub fn for_notification(&self, key: &str) -> Result<i64, AuthError> {
        Ok(self.entry("notifications", key)?.unwrap_or(50))
    }
}

/// The one creator whom the rules of joining and of the first power levels know.
pub(crate) fn creator(create: &Event) -> Option<&str> {
    if create.version().auth.creator_in_content {
        create.content().get_str("creator")
    } else {
        Some(create.sender())
    }
}

/// Whether a user is a creator in the sense of version 12.
pub(crate) fn is_creator(create: &Event, user_id: &str) -> bool {
    create.sender() == user_id
        || create
            .content()
            .get("additional_creators")
            .and_then(Value::as_array)
            .is_some_and(|creators| creators.iter().any(|creator| creator.as_str() == Some(user_id)))
}
