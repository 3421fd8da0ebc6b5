"""The event nearest to a time (client-server API, `GET /rooms/{roomId}/timestamp_to_event`).

Where history is missing around that time, other servers are asked whether they know a nearer one, and if so, what is
missing is fetched: as far as that event where the server can show it, within bounds, and for a little while where it
cannot.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from homeserver.errors import NotFound, RemoteFailure
from homeserver.matrix import identifiers
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, InvalidIdentifier, RoomId, ServerName
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.operations.graph import NearestEvent
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.backfill import Backfill
from homeserver.services.rooms.hot import HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.read import RoomReader, gap_below
from homeserver.services.rooms.visibility import Onlooker
from homeserver.storage import places, room_servers, timelines
from homeserver.storage.engine import Database, ReadTx

_LOOKS = (100, 1000)
_FETCHES = 5
_FETCHES_TO_SHOWN = 50
_FETCHED = 100
_PATIENCE_S = 30.0
_SERVERS = 3
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Near:
    """The nearest event that is known, and the place of one before which others are missing that may be nearer."""

    event: Event | None
    gap: int | None
    room_nid: int


@dataclass(frozen=True, slots=True)
class _Nearer:
    """An event that another server says is nearer, and whether it has shown that there is such an event."""

    event_id: EventId
    is_shown: bool


class NearestEvents:
    """Finds events by time. Raises `Forbidden` where the requester may not look, `NotFound` where there is none."""

    def __init__(
        self,
        database: Database,
        hot: HotRooms,
        inbox: Inbox,
        reader: RoomReader,
        backfill: Backfill,
        federation: FederationClient,
    ) -> None:
        self._database = database
        self._hot = hot
        self._inbox = inbox
        self._reader = reader
        self._backfill = backfill
        self._federation = federation

    async def find(self, who: Requester, room_id: RoomId, ts: int, *, forwards: bool) -> Event:
        """The event nearest to a time, on one side of it."""
        look = partial(self._near, who=who, room_id=room_id, ts=ts, forwards=forwards)
        near = await self._database.snapshot(look)
        if near.gap is not None and (nearer := await self._find_elsewhere(room_id, near, ts, forwards)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await self._go_back(room_id, near.gap, nearer, look)
            near = await self._database.snapshot(look)
        if near.event is None:
            raise NotFound("There is no event on that side of the time.")
        return near.event

    async def _go_back(self, room_id: RoomId, before: int, nearer: _Nearer, look: Callable[[ReadTx], _Near]) -> None:
        """Fetch what is missing before a place, a page at a time, until the nearer event is there."""
        gap: int | None = before
        for _ in range(_FETCHES_TO_SHOWN if nearer.is_shown else _FETCHES):
            if gap is None or not await self._backfill.ensure(room_id, before=gap, wanted=_FETCHED):
                return
            near = await self._database.snapshot(look)
            gap = near.gap
            if near.event is not None and near.event.event_id == nearer.event_id:
                return

    async def _find_elsewhere(self, room_id: RoomId, near: _Near, ts: int, forwards: bool) -> _Nearer | None:
        """A nearer event that a server knows which has been in the room for long."""
        for server in await self._database.read(room_servers.list_longest, near.room_nid, limit=_SERVERS):
            try:
                found = await self._federation.timestamp_to_event(
                    server, room_id, ts, backwards=not forwards, timeout_s=_TIMEOUT_S
                )
            except RemoteFailure:
                continue
            if _is_on_that_side(found, ts, forwards) and (
                near.event is None or abs(found.origin_server_ts - ts) < abs(near.event.origin_server_ts - ts)
            ):
                return _Nearer(EventId(found.event_id), await self._is_shown(server, room_id, found))
        return None

    async def _is_shown(self, server: ServerName, room_id: RoomId, found: NearestEvent) -> bool:
        """Whether there is such an event: who only says so shall not have us fetch a long history."""
        try:
            answer = await self._federation.event(server, EventId(found.event_id))
        except RemoteFailure:
            return False
        shown = await self._inbox.check(await self._hot.find(room_id), [bytes(pdu) for pdu in answer.pdus[:1]])
        event = shown.get(EventId(found.event_id))
        return event is not None and event.origin_server_ts == found.origin_server_ts

    def _near(self, tx: ReadTx, who: Requester, room_id: RoomId, ts: int, forwards: bool) -> _Near:
        eye = self._reader.onlooker(tx, who, room_id)
        upto = self._reader.readable(eye).upto
        return _Near(_nearest(tx, eye, upto, ts, forwards), _gap_at(tx, eye, upto, ts), eye.room.room_nid)


def _nearest(tx: ReadTx, eye: Onlooker, upto: int, ts: int, forwards: bool) -> Event | None:
    for limit in _LOOKS:
        rows = timelines.list_by_time(tx, eye.room.room_nid, ts=ts, forwards=forwards, limit=limit)
        seen = eye.seen([row for row in rows if row.timeline_place <= upto])
        if seen:
            return seen[0].event
        if len(rows) < limit:
            return None
    return None


def _gap_at(tx: ReadTx, eye: Onlooker, upto: int, ts: int) -> int | None:
    """Where events are missing between the last that is known from before a time and the first from after it."""
    after = timelines.list_by_time(tx, eye.room.room_nid, ts=ts, forwards=True, limit=1)
    if not after or after[0].timeline_place > upto:
        return None
    before = timelines.list_by_time(tx, eye.room.room_nid, ts=ts - 1, forwards=False, limit=1)
    bound = before[0].timeline_place if before else places.FIRST
    return gap_below(tx, eye.room, after[0].timeline_place, bound)


def _is_on_that_side(found: NearestEvent, ts: int, forwards: bool) -> bool:
    try:
        identifiers.event_id(found.event_id)
    except InvalidIdentifier:
        return False
    return found.origin_server_ts >= ts if forwards else found.origin_server_ts <= ts
