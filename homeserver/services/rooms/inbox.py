"""The one way in for events that were made elsewhere (server-server API, Checks performed on receipt of a PDU).

Events come in any order, again, and with gaps between them. What can be placed is; what follows events that are not
known waits for them in the database, and is placed when they come. Each room's events are taken one after the other;
rooms do not wait for each other.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from homeserver.errors import Conflict, NotFound, Unavailable
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import KeyedLocks
from homeserver.matrix import event_auth
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.event_auth import AuthError
from homeserver.matrix.events import Event, MalformedEvent
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.rooms.checks import Checks, Unfit
from homeserver.services.rooms.graph import Graph, Placed
from homeserver.services.rooms.hot import HotRoom, HotRooms, NotLoaded
from homeserver.services.rooms.loose_ends import settle
from homeserver.services.rooms.merge import Merger
from homeserver.services.rooms.outliers import Judged, Outliers, by_auth
from homeserver.services.rooms.persist import EventWriter, Superseded
from homeserver.services.rooms.placement import Batch, NewEvent
from homeserver.services.rooms.policy import PolicyServers
from homeserver.storage import event_graph, events
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.event_graph import Waiting
from homeserver.storage.events import Standing, StoredEvent
from homeserver.storage.state import Pair

_MOST_WAITING = 10_000
"""So many events of a room may wait for others; then those that have waited for the longest time are let go."""
_ATTEMPTS = 5
_RELEASED = 200
"""So many events that waited are read at a time."""


class Outcome(Enum):
    """What became of an event."""

    ACCEPTED = "accepted"
    SOFT_FAILED = "soft_failed"
    REJECTED = "rejected"
    OUTLIER = "outlier"
    WAITING = "waiting"
    DROPPED = "dropped"


_OUTCOMES = {
    events.OK: Outcome.ACCEPTED,
    events.SOFT_FAILED: Outcome.SOFT_FAILED,
    events.REJECTED: Outcome.REJECTED,
    events.OUTLIER: Outcome.OUTLIER,
}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an event, and why; the id is missing where it cannot be told."""

    event_id: EventId | None
    outcome: Outcome
    reason: str = ""
    missing: frozenset[EventId] = frozenset()
    """What it waits for."""


@dataclass(slots=True)
class Delivery:
    """Events of a room that were looked at: what passed the first checks, and what is known of it so far."""

    room: HotRoom
    pdus: Sequence[bytes]
    checked: Mapping[EventId, Event]
    receipts: Sequence[Receipt]
    load: "_Load"
    changes: int
    """Until the room has had another turn, nothing of that is out of date."""


@dataclass(slots=True)
class _Load:
    """One delivery of events to a room, as far as it has come."""

    receipts: dict[EventId, Receipt]
    writing: list[Awaitable[list[StoredEvent]]]
    waiting: dict[EventId, Waiting]
    wanted: set[EventId]
    """What earlier events wait for."""
    staged: set[EventId]
    """What waits in the database."""
    relayed: dict[EventId, ServerName] = field(default_factory=dict)
    """What is to be sent on, with the server that has it already."""
    coming: set[EventId] = field(default_factory=set)
    """What is about to be placed."""
    after: dict[EventId, set[EventId]] | None = None
    """What waits for an event, here or in the database; read when something is to be released."""


