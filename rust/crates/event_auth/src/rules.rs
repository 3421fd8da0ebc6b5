//! The rules, in the order of the specification.
//!
//! Numbers are those of version 12; where version 1 has another number for the rule, it follows in brackets.
//! `[6+]` means that a rule holds in version 6 and those listed after it.

use std::collections::HashSet;

use canonical::identifiers::{domain, is_user_id};
use canonical::{AuthRules, Event, Object, RoomVersion, Value};
use signatures::{public_key, verify_bytes};

use crate::power::{Action, Level, PowerLevels, creator, is_creator, read_level};
use crate::selection::auth_event_keys_of;
use crate::{AuthError, reject};

type Verdict = Result<(), AuthError>;

/// The fields of `m.room.power_levels` that hold one level each, and what they are by default.
const LEVEL_FIELDS: [(&str, i64); 7] = [
    ("users_default", 0),
    ("events_default", 0),
    ("state_default", 50),
    ("ban", 50),
    ("redact", 50),
    ("kick", 50),
    ("invite", 0),
];

/// How many public keys and signatures of a third-party invite are looked at. Honest ones have one or two; an
/// event full of them would otherwise cost a million checks.
const MAX_INVITE_KEYS: usize = 16;
const MAX_INVITE_SIGNATURES: usize = 16;

/// What is known beside the event and its `auth_events`.
#[derive(Clone, Copy, Default)]
pub struct AuthContext<'a> {
    /// The room's create event; needed where it is not among the `auth_events`.
    pub create: Option<&'a Event>,
    /// Ids of events that were rejected.
    pub rejected: Option<&'a HashSet<String>>,
}

impl AuthContext<'_> {
    fn is_rejected(&self, event: &Event) -> bool {
        self.rejected.is_some_and(|rejected| rejected.contains(event.event_id()))
    }
}

/// Check an event against its own `auth_events`, which must be given complete and in any order.
///
/// That signatures are good is for the caller to check, but for third-party invites, which are checked here.
/// Of the authorising user's server only the presence of a signature is checked.
pub fn check_auth(event: &Event, auth_events: &[&Event], context: AuthContext<'_>) -> Verdict {
    if event.kind() == "m.room.create" {
        return check_create(event);
    }
    let rules = &event.version().auth;

    // Rule 2 (12): see `check_room`.
    if !rules.create_in_auth_events {
        check_room(event, context)?;
    }

    // Rule 3 (2): considering the event's `auth_events`.
    let expected = auth_event_keys_of(event);
    for (index, auth_event) in auth_events.iter().enumerate() {
        let kind = auth_event.kind();
        let Some(state_key) = auth_event.state_key() else {
            return reject(format!("auth_events contains {kind}, which is not a state event"));
        };
        // Rule 3.1: two entries with the same type and state key, reject.
        if auth_events.iter().take(index).any(|earlier| earlier.is_state(kind, state_key)) {
            return reject(format!("auth_events contains {kind} with state key {state_key:?} twice"));
        }
        // Rule 3.2: an entry that the selection algorithm would not choose, reject.
        if !expected.iter().any(|(wanted, wanted_key)| *wanted == kind && wanted_key == state_key) {
            return reject(format!("auth_events contains {kind} with state key {state_key:?} needlessly"));
        }
        // Rule 3.3: an entry that was rejected itself, reject.
        if context.is_rejected(auth_event) {
            return reject(format!("auth_events contains {}, which was rejected", auth_event.event_id()));
        }
        // Rule 3.5: an entry of another room, reject.
        if auth_event.room_id() != event.room_id() {
            return reject(format!("auth_events contains {} of another room", auth_event.event_id()));
        }
    }
    let find = |kind: &str, state_key: &str| {
        auth_events.iter().copied().find(|candidate| candidate.is_state(kind, state_key))
    };
    // Rule 3.4 [1-11]: no `m.room.create` among them, reject.
    let create = if rules.create_in_auth_events { find("m.room.create", "") } else { context.create };
    let Some(create) = create else {
        return reject("auth_events contains no m.room.create");
    };
    check_rest(event, create, &find)
}

