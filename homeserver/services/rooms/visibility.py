"""The one function by which everybody who reads a room learns which of its events a user may see."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from homeserver.matrix import visibility
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import UserId
from homeserver.matrix.visibility import Moment
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.stays import last_join
from homeserver.storage import events, members, users
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.state import Pair

_VISIBILITY = ("m.room.history_visibility", "")


@dataclass(frozen=True, slots=True)
class Seen:
    """An event that the user may see, and the user's membership with it (its own effect included)."""

    stored: StoredEvent
    event: Event
    membership: str


def visible(tx: ReadTx, trees: StateTrees, version: str, user_id: UserId, stored: Sequence[StoredEvent]) -> list[Seen]:
    """Those of one room's events that the user may see, in the order given."""
    if not stored:
        return []
    own = ("m.room.member", user_id)
    roots = {root for event in stored for root in (event.state_before, event.state_after) if root is not None}
    moments = _moments(tx, trees, version, own, roots)
    member = members.find(tx, stored[0].room_nid, user_id)
    joined = 0 if member is None else last_join(tx, version, member.position)
    seen = []
    for row in stored:
        event = parse(row, version)
        after = moments[row.state_after] if row.state_after is not None else _NOTHING
        considered = [after]
        if (event.type, event.state_key) in (own, _VISIBILITY):
            considered.append(moments[row.state_before] if row.state_before is not None else _NOTHING)
        if any(visibility.may_see(moment, joined_later=joined > row.position) for moment in considered):
            seen.append(Seen(row, event, after.membership))
    return _without_erased(tx, seen)


def _without_erased(tx: ReadTx, seen: list[Seen]) -> list[Seen]:
    """The events as they are for somebody who was not there: those of users who are erased are redacted."""
    senders = {UserId(one.event.sender) for one in seen if one.membership != "join"}
    erased = users.find_erased(tx, senders) if senders else set()
    return [
        replace(one, event=one.event.redacted())
        if one.membership != "join" and UserId(one.event.sender) in erased
        else one
        for one in seen
    ]


_NOTHING = Moment(visibility.SHARED, "leave")


def _moments(tx: ReadTx, trees: StateTrees, version: str, own: Pair, roots: Iterable[int]) -> dict[int, Moment]:
    found = {root: trees.find(tx, root, (own, _VISIBILITY)) for root in roots}
    stored = events.find_many(tx, {position for positions in found.values() for position in positions.values()})
    parsed = {position: parse(row, version) for position, row in stored.items()}

    def moment(positions: dict[Pair, int]) -> Moment:
        member, rule = positions.get(own), positions.get(_VISIBILITY)
        return Moment(
            visibility.history_visibility(None if rule is None else parsed[rule].content.get("history_visibility")),
            "leave" if member is None else parsed[member].membership or "leave",
        )

    return {root: moment(positions) for root, positions in found.items()}