class Inbox:
    """Takes events in."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hot: HotRooms,
        writer: EventWriter,
        graph: Graph,
        merger: Merger,
        checks: Checks,
        outliers: Outliers,
        policies: PolicyServers,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hot = hot
        self._writer = writer
        self._graph = graph
        self._merger = merger
        self._checks = checks
        self._outliers = outliers
        self._policies = policies
        self._turns: KeyedLocks[RoomId] = KeyedLocks()
        self._changes: dict[RoomId, int] = {}
        """Counts when a turn of a room begins and ends: what was found out before that may be out of date."""
        self._calm: set[RoomId] = set()
        """Rooms of which no event waits."""

    async def receive(
        self, room_id: RoomId, pdus: Sequence[bytes], *, relay_to_all_but: ServerName | None = None
    ) -> list[Receipt]:
        """Take events of a room, in any order; what became of each, in the order given.

        A room that is not known begins with its create event. Raises `NotFound` if that is not among them. Events that
        came through this server are sent on to all servers in the room, but for the one that has them.
        """
        async with self._turn(room_id):
            return await self._receive(await self._room(room_id, pdus), pdus, relay_to_all_but=relay_to_all_but)

    async def look_at(self, coming: Mapping[HotRoom, Sequence[bytes]]) -> list[Delivery]:
        """Make the first checks on events of several rooms at once, where that needs no waiting for other servers.

        The deliveries are for `take`; a room whose events are signed by keys that are not at hand has none.
        """
        rooms = list(coming)
        outcomes = await self._checks.check_quickly([(one.room_id, one.version, coming[one]) for one in rooms])
        quick = {room: _told_apart(some) for room, some in zip(rooms, outcomes, strict=True) if some is not None}
        changes = {room: self._changes.get(room.room_id, 0) for room in quick}
        loads = await self._loads({room: checked for room, (checked, _) in quick.items()}, changes)
        return [
            Delivery(room, coming[room], checked, receipts, loads[room], changes[room])
            for room, (checked, receipts) in quick.items()
        ]

    async def _loads(
        self, coming: Mapping[HotRoom, Mapping[EventId, Event]], changes: Mapping[HotRoom, int]
    ) -> dict[HotRoom, "_Load"]:
        """What is known of the events, in one statement where no event of the rooms waits."""
        if all(room.room_id in self._calm for room in coming):
            return await self._database.read(self._begin_calmly, coming)
        loads = await self._database.snapshot(self._begin, coming)
        for room, load in loads.items():
            # Nobody has a turn, and nobody has had one: what was read is how it is.
            if not load.wanted and changes[room] % 2 == 0 and self._changes.get(room.room_id, 0) == changes[room]:
                self._calm.add(room.room_id)
        return loads

    async def take(self, delivery: Delivery) -> list[Receipt]:
        """Take events that were looked at; what became of each, in the order given. Raises as `receive`."""
        room_id = delivery.room.room_id
        async with self._turn(room_id):
            room = await self._hot.find(room_id)
            # This turn has begun, and no other has since the events were looked at.
            if self._changes[room_id] != delivery.changes + 1 or room is not delivery.room:
                return await self._receive(room, delivery.pdus)
            try:
                return await self._take(room, delivery.checked, delivery.receipts, delivery.load)
            except Superseded:
                return await self._receive(await self._hot.find(room_id), delivery.pdus)

    async def receive_with_state(self, room_id: RoomId, pdu: bytes, state: Mapping[Pair, EventId]) -> Receipt:
        """Take an event whose predecessors are not to be had, with the state before it, whose events are known.

        Raises `NotFound` if the room is not known, or an event of the state.
        """
        async with self._turn(room_id):
            room = await self._hot.find(room_id)
            given = await self._database.read(_positions_in_room, room.room_nid, state)
            [receipt] = await self._receive(room, [pdu], given=given)
            return receipt

    async def receive_outliers(self, room_id: RoomId, pdus: Sequence[bytes]) -> list[Receipt]:
        """Take events that others cite in `auth_events`, or that are part of a state; they are in no timeline."""
        async with self._turn(room_id):
            room = await self._hot.find(room_id)
            checked, receipts = await self._check(room, pdus, is_old=True)
            known = await self._database.snapshot(self._known, room, checked)
            new = by_auth({one: event for one, event in checked.items() if one not in known})
            for event_id, judged in (await self._outliers.take(room, new)).items():
                known[event_id] = _receipt_of_outlier(event_id, judged)
            return [_told(receipt, known) for receipt in receipts]

    @asynccontextmanager
    async def turn(self, room_id: RoomId) -> AsyncIterator[None]:
        """While this is held, nothing that comes from elsewhere is taken into the room."""
        async with self._turn(room_id):
            yield

    async def check(self, room: HotRoom, pdus: Sequence[bytes]) -> dict[EventId, Event]:
        """Those that are events of the room and are signed, by their ids; they may be of old."""
        checked, _ = await self._check(room, pdus, is_old=True)
        return checked

    async def missing(self, room_id: RoomId) -> set[EventId]:
        """What the events of a room wait for, and does not wait itself: what has to be asked for."""
        room = await self._hot.find(room_id)
        return await self._database.snapshot(_missing, room.room_nid)

    @asynccontextmanager
    async def _turn(self, room_id: RoomId) -> AsyncIterator[None]:
        async with self._turns.hold(room_id):
            self._changes[room_id] = self._changes.get(room_id, 0) + 1
            try:
                yield
            finally:
                self._changes[room_id] += 1

    async def _room(self, room_id: RoomId, pdus: Sequence[bytes]) -> HotRoom:
        try:
            return await self._hot.find(room_id)
        except NotFound:
            return await self._found(room_id, pdus)

    async def _found(self, room_id: RoomId, pdus: Sequence[bytes]) -> HotRoom:
        """Begin a room by its create event."""
        for pdu in pdus:
            version = _version_of_create(pdu)
            if version is None:
                continue
            room = HotRoom(room_id, ROOM_VERSIONS[version])
            checked, _ = await self._check(room, [pdu])
            for event in checked.values():
                if await self._database.read(events.find_positions, [EventId(event.event_id)]):
                    continue  # An event of this id is in another room.
                try:
                    event_auth.check_auth(event, [])
                except AuthError:
                    continue
                await self._writer.write(Batch(room, [NewEvent(event)], now=self._clock.now()))
                return room
        raise NotFound("This server does not know the room, and its create event is not here.")

    async def _receive(
        self,
        room: HotRoom,
        pdus: Sequence[bytes],
        *,
        given: Mapping[Pair, int] | None = None,
        relay_to_all_but: ServerName | None = None,
    ) -> list[Receipt]:
        for _ in range(_ATTEMPTS):
            checked, receipts = await self._check(room, pdus)
            load = (await self._database.snapshot(self._begin, {room: checked}))[room]
            if relay_to_all_but is not None:
                load.relayed.update(dict.fromkeys(checked, relay_to_all_but))
            try:
                return await self._take(room, checked, receipts, load, given=given)
            except Superseded:
                # What it was built upon could not be written; what has been is not taken twice.
                room = await self._hot.find(room.room_id)
        raise Unavailable("The room changes too quickly.")

    async def _take(
        self,
        room: HotRoom,
        checked: Mapping[EventId, Event],
        receipts: Sequence[Receipt],
        load: "_Load",
        *,
        given: Mapping[Pair, int] | None = None,
    ) -> list[Receipt]:
        """Place what passed the first checks. `given` is the state before these events where it is known."""
        coming: deque[Event] = deque(
            _ordered({one: event for one, event in checked.items() if one not in load.receipts})
        )
        load.coming.update(EventId(event.event_id) for event in coming)
        # All at once, as each may take a while; this costs nothing in a room without a policy server.
        signed = await self._policies.recommended(room, coming) if self._policies.of(room) is not None else {}
        while coming:
            event = coming.popleft()
            event_id = EventId(event.event_id)
            load.coming.discard(event_id)
            if _is_placed(event_id, load):
                continue
            if event_id not in signed and self._policies.of(room) is not None:
                signed |= await self._policies.recommended(room, [event])
            recommended = signed.get(event_id, event)
            event = recommended or event
            own = given if event_id in checked else None
            if own is None and (behind := _waits_behind(event, load)):
                self._let_wait(room, event, Placed(None, missing=behind), load)
            elif (
                await self._place(room, event, load, given=own, is_recommended=recommended is not None)
                and event_id in load.wanted
            ):
                coming.extendleft(reversed(await self._released(room, event_id, load)))
            if self._merger.is_needed(room):
                await self._settle(load)
                with suppress(Conflict, Superseded):  # The next event that can do it will.
                    await self._merger.merge(room)
            if room.is_stale:
                room = await self._hot.find(room.room_id)
        await self._end(room, load)
        for event_id in checked.keys() - load.receipts.keys():
            # Only where servers choose the ids of events can these name each other.
            load.receipts[event_id] = Receipt(event_id, Outcome.DROPPED, "The event comes before itself.")
        return [_told(receipt, load.receipts) for receipt in receipts]

    async def _check(
        self, room: HotRoom, pdus: Sequence[bytes], *, is_old: bool = False
    ) -> tuple[dict[EventId, Event], list[Receipt]]:
        """Checks 1 to 3: format, signatures, hash. The events that pass, and a receipt for each that was given."""
        return _told_apart(await self._checks.check(room.room_id, room.version, pdus, is_old=is_old))

    def _begin(self, tx: ReadTx, coming: Mapping[HotRoom, Mapping[EventId, Event]]) -> dict[HotRoom, "_Load"]:
        """What is known of the events, and what earlier ones wait for."""
        ids = [event_id for checked in coming.values() for event_id in checked]
        if not ids:
            return {room: _Load({}, [], {}, set(), set()) for room in coming}
        standings = events.find_standings_by_id(tx, ids)
        waiting = event_graph.find_waiting(tx, ids)
        missing = event_graph.list_missing_in_rooms(tx, [_nid(room) for room in coming])
        return {
            room: _Load(
                _settled(room, checked, standings), [], {}, missing.get(_nid(room), set()), waiting & checked.keys()
            )
            for room, checked in coming.items()
        }

    def _begin_calmly(self, tx: ReadTx, coming: Mapping[HotRoom, Mapping[EventId, Event]]) -> dict[HotRoom, "_Load"]:
        """The same where no event waits."""
        standings = events.find_standings_by_id(tx, [one for checked in coming.values() for one in checked])
        return {
            room: _Load(_settled(room, checked, standings), [], {}, set(), set()) for room, checked in coming.items()
        }

    @staticmethod
    def _known(tx: ReadTx, room: HotRoom, checked: Collection[EventId]) -> dict[EventId, Receipt]:
        return _known_of(room, checked, events.find_standings_by_id(tx, checked))

    async def _place(
        self,
        room: HotRoom,
        event: Event,
        load: _Load,
        *,
        given: Mapping[Pair, int] | None = None,
        is_recommended: bool = True,
    ) -> bool:
        """Place an event, or let it wait; whether it was placed."""
        for _ in range(_ATTEMPTS):
            if given is None and is_recommended:
                try:
                    placed = self._graph.follow(room, event)
                except NotLoaded as missing:
                    await self._hot.load(room, missing.pairs)
                    continue
                if placed is not None:
                    try:
                        self._hand_over(room, placed, load)
                    except Superseded:
                        room = await self._hot.find(room.room_id)
                        continue
                    return True
            await self._settle(load)
            async with room.alone():
                if not room.is_stale and self._hot.peek(room.room_nid or 0) is room:
                    placed = await self._graph.place(room, event, given=given, is_recommended=is_recommended)
                    if placed.new is None:
                        self._let_wait(room, event, placed, load)
                        return False
                    self._hand_over(room, placed, load)
                    return True
            room = await self._hot.find(room.room_id)
        raise Unavailable("The room changes too quickly.")

    def _hand_over(self, room: HotRoom, placed: Placed, load: _Load) -> None:
        new = placed.new
        assert new is not None
        event = new.event
        event_id = EventId(event.event_id)
        but = load.relayed.get(event_id)
        is_plain = new.placement is None and not event.redacts and but is None and event_id not in load.staged
        also = None if is_plain else settle(new, relay_to_all_but=but)
        batch = Batch(room, [new], also=also, now=self._clock.now())
        load.writing.append(self._writer.write(batch))
        load.receipts[event_id] = _receipt(event, placed)

    def _let_wait(self, room: HotRoom, event: Event, placed: Placed, load: _Load) -> None:
        assert room.room_nid is not None
        event_id = EventId(event.event_id)
        load.waiting[event_id] = Waiting(event_id, room.room_nid, self._clock.now(), event.pdu, placed.missing)
        load.receipts[event_id] = _receipt(event, placed)
        load.wanted |= placed.missing
        if load.after is not None:
            for missing in placed.missing:
                load.after.setdefault(missing, set()).add(event_id)

    async def _released(self, room: HotRoom, event_id: EventId, load: _Load) -> list[Event]:
        """The events that waited for this one, and for them, here and in the database, each behind what it follows."""
        assert room.room_nid is not None
        if load.after is None:
            load.after = await self._database.read(event_graph.list_followers, room.room_nid)
            for one, waiting in load.waiting.items():
                for missing in waiting.missing:
                    load.after.setdefault(missing, set()).add(one)
        found: set[EventId] = set()
        ways = deque([event_id])
        while ways and len(found) < _RELEASED:
            followers = load.after.get(ways.popleft(), set()) - found - load.coming
            ways.extend(followers)
            found |= {one for one in followers if not _is_placed(one, load)}
        pdus = {one: load.waiting.pop(one).pdu for one in found if one in load.waiting}
        staged = await self._database.read(event_graph.find_waiting_pdus, found - pdus.keys()) if found else {}
        load.staged.update(staged)
        pdus |= staged
        load.coming.update(pdus)
        version = room.version.identifier
        return list(_ordered({one: Event.parse(pdu, version, one) for one, pdu in pdus.items()}))

    async def _settle(self, load: _Load) -> None:
        """Wait until everything that was handed over is committed."""
        writing, load.writing = load.writing, []
        for done in writing:
            await done

    async def _end(self, room: HotRoom, load: _Load) -> None:
        await self._settle(load)
        if load.waiting:
            self._calm.discard(room.room_id)
            await self._database.write(self._keep_waiting, room, list(load.waiting.values()))

    def _keep_waiting(self, tx: WriteTx, room: HotRoom, waiting: Sequence[Waiting]) -> None:
        assert room.room_nid is not None
        event_graph.let_wait(tx, waiting)
        too_many = event_graph.count_waiting(tx, room.room_nid) - _MOST_WAITING
        if too_many > 0:
            event_graph.end_waiting(tx, event_graph.list_oldest_waiting(tx, room.room_nid, limit=too_many))


def id_of(room: HotRoom, pdu: bytes) -> EventId | None:
    """The id of an event of the room; None if it is none."""
    try:
        return EventId(Event.parse(pdu, room.version.identifier).event_id)
    except (CanonicalJsonError, MalformedEvent):
        return None


def _told_apart(outcomes: Iterable[Event | Unfit]) -> tuple[dict[EventId, Event], list[Receipt]]:
    """The events that passed the first checks, and a receipt for each that was given."""
    found: dict[EventId, Event] = {}
    receipts = []
    for one in outcomes:
        if isinstance(one, Unfit):
            receipts.append(Receipt(one.event_id, Outcome.DROPPED, one.reason))
        else:
            event_id = EventId(one.event_id)
            found.setdefault(event_id, one)
            receipts.append(Receipt(event_id, Outcome.WAITING))
    return found, receipts


def _known_of(
    room: HotRoom, event_ids: Iterable[EventId], standings: Mapping[EventId, Standing]
) -> dict[EventId, Receipt]:
    """Receipts for those of the events that are stored."""
    return {
        event_id: Receipt(event_id, _OUTCOMES[standing.status])
        if standing.room_nid == room.room_nid
        else Receipt(event_id, Outcome.DROPPED, "An event of this id is in another room.")
        for event_id in event_ids
        if (standing := standings.get(event_id)) is not None
    }


def _nid(room: HotRoom) -> int:
    assert room.room_nid is not None
    return room.room_nid


def _version_of_create(pdu: bytes) -> str | None:
    """The room version, if these are the bytes of a create event of a version that is known."""
    try:
        value = msgspec.json.decode(pdu)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(value, dict) or value.get("type") != "m.room.create":
        return None
    content = value.get("content")
    version = content.get("room_version", "1") if isinstance(content, dict) else None
    return version if isinstance(version, str) and version in ROOM_VERSIONS else None


def _ordered(found: Mapping[EventId, Event]) -> Iterable[Event]:
    """The events, each behind those among them that it names.

    A chain of events comes in one piece: what follows all there is, is taken in much faster than what makes a branch.
    """
    behind = {
        event_id: {EventId(one) for one in (*event.prev_events, *event.auth_events) if one in found and one != event_id}
        for event_id, event in found.items()
    }
    followers: dict[EventId, list[EventId]] = {}
    for event_id, names in behind.items():
        for name in names:
            followers.setdefault(name, []).append(event_id)
    ready = [event_id for event_id, names in reversed(behind.items()) if not names]
    while ready:
        event_id = ready.pop()
        yield found[event_id]
        for follower in followers.get(event_id, ()):
            behind[follower].discard(event_id)
            if not behind[follower]:
                ready.append(follower)


def _is_placed(event_id: EventId, load: _Load) -> bool:
    receipt = load.receipts.get(event_id)
    return receipt is not None and receipt.outcome != Outcome.WAITING


def _settled(
    room: HotRoom, checked: Mapping[EventId, Event], standings: Mapping[EventId, Standing]
) -> dict[EventId, Receipt]:
    """What became of those of the events that need not be placed any more."""
    return {
        event_id: receipt
        for event_id, receipt in _known_of(room, checked, standings).items()
        # The create event comes before all others, whether or not what followed it is known (any more).
        if receipt.outcome != Outcome.OUTLIER or not checked[event_id].prev_events
    }


def _waits_behind(event: Event, load: _Load) -> frozenset[EventId]:
    """Those that the event names which wait themselves."""
    if not load.waiting:
        return frozenset()
    return frozenset(one for one in map(EventId, (*event.prev_events, *event.auth_events)) if one in load.waiting)


def _receipt(event: Event, placed: Placed) -> Receipt:
    event_id = EventId(event.event_id)
    if placed.new is None:
        return Receipt(event_id, Outcome.WAITING, missing=placed.missing)
    return Receipt(event_id, _OUTCOMES[placed.new.status], placed.reason)


def _receipt_of_outlier(event_id: EventId, judged: Judged) -> Receipt:
    if judged.status is None:
        return Receipt(event_id, Outcome.WAITING, missing=judged.missing)
    return Receipt(event_id, _OUTCOMES[judged.status], judged.reason)


def _told(receipt: Receipt, receipts: Mapping[EventId, Receipt]) -> Receipt:
    """The receipt of an event that passed the first checks is what became of it."""
    if receipt.event_id is None or receipt.outcome == Outcome.DROPPED:
        return receipt
    return receipts.get(receipt.event_id, receipt)


def _positions_in_room(tx: ReadTx, room_nid: int | None, state: Mapping[Pair, EventId]) -> dict[Pair, int]:
    rows = events.find_many_by_id(tx, state.values())
    found = {pair: row.position for pair, one in state.items() if (row := rows.get(one)) and row.room_nid == room_nid}
    if len(found) < len(state):
        raise NotFound("An event of the state is not known.")
    return found


def _missing(tx: ReadTx, room_nid: int | None) -> set[EventId]:
    assert room_nid is not None
    missing = event_graph.list_missing(tx, room_nid)
    placed = {event_id for event_id, row in events.find_many_by_id(tx, missing).items() if row.state_after is not None}
    return missing - event_graph.find_waiting(tx, missing) - placed
