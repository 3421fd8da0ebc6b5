"""The lines in which events of other servers wait for their turn, one for each room.

A line moves while there is something in it: first come, first served, one delivery after the other. Rooms do not wait
for each other. What a server was told that it will be taken in, though it had not been, is staged in the database: the
line is then behind, and what comes is staged as well, until all that is staged was taken in.

A line is worked at by one task. When the server ends, the tasks are cancelled: what was acknowledged is staged, and
goes on at the next start.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from homeserver.errors import NotFound, RequestError
from homeserver.kit import crash
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background
from homeserver.kit.logs import report
from homeserver.kit.metrics import Metrics
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.services.federation.faults import WRONG
from homeserver.services.rooms.event_ids import id_of
from homeserver.services.rooms.gaps import Gaps
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.inbox import Delivery, Inbox
from homeserver.services.rooms.intake import FirstWrite
from homeserver.services.rooms.receipts import Outcome, Receipt
from homeserver.storage import deliveries
from homeserver.storage.deliveries import Staged
from homeserver.storage.engine import Database

_AT_ONCE = 100
"""So many staged events of a room are taken together."""
_ROOMS_AT_ONCE = 50
"""So many rooms that are behind catch up at a time."""
_PAUSE_S = 5.0
_LOOK_AGAIN_S = 15.0


@dataclass(eq=False, slots=True)
class Place:
    """A place in line: the events of one delivery for one room, looked at or not."""

    room: HotRoom
    origin: ServerName
    pdus: Sequence[bytes]
    looked_at: Delivery | None
    first: FirstWrite | None = None
    done: "asyncio.Future[list[Receipt]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_begun: bool = False
    numbers: list[int] = field(default_factory=list)
    """Where it is staged."""


@dataclass(slots=True)
class _Line:
    places: deque[Place] = field(default_factory=deque)
    is_behind: bool = False
    staging: int = 0
    """How many are about to stage something."""
    task: "asyncio.Task[None] | None" = None


class Staging:
    """Something is about to be staged; until the end nobody believes that a room has caught up."""

    def __init__(self, lines: "RoomLines") -> None:
        self._lines = lines

    def end(self, staged: Sequence[tuple[HotRoom, int]], origin: ServerName, places: Sequence[Place]) -> None:
        """It is committed: these events with their numbers, among them those of the places that are not done."""
        self._lines.note_staged(staged, origin, places)


class RoomLines:
    """All lines."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hot: HotRooms,
        inbox: Inbox,
        gaps: Gaps,
        metrics: Metrics,
        background: Background,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hot = hot
        self._inbox = inbox
        self._gaps = gaps
        self._metrics = metrics
        self._background = background
        self._lines: dict[RoomId, _Line] = {}
        self._staged: Counter[ServerName] = Counter()
        self._catching_up = asyncio.Semaphore(_ROOMS_AT_ONCE)
        self._is_closing = False

    async def run(self) -> None:
        """Take up what was staged when the server ended, then look after gaps; until cancelled."""
        self._staged = Counter(await self._database.read(deliveries.count_staged))
        self._metrics.staged_pdus.set(self._staged.total())
        for room_id in await self._database.read(deliveries.list_rooms):
            self._fall_behind(room_id)
        while True:
            await self._gaps.look_again()
            await self._clock.sleep(_LOOK_AGAIN_S)
            for room_id, line in list(self._lines.items()):
                if line.places or line.is_behind:
                    self._move(room_id, line)  # It may have stopped because the database was gone.

    async def close(self) -> None:
        """Let the lines stand still."""
        self._is_closing = True
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def is_behind(self, room_id: RoomId) -> bool:
        """Whether events of the room are staged, so that what comes has to be staged too."""
        line = self._lines.get(room_id)
        return line is not None and (line.is_behind or line.staging > 0)

    def count_staged(self, origin: ServerName) -> int:
        """How many events of this server are staged."""
        return self._staged[origin]

    def join(self, place: Place) -> Place:
        """Take a place in line."""
        line = self._line(place.room.room_id)
        line.places.append(place)
        self._move(place.room.room_id, line)
        return place

    @contextmanager
    def staging(self, room_ids: Sequence[RoomId]) -> Iterator[Staging]:
        """While something of these rooms is written to the database."""
        lines = {room_id: self._line(room_id) for room_id in room_ids}
        for line in lines.values():
            line.staging += 1
        try:
            yield Staging(self)
        finally:
            for room_id, line in lines.items():
                line.staging -= 1
                self._forget_idle(room_id, line)

    def note_staged(self, staged: Sequence[tuple[HotRoom, int]], origin: ServerName, places: Sequence[Place]) -> None:
        """These events are staged now, among them those of places that are not done."""
        self._count(origin, len(staged))
        numbers: dict[HotRoom, list[int]] = {}
        for room, number in staged:
            numbers.setdefault(room, []).append(number)
        for place in places:
            if place.room not in numbers:
                continue
            if place.is_begun:
                # It is on its way, or has arrived meanwhile: whoever is working at it removes what is staged.
                place.numbers = numbers[place.room]
            else:
                self._line(place.room.room_id).places.remove(place)
            if place.done.done() and place.done.exception() is None:
                self._background.start(self._unstage(origin, place.numbers))
        for room in numbers:
            self._fall_behind(room.room_id)

    def _line(self, room_id: RoomId) -> _Line:
        return self._lines.setdefault(room_id, _Line())

    def _fall_behind(self, room_id: RoomId) -> None:
        line = self._line(room_id)
        line.is_behind = True
        self._move(room_id, line)

    def _move(self, room_id: RoomId, line: _Line) -> None:
        if line.task is None and not self._is_closing:
            line.task = self._background.start(self._work(room_id, line))

    async def _work(self, room_id: RoomId, line: _Line) -> None:
        try:
            while line.places or line.is_behind:
                if line.places:
                    await self._take(line.places.popleft())
                elif not await self._catch_up(room_id) and not line.places:
                    # What is being staged right now is announced by whoever stages it.
                    line.is_behind = False
        finally:
            line.task = None
            self._forget_idle(room_id, line)

    def _forget_idle(self, room_id: RoomId, line: _Line) -> None:
        if line.task is None and not line.places and not line.is_behind and not line.staging:
            self._lines.pop(room_id, None)

    async def _take(self, place: Place) -> None:
        place.is_begun = True
        if place.looked_at is not None:
            work = self._inbox.take(place.looked_at, first=place.first)
        else:
            work = self._inbox.receive(place.room.room_id, place.pdus, first=place.first)
        [outcome] = await asyncio.gather(work, return_exceptions=True)
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, (RequestError, *WRONG)):
                place.done.set_exception(outcome)
                place.done.exception()  # Nobody may be waiting any more.
                return  # Where it is staged it is tried again.
            outcome = self._given_up(outcome, [id_of(place.room, pdu) for pdu in place.pdus])
        place.done.set_result(outcome)
        self._look_for_gaps(place.room.room_id, place.origin, outcome)
        if place.numbers:
            await self._unstage(place.origin, place.numbers)

    async def _catch_up(self, room_id: RoomId) -> bool:
        """Take in some of what is staged; whether there was anything."""
        async with self._catching_up:
            try:
                room_nid = await self._hot.nid_of(room_id)
            except NotFound:
                # The room was purged, and with it what was staged.
                self._staged = Counter(await self._database.read(deliveries.count_staged))
                return False
            staged = await self._database.read(deliveries.list_staged, room_nid, limit=_AT_ONCE)
            if not staged:
                return False
            crash.point("K9")
            if not await self._take_staged(room_id, staged):
                await self._clock.sleep(_PAUSE_S)
            return True

    async def _take_staged(self, room_id: RoomId, staged: Sequence[Staged]) -> bool:
        """Take in what is staged; whether that could be done. One that is the fault of all goes alone."""
        [outcome] = await asyncio.gather(
            self._inbox.receive(room_id, [one.pdu for one in staged]), return_exceptions=True
        )
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, (RequestError, *WRONG)):
                report(outcome)
                return False
            if len(staged) > 1:
                return all([await self._take_staged(room_id, [one]) for one in staged])
            outcome = self._given_up(outcome, [None])
        for one, receipt in zip(staged, outcome, strict=True):
            self._metrics.pdus_received.labels(receipt.outcome.value).inc()
            self._look_for_gaps(room_id, one.origin, [receipt])
        for origin in {one.origin for one in staged}:
            await self._unstage(origin, [one.number for one in staged if one.origin == origin])
        return True

    def _given_up(self, fault: BaseException, event_ids: Sequence[EventId | None]) -> list[Receipt]:
        """Nothing can be made of these events, for a reason that is no event's."""
        if not isinstance(fault, RequestError):
            report(fault)
        reason = fault.message if isinstance(fault, RequestError) else "The event could not be processed."
        return [Receipt(event_id, Outcome.DROPPED, reason) for event_id in event_ids]

    def _look_for_gaps(self, room_id: RoomId, origin: ServerName, receipts: Sequence[Receipt]) -> None:
        waiting = [one.event_id for one in receipts if one.outcome == Outcome.WAITING and one.event_id is not None]
        if waiting:
            self._gaps.notice(room_id, origin, waiting)

    async def _unstage(self, origin: ServerName, numbers: Sequence[int]) -> None:
        await self._database.write(deliveries.unstage, numbers)
        self._count(origin, -len(numbers))

    def _count(self, origin: ServerName, count: int) -> None:
        self._staged[origin] += count
        if self._staged[origin] <= 0:
            del self._staged[origin]
        self._metrics.staged_pdus.set(self._staged.total())
