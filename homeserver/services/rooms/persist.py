"""The one way by which events are written: in groups, one transaction for all that gathered meanwhile.

A batch is built upon a hot room, handed over, and taken into the hot room at once, so that the next can build upon it
before the commit has ended. While one group is being committed the next one gathers. A request is answered after its
commit.

When a group fails, its batches are tried one by one, in order, unless the database has them after all. A batch that
fails then takes with it whatever was built upon it: those get `Superseded`, and whoever built them builds again upon
the room as the database has it. A cancelled caller stops nothing: what was handed over is written.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from homeserver.errors import HomeserverError, Unavailable
from homeserver.kit.concurrency import Background
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, UserId
from homeserver.matrix.relations import RelatesTo, relates_to
from homeserver.services.rooms.hot import HotRoom, HotRooms, Recent, Transaction
from homeserver.services.rooms.state import StateTrees, StateWriter
from homeserver.storage import events, members, relations, rooms, stream_rows, transactions
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.members import Member
from homeserver.storage.relations import Relation

_GROUP = 200
_LONGEST = 255


class Superseded(HomeserverError):
    """The room is no longer as it was when this was built; build again."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """What a redaction event does to the event at a position of the same room."""

    target: int
    redacted: Event


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written, and the redaction that it performs, if it does."""

    event: Event
    redaction: Redaction | None = None


@dataclass(slots=True)
class Batch:
    """Events for one room, written together or not at all."""

    room: HotRoom
    events: list[NewEvent] = field(default_factory=list)
    transaction: Transaction | None = None
    also: Callable[[WriteTx, int], None] | None = None
    """Further statements of the same transaction, called with the room's number; what they raise undoes the batch."""
    now: int = 0
    done: "asyncio.Future[list[StoredEvent]] | None" = None


@dataclass(slots=True)
class _Written:
    """What a group's transaction wrote, by batch, to be taken over after the commit."""

    stored: list[list[StoredEvent]]
    nids: list[int]
    roots: dict[int, int]
    states: StateWriter


