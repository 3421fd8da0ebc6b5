//! Rules, made ready once, and the one that an event meets first.

use std::borrow::Cow;
use std::cell::OnceCell;

use canonical::{Event, MAX_INT, Object, Value};
use event_auth::{Level, PowerLevels};

use crate::glob::{Glob, fold};
use crate::path::{Found, Path};

/// In the order in which they are tried.
const KINDS: [&str; 5] = ["override", "content", "room", "sender", "underride"];
/// Actions that mean nothing any more.
const HISTORICAL: [&str; 2] = ["dont_notify", "coalesce"];
/// The level that notifies a whole room, unless the power levels say otherwise.
const DEFAULT_LEVEL: i64 = 50;

/// Values that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
}

impl Scalar {
    fn new(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Int(number) if (-MAX_INT..=MAX_INT).contains(number) => Some(Self::Int(*number)),
            Value::String(text) => Some(Self::Text(text.clone())),
            _ => None,
        }
    }

    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(wanted), Value::Bool(value)) => wanted == value,
            (Self::Int(wanted), Value::Int(value)) => wanted == value,
            (Self::Text(wanted), Value::String(value)) => wanted == value,
            _ => false,
        }
    }

    fn is_found(&self, found: Found<'_>) -> bool {
        match (self, found) {
            (Self::Text(wanted), Found::Text(text)) => wanted == text,
            (Self::Int(wanted), Found::Int(number)) => *wanted == number,
            (_, Found::Other(value)) => self.is(value),
            _ => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Equal,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
}

#[derive(Clone, Debug)]
enum Condition {
    /// Of the whole value at a path.
    Match(Path, Glob),
    /// Of words in the body.
    BodyMatch(Glob),
    PropertyIs(Path, Scalar),
    PropertyContains(Path, Scalar),
    ContainsDisplayName,
    MemberCount(Comparison, u64),
    SenderMayNotify(String),
    /// What is not known, or said in a wrong way, is never met.
    Never,
}

impl Condition {
    fn new(condition: &Value) -> Self {
        condition.as_object().and_then(Self::read).unwrap_or(Self::Never)
    }

    fn read(condition: &Object) -> Option<Self> {
        let path = || condition.get_str("key").map(Path::new);
        let value = || condition.get("value").and_then(Scalar::new);
        match condition.get_str("kind")? {
            "event_match" => Some(Self::event_match(path()?, Glob::new(condition.get_str("pattern")?))),
            "event_property_is" => Some(Self::PropertyIs(path()?, value()?)),
            "event_property_contains" => Some(Self::PropertyContains(path()?, value()?)),
            "contains_display_name" => Some(Self::ContainsDisplayName),
            "room_member_count" => Self::member_count(condition.get_str("is")?),
            "sender_notification_permission" => {
                condition.get_str("key").map(|key| Self::SenderMayNotify(key.to_owned()))
            }
            _ => None,
        }
    }

    fn event_match(path: Path, glob: Glob) -> Self {
        match path {
            Path::Content(names) if names == ["body"] => Self::BodyMatch(glob),
            path => Self::Match(path, glob),
        }
    }

    fn member_count(is: &str) -> Option<Self> {
        let signs = [
            ("==", Comparison::Equal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("", Comparison::Equal),
        ];
        let (number, comparison) =
            signs.iter().find_map(|(sign, comparison)| Some((is.strip_prefix(sign)?, *comparison)))?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| number.parse().ok()).flatten().map(|number| Self::MemberCount(comparison, number))
    }

    fn is_met(&self, occasion: &Occasion<'_>, display_name: Option<&str>) -> bool {
        match self {
            Self::Match(path, glob) => match path.find(occasion.event) {
                Some(Found::Text(text)) => glob.matches_all(&fold(text)),
                _ => false,
            },
            Self::BodyMatch(glob) => occasion.body().is_some_and(|body| glob.matches_words(body)),
            Self::PropertyIs(path, wanted) => {
                path.find(occasion.event).is_some_and(|found| wanted.is_found(found))
            }
            Self::PropertyContains(path, wanted) => match path.find(occasion.event) {
                Some(Found::Other(Value::Array(items))) => items.iter().any(|item| wanted.is(item)),
                _ => false,
            },
            Self::ContainsDisplayName => match (display_name, occasion.body()) {
                (Some(name), Some(body)) if !name.is_empty() => Glob::literal(name).matches_words(body),
                _ => false,
            },
            Self::MemberCount(comparison, number) => match comparison {
                Comparison::Equal => occasion.member_count == *number,
                Comparison::Less => occasion.member_count < *number,
                Comparison::Greater => occasion.member_count > *number,
                Comparison::LessOrEqual => occasion.member_count <= *number,
                Comparison::GreaterOrEqual => occasion.member_count >= *number,
            },
            Self::SenderMayNotify(key) => occasion.sender_may_notify(key),
            Self::Never => false,
        }
    }
}

/// An enabled rule.
#[derive(Clone, Debug)]
pub struct Rule {
    conditions: Vec<Condition>,
    actions: Vec<Value>,
}

impl Rule {
    fn new(kind: &str, rule: &Object) -> Self {
        let text = |key| rule.get_str(key).unwrap_or_default();
        let conditions = match kind {
            "content" => vec![Condition::BodyMatch(Glob::new(text("pattern")))],
            "room" => vec![Condition::PropertyIs(Path::RoomId, Scalar::Text(text("rule_id").to_owned()))],
            "sender" => vec![Condition::PropertyIs(Path::Sender, Scalar::Text(text("rule_id").to_owned()))],
            _ => match rule.get("conditions") {
                // A rule with no conditions always matches.
                None | Some(Value::Null) => vec![],
                Some(Value::Array(conditions)) => conditions.iter().map(Condition::new).collect(),
                Some(_) => vec![Condition::Never],
            },
        };
        let actions = rule.get("actions").and_then(Value::as_array).unwrap_or_default();
        let is_current = |action: &&Value| !action.as_str().is_some_and(|word| HISTORICAL.contains(&word));
        Self { conditions, actions: actions.iter().filter(is_current).cloned().collect() }
    }

    /// What the rule does, without actions that mean nothing any more.
    pub fn actions(&self) -> &[Value] {
        &self.actions
    }

    /// Whether the user is notified.
    pub fn notifies(&self) -> bool {
        self.actions.iter().any(|action| action.as_str() == Some("notify"))
    }

    /// Whether the user is notified, and that stands out. A tweak without a value is meant.
    pub fn highlights(&self) -> bool {
        let highlights = |action: &Object| {
            action.get_str("set_tweak") == Some("highlight")
                && action.get("value") != Some(&Value::Bool(false))
        };
        self.notifies() && self.actions.iter().filter_map(Value::as_object).any(highlights)
    }
}

/// A user's enabled rules in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    rules: Vec<Rule>,
}