/// Check an event against a state of the room: as [`check_auth`], but for rule 3 on `auth_events`.
///
/// `find` gives the event of a type and state key in that state.
pub fn check_state_auth<'a>(
    event: &Event,
    find: &dyn Fn(&str, &str) -> Option<&'a Event>,
    context: AuthContext<'a>,
) -> Verdict {
    if event.kind() == "m.room.create" {
        return check_create(event);
    }
    let create = if event.version().auth.create_in_auth_events {
        find("m.room.create", "").or(context.create)
    } else {
        check_room(event, context)?;
        context.create
    };
    match create {
        Some(create) => check_rest(event, create, find),
        None => reject("the room has no m.room.create"),
    }
}

/// Rule 1: the type is `m.room.create`.
fn check_create(event: &Event) -> Verdict {
    let rules = &event.version().auth;
    // Rule 1.1: it has `prev_events`, reject.
    if !event.prev_events().is_empty() {
        return reject("m.room.create has prev_events");
    }
    if event.version().room_id_is_create_hash {
        // Rule 1.2 (since v12): it has a `room_id`, reject.
        if event.has_room_id() {
            return reject("m.room.create has a room_id");
        }
    } else if domain(event.room_id()).is_none() || domain(event.room_id()) != domain(event.sender()) {
        // Rule 1.2 [1-11]: the domain of `room_id` is not the sender's, reject.
        return reject("the domain of the room ID is not the sender's");
    }
    // Rule 1.3: `room_version` is present and not recognised, reject.
    match event.content().get("room_version") {
        None => {}
        Some(Value::String(version)) if RoomVersion::find(version).is_some() => {}
        Some(_) => return reject("the room version of m.room.create is not known"),
    }
    // Rule 1.4 [1-10]: there is no `creator`, reject.
    if rules.creator_in_content && !event.content().contains("creator") {
        return reject("m.room.create has no creator");
    }
    // Rule 1.4 (since v12): `additional_creators` is present and not a list of user IDs, reject.
    if rules.infinite_creators
        && let Some(creators) = event.content().get("additional_creators")
    {
        let valid = creators
            .as_array()
            .is_some_and(|creators| creators.iter().all(|user| user.as_str().is_some_and(is_user_id)));
        if !valid {
            return reject("additional_creators is not a list of user IDs");
        }
    }
    // Rule 1.5: otherwise, allow.
    Ok(())
}

/// Rule 2 (since v12): the room id is not the id of an accepted `m.room.create`, reject.
fn check_room(event: &Event, context: AuthContext<'_>) -> Verdict {
    let Some(create) = context.create else {
        return reject("the room's m.room.create is not known");
    };
    if create.kind() != "m.room.create"
        || create.version().identifier != event.version().identifier
        || create.event_id().strip_prefix('$') != event.room_id().strip_prefix('!')
    {
        return reject("the room ID is not that of the m.room.create");
    }
    if context.is_rejected(create) {
        return reject("the room's m.room.create was rejected");
    }
    Ok(())
}

/// The rules from 4 (3) on, with the state that they look at.
struct Check<'c, 'a> {
    event: &'c Event,
    create: &'c Event,
    rules: &'c AuthRules,
    levels: PowerLevels<'c>,
    power_levels: Option<&'a Event>,
    find: &'c dyn Fn(&str, &str) -> Option<&'a Event>,
}

fn check_rest<'a>(event: &Event, create: &Event, find: &dyn Fn(&str, &str) -> Option<&'a Event>) -> Verdict {
    let rules = &event.version().auth;
    let power_levels = find("m.room.power_levels", "");
    let levels = PowerLevels::new(power_levels, Some(create), rules);
    Check { event, create, rules, levels, power_levels, find }.run()
}