class EventWriter:
    """Writes events."""

    def __init__(self, database: Database, rooms: HotRooms, trees: StateTrees, background: Background) -> None:
        self._database = database
        self._rooms = rooms
        self._trees = trees
        self._background = background
        self._queue: list[Batch] = []
        self._is_writing = False

    def write(self, batch: Batch) -> Awaitable[list[StoredEvent]]:
        """Hand the batch over; await the result for its events as stored.

        Raises `Superseded`, or what the batch's own statements raised.
        """
        batch.done = asyncio.get_running_loop().create_future()
        room = batch.room
        if room.is_stale:
            raise Superseded
        redacted = {new.redaction.redacted.event_id: new.redaction.redacted for new in batch.events if new.redaction}
        room.build_on((new.event for new in batch.events), redacted)
        room.pending += 1
        self._queue.append(batch)
        if not self._is_writing:
            self._begin()
        return asyncio.shield(batch.done)

    def _begin(self) -> None:
        self._is_writing = True
        self._background.start(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._queue:
                group, self._queue = self._queue[:_GROUP], self._queue[_GROUP:]
                try:
                    if (error := await self._try(group)) is not None:
                        await self._write_singly(group, error)
                finally:
                    self._abandon(group)
        finally:
            self._is_writing = False
            if self._queue:
                self._begin()  # Whatever went wrong, what was handed over meanwhile has its turn.

    async def _write_singly(self, group: list[Batch], error: BaseException) -> None:
        """Write the batches of a group that failed with this error, one by one; a batch alone has had its turn."""
        there = await self._found(group)
        for batch in group:
            ids = [EventId(new.event.event_id) for new in batch.events]
            if there is not None and there.keys() >= set(ids):
                # The commit succeeded and only its answer was lost.
                self._rooms.drop(batch.room)
                self._settle(batch, [there[event_id] for event_id in ids])
            elif batch.room.is_stale:
                self._fail(batch, Superseded())
            else:
                failure = error if len(group) == 1 else await self._try([batch])
                if failure is not None:
                    self._rooms.drop(batch.room)
                    self._fail(batch, failure)
        # What gathered meanwhile may stand on a batch that failed.
        waiting, self._queue = self._queue, []
        for batch in waiting:
            if batch.room.is_stale:
                self._fail(batch, Superseded())
            else:
                self._queue.append(batch)

    def _abandon(self, group: list[Batch]) -> None:
        """Nobody waits for ever, whatever went wrong."""
        for batch in group:
            if batch.done is not None and not batch.done.done():
                self._rooms.drop(batch.room)
                self._fail(batch, Unavailable("The events could not be written."))

    async def _try(self, group: list[Batch]) -> BaseException | None:
        """Write the group; None if that went well."""
        [outcome] = await asyncio.gather(self._database.write(self._write, group), return_exceptions=True)
        return outcome

    async def _found(self, group: list[Batch]) -> dict[EventId, StoredEvent] | None:
        ids = [EventId(new.event.event_id) for batch in group for new in batch.events]
        [outcome] = await asyncio.gather(self._database.read(_find_events, ids), return_exceptions=True)
        return outcome if isinstance(outcome, dict) else None

    def _take_over(self, group: Sequence[Batch], written: _Written) -> None:
        self._trees.keep(written.states)
        for batch, nid, stored in zip(group, written.nids, written.stored, strict=True):
            room = batch.room
            if room.room_nid is None:
                room.room_nid = nid
                room.known_since = nid - 1
                self._rooms.add(room)
            room.root = written.roots[nid]
            room.tips = [stored[-1].position]
            redacted = {new.redaction.target: new.redaction.redacted for new in batch.events if new.redaction}
            if redacted:
                room.forget_redacted(redacted)
            sent = batch.transaction
            room.remember(Recent(row, new.event, sent) for row, new in zip(stored, batch.events, strict=True))
            self._settle(batch, stored)

    @staticmethod
    def _settle(batch: Batch, stored: list[StoredEvent]) -> None:
        batch.room.pending -= 1
        assert batch.done is not None
        batch.done.set_result(stored)

    @staticmethod
    def _fail(batch: Batch, error: BaseException) -> None:
        batch.room.pending -= 1
        assert batch.done is not None
        batch.done.set_exception(error)
        batch.done.exception()  # Nobody may be waiting any more.

    def _write(self, tx: WriteTx, group: Sequence[Batch]) -> None:
        """The transaction. It changes nothing but the database, as it may be run again."""
        count = sum(len(batch.events) for batch in group)
        position = stream_rows.advance(tx, count) - count
        pairs = {
            (new.event.type, new.event.state_key)
            for batch in group
            for new in batch.events
            if new.event.state_key is not None
        }
        written = _Written([], [], {}, self._trees.begin(tx, pairs))
        changed: dict[tuple[int, str], Member] = {}
        for batch in group:
            nid = batch.room.room_nid or position + 1
            root = written.roots.get(nid, batch.room.root)
            stored: list[StoredEvent] = []
            for new in batch.events:
                position += 1
                row = _row(new.event, position, nid, root, written.states)
                root = row.state_after
                stored.append(row)
                if (member := _member(new.event, row)) is not None:
                    changed[nid, member.user_id] = member
            assert root is not None
            written.roots[nid] = root
            written.nids.append(nid)
            written.stored.append(stored)
        self._store(tx, group, written, list(changed.values()))
        # Before anybody is woken: who is, looks at the hot rooms.
        tx.on_commit(lambda: self._take_over(group, written))

    def _store(self, tx: WriteTx, group: Sequence[Batch], written: _Written, changed: list[Member]) -> None:
        new_rooms = [
            rooms.Room(nid, batch.room.room_id, batch.room.version.identifier, False, written.roots[nid])
            for batch, nid in zip(group, written.nids, strict=True)
            if batch.room.room_nid is None
        ]
        if new_rooms:
            rooms.insert_many(tx, new_rooms)
        known = {batch.room.room_nid: batch.room for batch in group if batch.room.room_nid is not None}
        moved = [(nid, written.roots[nid]) for nid, room in known.items() if room.root != written.roots[nid]]
        if moved:
            rooms.set_state_roots(tx, moved)
        last = {nid: stored[-1].position for nid, stored in zip(written.nids, written.stored, strict=True)}
        rooms.replace_extremities(tx, ((nid, tip) for nid, room in known.items() for tip in room.tips), last.items())
        events.insert_many(tx, [row for stored in written.stored for row in stored])
        redactions = [
            (new.redaction.target, row.position, new.redaction.redacted.pdu)
            for batch, stored in zip(group, written.stored, strict=True)
            for new, row in zip(batch.events, stored, strict=True)
            if new.redaction is not None
        ]
        if redactions:
            events.redact_many(tx, redactions)
            relations.remove_many(tx, [target for target, _, _ in redactions])
        related = [
            relation
            for batch, stored in zip(group, written.stored, strict=True)
            for new, row in zip(batch.events, stored, strict=True)
            if (relation := _relation(new.event, row)) is not None
        ]
        if related:
            relations.insert_many(tx, related)
        written.states.store(tx)
        if changed:
            members.set_many(tx, changed)
            tx.wake(member.user_id for member in changed)
        done = [
            transactions.Done(
                batch.transaction.user_id,
                batch.transaction.device_id,
                batch.transaction.scope,
                batch.transaction.txn_id,
                stored[0].position,
                batch.now,
            )
            for batch, stored in zip(group, written.stored, strict=True)
            if batch.transaction is not None
        ]
        if done:
            transactions.record_many(tx, done)
        for batch, nid in zip(group, written.nids, strict=True):
            if batch.also is not None:
                batch.also(tx, nid)
        tx.wake(batch.room.room_id for batch in group)


def _row(event: Event, position: int, nid: int, root: int | None, states: StateWriter) -> StoredEvent:
    after, replaces, pair_id = root, None, None
    if event.state_key is not None:
        pair = (event.type, event.state_key)
        pair_id = states.ids[pair]
        replaces = states.current(root, pair)
        after = states.set(root, pair, position)
    return StoredEvent(
        position=position,
        room_nid=nid,
        event_id=EventId(event.event_id),
        depth=event.depth,
        origin_server_ts=event.origin_server_ts,
        pair_id=pair_id,
        replaces=replaces,
        state_before=root,
        state_after=after,
        status=events.OK,
        redacted_by=None,
        pdu=event.pdu,
    )


def _relation(event: Event, row: StoredEvent) -> Relation | None:
    related = None if event.is_state else relates_to(event)
    if related is None or not _is_storable(related):
        return None
    return Relation(
        row.position,
        row.room_nid,
        EventId(related.event_id),
        related.rel_type,
        event.type,
        UserId(event.sender),
        related.key,
    )


def _is_storable(related: RelatesTo) -> bool:
    """Whether it can be a relation at all; what is absurdly long, or no text for a database, is none."""
    texts = (related.event_id, related.rel_type, related.key or "")
    return all("\0" not in text and len(text) <= _LONGEST for text in texts)


def _member(event: Event, row: StoredEvent) -> Member | None:
    if event.type != "m.room.member" or event.state_key is None:
        return None
    return Member(
        row.room_nid, UserId(event.state_key), event.membership or "leave", UserId(event.sender), row.position
    )


def _find_events(tx: ReadTx, ids: list[EventId]) -> dict[EventId, StoredEvent]:
    return events.find_many_by_id(tx, ids)
