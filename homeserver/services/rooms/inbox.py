"""The one way in for events that were made elsewhere (server-server API, Checks performed on receipt of a PDU).

Events come in any order, again, and with gaps between them. What can be placed is; what follows events that are not
known waits for them in the database, and is placed when they come. Each room's events are taken one after the other;
rooms do not wait for each other.

The first checks (`checks.py`) make events of bytes, which has to wait for other servers' keys sometimes: that is done
before the room's turn is taken, so that a server that is silent keeps nobody waiting but who speaks of it. What is
known of the events begins an intake (`intake.py`), which is admitted to the room (`admission.py`); what has to wait
does so (`waiting.py`). What became of each is told by receipts (`receipts.py`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from homeserver.errors import NotFound, Unavailable
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.matrix.room_versions import RoomVersion
from homeserver.services.rooms.admission import Admission, Given
from homeserver.services.rooms.checks import Checks
from homeserver.services.rooms.founding import Founding
from homeserver.services.rooms.graph import follows_all
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.intake import FirstWrite, Intake, begin, begin_calmly, presume_new
from homeserver.services.rooms.outliers import Outliers, by_auth
from homeserver.services.rooms.persist import ATTEMPTS, AlreadyStored, Superseded
from homeserver.services.rooms.receipts import Receipt, of_judged, of_stored, told, told_apart
from homeserver.services.rooms.turns import Turns
from homeserver.services.rooms.waiting import WaitingEvents
from homeserver.storage import events
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.server_keys import KeyName
from homeserver.storage.state import Pair


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of the first checks."""

    version: RoomVersion
    """What they were made by."""
    events: Mapping[EventId, Event]
    """Those that passed."""
    receipts: Sequence[Receipt]
    """One for each that was given, before what passed was taken in."""


@dataclass(slots=True)
class Delivery:
    """Events of a room that were looked at: what passed the first checks, and what is known of it so far."""

    room: HotRoom
    checked: Checked
    intake: Intake
    moment: int
    """Until the room has had another turn, nothing of that is out of date."""


