"""The first checks on events that were made elsewhere: format, signatures, hash.

(server-server API, Checks performed on receipt of a PDU.) What passes is still to be authorised. Large deliveries are
gone through in groups, several at a time and in threads, so that everybody else has a turn meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.matrix.events import Event, receive_events
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.matrix.room_versions import RoomVersion
from homeserver.services.rooms.signatures import Doubt, Signatures
from homeserver.storage.server_keys import KeyName

MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10
_FEW = 20
"""So many events are parsed at once; more of them in a thread."""
_SMALL = 200_000
"""Deliveries of more bytes are parsed in a thread."""
_GROUP = 250
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Unfit:
    """What is no event of the room, or is not signed; the id is missing where it cannot be told."""

    event_id: EventId | None
    reason: str
    unproven: Event | None = None
    """The event, where nothing is known to be wrong but that a key is missing by which it may be proven later."""


class Checks:
    """Makes the first checks."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures

    async def check(
        self,
        room_id: RoomId,
        version: RoomVersion,
        pdus: Sequence[bytes],
        *,
        is_old: bool = False,
        patience_s: float | None = None,
    ) -> list[Event | Unfit]:
        """Each as an event that may be used, or what is wrong with it; in the order given.

        `is_old` is for what was accepted long ago, when an event could name more events before it. With `patience_s`,
        servers that take longer to tell their keys are not waited for.
        """
        if len(pdus) <= _GROUP:
            return await self._check(room_id, version, pdus, is_old, patience_s)
        groups = [pdus[first : first + _GROUP] for first in range(0, len(pdus), _GROUP)]
        turns = asyncio.Semaphore(_AT_ONCE)

        async def check(group: Sequence[bytes]) -> list[Event | Unfit]:
            async with turns:
                return await self._check(room_id, version, group, is_old, patience_s)

        async with asyncio.TaskGroup() as tasks:
            checking = [tasks.create_task(check(group)) for group in groups]
        return [one for task in checking for one in task.result()]

    async def check_quickly(
        self, coming: Sequence[tuple[RoomId, RoomVersion, Sequence[bytes]]]
    ) -> list[list[Event | Unfit] | None]:
        """The same for small deliveries to several rooms; None for those whose signers have to be asked for keys."""
        size = sum(len(pdu) for _, _, pdus in coming for pdu in pdus)
        received = _receive(coming) if size <= _SMALL else await asyncio.to_thread(_receive, coming)
        judged = [
            [_judge(one, room_id, False) for one in some]
            for (room_id, _, _), some in zip(coming, received, strict=True)
        ]
        found = [[event for event, _ in some if isinstance(event, Event)] for some in judged]
        quick = [self._signatures.is_quick(some) for some in found]
        checked = [event for some, is_quick in zip(found, quick, strict=True) if is_quick for event in some]
        wrong = dict(zip(map(id, checked), await self._signatures.check(checked), strict=True))
        return [
            [_outcome(event, matches, wrong.get(id(event))) for event, matches in some] if is_quick else None
            for some, is_quick in zip(judged, quick, strict=True)
        ]

    async def keys_lacking(self, room_id: RoomId, version: RoomVersion, pdus: Sequence[bytes]) -> Mapping[KeyName, int]:
        """The keys that are needed, if not all of them are at hand, with the times at which they must be good."""
        judged = await self._judge_all(room_id, version, pdus, False)
        return await self._signatures.keys_lacking([event for event, _ in judged if isinstance(event, Event)])

    async def ask_for_keys(self, keys: Mapping[KeyName, int]) -> None:
        """Ask for keys, and wait until they are there or cannot be had."""
        await self._signatures.ask_for_keys(keys)

    async def _check(
        self, room_id: RoomId, version: RoomVersion, pdus: Sequence[bytes], is_old: bool, patience_s: float | None
    ) -> list[Event | Unfit]:
        judged = await self._judge_all(room_id, version, pdus, is_old)
        found = [event for event, _ in judged if isinstance(event, Event)]
        doubts = await self._signatures.check(found, patience_s=patience_s)
        wrong = dict(zip(map(id, found), doubts, strict=True))
        return [_outcome(event, matches, wrong.get(id(event))) for event, matches in judged]

    async def _judge_all(
        self, room_id: RoomId, version: RoomVersion, pdus: Sequence[bytes], is_old: bool
    ) -> list[tuple[Event | Unfit, bool]]:
        if len(pdus) <= _FEW:
            received = receive_events(list(pdus), version.identifier)
        else:
            received = await asyncio.to_thread(receive_events, list(pdus), version.identifier)
        return [_judge(one, room_id, is_old) for one in received]


def _receive(
    coming: Sequence[tuple[RoomId, RoomVersion, Sequence[bytes]]],
) -> list[list[tuple[Event, bool] | str]]:
    return [receive_events(list(pdus), version.identifier) for _, version, pdus in coming]


def _judge(received: tuple[Event, bool] | str, room_id: RoomId, is_old: bool) -> tuple[Event | Unfit, bool]:
    """Check 1: the event is one, of this room, and within the limits."""
    if isinstance(received, str):
        return Unfit(None, received), False
    event, matches = received
    event_id = EventId(event.event_id)
    if event.room_id != room_id:
        return Unfit(event_id, "The event is of another room."), False
    if not is_old and (len(event.prev_events) > MAX_PREV_EVENTS or len(event.auth_events) > MAX_AUTH_EVENTS):
        return Unfit(event_id, "The event names too many events before it."), False
    if any("\0" in text for text in (event_id, event.sender, event.type, event.state_key or "", event.redacts or "")):
        return Unfit(event_id, "The event has a NUL where none can be."), False
    if not event.prev_events and event.type != "m.room.create":
        return Unfit(event_id, "The event names no event before it."), False
    return event, matches


def _outcome(event: Event | Unfit, matches: bool, doubt: Doubt | None) -> Event | Unfit:
    """Checks 2 and 3: an event must be signed; of one that is not as it was hashed, only the rest may be used."""
    if isinstance(event, Unfit):
        return event
    usable = event if matches else event.redacted()
    if doubt is None:
        return usable
    return Unfit(EventId(event.event_id), doubt.reason, None if doubt.is_wrong else usable)
