//! Paths to properties of events (appendices, "Dot-separated property paths").

use canonical::{Event, Value};

/// The way to a property of an event in its client format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// `type`
    Type,
    /// `sender`
    Sender,
    /// `room_id`
    RoomId,
    /// `event_id`
    EventId,
    /// `state_key`
    StateKey,
    /// `redacts`
    Redacts,
    /// `origin_server_ts`
    OriginServerTs,
    /// A property somewhere in the content.
    Content(Vec<String>),
    /// A property that no event has.
    Nowhere,
}

/// What is at a path.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// A string.
    Text(&'a str),
    /// A whole number.
    Int(i64),
    /// Any other value.
    Other(&'a Value),
}

impl Path {
    /// The path of this text, in which `\.` and `\\` stand for themselves without the first character.
    pub fn new(text: &str) -> Self {
        let names = split(text);
        let Some((first, rest)) = names.split_first() else {
            return Self::Nowhere;
        };
        match (first.as_str(), rest) {
            ("content", [_, ..]) => Self::Content(rest.to_vec()),
            ("type", []) => Self::Type,
            ("sender", []) => Self::Sender,
            ("room_id", []) => Self::RoomId,
            ("event_id", []) => Self::EventId,
            ("state_key", []) => Self::StateKey,
            ("redacts", []) => Self::Redacts,
            ("origin_server_ts", []) => Self::OriginServerTs,
            _ => Self::Nowhere,
        }
    }

    /// What the event has at this path, if anything.
    pub fn find<'a>(&self, event: &'a Event) -> Option<Found<'a>> {
        match self {
            Self::Type => Some(Found::Text(event.kind())),
            Self::Sender => Some(Found::Text(event.sender())),
            Self::RoomId => Some(Found::Text(event.room_id())),
            Self::EventId => Some(Found::Text(event.event_id())),
            Self::StateKey => event.state_key().map(Found::Text),
            Self::Redacts => event.redacts().map(Found::Text),
            Self::OriginServerTs => Some(Found::Int(event.origin_server_ts())),
            Self::Content(names) => {
                let (last, way) = names.split_last()?;
                let inside = way.iter().try_fold(event.content(), |object, name| object.get_object(name))?;
                Some(match inside.get(last)? {
                    Value::String(text) => Found::Text(text),
                    Value::Int(number) => Found::Int(*number),
                    other => Found::Other(other),
                })
            }
            Self::Nowhere => None,
        }
    }
}

fn split(text: &str) -> Vec<String> {
    let mut names = vec![];
    let mut name = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '.' => names.push(std::mem::take(&mut name)),
            '\\' => match chars.next() {
                Some(escaped @ ('.' | '\\')) => name.push(escaped),
                Some(other) => name.extend(['\\', other]),
                None => name.push('\\'),
            },
            other => name.push(other),
        }
    }
    names.push(name);
    names
}