class Inbox:
    """Takes events in."""

    def __init__(
        self,
        database: Database,
        hot: HotRooms,
        checks: Checks,
        founding: Founding,
        outliers: Outliers,
        admission: Admission,
        waiting: WaitingEvents,
    ) -> None:
        self._database = database
        self._hot = hot
        self._checks = checks
        self._founding = founding
        self._outliers = outliers
        self._admission = admission
        self._waiting = waiting
        self._turns = Turns()
        self._with_surprises: set[RoomId] = set()
        """Rooms in which an event was known that was presumed to be new: who did that once can do it again."""

    async def receive(
        self,
        room_id: RoomId,
        pdus: Sequence[bytes],
        *,
        relay_to_all_but: ServerName | None = None,
        first: FirstWrite | None = None,
        patience_s: float | None = None,
    ) -> list[Receipt]:
        """Take events of a room, in any order; what became of each, in the order given.

        A room that is not known begins with its create event. Raises `NotFound` if that is not among them. Events that
        came through this server are sent on to all servers in the room, but for the one that has them. With
        `patience_s`, servers that take longer to tell their keys are not waited for.
        """
        ahead = await self._check_ahead(room_id, pdus, patience_s=patience_s)
        async with self._turns.hold(room_id):
            try:
                room = await self._hot.find(room_id)
            except NotFound:
                room = await self._founding.begin(room_id, pdus)
            checked = await self._still(ahead, room, pdus, patience_s=patience_s)
            return await self._receive(room, checked, relay_to_all_but=relay_to_all_but, first=first)

    async def look_at(self, coming: Mapping[HotRoom, Sequence[bytes]]) -> list[Delivery]:
        """Make the first checks on events of several rooms at once, where that needs no waiting for other servers.

        The deliveries are for `take`; a room whose events are signed by keys that are not at hand has none.
        """
        rooms = list(coming)
        outcomes = await self._checks.check_quickly([(one.room_id, one.version, coming[one]) for one in rooms])
        quick = {
            room: Checked(room.version, *told_apart(some))
            for room, some in zip(rooms, outcomes, strict=True)
            if some is not None
        }
        moments = {room: self._turns.moment(room.room_id) for room in quick}
        intakes = await self._begin({room: checked.events for room, checked in quick.items()}, moments)
        return [Delivery(room, checked, intakes[room], moments[room]) for room, checked in quick.items()]

    async def take(self, delivery: Delivery, *, first: FirstWrite | None = None) -> list[Receipt]:
        """Take events that were looked at; what became of each, in the order given. Raises as `receive`."""
        room_id = delivery.room.room_id
        async with self._turns.hold(room_id):
            room = await self._hot.find(room_id)
            if not self._turns.is_right_after(room_id, delivery.moment) or room is not delivery.room:
                return await self._receive(room, delivery.checked, first=first)
            delivery.intake.first = first
            try:
                await self._admission.admit(room, delivery.intake)
            except AlreadyStored:
                self._with_surprises.add(room_id)
            except Superseded:
                pass
            else:
                return told(delivery.checked.receipts, delivery.intake.receipts)
            return await self._receive(await self._hot.find(room_id), delivery.checked, first=first)

    async def receive_with_state(self, room_id: RoomId, pdu: bytes, state: Mapping[Pair, EventId]) -> Receipt:
        """Take an event whose predecessors are not to be had, with the state before it, whose events are known.

        Raises `NotFound` if the room is not known, or an event of the state.
        """
        ahead = await self._check_ahead(room_id, [pdu])
        async with self._turns.hold(room_id):
            room = await self._hot.find(room_id)
            checked = await self._still(ahead, room, [pdu])
            given = await self._database.read(_positions_in_room, room.room_nid, state)
            [receipt] = await self._receive(room, checked, given=given)
            return receipt

    async def receive_outliers(self, room_id: RoomId, pdus: Sequence[bytes]) -> list[Receipt]:
        """Take events that others cite in `auth_events`, or that are part of a state; they are in no timeline."""
        ahead = await self._check_ahead(room_id, pdus, is_old=True)
        async with self._turns.hold(room_id):
            for _ in range(ATTEMPTS):
                room = await self._hot.find(room_id)
                checked = await self._still(ahead, room, pdus, is_old=True)
                with suppress(Superseded):
                    return await self._receive_outliers(room, checked)
        raise Unavailable("The room changes too quickly.")

    @asynccontextmanager
    async def turn(self, room_id: RoomId) -> AsyncIterator[None]:
        """While this is held, nothing that comes from elsewhere is taken into the room."""
        async with self._turns.hold(room_id):
            yield

    async def check(self, room: HotRoom, pdus: Sequence[bytes]) -> dict[EventId, Event]:
        """Those that are events of the room and are signed, by their ids; they may be of old."""
        return dict((await self._check(room, pdus, is_old=True)).events)

    async def keys_lacking(self, room_id: RoomId, pdus: Sequence[bytes]) -> Mapping[KeyName, int]:
        """The keys that these events need, if servers may have to be asked for them, which is to be done first.

        Nothing else should be held while one waits for them, nor any turn; then the events may be taken at once.
        """
        try:
            room = await self._hot.find(room_id)
        except NotFound:
            return {}
        return await self._checks.keys_lacking(room_id, room.version, pdus)

    async def ask_for_keys(self, keys: Mapping[KeyName, int]) -> None:
        """Ask for keys, and wait until they are there or cannot be had."""
        await self._checks.ask_for_keys(keys)

    async def _begin(
        self, coming: Mapping[HotRoom, Mapping[EventId, Event]], moments: Mapping[HotRoom, int]
    ) -> dict[HotRoom, Intake]:
        """What is known of the events: in no statement where there is one that follows all there is."""
        presumed = {room: presume_new(checked) for room, checked in coming.items() if self._may_presume(room, checked)}
        others = {room: checked for room, checked in coming.items() if room not in presumed}
        return presumed | await self._look_up(others, moments) if others else presumed

    def _may_presume(self, room: HotRoom, checked: Mapping[EventId, Event]) -> bool:
        return (
            len(checked) == 1
            and room.partial is None
            and self._waiting.are_calm([room.room_id])
            and room.room_id not in self._with_surprises
            and all(follows_all(room, event) for event in checked.values())
        )

    async def _look_up(
        self, coming: Mapping[HotRoom, Mapping[EventId, Event]], moments: Mapping[HotRoom, int]
    ) -> dict[HotRoom, Intake]:
        """The same, in one statement where no event of the rooms waits."""
        if self._waiting.are_calm([room.room_id for room in coming]):
            return await self._database.read(begin_calmly, coming)
        intakes = await self._database.snapshot(begin, coming)
        for room, intake in intakes.items():
            # Unless somebody has had a turn, what was read is how it is.
            if intake.is_calm and self._turns.is_still(room.room_id, moments[room]):
                self._waiting.note_calm(room.room_id)
        return intakes

    async def _receive(
        self,
        room: HotRoom,
        checked: Checked,
        *,
        given: Given | None = None,
        relay_to_all_but: ServerName | None = None,
        first: FirstWrite | None = None,
    ) -> list[Receipt]:
        for _ in range(ATTEMPTS):
            intake = (await self._database.snapshot(begin, {room: checked.events}))[room]
            intake.first = first
            if relay_to_all_but is not None:
                intake.relayed.update(dict.fromkeys(checked.events, relay_to_all_but))
            try:
                await self._admission.admit(room, intake, given=given)
            except Superseded:
                # What it was built upon could not be written; what has been is not taken twice.
                room = await self._hot.find(room.room_id)
            else:
                return told(checked.receipts, intake.receipts)
        raise Unavailable("The room changes too quickly.")

    async def _receive_outliers(self, room: HotRoom, checked: Checked) -> list[Receipt]:
        standings = await self._database.read(events.find_standings_by_id, checked.events)
        became = of_stored(room, checked.events, standings)
        new = by_auth({one: event for one, event in checked.events.items() if one not in became})
        for event_id, judged in (await self._outliers.take(room, new)).items():
            became[event_id] = of_judged(event_id, judged)
        return told(checked.receipts, became)

    async def _check_ahead(
        self, room_id: RoomId, pdus: Sequence[bytes], *, is_old: bool = False, patience_s: float | None = None
    ) -> Checked | None:
        """The first checks, if the room is known already."""
        try:
            room = await self._hot.find(room_id)
        except NotFound:
            return None
        return await self._check(room, pdus, is_old=is_old, patience_s=patience_s)

    async def _still(
        self,
        ahead: Checked | None,
        room: HotRoom,
        pdus: Sequence[bytes],
        *,
        is_old: bool = False,
        patience_s: float | None = None,
    ) -> Checked:
        """What was checked ahead, unless it is another room that bears this id now."""
        if ahead is not None and ahead.version == room.version:
            return ahead
        return await self._check(room, pdus, is_old=is_old, patience_s=patience_s)

    async def _check(
        self, room: HotRoom, pdus: Sequence[bytes], *, is_old: bool = False, patience_s: float | None = None
    ) -> Checked:
        """Checks 1 to 3: format, signatures, hash."""
        outcomes = await self._checks.check(room.room_id, room.version, pdus, is_old=is_old, patience_s=patience_s)
        return Checked(room.version, *told_apart(outcomes))


def _positions_in_room(tx: ReadTx, room_nid: int | None, state: Mapping[Pair, EventId]) -> dict[Pair, int]:
    rows = events.find_many_by_id(tx, state.values())
    found = {pair: row.position for pair, one in state.items() if (row := rows.get(one)) and row.room_nid == room_nid}
    if len(found) < len(state):
        raise NotFound("An event of the state is not known.")
    return found
