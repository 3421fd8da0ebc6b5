"""What other servers read of rooms: events, state, and what these rest on (server-server API, Retrieving events).

A server reads rooms that it is in and is not kept out of. An unknown room is like one that it is not in, and an event
of another room like one that is not known.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice

from homeserver.errors import Forbidden, NotFound
from homeserver.kit.concurrency import SingleFlight
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.rooms.auth_chain import auth_chain
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import OnlookingServer
from homeserver.storage import events, partial_rooms, rooms, timelines
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.rooms import Room

_BATCH = 1000
_NEAREST = (100, 1000)
_NOT_IN_ROOM = "Your server is not in this room."
_NO_EVENT = "There is no such event, or your server may not see it."


@dataclass(frozen=True, slots=True)
class StateBefore:
    """The state before an event and its auth chain, by the positions of their events."""

    state: Sequence[int]
    auth_chain: Sequence[int]


class RoomReads:
    """Reads rooms for other servers. All raise `Forbidden` where a room is not theirs, `NotFound` for events."""

    def __init__(self, database: Database, trees: StateTrees, acls: ServerAcls) -> None:
        self._database = database
        self._trees = trees
        self._acls = acls
        self._states: SingleFlight[tuple[RoomId, EventId], StateBefore] = SingleFlight()

    async def event(self, origin: Origin, event_id: EventId) -> bytes:
        """An event of whatever room, redacted where nobody of the server may see it. Raises `NotFound` only."""
        room = await self._database.read(_room_of, event_id)
        if room is None:
            raise NotFound(_NO_EVENT)
        try:
            await self._acls.check(room.room_id, origin)
        except Forbidden:
            raise NotFound(_NO_EVENT) from None
        return await self._database.snapshot(self._event, origin, room.room_id, event_id)

    async def state_before(self, origin: Origin, room_id: RoomId, event_id: EventId) -> StateBefore:
        """The state before an event."""
        await self.admit(origin, room_id)
        # The servers of a room mostly ask for the same, at the same time.
        return await self._states.run(
            (room_id, event_id), lambda: self._database.snapshot(self._state_before, room_id, event_id)
        )

    async def auth_chain(self, origin: Origin, room_id: RoomId, event_id: EventId) -> list[int]:
        """The auth chain of an event, by the positions of its events."""
        await self.admit(origin, room_id)
        return await self._database.snapshot(self._auth_chain, room_id, event_id)

    async def at_time(self, origin: Origin, room_id: RoomId, ts: int, *, forwards: bool) -> tuple[EventId, int]:
        """The event nearest to a time on one side of it, and its own time."""
        await self.admit(origin, room_id)
        found = await self._database.snapshot(self._at_time, origin, room_id, ts, forwards)
        return found.event_id, found.origin_server_ts

    async def ids(self, positions: Sequence[int]) -> list[EventId]:
        """The ids of events, in the order of their positions."""
        found = await self._database.read(events.find_ids, positions)
        return [found[at] for at in positions if at in found]

    async def pdus(self, positions: Sequence[int]) -> AsyncIterator[list[bytes]]:
        """The federation format of events, some at a time, so that nobody holds the state of a large room."""
        rest = iter(positions)
        while batch := list(islice(rest, _BATCH)):
            found = await self._database.read(events.find_pdus, batch)
            yield [found[at] for at in batch if at in found]

    async def admit(self, origin: Origin, room_id: RoomId) -> None:
        """Raise `Forbidden` unless the server is in the room and the room lets it take part."""
        try:
            await self._acls.check(room_id, origin)
        except NotFound:
            raise Forbidden(_NOT_IN_ROOM) from None
        if not await self._database.snapshot(self._is_in, origin, room_id):
            raise Forbidden(_NOT_IN_ROOM)

    def _is_in(self, tx: ReadTx, origin: Origin, room_id: RoomId) -> bool:
        room = rooms.find(tx, room_id)
        return room is not None and OnlookingServer(tx, self._trees, room, origin).is_in_room

    def _event(self, tx: ReadTx, origin: Origin, room_id: RoomId, event_id: EventId) -> bytes:
        room, row = _find(tx, room_id, event_id)
        shown = OnlookingServer(tx, self._trees, room, origin).shown([row])
        if not shown:
            raise NotFound(_NO_EVENT)
        return shown[0].pdu

    def _state_before(self, tx: ReadTx, room_id: RoomId, event_id: EventId) -> StateBefore:
        room, row = _find(tx, room_id, event_id)
        if row.state_before is None and row.state_after is None:
            raise NotFound(_NO_EVENT)
        if partial_rooms.find_many(tx, [room.room_nid]):
            raise NotFound("This server does not know the state there yet.")
        positions = self._trees.positions(tx, row.state_before)
        return StateBefore(positions, auth_chain(tx, room, positions))

    def _auth_chain(self, tx: ReadTx, room_id: RoomId, event_id: EventId) -> list[int]:
        room, row = _find(tx, room_id, event_id)
        return auth_chain(tx, room, [row.position])

    def _at_time(self, tx: ReadTx, origin: Origin, room_id: RoomId, ts: int, forwards: bool) -> StoredEvent:
        room = rooms.find(tx, room_id)
        if room is None:
            raise Forbidden(_NOT_IN_ROOM)
        eye = OnlookingServer(tx, self._trees, room, origin)
        for limit in _NEAREST:
            rows = timelines.list_by_time(tx, room.room_nid, ts=ts, forwards=forwards, limit=limit)
            whole = [one.stored for one in eye.shown(rows) if one.is_whole]
            if whole:
                return whole[0]
            if len(rows) < limit:
                break
        raise NotFound("There is no event on that side of the time.")


def _room_of(tx: ReadTx, event_id: EventId) -> Room | None:
    row = events.find_many_by_id(tx, [event_id]).get(event_id)
    return None if row is None else rooms.find_many(tx, [row.room_nid]).get(row.room_nid)


def _find(tx: ReadTx, room_id: RoomId, event_id: EventId) -> tuple[Room, StoredEvent]:
    """An event that was not rejected, and its room. Raises `NotFound`."""
    room = rooms.find(tx, room_id)
    row = None if room is None else events.find_by_id(tx, room.room_nid, event_id)
    if room is None or row is None or row.status == events.REJECTED:
        raise NotFound(_NO_EVENT)
    return room, row