impl<'a> Check<'_, 'a> {
    fn run(&self) -> Verdict {
        let event = self.event;
        let kind = event.kind();
        let sender = event.sender();

        // Rule 4 (3): the room is not federated and the sender is not of the create sender's domain, reject.
        if self.create.content().get("m.federate") == Some(&Value::Bool(false))
            && domain(sender) != domain(self.create.sender())
        {
            return reject("the room is not open to other servers");
        }
        // Rule 4 of [1-5]: `m.room.aliases`.
        if self.rules.aliases_rule && kind == "m.room.aliases" {
            // Rules 4.1 and 4.2: there is no state key, or it is not the sender's domain, reject.
            return if event.state_key().is_some() && event.state_key() == domain(sender) {
                Ok(())
            } else {
                reject("the state key of m.room.aliases is not the sender's domain")
            };
        }
        // Rule 5: `m.room.member`.
        if kind == "m.room.member" {
            return self.member();
        }
        // Rule 6: the sender is not joined, reject.
        if self.membership(sender) != Some("join") {
            return reject(format!("{sender} is not joined to the room"));
        }
        let level = self.levels.of_user(sender)?;
        // Rule 7: `m.room.third_party_invite` is allowed if and only if the sender has the invite level.
        if kind == "m.room.third_party_invite" {
            return self.require(level, Action::Invite);
        }
        // Rule 8: the event type needs more than the sender's level, reject.
        let required = self.levels.for_event(kind, event.state_key().is_some())?;
        if Level::Finite(required) > level {
            return reject(format!(
                "sender's power level {level} is below the level {required} required for {kind}"
            ));
        }
        // Rule 9: the state key starts with an `@` and is not the sender, reject.
        if event.state_key().is_some_and(|state_key| state_key.starts_with('@') && state_key != sender) {
            return reject("a state key that is a user ID must be the sender's");
        }
        // Rule 10: `m.room.power_levels`.
        if kind == "m.room.power_levels" {
            return self.power_levels(level);
        }
        // Rule 11 of [1-2]: `m.room.redaction`.
        if self.rules.redaction_rule && kind == "m.room.redaction" {
            return self.redaction(level);
        }
        // Rule 11 (12): otherwise, allow.
        Ok(())
    }

    fn membership(&self, user_id: &str) -> Option<&'a str> {
        (self.find)("m.room.member", user_id).and_then(Event::membership)
    }

    fn join_rule(&self) -> Option<&'a str> {
        // What holds without a rule the specification does not say; the network takes it as `invite`.
        let rule = (self.find)("m.room.join_rules", "").and_then(|event| event.content().get("join_rule"));
        rule.map_or(Some("invite"), Value::as_str)
    }

    fn require(&self, level: Level, action: Action) -> Verdict {
        let required = self.levels.for_action(action)?;
        if level >= Level::Finite(required) {
            return Ok(());
        }
        reject(format!("sender's power level {level} is below the {} level {required}", action.key()))
    }

    /// Rule 5.
    fn member(&self) -> Verdict {
        let event = self.event;
        // Rule 5.1: there is no state key or no membership, reject.
        let Some(target) = event.state_key() else {
            return reject("m.room.member has no state key");
        };
        let Some(membership) = event.membership() else {
            return reject("m.room.member has no membership");
        };
        // Rule 5.2 (since v8): there is an authorising user, but no signature of that user's server, reject.
        let authorising_user = if self.rules.restricted { self.authorising_user()? } else { None };
        match membership {
            "join" => self.join(target, authorising_user),
            "invite" => self.invite(target),
            "leave" => self.leave(target),
            "ban" => self.ban(target),
            "knock" if self.rules.knock => self.knock(target),
            // Rule 5.8: the membership is unknown, reject.
            _ => reject(format!("the membership {membership:?} is not known")),
        }
    }

    fn authorising_user(&self) -> Result<Option<&str>, AuthError> {
        let Some(user) = self.event.content().get("join_authorised_via_users_server") else {
            return Ok(None);
        };
        let Some(user) = user.as_str().filter(|user| is_user_id(user)) else {
            return reject("join_authorised_via_users_server is not a user ID");
        };
        let signatures = self.event.signatures().get_object(domain(user).unwrap_or_default());
        if signatures.is_some_and(|keys| keys.iter().any(|(key_id, _)| key_id.starts_with("ed25519:"))) {
            Ok(Some(user))
        } else {
            reject(format!("the event is not signed by the server of {user}, who authorises the join"))
        }
    }

    /// Rule 5.3 (5.2).
    fn join(&self, target: &str, authorising_user: Option<&str>) -> Verdict {
        let sender = self.event.sender();
        // Rule 5.3.1: the only previous event is the create event and the state key is the creator, allow.
        let follows_create = matches!(self.event.prev_events(), [only] if only == self.create.event_id());
        if follows_create && creator(self.create) == Some(target) {
            return Ok(());
        }
        // Rule 5.3.2: the sender is not the state key, reject.
        if sender != target {
            return reject("nobody can join for another user");
        }
        let present = self.membership(target);
        // Rule 5.3.3: the sender is banned, reject.
        if present == Some("ban") {
            return reject(format!("{target} is banned from the room"));
        }
        let known = matches!(present, Some("join" | "invite"));
        match self.join_rule() {
            // Rule 5.3.4: the join rule is `invite` or (since v7) `knock`: allow if invited or joined.
            Some("invite") if known => Ok(()),
            Some("knock") if self.rules.knock && known => Ok(()),
            // Rule 5.3.5 (since v8): the join rule is `restricted` or (since v10) `knock_restricted`.
            Some("restricted") if self.rules.restricted => self.restricted_join(known, authorising_user),
            Some("knock_restricted") if self.rules.knock_restricted => {
                self.restricted_join(known, authorising_user)
            }
            // Rule 5.3.6: the join rule is `public`, allow.
            Some("public") => Ok(()),
            // Rule 5.3.7: otherwise, reject.
            _ => reject(format!("{target} is not invited to the room")),
        }
    }

    fn restricted_join(&self, known: bool, authorising_user: Option<&str>) -> Verdict {
        // Rule 5.3.5.1: invited or joined, allow.
        if known {
            return Ok(());
        }
        // Rule 5.3.5.2: the authorising user is not joined or may not invite, reject.
        let Some(user) = authorising_user else {
            return reject("the join needs an authorising user");
        };
        if self.membership(user) != Some("join") {
            return reject(format!("{user}, who authorises the join, is not joined to the room"));
        }
        let required = self.levels.for_action(Action::Invite)?;
        if self.levels.of_user(user)? < Level::Finite(required) {
            return reject(format!("{user}, who authorises the join, may not invite"));
        }
        // Rule 5.3.5.3: otherwise, allow.
        Ok(())
    }

    /// Rule 5.4 (5.3).
    fn invite(&self, target: &str) -> Verdict {
        // Rule 5.4.1: there is a `third_party_invite`.
        if let Some(invite) = self.event.content().get("third_party_invite") {
            return self.third_party_invite(target, invite);
        }
        let sender = self.event.sender();
        // Rule 5.4.2: the sender is not joined, reject.
        if self.membership(sender) != Some("join") {
            return reject(format!("{sender} is not joined to the room"));
        }
        // Rule 5.4.3: the target is joined or banned, reject.
        match self.membership(target) {
            Some("join") => return reject(format!("{target} is joined to the room already")),
            Some("ban") => return reject(format!("{target} is banned from the room")),
            _ => {}
        }
        // Rules 5.4.4 and 5.4.5: allow with the invite level, otherwise reject.
        self.require(self.levels.of_user(sender)?, Action::Invite)
    }

    fn third_party_invite(&self, target: &str, invite: &Value) -> Verdict {
        // Rule 5.4.1.1: the target is banned, reject.
        if self.membership(target) == Some("ban") {
            return reject(format!("{target} is banned from the room"));
        }
        // Rule 5.4.1.2: there is no `signed`, reject.
        let Some(signed) = invite.as_object().and_then(|invite| invite.get_object("signed")) else {
            return reject("third_party_invite has no signed object");
        };
        // Rule 5.4.1.3: `signed` lacks `mxid` or `token`, reject.
        let (Some(mxid), Some(token)) = (signed.get_str("mxid"), signed.get_str("token")) else {
            return reject("third_party_invite lacks mxid or token");
        };
        // Rule 5.4.1.4: `mxid` is not the state key, reject.
        if mxid != target {
            return reject("third_party_invite is for another user");
        }
        // Rule 5.4.1.5: there is no `m.room.third_party_invite` of this token, reject.
        let Some(offer) = (self.find)("m.room.third_party_invite", token) else {
            return reject("the room has no m.room.third_party_invite of this token");
        };
        // Rule 5.4.1.6: the sender is not the sender of that event, reject.
        if self.event.sender() != offer.sender() {
            return reject("third_party_invite was made by another user");
        }
        // Rules 5.4.1.7 and 5.4.1.8: any signature matches any of its public keys, allow; otherwise reject.
        if is_signed_by_offer(signed, offer.content()) {
            return Ok(());
        }
        reject("third_party_invite is not signed by any of the keys of m.room.third_party_invite")
    }

    /// Rule 5.5 (5.4).
    fn leave(&self, target: &str) -> Verdict {
        let sender = self.event.sender();
        let present = self.membership(sender);
        // Rule 5.5.1: the sender is the state key: allow if and only if invited, joined or (since v7) knocking.
        if sender == target {
            return match present {
                Some("invite" | "join") => Ok(()),
                Some("knock") if self.rules.knock => Ok(()),
                _ => reject(format!("{sender} is not in the room")),
            };
        }
        // Rule 5.5.2: the sender is not joined, reject.
        if present != Some("join") {
            return reject(format!("{sender} is not joined to the room"));
        }
        let level = self.levels.of_user(sender)?;
        // Rule 5.5.3: the target is banned and the sender has not the ban level, reject.
        if self.membership(target) == Some("ban") {
            self.require(level, Action::Ban)?;
        }
        // Rules 5.5.4 and 5.5.5: allow with the kick level and more than the target's, otherwise reject.
        self.require(level, Action::Kick)?;
        self.outranks(level, target)
    }

    /// Rule 5.6 (5.5).
    fn ban(&self, target: &str) -> Verdict {
        let sender = self.event.sender();
        // Rule 5.6.1: the sender is not joined, reject.
        if self.membership(sender) != Some("join") {
            return reject(format!("{sender} is not joined to the room"));
        }
        // Rules 5.6.2 and 5.6.3: allow with the ban level and more than the target's, otherwise reject.
        let level = self.levels.of_user(sender)?;
        self.require(level, Action::Ban)?;
        self.outranks(level, target)
    }

    fn outranks(&self, level: Level, target: &str) -> Verdict {
        let of_target = self.levels.of_user(target)?;
        if of_target < level {
            return Ok(());
        }
        reject(format!("sender's power level {level} is not above the level {of_target} of {target}"))
    }

    /// Rule 5.7 (since v7).
    fn knock(&self, target: &str) -> Verdict {
        // Rule 5.7.1: the join rule is neither `knock` nor (since v10) `knock_restricted`, reject.
        match self.join_rule() {
            Some("knock") => {}
            Some("knock_restricted") if self.rules.knock_restricted => {}
            _ => return reject("the room does not allow knocking"),
        }
        // Rule 5.7.2: the sender is not the state key, reject.
        if self.event.sender() != target {
            return reject("nobody can knock for another user");
        }
        // Rules 5.7.3 and 5.7.4: allow unless banned, invited or joined.
        match self.membership(target) {
            Some(present @ ("ban" | "invite" | "join")) => {
                reject(format!("{target} cannot knock with the membership {present}"))
            }
            _ => Ok(()),
        }
    }

    /// Rule 10.
    fn power_levels(&self, level: Level) -> Verdict {
        let new = self.event.content();
        let rules = self.rules;
        if rules.checks_integer_levels {
            // Rule 10.1 (since v10): one of the seven levels is present and not an integer, reject.
            for (key, _) in LEVEL_FIELDS {
                if new.get(key).is_some_and(|value| read_level(value, rules).is_none()) {
                    return reject(format!("{key} is not an integer"));
                }
            }
            // Rule 10.2 (since v10): `events` or `notifications` is not an object of integers, reject.
            for key in ["events", "notifications"] {
                entries(new, key, rules)?;
            }
        }
        // Rule 10.3 (10.1): `users` is not an object of user IDs with integers, reject.
        let new_users = entries(new, "users", rules)?;
        if let Some((key, _)) = new_users.iter().find(|(key, _)| !is_user_id(key)) {
            return reject(format!("users contains {key:?}, which is not a user ID"));
        }
        // Rule 10.4 (since v12): `users` names a creator, reject.
        if rules.infinite_creators
            && let Some((key, _)) = new_users.iter().find(|(key, _)| is_creator(self.create, key))
        {
            return reject(format!("users contains {key}, who is a creator of the room"));
        }
        // Rule 10.5 (10.2): there are no power levels yet, allow.
        let Some(old) = self.power_levels else {
            return Ok(());
        };
        let old = old.content();

        // Rule 10.6 (10.3): a level is added, changed or removed: neither value may be above the sender's.
        // "Power levels are inferred from defaults when not explicitly supplied."
        for (key, default) in LEVEL_FIELDS {
            let (before, after) = (read_field(old, key, rules)?, read_field(new, key, rules)?);
            if before != after {
                may_set(level, key, before.or(Some(default)))?;
                may_set(level, key, after.or(Some(default)))?;
            }
        }
        // Rules 10.7 and 10.8 (10.4 and 10.5): the same for the entries of `events`, and (since v6) of
        // `notifications`.
        for map in ["events", "notifications"] {
            if map == "notifications" && !rules.guards_notifications {
                continue;
            }
            let (before, after) = (entries(old, map, rules)?, entries(new, map, rules)?);
            for (key, before, after) in changes(&before, &after) {
                may_set(level, key, before)?;
                may_set(level, key, after)?;
            }
        }
        let old_users = entries(old, "users", rules)?;
        for (key, before, after) in changes(&old_users, &new_users) {
            // Rule 10.9 (10.6): another user's entry is changed or removed, and was not below the sender's, reject.
            if key != self.event.sender()
                && let Some(before) = before
                && Level::Finite(before) >= level
            {
                return reject(format!(
                    "sender's power level {level} is not above the level {before} of {key}"
                ));
            }
            // Rule 10.10 (10.7): an entry is added or changed, and is above the sender's, reject.
            may_set(level, key, after)?;
        }
        // Rule 10.11 (10.8): otherwise, allow.
        Ok(())
    }

    /// Rule 11 of versions 1 and 2.
    fn redaction(&self, level: Level) -> Verdict {
        // Rule 11.1: the sender has the redact level, allow.
        let required = self.levels.for_action(Action::Redact)?;
        if level >= Level::Finite(required) {
            return Ok(());
        }
        // Rule 11.2: the ids of the redaction and of its target have the same domain, allow.
        let target = self.event.redacts().and_then(domain);
        if target.is_some() && target == domain(self.event.event_id()) {
            return Ok(());
        }
        // Rule 11.3: otherwise, reject.
        reject(format!("sender's power level {level} is below the redact level {required}"))
    }
}

