"""What a server tells of a room to whoever joins it: the first checks on it, and what it comes to.

Servers that do not tell their keys are not waited for long: what they signed is left out. But for that without which
the room cannot be used, or would be used otherwise than it wants, they are.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from homeserver.errors import BadAnswer
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.room_versions import RoomVersion
from homeserver.services.rooms.checks import Checks, Unfit
from homeserver.storage.state import Pair

CREATE: Pair = ("m.room.create", "")
MEMBER = "m.room.member"
_NEEDED = {
    "m.room.create",  # Since room version 12 no event cites it.
    "m.room.encryption",
    "m.room.history_visibility",
    "m.room.policy",
    "m.room.server_acl",
}
"""State without which there is no room, or people of this server would say what they do not want to, or hear whom they
should not."""
_PATIENCE_S = 1.0
"""So long servers may take to tell their keys before the room is used without what they have signed."""
_INSISTENCE_S = 60.0
"""So long they may take where that is no choice."""
_MOST_INSISTED = 200


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """What a server said about a room, as far as it passes the first checks."""

    join: Event
    create: Event
    state: Mapping[Pair, EventId]
    members: Mapping[EventId, tuple[str, UserId]]
    """Of the member events of the state: what they make of the user, and their sender."""
    events: Mapping[EventId, Event]
    unproven: Collection[EventId]
    """What was named as state besides members, and left out because its signers did not tell their keys in time."""
    servers: Collection[ServerName] | None
    """The servers in the room, where anything was left out for that reason."""


class JoinAnswers:
    """Verifies answers."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    async def verify(
        self,
        room_id: RoomId,
        version: RoomVersion,
        pdu: bytes,
        state: Sequence[bytes],
        auth_chain: Sequence[bytes],
    ) -> JoinAnswer:
        """The answer, if it can be used. What cannot be proven soon is left out of it. Raises `BadAnswer`."""
        distinct = list(dict.fromkeys([pdu, *state, *auth_chain]))
        checked = await self._checks.check(room_id, version, distinct, is_old=True, patience_s=_PATIENCE_S)
        outcomes = dict(zip(distinct, checked, strict=True))
        try:
            async with asyncio.timeout(_INSISTENCE_S):
                while insisted := _unproven_but_needed(pdu, state, outcomes):
                    # Without these one cannot come in, or would not do as the room wants: they are worth some time.
                    if len(insisted) > _MOST_INSISTED:
                        raise BadAnswer("Too much of what the join rests on is signed by keys that cannot be had.")
                    checked = await self._checks.check(room_id, version, insisted, is_old=True)
                    outcomes |= zip(insisted, map(_final, checked), strict=True)
        except TimeoutError:
            raise BadAnswer("What the join rests on is signed by keys that were not to be had in time.") from None
        join = outcomes[pdu]
        if isinstance(join, Unfit):
            raise BadAnswer(f"The join event cannot be used: {join.reason}")
        if join.type != MEMBER or join.membership != "join" or join.state_key != join.sender:
            raise BadAnswer("The event is not that of somebody who joins.")
        return await asyncio.to_thread(_sort, version, join, [outcomes[one] for one in state], outcomes.values())


def _unproven_but_needed(join: bytes, state: Sequence[bytes], outcomes: Mapping[bytes, Event | Unfit]) -> list[bytes]:
    """Those events whose keys were not to be had yet without which the room cannot be used."""
    found: dict[str, tuple[bytes, Event, bool]] = {}
    for pdu, one in outcomes.items():
        event = one.unproven if isinstance(one, Unfit) else one
        if event is not None:
            found[event.event_id] = pdu, event, isinstance(one, Unfit)
    # An old one in the auth chain protects nobody, nor does one with a state key that means nothing.
    current = set(state)
    rest = [
        event_id
        for event_id, (pdu, event, _) in found.items()
        if pdu == join or (pdu in current and event.type in _NEEDED and event.state_key == "")
    ]
    needed = set(rest)
    while rest:
        cited = {one for one in found[rest.pop()][1].auth_events if one in found} - needed
        rest.extend(cited)
        needed |= cited
    return [pdu for event_id, (pdu, _, is_unproven) in found.items() if is_unproven and event_id in needed]


def _final(one: Event | Unfit) -> Event | Unfit:
    return replace(one, unproven=None) if isinstance(one, Unfit) else one


def _sort(
    version: RoomVersion, join: Event, state: Collection[Event | Unfit], everything: Collection[Event | Unfit]
) -> JoinAnswer:
    """The answer by what its events are. Raises `BadAnswer`."""
    pairs: dict[Pair, EventId] = {}
    members: dict[EventId, tuple[str, UserId]] = {}
    found = {EventId(one.event_id): one for one in everything if not isinstance(one, Unfit)}
    found.pop(EventId(join.event_id))
    for event in state:
        if isinstance(event, Unfit) or event.event_id == join.event_id:
            continue
        if event.state_key is None:
            raise BadAnswer("The state of the room has an event that is not state.")
        event_id = EventId(event.event_id)
        if pairs.setdefault((event.type, event.state_key), event_id) != event_id:
            raise BadAnswer("The state of the room has two events in one place.")
        if event.type == MEMBER:
            members[event_id] = (event.membership or "leave", UserId(event.sender))
    create = found.get(pairs.get(CREATE, EventId("")))
    if create is None:
        raise BadAnswer("The state of the room has no event that created it.")
    if create.content.get("room_version", "1") != version.identifier:
        raise BadAnswer("The room is of another version than it was said to be.")
    is_lacking = any(isinstance(one, Unfit) and one.unproven is not None for one in everything)
    unproven = [
        EventId(one.unproven.event_id)
        for one in state
        if isinstance(one, Unfit) and one.unproven is not None and _is_more_than_a_member(one.unproven)
    ]
    return JoinAnswer(join, create, pairs, members, found, unproven, _servers_in(state) if is_lacking else None)


def _is_more_than_a_member(event: Event) -> bool:
    return event.state_key is not None and event.type != MEMBER


def _servers_in(state: Iterable[Event | Unfit]) -> set[ServerName]:
    """The servers of those who are in the room by this state, proven or not."""
    found = (one.unproven if isinstance(one, Unfit) else one for one in state)
    return {
        ServerName(domain_of(one.state_key))
        for one in found
        if one is not None and one.type == MEMBER and one.membership == "join" and one.state_key
    }
