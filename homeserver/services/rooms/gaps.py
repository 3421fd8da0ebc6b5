"""What is missing between the events of a room that are known is asked for (server-server API, SS-PDU-07).

Events that follow what is not known wait (`services/rooms/inbox.py`). For a room where some do, one server after the
other is asked (`gap_filling.py`); who, and when, is decided here.

A search is for what one server has delivered to a room, and has bounds in requests, events, bytes and time. After one
that did not succeed, nothing that this server delivers to the room is a reason to search for a while, longer each time:
no peer can keep this server busy by chains that do not end, nor keep others waiting by them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

import structlog

from homeserver.kit.caching import Lru
from homeserver.kit.metrics import Metrics
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.services.rooms.askable import Askable
from homeserver.services.rooms.gap_filling import GapFilling, Wanted
from homeserver.services.rooms.hot import HotRooms
from homeserver.services.rooms.searches import Searches
from homeserver.storage import event_graph, rooms
from homeserver.storage.engine import Database, ReadTx

log = structlog.get_logger()

_TOLD_BY = 10
_TOLD = 20
"""So many servers are remembered that delivered what waits in a room, and of each so many of the newest events."""
_MOST_QUEUED = 10_000
_SEARCHES_AGAIN = 50
_LATER_MS = 30_000
_LONGEST_FILL_S = 180.0
_PATIENCE = 4
"""So often all servers are asked for a state of which something is missing, before the rest of it has to do."""
_REMEMBERED = 2000


class Gaps:
    """Has gaps filled."""

    def __init__(
        self,
        database: Database,
        hot: HotRooms,
        filling: GapFilling,
        metrics: Metrics,
        askable: Askable,
        searches: Searches[tuple[RoomId, ServerName]],
        server_name: str,
        *,
        searches_per_server: int,
    ) -> None:
        self._database = database
        self._hot = hot
        self._filling = filling
        self._metrics = metrics
        self._askable = askable
        self._searches = searches
        self._server_name = ServerName(server_name)
        self._per_server = searches_per_server
        self._busy: Counter[ServerName] = Counter()
        self._queued: dict[ServerName, dict[RoomId, None]] = {}
        """Rooms for which servers are to be asked that are busy with others, in order."""
        self._wanted: Lru[RoomId, dict[ServerName, Wanted]] = Lru(_REMEMBERED)
        """What waits in rooms, by who delivered it, the last one last; under our own name whatever waits."""

    def notice(self, room_id: RoomId, server: ServerName, event_ids: Iterable[EventId]) -> None:
        """These events wait that this server has delivered: look for what is missing, now or when its pause ends."""
        by_server = self._wanted_in(room_id)
        wanted = by_server.pop(server, None) or Wanted({})
        told = (wanted.event_ids or {}) | dict.fromkeys(event_ids)
        wanted.event_ids = dict.fromkeys([*told][-_TOLD:])
        wanted.has_news = True
        by_server[server] = wanted
        while len(by_server) > _TOLD_BY:
            del by_server[next(iter(by_server))]
        if not self._searches.is_resting((room_id, server)):
            self._begin(room_id, server)

    def begin_anew(self, room_id: RoomId) -> None:
        """Look for what is missing in a room without a pause: more can be made of it than before."""
        by_server = self._wanted_in(room_id)
        by_server.setdefault(self._server_name, Wanted(None))
        for server in by_server:
            self._searches.wake((room_id, server))
            self._begin(room_id, server)

    async def look_again(self) -> None:
        """Look for what is missing in rooms that were left alone for long enough."""
        for room_id in await self._database.read(_rooms_waiting):
            by_server = self._wanted_in(room_id)
            if self._server_name not in by_server:
                if by_server and not self._searches.is_resting((room_id, self._server_name)):
                    # What was delivered lately is looked for first.
                    self._searches.rest((room_id, self._server_name), _LATER_MS / 1000)
                by_server[self._server_name] = Wanted(None)
            for server in list(by_server):
                if self._searches.count < _SEARCHES_AGAIN and not self._searches.is_resting((room_id, server)):
                    self._begin(room_id, server)

    async def fill(self, room_id: RoomId, event_ids: Iterable[EventId]) -> None:
        """Look for what these events of a room wait for. Raises `NotFound`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_FILL_S):
                await self._fill(room_id, self._server_name, Wanted(dict.fromkeys(event_ids)))

    def _wanted_in(self, room_id: RoomId) -> dict[ServerName, Wanted]:
        found = self._wanted.get(room_id)
        if found is None:
            found = {}
            self._wanted.put(room_id, found)
        return found

    def _begin(self, room_id: RoomId, server: ServerName) -> None:
        """Look for what is missing of what this server has delivered, unless it is busy already."""
        if self._searches.under_way((room_id, server)) is not None:
            return
        if self._busy[server] >= self._per_server:
            queued = self._queued.setdefault(server, {})
            if len(queued) < _MOST_QUEUED:
                queued[room_id] = None
            return
        self._queued.get(server, {}).pop(room_id, None)
        task = self._searches.begin((room_id, server), partial(self._search, room_id, server))
        if task is not None:
            self._busy[server] += 1
            task.add_done_callback(lambda _: self._go_on(room_id, server))

    async def _search(self, room_id: RoomId, server: ServerName) -> bool:
        wanted = self._wanted_in(room_id).get(server, Wanted({}))
        wanted.has_news = False
        is_filled = await self._fill(room_id, server, wanted)
        await self._forget_placed(room_id, server, wanted, is_filled=is_filled)
        self._metrics.gaps.labels("filled" if is_filled else "left").inc()
        return is_filled

    def _go_on(self, room_id: RoomId, server: ServerName) -> None:
        """A search is over: begin what had to wait for its end."""
        self._busy[server] -= 1
        if not self._busy[server]:
            del self._busy[server]
        self._begin_next(server)
        wanted = self._wanted_in(room_id).get(server)
        if wanted is not None and wanted.has_news and not self._searches.is_resting((room_id, server)):
            self._begin(room_id, server)  # Behind the others: it was there already.

    async def _fill(self, room_id: RoomId, server: ServerName, wanted: Wanted) -> bool:
        """Ask one server after the other, this one first; whether none of the events waits any more."""
        room = await self._hot.find(room_id)
        if server != self._server_name and server not in room.servers:
            # Who is not in the room is no reason to ask anybody. It may come to be, by an event of others.
            return False
        # Then those who delivered what waits, the last one first.
        deliverers = [one for one in reversed(self._wanted_in(room_id)) if one in room.servers]
        candidates = self._askable.servers(room, [server, *deliverers])
        # What cannot be verified now may be later; but nobody can keep an event waiting for ever.
        is_whole = self._searches.failures((room_id, server)) < _PATIENCE
        for one in candidates:
            pause_ms = await self._filling.ask(room, one, wanted, is_whole=is_whole)
            if pause_ms is not None:
                self._searches.rest((room_id, server), pause_ms / 1000)
                return True
        log.info("what is missing in a room could not be had", room_id=room_id, asked=candidates)
        return False

    async def _forget_placed(self, room_id: RoomId, server: ServerName, wanted: Wanted, *, is_filled: bool) -> None:
        """Forget what does not wait any more."""
        if wanted.event_ids is None:
            is_empty = is_filled
        else:
            told = wanted.event_ids  # What comes meanwhile is not among them.
            ended = told.keys() - await self._database.read(event_graph.find_waiting, told)
            wanted.event_ids = {one: None for one in wanted.event_ids if one not in ended}
            is_empty = not wanted.event_ids
        if is_empty:
            self._wanted_in(room_id).pop(server, None)

    def _begin_next(self, server: ServerName) -> None:
        queued = self._queued.get(server)
        while queued and self._busy[server] < self._per_server:
            room_id = next(iter(queued))
            del queued[room_id]
            self._begin(room_id, server)
        if not queued:
            self._queued.pop(server, None)


def _rooms_waiting(tx: ReadTx) -> list[RoomId]:
    found = rooms.find_many(tx, event_graph.list_rooms_waiting(tx))
    return [room.room_id for room in found.values()]
