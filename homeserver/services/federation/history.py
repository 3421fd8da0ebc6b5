"""The history of rooms, for other servers (server-server API, Backfilling and retrieving missing events).

Both walks go from events back to those before them. What was rejected is passed through, and not given; what
soft-failed is met only where something that was asked for, or that follows from it, refers to it.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from homeserver.errors import Forbidden
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.federation.room_reads import RoomReads
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import OnlookingServer
from homeserver.storage import events, rooms, timelines
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.rooms import Room

MOST = 100
_MOST_ASKED = 100
_MOST_MET = 1000
"""So many events are looked at for an answer, at most."""
_AHEAD = 200
_READS = 20


class History:
    """Gives other servers what came before events."""

    def __init__(self, database: Database, trees: StateTrees, reads: RoomReads) -> None:
        self._database = database
        self._trees = trees
        self._reads = reads

    async def backfill(self, origin: Origin, room_id: RoomId, asked: Sequence[EventId], *, limit: int) -> list[bytes]:
        """These events and those before them, the deepest first. Raises `Forbidden`."""
        await self._reads.admit(origin, room_id)
        return await self._database.snapshot(self._backfill, origin, room_id, asked[:_MOST_ASKED], min(limit, MOST))

    async def missing(
        self,
        origin: Origin,
        room_id: RoomId,
        *,
        earliest: Collection[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int,
    ) -> list[bytes]:
        """What lies before the latest events and not before the earliest, the shallowest first. Raises `Forbidden`."""
        await self._reads.admit(origin, room_id)
        return await self._database.snapshot(
            self._missing, origin, room_id, frozenset(earliest), latest[:_MOST_ASKED], min(limit, MOST), min_depth
        )

    def _backfill(
        self, tx: ReadTx, origin: Origin, room_id: RoomId, asked: Sequence[EventId], limit: int
    ) -> list[bytes]:
        room = _find(tx, room_id)
        walk = _Walk(tx, room)
        met = set(asked)
        heap = [(-row.depth, -row.timeline_place, row) for row in walk.find(asked)]
        heapq.heapify(heap)
        found: list[StoredEvent] = []
        while heap and len(found) < limit and len(met) < _MOST_MET:
            row = heapq.heappop(heap)[2]
            if row.status != events.REJECTED:
                found.append(row)
            before = [one for one in walk.before(row) if one not in met]
            met.update(before)
            for one in walk.find(before):
                heapq.heappush(heap, (-one.depth, -one.timeline_place, one))
        return self._shown(tx, room, origin, found)

    def _missing(
        self,
        tx: ReadTx,
        origin: Origin,
        room_id: RoomId,
        earliest: frozenset[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int,
    ) -> list[bytes]:
        room = _find(tx, room_id)
        walk = _Walk(tx, room)
        met = {*latest, *earliest}
        coming = deque(walk.find(one for one in dict.fromkeys(latest) if one not in earliest))
        found: list[StoredEvent] = []
        while coming and len(found) < limit and len(met) < _MOST_MET:
            before = [one for one in walk.before(coming.popleft()) if one not in met]
            met.update(before)
            for row in walk.find(before):
                if row.depth >= min_depth and len(found) < limit:
                    coming.append(row)
                    if row.status != events.REJECTED:
                        found.append(row)
        # What follows another is given behind it, so that it can be taken as it comes.
        found.sort(key=lambda row: (row.depth, row.timeline_place))
        return self._shown(tx, room, origin, found)

    def _shown(self, tx: ReadTx, room: Room, origin: Origin, found: Sequence[StoredEvent]) -> list[bytes]:
        return [one.pdu for one in OnlookingServer(tx, self._trees, room, origin).shown(found)]


class _Walk:
    """Goes through a room's events from each to those before it. Mostly these stand right before it."""

    def __init__(self, tx: ReadTx, room: Room) -> None:
        self._tx = tx
        self._room = room
        self._rows: dict[EventId, StoredEvent] = {}
        self._read = 0
        self._reads = 0

    def find(self, event_ids: Iterable[EventId]) -> list[StoredEvent]:
        """Those of the events that are in the room's graph, in the order given."""
        wanted = list(event_ids)
        unread = [one for one in wanted if one not in self._rows]
        if unread:
            new = [row for row in events.find_many_by_id(self._tx, unread).values() if self._is_in_graph(row)]
            self._rows.update((row.event_id, row) for row in new)
            if new and self._reads < _READS:
                # A query for each step back would be too many.
                newest = max(row.timeline_place for row in new)
                self._reads += 1
                self._read = min(max(2 * self._read, len(wanted)), _AHEAD)
                ahead = timelines.list_graph_backwards(self._tx, self._room.room_nid, below=newest, limit=self._read)
                self._rows.update((row.event_id, row) for row in ahead)
        return [row for one in wanted if (row := self._rows.get(one)) is not None]

    def before(self, row: StoredEvent) -> list[EventId]:
        """The events before one."""
        return [EventId(one) for one in dict.fromkeys(parse(row, self._room.version).prev_events)]

    def _is_in_graph(self, row: StoredEvent) -> bool:
        return row.room_nid == self._room.room_nid and row.place is not None


def _find(tx: ReadTx, room_id: RoomId) -> Room:
    room = rooms.find(tx, room_id)
    if room is None:
        raise Forbidden("Your server is not in this room.")
    return room
