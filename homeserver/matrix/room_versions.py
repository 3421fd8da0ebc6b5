"""Room versions as data: each version is the one before with named changes.

The rules themselves are in Rust, with a table of their own; here is what the rest of the server asks for.
A version is an opaque name without order: never compare versions, ask for a fact.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomVersion:
    """The facts about one room version."""

    identifier: str
    event_ids_in_pdu: bool
    """The sender's server chooses event ids; they travel in the event."""
    event_id_format: Literal["opaque", "hash", "url_safe_hash"]
    references_are_pairs: bool
    """``prev_events`` and ``auth_events`` hold pairs of an id and its hashes."""
    room_ids_are_hashes: bool
    """The room id is the create event's id with ``!`` for ``$``; the create event has no ``room_id``."""
    strict_canonical_json: bool
    max_depth: int
    redaction_set: Literal["R1", "R6", "R8", "R9", "R11"]
    redacts_in_content: bool
    """``redacts`` of a redaction is in its content rather than at the top level."""
    redaction_by_auth_rule: bool
    """Who may redact is decided by the authorisation rules; otherwise when the redaction is applied."""
    auth_rules: Literal["A1", "A3", "A6", "A7", "A8", "A10", "A11", "A12"]
    state_resolution: Literal["1", "2", "2.1"]
    event_id_domain_signs: bool
    """Events need a signature of the domain in their event id, too."""
    signing_key_validity_enforced: bool
    integer_power_levels: bool
    """Power levels must be integers; before, strings that hold integers pass."""
    notifications_guarded: bool
    """The authorisation rules guard ``notifications`` of power levels."""
    aliases_by_auth_rule: bool
    """``m.room.aliases`` has an authorisation rule of its own."""
    knock: bool
    restricted: bool
    knock_restricted: bool
    creator_in_content: bool
    """The create event names the creator in ``content.creator``; otherwise it is the sender."""
    creators_have_infinite_power: bool
    """The sender of the create event and its ``additional_creators`` stand above every power level."""
    create_in_auth_events: bool
    """The create event is among the ``auth_events`` of the others."""


_V1 = RoomVersion(
    identifier="1",
    event_ids_in_pdu=True,
    event_id_format="opaque",
    references_are_pairs=True,
    room_ids_are_hashes=False,
    strict_canonical_json=False,
    max_depth=2**63 - 1,
    redaction_set="R1",
    redacts_in_content=False,
    redaction_by_auth_rule=True,
    auth_rules="A1",
    state_resolution="1",
    event_id_domain_signs=True,
    signing_key_validity_enforced=False,
    integer_power_levels=False,
    notifications_guarded=False,
    aliases_by_auth_rule=True,
    knock=False,
    restricted=False,
    knock_restricted=False,
    creator_in_content=True,
    creators_have_infinite_power=False,
    create_in_auth_events=True,
)
_V2 = replace(_V1, identifier="2", state_resolution="2")
_V3 = replace(
    _V2,
    identifier="3",
    event_ids_in_pdu=False,
    event_id_format="hash",
    references_are_pairs=False,
    redaction_by_auth_rule=False,
    auth_rules="A3",
    event_id_domain_signs=False,
)
_V4 = replace(_V3, identifier="4", event_id_format="url_safe_hash")
_V5 = replace(_V4, identifier="5", signing_key_validity_enforced=True)
_V6 = replace(
    _V5,
    identifier="6",
    strict_canonical_json=True,
    max_depth=2**53 - 1,
    redaction_set="R6",
    auth_rules="A6",
    notifications_guarded=True,
    aliases_by_auth_rule=False,
)
_V7 = replace(_V6, identifier="7", auth_rules="A7", knock=True)
_V8 = replace(_V7, identifier="8", redaction_set="R8", auth_rules="A8", restricted=True)
_V9 = replace(_V8, identifier="9", redaction_set="R9")
_V10 = replace(_V9, identifier="10", auth_rules="A10", integer_power_levels=True, knock_restricted=True)
_V11 = replace(
    _V10,
    identifier="11",
    redaction_set="R11",
    redacts_in_content=True,
    auth_rules="A11",
    creator_in_content=False,
)
_V12 = replace(
    _V11,
    identifier="12",
    room_ids_are_hashes=True,
    auth_rules="A12",
    state_resolution="2.1",
    creators_have_infinite_power=True,
    create_in_auth_events=False,
)

ROOM_VERSIONS: dict[str, RoomVersion] = {
    version.identifier: version for version in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)
}
"""All room versions, by name. All of them are stable."""

DEFAULT_ROOM_VERSION = "12"
"""The version of new rooms, unless the client or the administrator asks for another one."""
