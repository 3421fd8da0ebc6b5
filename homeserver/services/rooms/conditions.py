"""Who comes into a restricted room by being in another one (client-server API, Restricted rooms; rooms v8).

A condition is looked at when somebody joins, and never again. The join then names a member of this server who could
have sent an invite, and this server signs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.errors import Forbidden, Unsupported
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.rooms.author import Drafts
from homeserver.services.rooms.power import may_act
from homeserver.services.rooms.send import is_local
from homeserver.storage import members, partial_rooms, rooms
from homeserver.storage.engine import ReadTx

AUTHORISED = "join_authorised_via_users_server"
_RESTRICTED = ("restricted", "knock_restricted")


class CannotAdmit(Unsupported):
    """This server cannot let the user in, another one may be able to (`M_UNABLE_TO_AUTHORISE_JOIN`, …)."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a user is, as far as that could let them into a room."""

    joined: frozenset[RoomId]
    """Those of the rooms that the user is in."""
    known: frozenset[RoomId]
    """Those of the rooms of which this server knows who is in them."""


def allowed_rooms(join_rules: Mapping[str, Any]) -> list[RoomId]:
    """The rooms whose members a restricted join rule lets in."""
    allow = join_rules.get("allow")
    if join_rules.get("join_rule") not in _RESTRICTED or not isinstance(allow, list):
        return []
    return [
        RoomId(entry["room_id"])
        for entry in allow
        if isinstance(entry, dict)
        and entry.get("type") == "m.room_membership"
        and isinstance(entry.get("room_id"), str)
        and "\0" not in entry["room_id"]
    ]


def find_whereabouts(tx: ReadTx, user_id: UserId, allowed: list[RoomId], server_name: str) -> Whereabouts:
    """Which of these rooms the user is in."""
    if not allowed:
        return Whereabouts(frozenset(), frozenset())
    by_nid = {room.room_nid: room_id for room_id, room in rooms.find_many_by_id(tx, allowed).items()}
    inhabited = members.find_rooms_of_server(tx, by_nid, server_name, ["join"])
    # Of a room that is known in part, somebody may be a member who is not known.
    whole = inhabited - partial_rooms.find_many(tx, inhabited).keys()
    joined = {member.room_nid for member in members.list_of_user(tx, user_id, ["join"])}
    # What was known of a room when this server left it is not known any more.
    return Whereabouts(frozenset(by_nid[nid] for nid in joined & inhabited), frozenset(by_nid[nid] for nid in whole))


def is_restricted(drafts: Drafts) -> bool:
    """Whether there are conditions by which one can come into the room."""
    rules = drafts.state("m.room.join_rules")
    return rules is not None and rules.content.get("join_rule") in _RESTRICTED and drafts.room.version.restricted


def authoriser_of(drafts: Drafts, user_id: UserId, whereabouts: Whereabouts, server_name: str) -> UserId | None:
    """Who of this server lets the user in by a condition; None if the join needs nobody for that.

    Raises `Forbidden` if the user meets no condition, `CannotAdmit` if that cannot be said here, or if nobody here may
    let anybody in (server-server API, Restricted rooms).
    """
    rules = drafts.state("m.room.join_rules")
    if rules is None or not is_restricted(drafts) or drafts.room.membership_of(user_id) in ("invite", "join", "ban"):
        return None
    allowed = frozenset(allowed_rooms(rules.content))
    if allowed.isdisjoint(whereabouts.joined):
        if allowed <= whereabouts.known:
            raise Forbidden("You are in none of the rooms whose members may join this one.")
        raise CannotAdmit("M_UNABLE_TO_AUTHORISE_JOIN", "This server does not know the rooms that let you in.")
    power_levels, create = drafts.state("m.room.power_levels"), drafts.state("m.room.create")
    assert create is not None
    for member_id in drafts.room.joined:
        if is_local(member_id, server_name) and may_act(member_id, "invite", power_levels, create):
            return member_id
    raise CannotAdmit("M_UNABLE_TO_GRANT_JOIN", "Nobody on this server may let new members into the room.")