fn may_set(level: Level, key: &str, value: Option<i64>) -> Verdict {
    match value {
        Some(value) if Level::Finite(value) > level => {
            reject(format!("sender's power level {level} is below the level {value} of {key}"))
        }
        _ => Ok(()),
    }
}

fn read_field(content: &Object, key: &str, rules: &AuthRules) -> Result<Option<i64>, AuthError> {
    match content.get(key) {
        None => Ok(None),
        Some(value) => match read_level(value, rules) {
            Some(level) => Ok(Some(level)),
            None => reject(format!("{key} is not an integer")),
        },
    }
}

type Entries<'a> = Vec<(&'a str, i64)>;

/// The levels of a map, sorted by key.
fn entries<'a>(content: &'a Object, map: &str, rules: &AuthRules) -> Result<Entries<'a>, AuthError> {
    match content.get(map) {
        None => Ok(Vec::new()),
        Some(Value::Object(object)) => object
            .iter()
            .map(|(key, value)| match read_level(value, rules) {
                Some(level) => Ok((key, level)),
                None => reject(format!("{map} has no integer for {key:?}")),
            })
            .collect(),
        Some(_) => reject(format!("{map} is not an object")),
    }
}

/// What differs between two maps sorted by key: the key, the value before and the value after.
fn changes<'a>(before: &Entries<'a>, after: &Entries<'a>) -> Vec<(&'a str, Option<i64>, Option<i64>)> {
    let mut found = Vec::new();
    let mut before = before.iter().copied().peekable();
    let mut after = after.iter().copied().peekable();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => old.0.cmp(new.0),
        };
        let old = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { after.next() } else { None };
        let values = (old.map(|entry| entry.1), new.map(|entry| entry.1));
        if values.0 != values.1
            && let Some((key, _)) = old.or(new)
        {
            found.push((key, values.0, values.1));
        }
    }
}

/// Whether any signature on `signed` is by any public key of an `m.room.third_party_invite`.
fn is_signed_by_offer(signed: &Object, offer: &Object) -> bool {
    let message = signed.to_bytes_without(&["signatures", "unsigned"]);
    let listed = offer.get("public_keys").and_then(Value::as_array).unwrap_or_default();
    let keys: Vec<_> = offer
        .get_str("public_key")
        .into_iter()
        .chain(listed.iter().filter_map(|item| item.as_object()?.get_str("public_key")))
        // These keys may be written in either alphabet of base64.
        .filter_map(|key| public_key(&key.replace('-', "+").replace('_', "/")).ok())
        .take(MAX_INVITE_KEYS)
        .collect();
    let signatures = signed.get_object("signatures");
    signatures
        .into_iter()
        .flat_map(Object::iter)
        .filter_map(|(_, of_server)| of_server.as_object())
        .flat_map(Object::iter)
        .filter(|(key_id, _)| key_id.starts_with("ed25519:"))
        .filter_map(|(_, signature)| signature.as_str())
        .take(MAX_INVITE_SIGNATURES)
        .any(|signature| keys.iter().any(|key| verify_bytes(&message, signature, key).is_ok()))
}
