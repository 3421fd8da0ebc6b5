"""The lines in which events of other servers wait for their turn, one for each room and server that delivers.

A line moves while there is something in it: first come, first served, one delivery after the other. Rooms do not wait
for each other, and in a room nobody waits for what another server speaks of: events may have to wait long for the keys
of those who signed them. What a server was told that it will be taken in, though it had not been, is staged in the
database: the line is then behind, and what comes is staged as well, until all that is staged was taken in.

A line is worked at by one task. When the server ends, the tasks are cancelled: what was acknowledged is staged, and
goes on at the next start.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from homeserver.errors import NotFound, RequestError
from homeserver.kit import crash
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background, KeyedLocks
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
"""So many staged events of a line are taken together."""
_ROOMS_AT_ONCE = 50
"""So many rooms that are behind catch up at a time."""
_PAUSE_S = 5.0
_LOOK_AGAIN_S = 15.0


LineId = tuple[RoomId, ServerName]


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

    @property
    def line_id(self) -> LineId:
        """The line that it is in."""
        return self.room.room_id, self.origin


@dataclass(slots=True)
class _Line:
    places: deque[Place] = field(default_factory=deque)
    is_behind: bool = False
    staging: int = 0
    """How many are about to stage something."""
    task: "asyncio.Task[None] | None" = None


class Staging:
    """Something that a server delivered is about to be staged; until the end nobody believes that it has caught up."""

    def __init__(self, lines: "RoomLines", origin: ServerName) -> None:
        self._lines = lines
        self._origin = origin

    def end(self, staged: Sequence[tuple[HotRoom, int]], places: Sequence[Place]) -> None:
        """It is committed: these events with their numbers, among them those of the places that are not done."""
        self._lines.note_staged(self._origin, staged, places)


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
        self._lines: dict[LineId, _Line] = {}
        self._staged: Counter[ServerName] = Counter()
        self._catching_up = asyncio.Semaphore(_ROOMS_AT_ONCE)
        # The lines of a room take turns, so that those of one room take up no more than one of all the turns there are.
        self._in_room: KeyedLocks[RoomId] = KeyedLocks()
        self._is_closing = False

    async def run(self) -> None:
        """Take up what was staged when the server ended, then look after gaps; until cancelled."""
        self._staged = Counter(await self._database.read(deliveries.count_staged))
        self._metrics.staged_pdus.set(self._staged.total())
        for line_id in await self._database.read(deliveries.list_lines):
            self._fall_behind(line_id)
        while True:
            await self._gaps.look_again()
            await self._clock.sleep(_LOOK_AGAIN_S)
            for line_id, line in list(self._lines.items()):
                if line.places or line.is_behind:
                    self._move(line_id, line)  # It may have stopped because the database was gone.

    async def close(self) -> None:
        """Let the lines stand still."""
        self._is_closing = True
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def is_behind(self, room_id: RoomId, origin: ServerName) -> bool:
        """Whether events of the room by this server are staged, so that what comes has to be staged too."""
        line = self._lines.get((room_id, origin))
        return line is not None and (line.is_behind or line.staging > 0)

    def count_staged(self, origin: ServerName) -> int:
        """How many events of this server are staged."""
        return self._staged[origin]

    def join(self, place: Place) -> Place:
        """Take a place in line."""
        line = self._line(place.line_id)
        line.places.append(place)
        self._move(place.line_id, line)
        return place

    @contextmanager
    def staging(self, origin: ServerName, room_ids: Iterable[RoomId]) -> Iterator[Staging]:
        """While something of these rooms that a server delivered is written to the database."""
        lines = {(room_id, origin): self._line((room_id, origin)) for room_id in room_ids}
        for line in lines.values():
            line.staging += 1
        try:
            yield Staging(self, origin)
        finally:
            for line_id, line in lines.items():
                line.staging -= 1
                self._forget_idle(line_id, line)

    def note_staged(self, origin: ServerName, staged: Sequence[tuple[HotRoom, int]], places: Sequence[Place]) -> None:
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
                self._line(place.line_id).places.remove(place)
            if place.done.done() and place.done.exception() is None:
                self._background.start(self._unstage(origin, place.numbers))
        for room in numbers:
            self._fall_behind((room.room_id, origin))

    def _line(self, line_id: LineId) -> _Line:
        return self._lines.setdefault(line_id, _Line())

    def _fall_behind(self, line_id: LineId) -> None:
        line = self._line(line_id)
        line.is_behind = True
        self._move(line_id, line)

    def _move(self, line_id: LineId, line: _Line) -> None:
        if line.task is None and not self._is_closing:
            line.task = self._background.start(self._work(line_id, line))

    async def _work(self, line_id: LineId, line: _Line) -> None:
        try:
            while line.places or line.is_behind:
                if line.places:
                    await self._take(line.places.popleft())
                elif not await self._catch_up(*line_id) and not line.places:
                    # What is being staged right now is announced by whoever stages it.
                    line.is_behind = False
        finally:
            line.task = None
            self._forget_idle(line_id, line)

    def _forget_idle(self, line_id: LineId, line: _Line) -> None:
        if line.task is None and not line.places and not line.is_behind and not line.staging:
            self._lines.pop(line_id, None)

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
        self._look_for_gaps(*place.line_id, outcome)
        if place.numbers:
            await self._unstage(place.origin, place.numbers)

    async def _catch_up(self, room_id: RoomId, origin: ServerName) -> bool:
        """Take in some of what is staged; whether there was anything."""
        await self._ask_for_keys(room_id, origin)
        async with self._in_room.hold(room_id), self._catching_up:
            staged = await self._list_staged(room_id, origin)
            if not staged:
                return False
            crash.point("K9")
            is_taken = await self._take_staged(room_id, origin, staged)
        if not is_taken:
            await self._clock.sleep(_PAUSE_S)
        return True

    async def _ask_for_keys(self, room_id: RoomId, origin: ServerName) -> None:
        """Ask for the keys that the next events need. It takes as long as servers like: nothing is held meanwhile."""
        async with self._in_room.hold(room_id), self._catching_up:
            staged = await self._list_staged(room_id, origin)
            lacking = await self._inbox.keys_lacking(room_id, [one.pdu for one in staged])
            staged.clear()
        if lacking:
            await self._inbox.ask_for_keys(lacking)

    async def _list_staged(self, room_id: RoomId, origin: ServerName) -> list[Staged]:
        """What is next in a line of those that are behind."""
        try:
            room_nid = await self._hot.nid_of(room_id)
        except NotFound:
            # The room was purged, and with it what was staged.
            self._staged = Counter(await self._database.read(deliveries.count_staged))
            return []
        return await self._database.read(deliveries.list_staged, room_nid, origin, limit=_AT_ONCE)

    async def _take_staged(self, room_id: RoomId, origin: ServerName, staged: Sequence[Staged]) -> bool:
        """Take in what is staged; whether that could be done. One that is the fault of all goes alone."""
        work = self._inbox.receive(room_id, [one.pdu for one in staged], patience_s=0)  # They were waited for.
        [outcome] = await asyncio.gather(work, return_exceptions=True)
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, (RequestError, *WRONG)):
                report(outcome)
                return False
            if len(staged) > 1:
                return all([await self._take_staged(room_id, origin, [one]) for one in staged])
            outcome = self._given_up(outcome, [None])
        for receipt in outcome:
            self._metrics.pdus_received.labels(receipt.outcome.value).inc()
        self._look_for_gaps(room_id, origin, outcome)
        await self._unstage(origin, [one.number for one in staged])
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