impl Ruleset {
    /// Make rules ready: lists of them by kind, as clients see them.
    pub fn new(rules: &Object) -> Self {
        let of_kind = |kind| rules.get(kind).and_then(Value::as_array).unwrap_or_default();
        let enabled = |rule: &&Object| rule.get("enabled") == Some(&Value::Bool(true));
        Self {
            rules: KINDS
                .into_iter()
                .flat_map(|kind| of_kind(kind).iter().map(move |rule| (kind, rule)))
                .filter_map(|(kind, rule)| Some((kind, rule.as_object().filter(enabled)?)))
                .map(|(kind, rule)| Rule::new(kind, rule))
                .collect(),
        }
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// An event and its room, as far as rules ask for it.
pub struct Occasion<'a> {
    event: &'a Event,
    member_count: u64,
    levels: PowerLevels<'a>,
    // Found out when the first rule asks, for all who are told of the event.
    body: OnceCell<Option<Cow<'a, str>>>,
    sender_level: OnceCell<Level>,
}

impl<'a> Occasion<'a> {
    /// The event in a room with this many joined members, this create event and these power levels.
    pub fn new(
        event: &'a Event,
        member_count: u64,
        power_levels: Option<&'a Event>,
        create: &'a Event,
    ) -> Self {
        let levels = PowerLevels::new(power_levels, Some(create), &create.version().auth);
        Self { event, member_count, levels, body: OnceCell::new(), sender_level: OnceCell::new() }
    }

    /// The place, in the ruleset, of the first rule that the event meets. Nobody is told of what they did themselves.
    pub fn first_met(&self, ruleset: &Ruleset, user_id: &str, display_name: Option<&str>) -> Option<usize> {
        if self.event.sender() == user_id {
            return None;
        }
        let is_met = |rule: &Rule| rule.conditions.iter().all(|one| one.is_met(self, display_name));
        ruleset.rules.iter().position(is_met)
    }

    fn body(&self) -> Option<&str> {
        self.body.get_or_init(|| self.event.content().get_str("body").map(fold)).as_deref()
    }

    // Where an old room's power levels are not numbers, nobody has any power.
    fn sender_may_notify(&self, key: &str) -> bool {
        let of_sender = || self.levels.of_user(self.event.sender()).unwrap_or(Level::Finite(0));
        let needed = self.levels.for_notification(key).unwrap_or(DEFAULT_LEVEL);
        *self.sender_level.get_or_init(of_sender) >= Level::Finite(needed)
    }
}
