"""What is missing between the events of a room that are known is asked for (server-server API, SS-PDU-07).

Events that follow what is not known wait (`services/rooms/inbox.py`). For a room where some do, a server is asked
for what lies between, as far back as the bounds go. Where that does not reach what is known, the state before the
lowest event is asked for, and the gap stays: what is missing before an event that was accepted is a backward extremity,
from which history can be fetched later. Missing auth events are asked for by themselves.

A search is for what one server has delivered to a room, and has bounds in requests, events, bytes and time. After one
that did not succeed, nothing that this server delivers to the room is a reason to search for a while, longer each time:
no peer can keep this server busy by chains that do not end, nor keep others waiting by them.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from homeserver.errors import NotFound, RemoteFailure
from homeserver.kit.caching import Lru
from homeserver.kit.metrics import Metrics
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.askable import Askable
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.searches import Searches
from homeserver.services.rooms.states_elsewhere import StatesElsewhere
from homeserver.storage import event_graph, events, rooms
from homeserver.storage.engine import Database, ReadTx

log = structlog.get_logger()

_WALKS = 10
_AT_ONCE = 100
"""So many events are asked for at a time, going back."""
_MOST_EVENTS = 1000
_MOST_BYTES = 32 << 20
_STUCK = 100
_LATEST = 20
_JUMPS = 20
_ROUNDS = 3
_TOLD_BY = 10
_TOLD = 20
"""So many servers are remembered that delivered what waits in a room, and of each so many of the newest events."""
_MOST_QUEUED = 10_000
_SEARCHES_AGAIN = 50
_REST_MS = 10_000
_LATER_MS = 30_000
_LONGEST_FILL_S = 180.0
_PATIENCE = 4
"""So often all servers are asked for a state of which something is missing, before the rest of it has to do."""
_REMEMBERED = 2000


@dataclass(frozen=True, slots=True)
class _Stuck:
    """An event that waits for what does not wait itself."""

    event_id: EventId
    pdu: bytes
    prev: frozenset[EventId]
    auth: frozenset[EventId]


@dataclass(slots=True)
class _Budget:
    """What a search may still fetch from one server going back."""

    walks: int = _WALKS
    events: int = _MOST_EVENTS
    size: int = _MOST_BYTES

    def take(self, pdus: Sequence[bytes]) -> None:
        self.walks -= 1
        self.events -= len(pdus)
        self.size -= sum(map(len, pdus))

    @property
    def is_left(self) -> bool:
        return self.walks > 0 and self.events > 0 and self.size > 0


@dataclass(slots=True)
class _Wanted:
    """Events that wait; None stands for all that do so in the room."""

    event_ids: dict[EventId, None] | None
    has_news: bool = False
    """Whether some were told since the last search began, which may have looked already."""


class Gaps:
    """Fills gaps."""

    def __init__(
        self,
        database: Database,
        hot: HotRooms,
        inbox: Inbox,
        elsewhere: StatesElsewhere,
        client: FederationClient,
        metrics: Metrics,
        askable: Askable,
        searches: Searches[tuple[RoomId, ServerName]],
        server_name: str,
        *,
        searches_per_server: int,
    ) -> None:
        self._database = database
        self._hot = hot
        self._inbox = inbox
        self._elsewhere = elsewhere
        self._client = client
        self._metrics = metrics
        self._askable = askable
        self._searches = searches
        self._server_name = ServerName(server_name)
        self._per_server = searches_per_server
        self._busy: Counter[ServerName] = Counter()
        self._queued: dict[ServerName, dict[RoomId, None]] = {}
        """Rooms for which servers are to be asked that are busy with others, in order."""
        self._wanted: Lru[RoomId, dict[ServerName, _Wanted]] = Lru(_REMEMBERED)
        """What waits in rooms, by who delivered it, the last one last; under our own name whatever waits."""

    def notice(self, room_id: RoomId, server: ServerName, event_ids: Iterable[EventId]) -> None:
        """These events wait that this server has delivered: look for what is missing, now or when its pause ends."""
        by_server = self._wanted_in(room_id)
        wanted = by_server.pop(server, None) or _Wanted({})
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
        by_server.setdefault(self._server_name, _Wanted(None))
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
                    self._searches.rest((room_id, self._server_name), _LATER_MS)
                by_server[self._server_name] = _Wanted(None)
            for server in list(by_server):
                if self._searches.count < _SEARCHES_AGAIN and not self._searches.is_resting((room_id, server)):
                    self._begin(room_id, server)

    async def fill(self, room_id: RoomId, event_ids: Iterable[EventId]) -> None:
        """Look for what these events of a room wait for. Raises `NotFound`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_FILL_S):
                await self._fill(room_id, self._server_name, _Wanted(dict.fromkeys(event_ids)))

    def _wanted_in(self, room_id: RoomId) -> dict[ServerName, _Wanted]:
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
        wanted = self._wanted_in(room_id).get(server, _Wanted({}))
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

    async def _fill(self, room_id: RoomId, server: ServerName, wanted: _Wanted) -> bool:
        """Ask one server after the other, this one first; whether none of the events waits any more."""
        room = await self._hot.find(room_id)
        # Then those who delivered what waits, the last one first.
        candidates = self._askable.servers(room, [server, *reversed(self._wanted_in(room_id))])
        # What cannot be verified now may be later; but nobody can keep an event waiting for ever.
        is_whole = self._searches.failures((room_id, server)) < _PATIENCE
        for one in candidates:
            pause_ms = await self._fill_from(room, one, wanted, is_whole=is_whole)
            if pause_ms is not None:
                self._searches.rest((room_id, server), pause_ms)
                return True
        log.info("what is missing in a room could not be had", room_id=room_id, asked=candidates)
        return False

    async def _forget_placed(self, room_id: RoomId, server: ServerName, wanted: _Wanted, *, is_filled: bool) -> None:
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

    async def _fill_from(self, room: HotRoom, server: ServerName, wanted: _Wanted, *, is_whole: bool) -> int | None:
        """Ask one server until none of the events waits any more; how long to rest then. None if some go on waiting."""
        stuck = await self._walk(room, server, wanted)
        if not stuck:
            return 0
        for _ in range(_ROUNDS):
            before = {one.event_id for one in stuck}
            for one in stuck[:_JUMPS]:
                try:
                    await self._jump(room, server, one, is_whole=is_whole)
                except (RemoteFailure, NotFound):
                    continue  # Something else may be had.
            stuck = await self._stuck(room, wanted)
            if not stuck:
                # It took more than going back: whoever wants to can make that happen with every event.
                return _REST_MS
            if before <= {one.event_id for one in stuck}:
                break
        return None

    async def _walk(self, room: HotRoom, server: ServerName, wanted: _Wanted) -> list[_Stuck]:
        """Fetch what lies between, going back, until all is there, or nothing new comes; what waits then."""
        budget = _Budget()
        before: set[EventId] = set()
        while True:
            stuck = await self._stuck(room, wanted)
            missing = {event_id for one in stuck for event_id in one.prev}
            if not missing or missing <= before or not budget.is_left:
                return stuck
            before = missing
            room = await self._hot.find(room.room_id)
            try:
                answer = await self._client.get_missing_events(
                    server,
                    room.room_id,
                    earliest=[EventId(event.event_id) for event in room.latest],
                    latest=[one.event_id for one in stuck if one.prev][:_LATEST],
                    limit=_AT_ONCE,
                )
            except RemoteFailure:
                return stuck
            pdus = [bytes(pdu) for pdu in answer.events[:_AT_ONCE]]
            budget.take(pdus)
            if pdus:
                await self._inbox.receive(room.room_id, pdus)

    async def _jump(self, room: HotRoom, server: ServerName, stuck: _Stuck, *, is_whole: bool) -> None:
        """Place an event without what it follows, or bring what it cites."""
        if stuck.auth:
            await self._elsewhere.bring_auth(room, server, stuck.event_id)
        if not stuck.prev:
            await self._inbox.receive(room.room_id, [stuck.pdu])
            return
        if room.partial is not None:
            return  # The state of the whole room comes anyway; then this one differs from it by a little.
        if state := await self._elsewhere.before(room, server, stuck.event_id, is_whole=is_whole):
            await self._inbox.receive_with_state(room.room_id, stuck.pdu, state)

    async def _stuck(self, room: HotRoom, wanted: _Wanted) -> list[_Stuck]:
        """Those behind which the events wait, and which wait for what does not wait itself.

        Those of them for which all has come are taken in first.
        """
        while True:
            stuck = await self._database.snapshot(_look, room, wanted.event_ids)
            ready = [one.pdu for one in stuck if not one.prev and not one.auth]
            if not ready:
                return stuck
            receipts = await self._inbox.receive(room.room_id, ready)
            # Whatever became of them, they do not wait any more: what is known already is not placed anew.
            ended = [one.event_id for one in receipts if one.outcome != Outcome.WAITING and one.event_id is not None]
            if not ended:
                return [one for one in stuck if one.prev or one.auth]
            await self._database.write(event_graph.end_waiting, ended)


def _look(tx: ReadTx, room: HotRoom, event_ids: Collection[EventId] | None) -> list[_Stuck]:
    """Behind what these events wait, or all events of the room."""
    assert room.room_nid is not None
    if event_ids is None:
        waiting = event_graph.list_stuck(tx, room.room_nid, limit=_STUCK)
    else:
        waiting = event_graph.list_stuck_behind(tx, room.room_nid, event_ids, limit=_STUCK)
    missing = {event_id for _, ids in waiting.values() for event_id in ids}
    placed = events.find_in_graph(tx, room.room_nid, missing)
    known = {
        event_id for event_id, row in events.find_standings_by_id(tx, missing).items() if row.room_nid == room.room_nid
    }
    found = []
    for event_id, (pdu, ids) in waiting.items():
        event = Event.parse(pdu, room.version.identifier, event_id)
        prev = frozenset(map(EventId, event.prev_events)) & ids - placed
        auth = frozenset(map(EventId, event.auth_events)) & ids - known
        found.append(_Stuck(event_id, pdu, prev, auth))
    return found


def _rooms_waiting(tx: ReadTx) -> list[RoomId]:
    found = rooms.find_many(tx, event_graph.list_rooms_waiting(tx))
    return [room.room_id for room in found.values()]
