"""Purging rooms and their history (docs/decisions/0006-purges.md).

A purge is a durable job of many small transactions. Each of them leaves everything as it would be if the purge had
been of less, and notes how far the job has come; whoever carries it on after a crash begins there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from homeserver.errors import Conflict, HomeserverError, NotFound, RequestError
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.history_purge import HistoryPurge, Survey
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.resolution import Resolver
from homeserver.services.rooms.room_purge import RoomPurge
from homeserver.services.rooms.send import Sender
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, partial_rooms, places, purges, rooms, state, stream_rows, timelines
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import OK
from homeserver.storage.purges import PAGE, ROOT, Job

T = TypeVar("T")

PURGES = "purges"
"""The notifier's key of new purges."""

_HELD_MS = 20_000
_PAGES = 2_000
_LONGEST_REST_S = 1.0

Unit = Callable[[WriteTx, Job], Job]
"""The next step of a job, as a unit of work: what the job is after it."""


class _Lost(HomeserverError):
    """Somebody else works at the purge by now."""


@dataclass(frozen=True, slots=True)
class Point:
    """The first event that stays, or the first time."""

    event_id: EventId | None = None
    ts: int | None = None


class Purge:
    """Begins purges and carries them out.

    One process at a time works at a purge: it holds it for some seconds after each step, and each step's transaction
    fails if it is held by another by then. A step that takes something from a room that remains has the room alone:
    no event is being placed meanwhile on what the step takes away. Between the steps the room goes on as usual, and
    the purge rests for as long as it worked. A cancelled worker has finished its transaction.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        trees: StateTrees,
        hot: HotRooms,
        resolver: Resolver,
        sender: Sender,
        *,
        server_name: str,
        holder: str,
        batch: int = 500,
    ) -> None:
        """`holder` is a name that no other process has; a step looks at `batch` events at most."""
        self._database = database
        self._clock = clock
        self._trees = trees
        self._hot = hot
        self._resolver = resolver
        self._sender = sender
        self._holder = holder
        self._history = HistoryPurge(trees, clock, batch)
        self._whole = RoomPurge(server_name, batch)
        self._surveys: dict[int, Survey] = {}
        self._alone: dict[str, Unit] = {
            "begin": self._history.begin,
            "messages": self._history.messages,
            "past": self._history.past,
            "gaps": self._history.gaps,
            "edges": self._history.edges,
            "state": lambda tx, job: self._history.state(tx, job, self._surveys[job.purge_id]),
            "redactions": self._history.redactions,
            "close": self._whole.close,
        }
        self._beside: dict[str, Unit] = {
            "events": self._whole.events,
            "rest": self._whole.rest,
            "pages": self._pages,
        }

    async def start(self, room_id: RoomId, point: Point | None = None, *, is_forced: bool = False) -> int:
        """Begin to purge what was before a point, or the whole room; the number of the purge.

        Raises `NotFound`, or `Conflict` where a purge of the room is under way, or where users of this server are in
        a room that is to go and nobody said that they have to leave.
        """
        return await self._database.write(self._start, room_id, point, is_forced)

    async def find(self, purge_id: int) -> Job:
        """How far a purge has come. Raises `NotFound`."""
        job = await self._database.read(purges.find, purge_id)
        if job is None:
            raise NotFound("There is no such purge.")
        return job

    async def find_open(self, room_id: RoomId) -> Job | None:
        """The purge of this room that has not ended, if there is one."""
        return next((job for job in await self._database.read(purges.list_open) if job.room_id == room_id), None)

    async def work(self, *, is_server: bool) -> None:
        """Carry out all purges that nobody else works at. A server takes them from commands, which give way."""
        # One that failed here the last time has its turn behind the others.
        for job in sorted(await self._database.read(purges.list_open), key=lambda job: job.holder == self._holder):
            now = self._clock.now()
            if await self._database.write(
                purges.claim, job.purge_id, self._holder, is_server=is_server, now=now, until=now + _HELD_MS
            ):
                try:
                    await self._carry_out(await self.find(job.purge_id))
                except _Lost:
                    continue
                finally:
                    self._surveys.pop(job.purge_id, None)

    def _start(self, tx: WriteTx, room_id: RoomId, point: Point | None, is_forced: bool) -> int:
        room = rooms.find(tx, room_id)
        if room is None:
            raise NotFound("This server does not know the room.")
        place = None if point is None else _place_of(tx, room.room_nid, point)
        before = None if place is None else places.position_of(place) + int(places.is_past(place))
        if before is None and not is_forced:
            self._whole.check_nobody_is_in(tx, room.room_nid)
        if before is not None and partial_rooms.find_many(tx, [room.room_nid]):
            raise Conflict("The room was joined a moment ago, and is not known whole yet.")
        job = Job(
            purge_id=stream_rows.advance(tx),
            room_id=room_id,
            room_nid=room.room_nid,
            before=before,
            before_place=place if place is not None and places.is_past(place) else None,
            is_forced=is_forced,
            stage="leave" if before is None else "begin",
            cursor=0,
            done=0,
            total=0,
            created_ts=self._clock.now(),
        )
        if not purges.insert_one(tx, job):
            raise Conflict("A purge of this room is under way already.")
        tx.wake([PURGES])
        return job.purge_id

    async def _carry_out(self, job: Job) -> None:
        while job.ended_ts is None:
            began = self._clock.monotonic()
            try:
                job = await self._step(job)
            except RequestError as error:
                job = replace(job, ended_ts=self._clock.now(), failure=error.message)
                await self._database.write(self._note, job, lambda tx, job: job)
            await self._clock.sleep(min(self._clock.monotonic() - began, _LONGEST_REST_S))

    async def _step(self, job: Job) -> Job:
        if job.stage == "leave":
            return await self._leave(job)
        if job.stage == "roots":
            return await self._find_pages(job)
        if (unit := self._beside.get(job.stage)) is not None:
            return await self._database.write(self._note, job, unit)
        if job.stage == "state" and job.purge_id not in self._surveys:
            survey = await self._while_held(job, self._database.snapshot(self._history.survey, job))
            self._surveys[job.purge_id] = survey
        async with self._room_alone(job.room_nid) as room:
            after = await self._database.write(self._note, job, self._alone[job.stage])
            if job.stage == "close" and after.stage != "leave":
                self._hot.drop(room)
            elif job.stage == "begin":
                # What is in memory of the room, and what was made of it, is not to be shown any more.
                room.forget_recent(await self._database.read(stream_rows.current))
            elif job.stage in ("messages", "past"):
                self._resolver.forget()
        return after

    def _note(self, tx: WriteTx, job: Job, unit: Unit) -> Job:
        after = unit(tx, job)
        if not purges.advance(tx, after, until=self._clock.now() + _HELD_MS):
            raise _Lost
        return after

    async def _while_held(self, job: Job, look: Awaitable[T]) -> T:
        """What a long look at the database comes to, during which the purge is held on to."""
        async with asyncio.TaskGroup() as tasks:
            holding = tasks.create_task(self._hold(job))
            found = await look
            holding.cancel()
        return found

    async def _hold(self, job: Job) -> None:
        while True:
            await self._clock.sleep(_HELD_MS / 3000)
            try:
                await self._database.write(self._note, job, lambda tx, job: job)
            except _Lost:
                return  # The next step will find it out.

    @asynccontextmanager
    async def _room_alone(self, room_nid: int) -> AsyncIterator[HotRoom]:
        while True:
            room = await self._hot.get(room_nid)
            async with room.alone():
                if self._hot.peek(room_nid) is room:
                    yield room
                    return

    async def _leave(self, job: Job) -> Job:
        """Let some of the users of this server leave the room, if they may be made to."""
        leaving = await self._database.read(self._whole.who_has_to_leave, job)

        def build(drafts: Drafts) -> None:
            for user_id in leaving:
                if drafts.room.membership_of(user_id) in self._whole.STAYING:
                    drafts.add(Draft("m.room.member", user_id, {"membership": "leave"}, state_key=user_id))

        if leaving:
            await self._sender.change(job.room_id, build)
            after = replace(job, done=job.done + len(leaving), total=max(job.total, job.done + len(leaving)))
        else:
            after = replace(job, stage="close", cursor=0, done=0, total=1)
        return await self._database.write(self._note, after, lambda tx, job: job)

    async def _find_pages(self, job: Job) -> Job:
        """Find what only the states reach that were given up."""
        kept: list[int] = []
        if job.before is not None:
            if (survey := self._surveys.get(job.purge_id)) is None:
                survey = await self._while_held(job, self._database.snapshot(self._history.survey, job))
            kept = survey.roots
        numbers = await self._while_held(job, self._database.snapshot(self._unreachable, job, kept))
        for first in range(0, len(numbers), _PAGES):
            part = numbers[first : first + _PAGES]
            job = replace(job, done=first + len(part), total=len(numbers))
            await self._database.write(self._note, job, partial(_keep_for_later, part))
        after = replace(job, stage="pages", cursor=0, done=0, total=len(numbers))
        return await self._database.write(self._note, after, _forget_roots)

    def _unreachable(self, tx: ReadTx, job: Job, kept: list[int]) -> list[int]:
        given_up = purges.list_all_leftovers(tx, job.purge_id, ROOT)
        numbers = self._trees.unreachable(tx, given_up, kept)
        # What was written behind the point may be part of a state that was only looked at as far as its changes.
        return [one for one in numbers if job.before is None or state.position_of_page(one) < job.before]

    def _pages(self, tx: WriteTx, job: Job) -> Job:
        """Reclaim some of the pages that nothing reaches."""
        part = purges.list_leftovers(tx, job.purge_id, PAGE, limit=_PAGES)
        if not part:
            return replace(job, ended_ts=self._clock.now())
        state.delete_pages(tx, part)
        purges.remove_leftovers(tx, job.purge_id, PAGE, part)
        return replace(job, done=job.done + len(part))


def _keep_for_later(part: list[int], tx: WriteTx, job: Job) -> Job:
    purges.add_leftovers(tx, job.purge_id, PAGE, part)
    return job


def _forget_roots(tx: WriteTx, job: Job) -> Job:
    purges.remove_leftovers(tx, job.purge_id, ROOT)
    return job


def _place_of(tx: ReadTx, room_nid: int, point: Point) -> int:
    """The place of the first event that stays."""
    if point.event_id is None:
        first = timelines.find_first_at(tx, room_nid, point.ts or 0)
        return places.at(stream_rows.current(tx) + 1) if first is None else first
    event = events.find_by_id(tx, room_nid, point.event_id)
    if event is None or event.status != OK:
        raise NotFound("The room's history has no such event.")
    return event.timeline_place
