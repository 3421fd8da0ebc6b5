"""The one way by which events are written: in groups, one transaction for all that gathered meanwhile.

A batch is built upon a hot room, handed over, and taken into the hot room at once, so that the next can build upon it
before the commit has ended. While one group is being committed the next one gathers. A request is answered after its
commit.

When a group fails, its batches are tried one by one, in order, unless the database has them after all. A batch that
fails then takes with it whatever was built upon it: those get `Superseded`, and whoever built them builds again upon
the room as the database has it. A cancelled caller stops nothing: what was handed over is written.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from homeserver.errors import HomeserverError, Unavailable
from homeserver.kit import crash
from homeserver.kit.concurrency import Background
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, ServerName, domain_of
from homeserver.services.rooms.hot import HotRoom, HotRooms, Recent
from homeserver.services.rooms.placement import Audience, Batch, NewEvent
from homeserver.services.rooms.record import Written, write_group
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent

_GROUP = 200


ATTEMPTS = 5
"""So often something is built again before it is said that the room changes too quickly."""


class Superseded(HomeserverError):
    """The room is no longer as it was when this was built; build again."""


class AlreadyStored(Superseded):
    """What was presumed to be new is not."""


@dataclass(slots=True)
class _Handed:
    """A batch that somebody waits for."""

    batch: Batch
    done: "asyncio.Future[list[StoredEvent]]"


class EventWriter:
    """Writes events."""

    def __init__(
        self, database: Database, rooms: HotRooms, trees: StateTrees, background: Background, server_name: str
    ) -> None:
        self._server_name = ServerName(server_name)
        self._database = database
        self._rooms = rooms
        self._trees = trees
        self._background = background
        self._queue: deque[_Handed] = deque()
        self._is_writing = False

    def write(self, batch: Batch) -> Awaitable[list[StoredEvent]]:
        """Hand the batch over; await the result for its events as stored.

        Raises `Superseded`, or what the batch's own statements raised.
        """
        crash.point("K2")
        handed = _Handed(batch, asyncio.get_running_loop().create_future())
        if batch.room.is_stale:
            raise Superseded
        _build_on(batch)
        batch.room.begin()
        self._queue.append(handed)
        if not self._is_writing:
            self._begin()
        return asyncio.shield(handed.done)

    def _begin(self) -> None:
        self._is_writing = True
        self._background.start(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(_GROUP, len(self._queue)))]
                try:
                    if (error := await self._try(group)) is not None:
                        await self._write_singly(group, error)
                finally:
                    self._abandon(group)
        finally:
            self._is_writing = False
            if self._queue:
                self._begin()  # Whatever went wrong, what was handed over meanwhile has its turn.

    async def _write_singly(self, group: list[_Handed], error: BaseException) -> None:
        """Write the batches of a group that failed with this error, one by one; a batch alone has had its turn."""
        there = await self._found(group)
        for handed in group:
            room = handed.batch.room
            ids = _ids(handed.batch.events)
            if there is not None and there.keys() >= set(ids):
                # The commit succeeded and only its answer was lost; or nobody had looked.
                self._rooms.drop(room)
                if handed.batch.is_presumed_new:
                    self._fail(handed, AlreadyStored())
                else:
                    self._settle(handed, [there[event_id] for event_id in ids])
            elif room.is_stale:
                self._fail(handed, Superseded())
            else:
                failure = error if len(group) == 1 else await self._try([handed])
                if failure is not None:
                    self._rooms.drop(room)
                    self._fail(handed, failure)
        # What gathered meanwhile may stand on a batch that failed.
        waiting, self._queue = self._queue, deque()
        for handed in waiting:
            if handed.batch.room.is_stale:
                self._fail(handed, Superseded())
            else:
                self._queue.append(handed)

    def _abandon(self, group: list[_Handed]) -> None:
        """Nobody waits for ever, whatever went wrong."""
        for handed in group:
            if not handed.done.done():
                self._rooms.drop(handed.batch.room)
                self._fail(handed, Unavailable("The events could not be written."))

    async def _try(self, group: list[_Handed]) -> BaseException | None:
        """Write the group; None if that went well."""
        batches = [handed.batch for handed in group]
        work = self._database.write(
            write_group, self._trees, self._server_name, batches, lambda written: self._commit(group, written)
        )
        [outcome] = await asyncio.gather(work, return_exceptions=True)
        return outcome

    async def _found(self, group: list[_Handed]) -> dict[EventId, StoredEvent] | None:
        ids = [event_id for handed in group for event_id in _ids(handed.batch.events)]
        [outcome] = await asyncio.gather(self._database.read(_find_events, ids), return_exceptions=True)
        return outcome if isinstance(outcome, dict) else None

    def _commit(self, group: Sequence[_Handed], written: Written) -> None:
        crash.point("K4")
        self._trees.keep(written.states)
        for handed, nid, stored in zip(group, written.nids, written.stored, strict=True):
            room, line = handed.batch.room, written.lines[nid]
            if room.room_nid is None:
                room.room_nid = nid
                room.known_since = nid - 1
                self._rooms.add(room)
            room.root, room.tips = line.root, line.tips
            _take_over(handed.batch, stored)
            self._settle(handed, stored)
            self._rooms.weigh(room)
        crash.point("K5")

    @staticmethod
    def _settle(handed: _Handed, stored: list[StoredEvent]) -> None:
        handed.batch.room.end()
        handed.done.set_result(stored)

    @staticmethod
    def _fail(handed: _Handed, error: BaseException) -> None:
        handed.batch.room.end()
        handed.done.set_exception(error)
        handed.done.exception()  # Nobody may be waiting any more.


def _ids(new: Sequence[NewEvent]) -> list[EventId]:
    return [EventId(one.event.event_id) for one in new]


def _build_on(batch: Batch) -> None:
    """Take the batch into its hot room: what follows may be built upon it."""
    room = batch.room
    for new in batch.events:
        before, removed = room.servers, _removed(room, new.event)
        _build_event_on(room, new)
        batch.audiences.append(Audience(before, room.servers, removed))
    redacted = {new.redaction.redacted.event_id: new.redaction.redacted for new in batch.events if new.redaction}
    if redacted:
        room.state.replace(redacted)


def _build_event_on(room: HotRoom, new: NewEvent) -> None:
    if not new.is_accepted:
        return
    placement = new.placement
    if placement is None:
        room.build_on(new.event)
    elif placement.place is None:
        kept = {tip: event for tip, event in zip(room.tips, room.latest, strict=True) if tip in placement.tips}
        room.latest = [*kept.values(), new.event] if placement.is_end else list(kept.values())
        for change in placement.changes:
            room.state.set(change.pair, change.event)


def _removed(room: HotRoom, event: Event) -> ServerName | None:
    """The server of the one who is turned away by this event without having been in the room."""
    if event.type != "m.room.member" or event.state_key is None or event.membership not in ("leave", "ban"):
        return None
    return (
        ServerName(domain_of(event.state_key)) if room.membership_of(event.state_key) in ("invite", "knock") else None
    )


def _take_over(batch: Batch, stored: Sequence[StoredEvent]) -> None:
    """Let those who read along have what was committed."""
    room = batch.room
    redacted = {new.redaction.target: new.redaction.redacted for new in batch.events if new.redaction}
    if redacted:
        room.forget_redacted(redacted)
    for row, new in zip(stored, batch.events, strict=True):
        if new.placement is not None:
            # The state may have changed without an event that says so.
            if new.placement.place is None:
                room.forget_recent(max(row.came_at, room.known_since))
        elif new.is_accepted:
            room.remember([Recent(row, new.event, batch.transaction)])


def _find_events(tx: ReadTx, ids: list[EventId]) -> dict[EventId, StoredEvent]:
    return events.find_many_by_id(tx, ids)
