"""What is missing between the events of a room that are known is asked for (server-server API, SS-PDU-07).

Events that follow what is not known wait (`services/rooms/inbox.py`). For a room where some do, a server is asked
for what lies between, as far back as the bounds go. Where that does not reach what is known, the state before the
lowest event is asked for, and the gap stays: what is missing before an event that was accepted is a backward extremity,
from which history can be fetched later. Missing auth events are asked for by themselves.

A room has one such search at a time, and rooms do not wait for each other. Each search has bounds in requests, events,
bytes and time, and after one that did not succeed the room is left alone for a while, longer each time: no peer
can keep this server busy by chains that do not end.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from homeserver.errors import NotFound, RemoteFailure, Unavailable
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background
from homeserver.kit.metrics import Metrics
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, domain_of
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.services.rooms.states_elsewhere import StatesElsewhere
from homeserver.storage import event_graph, events, rooms
from homeserver.storage.engine import Database, ReadTx

log = structlog.get_logger()

_LONGEST_S = 180.0
_WALKS = 10
_AT_ONCE = 100
"""So many events are asked for at a time, going back."""
_MOST_EVENTS = 1000
_MOST_BYTES = 32 << 20
_STUCK = 100
_LATEST = 20
_JUMPS = 20
_ROUNDS = 3
_SERVERS = 4
_SEARCHES_PER_SERVER = 10
_MOST_QUEUED = 10_000
_SEARCHES_AGAIN = 50
_REST_MS = 10_000
_PAUSE_MS = 30_000
_LONGEST_PAUSE_MS = 60 * 60 * 1000
_PATIENCE = 4
"""So often all servers are asked for a state of which something is missing, before the rest of it has to do."""
_REMEMBERED = 10_000


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
class _Pause:
    """Until when a room is left alone, how often nothing came of it, and who was asked."""

    until: int
    failures: int
    asked: set[ServerName] = field(default_factory=set)


class Gaps:
    """Fills gaps."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hot: HotRooms,
        inbox: Inbox,
        elsewhere: StatesElsewhere,
        acls: ServerAcls,
        client: FederationClient,
        metrics: Metrics,
        background: Background,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hot = hot
        self._inbox = inbox
        self._elsewhere = elsewhere
        self._acls = acls
        self._client = client
        self._metrics = metrics
        self._background = background
        self._server_name = ServerName(server_name)
        self._under_way: dict[RoomId, asyncio.Task[None]] = {}
        self._busy: Counter[ServerName] = Counter()
        self._queued: dict[ServerName, dict[RoomId, None]] = {}
        """Rooms for which servers are to be asked that are busy with others, in order."""
        self._told_by: Lru[RoomId, dict[ServerName, None]] = Lru(_REMEMBERED)
        self._pauses: Lru[RoomId, _Pause] = Lru(_REMEMBERED)
        self._is_closing = False

    def notice(self, room_id: RoomId, server: ServerName) -> None:
        """Events wait that this server has delivered: look for what is missing, now or when the room's pause ends."""
        told_by = self._told_by.get(room_id) or {}
        told_by.pop(server, None)
        told_by[server] = None
        while len(told_by) > _SERVERS:
            del told_by[next(iter(told_by))]
        self._told_by.put(room_id, told_by)
        pause = self._pauses.get(room_id)
        is_new = pause is not None and pause.failures > 0 and server not in pause.asked
        if pause is None or pause.until <= self._clock.now() or is_new:
            self._begin(room_id, server)

    def begin_anew(self, room_id: RoomId) -> None:
        """Look for what is missing in a room without a pause: more can be made of it than before."""
        self._pauses.drop(room_id)
        self._begin(room_id, next(reversed(self._told_by.get(room_id) or {}), self._server_name))

    async def look_again(self) -> None:
        """Look for what is missing in rooms that were left alone for long enough."""
        now = self._clock.now()
        for room_id in await self._database.read(_rooms_waiting):
            pause = self._pauses.get(room_id)
            if len(self._under_way) >= _SEARCHES_AGAIN:
                break
            if pause is None or pause.until <= now:
                self._begin(room_id, next(reversed(self._told_by.get(room_id) or {}), self._server_name))

    async def fill(self, room_id: RoomId) -> bool:
        """Look for what the room's events wait for; whether none waits any more. Raises `NotFound`."""
        room = await self._hot.find(room_id)
        asked: set[ServerName] = set()
        try:
            async with asyncio.timeout(_LONGEST_S):
                for server in self._candidates(room):
                    asked.add(server)
                    if await self._fill_from(room, server):
                        return True
        except TimeoutError:
            pass
        pause = self._pauses.get(room_id) or _Pause(0, 0)
        pause.until = self._clock.now() + min(_PAUSE_MS * 2**pause.failures, _LONGEST_PAUSE_MS)
        pause.failures = min(pause.failures + 1, 20)
        pause.asked |= asked
        self._pauses.put(room_id, pause)
        log.info("what is missing in a room could not be had", room_id=room_id, asked=sorted(asked))
        return False

    async def close(self) -> None:
        """Stop looking; what waits is in the database."""
        self._is_closing = True
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, room_id: RoomId, server: ServerName) -> None:
        if self._is_closing or room_id in self._under_way:
            return
        if self._busy[server] >= _SEARCHES_PER_SERVER:
            queued = self._queued.setdefault(server, {})
            if len(queued) < _MOST_QUEUED:
                queued[room_id] = None
            return
        self._busy[server] += 1
        self._under_way[room_id] = self._background.start(self._search(room_id, server))

    async def _search(self, room_id: RoomId, server: ServerName) -> None:
        try:
            is_filled = await self.fill(room_id)
            self._metrics.gaps.labels("filled" if is_filled else "left").inc()
        except (NotFound, Unavailable):
            pass  # The room is gone, or changes too quickly: the next event will tell.
        finally:
            del self._under_way[room_id]
            self._busy[server] -= 1
            if not self._busy[server]:
                del self._busy[server]
            self._begin_next(server)

    def _begin_next(self, server: ServerName) -> None:
        queued = self._queued.get(server)
        while queued and self._busy[server] < _SEARCHES_PER_SERVER:
            room_id = next(iter(queued))
            del queued[room_id]
            self._begin(room_id, server)
        if not queued:
            self._queued.pop(server, None)

    def _candidates(self, room: HotRoom) -> list[ServerName]:
        """Whom to ask: who delivered what waits, the last one first, then those with the most users in the room."""
        told_by = [*reversed(self._told_by.get(room.room_id) or {})]
        members = Counter(ServerName(domain_of(user_id)) for user_id in room.joined)
        others = [server for server, _ in members.most_common(2 * _SERVERS)]
        found = [one for one in dict.fromkeys([*told_by, *others]) if one != self._server_name]
        return [one for one in found if self._acls.allows(room, one)][:_SERVERS]

    async def _fill_from(self, room: HotRoom, server: ServerName) -> bool:
        """Ask one server; whether nothing waits any more."""
        stuck = await self._walk(room, server)
        for _ in range(_ROUNDS):
            if not stuck:
                self._pauses.drop(room.room_id)
                return True
            before = {one.event_id for one in stuck}
            for one in stuck[:_JUMPS]:
                try:
                    await self._jump(room, server, one)
                except (RemoteFailure, NotFound):
                    continue  # Something else may be had.
            stuck = await self._stuck(room)
            if before <= {one.event_id for one in stuck}:
                return False
        if not stuck:
            # It took more than going back: whoever wants to can make that happen with every event.
            self._pauses.put(room.room_id, _Pause(self._clock.now() + _REST_MS, 0))
        return not stuck

    async def _walk(self, room: HotRoom, server: ServerName) -> list[_Stuck]:
        """Fetch what lies between, going back, until all is there, or nothing new comes; what waits then."""
        budget = _Budget()
        before: set[EventId] = set()
        while True:
            stuck = await self._stuck(room)
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

    async def _jump(self, room: HotRoom, server: ServerName, stuck: _Stuck) -> None:
        """Place an event without what it follows, or bring what it cites."""
        if stuck.auth:
            await self._elsewhere.bring_auth(room, server, stuck.event_id)
        if not stuck.prev:
            await self._inbox.receive(room.room_id, [stuck.pdu])
            return
        if room.partial is not None:
            return  # The state of the whole room comes anyway; then this one differs from it by a little.
        pause = self._pauses.get(room.room_id)
        # What cannot be verified now may be later; but nobody can keep a room waiting for ever.
        is_whole = pause is None or pause.failures < _PATIENCE
        if state := await self._elsewhere.before(room, server, stuck.event_id, is_whole=is_whole):
            await self._inbox.receive_with_state(room.room_id, stuck.pdu, state)

    async def _stuck(self, room: HotRoom) -> list[_Stuck]:
        """The events that wait for what does not wait itself; those for which all has come are taken in first."""
        while True:
            stuck = await self._database.snapshot(_look, room)
            ready = [one.pdu for one in stuck if not one.prev and not one.auth]
            if not ready:
                return stuck
            receipts = await self._inbox.receive(room.room_id, ready)
            dropped = [one.event_id for one in receipts if one.outcome == Outcome.DROPPED and one.event_id is not None]
            if dropped:
                await self._database.write(event_graph.end_waiting, dropped)
            if all(receipt.outcome in (Outcome.WAITING, Outcome.DROPPED) for receipt in receipts):
                return [one for one in stuck if one.prev or one.auth]


def _look(tx: ReadTx, room: HotRoom) -> list[_Stuck]:
    assert room.room_nid is not None
    waiting = event_graph.list_stuck(tx, room.room_nid, limit=_STUCK)
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
