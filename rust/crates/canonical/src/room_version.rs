//! What differs between room versions, as data: each version is the one before with named changes.

use crate::parse::{MAX_INT, Numbers};

/// How an event id comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdFormat {
    /// Chosen by the sender's server and part of the event: `$opaque:domain`.
    InEvent,
    /// `$` and the reference hash in standard base64.
    Hash,
    /// `$` and the reference hash in URL-safe base64.
    UrlSafeHash,
}

/// Which algorithm merges states that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateResolution {
    /// By type, depth and the hash of event ids.
    V1,
    /// Power events first, the rest along the mainline.
    V2,
    /// As version 2, but from an empty state and with the conflicted state subgraph.
    V2_1,
}

/// Which keys survive a redaction.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each flag is one independent difference between redaction sets"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedactionRules {
    /// `origin`, `membership` and `prev_state` stay at the top level.
    pub keeps_obsolete_keys: bool,
    /// `m.room.aliases` keeps `aliases`.
    pub keeps_aliases: bool,
    /// `m.room.join_rules` keeps `allow`.
    pub keeps_allow: bool,
    /// `m.room.member` keeps `join_authorised_via_users_server`.
    pub keeps_authorising_user: bool,
    /// `m.room.create` keeps everything, `m.room.power_levels` keeps `invite`, `m.room.redaction` keeps
    /// `redacts`, `m.room.member` keeps `third_party_invite.signed`.
    pub keeps_v11_content: bool,
}

/// What the authorisation rules of a version consist of.
#[allow(clippy::struct_excessive_bools, reason = "each flag is one independent difference between rule sets")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthRules {
    /// `m.room.aliases` has a rule of its own.
    pub aliases_rule: bool,
    /// Who may redact is an authorisation rule.
    pub redaction_rule: bool,
    /// `notifications` of power levels is guarded.
    pub guards_notifications: bool,
    /// The membership and the join rule `knock` exist.
    pub knock: bool,
    /// The join rule `restricted` exists.
    pub restricted: bool,
    /// The join rule `knock_restricted` exists.
    pub knock_restricted: bool,
    /// Power levels may be strings that hold integers.
    pub string_power_levels: bool,
    /// Power levels may be numbers with a fraction or an exponent.
    pub float_power_levels: bool,
    /// All values of power levels are checked to be integers, by rule.
    pub checks_integer_levels: bool,
    /// The creator is named by `content.creator` rather than by the create event's sender.
    pub creator_in_content: bool,
    /// Creators stand above every power level, and there may be more than one.
    pub infinite_creators: bool,
    /// The create event is among the `auth_events` of the others.
    pub create_in_auth_events: bool,
}

/// A room version.
#[allow(clippy::struct_excessive_bools, reason = "each flag is one independent difference between versions")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomVersion {
    /// Its name, opaque and without order.
    pub identifier: &'static str,
    /// How event ids come about.
    pub event_id_format: EventIdFormat,
    /// `prev_events` and `auth_events` hold pairs of an id and its hashes.
    pub references_are_pairs: bool,
    /// The room id is the id of the create event, which has no `room_id` itself.
    pub room_id_is_create_hash: bool,
    /// Which numbers events may contain.
    pub numbers: Numbers,
    /// The largest `depth`.
    pub max_depth: i64,
    /// `redacts` belongs into the content of `m.room.redaction`.
    pub redacts_in_content: bool,
    /// Which algorithm merges states that differ.
    pub state_resolution: StateResolution,
    /// Which keys survive a redaction.
    pub redaction: RedactionRules,
    /// The authorisation rules.
    pub auth: AuthRules,
}

const V1: RoomVersion = RoomVersion {
    identifier: "1",
    event_id_format: EventIdFormat::InEvent,
    references_are_pairs: true,
    room_id_is_create_hash: false,
    numbers: Numbers::Lenient,
    max_depth: i64::MAX,
    redacts_in_content: false,
    state_resolution: StateResolution::V1,
    redaction: RedactionRules {
        keeps_obsolete_keys: true,
        keeps_aliases: true,
        keeps_allow: false,
        keeps_authorising_user: false,
        keeps_v11_content: false,
    },
    auth: AuthRules {
        aliases_rule: true,
        redaction_rule: true,
        guards_notifications: false,
        knock: false,
        restricted: false,
        knock_restricted: false,
        string_power_levels: true,
        float_power_levels: true,
        checks_integer_levels: false,
        creator_in_content: true,
        infinite_creators: false,
        create_in_auth_events: true,
    },
};

// State resolution is all that changed.
const V2: RoomVersion = RoomVersion { identifier: "2", state_resolution: StateResolution::V2, ..V1 };

const V3: RoomVersion = RoomVersion {
    identifier: "3",
    event_id_format: EventIdFormat::Hash,
    references_are_pairs: false,
    auth: AuthRules { redaction_rule: false, ..V2.auth },
    ..V2
};

const V4: RoomVersion = RoomVersion { identifier: "4", event_id_format: EventIdFormat::UrlSafeHash, ..V3 };

// The validity of signing keys is all that changed.
const V5: RoomVersion = RoomVersion { identifier: "5", ..V4 };

const V6: RoomVersion = RoomVersion {
    identifier: "6",
    numbers: Numbers::Strict,
    max_depth: MAX_INT,
    redaction: RedactionRules { keeps_aliases: false, ..V5.redaction },
    auth: AuthRules { aliases_rule: false, guards_notifications: true, float_power_levels: false, ..V5.auth },
    ..V5
};

const V7: RoomVersion = RoomVersion { identifier: "7", auth: AuthRules { knock: true, ..V6.auth }, ..V6 };

const V8: RoomVersion = RoomVersion {
    identifier: "8",
    redaction: RedactionRules { keeps_allow: true, ..V7.redaction },
    auth: AuthRules { restricted: true, ..V7.auth },
    ..V7
};

const V9: RoomVersion = RoomVersion {
    identifier: "9",
    redaction: RedactionRules { keeps_authorising_user: true, ..V8.redaction },
    ..V8
};

const V10: RoomVersion = RoomVersion {
    identifier: "10",
    auth: AuthRules {
        knock_restricted: true,
        string_power_levels: false,
        checks_integer_levels: true,
        ..V9.auth
    },
    ..V9
};

const V11: RoomVersion = RoomVersion {
    identifier: "11",
    redacts_in_content: true,
    redaction: RedactionRules { keeps_obsolete_keys: false, keeps_v11_content: true, ..V10.redaction },
    auth: AuthRules { creator_in_content: false, ..V10.auth },
    ..V10
};

const V12: RoomVersion = RoomVersion {
    identifier: "12",
    room_id_is_create_hash: true,
    state_resolution: StateResolution::V2_1,
    auth: AuthRules { infinite_creators: true, create_in_auth_events: false, ..V11.auth },
    ..V11
};

/// All room versions there are.
pub static ROOM_VERSIONS: [RoomVersion; 12] = [V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12];

impl RoomVersion {
    /// The version of this name.
    pub fn find(identifier: &str) -> Option<&'static Self> {
        ROOM_VERSIONS.iter().find(|version| version.identifier == identifier)
    }
}
