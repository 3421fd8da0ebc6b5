"""Filling a gap between the events of a room, with the help of one server.

It is asked for what lies between, as far back as the bounds go: in requests, events and bytes. Where that does not
reach what is known, the state before the lowest event is asked for, and the gap stays: what is missing before an event
that was accepted is a backward extremity, from which history can be fetched later. Missing auth events are asked for by
themselves.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from homeserver.errors import NotFound, RemoteFailure
from homeserver.kit.concurrency import contained
from homeserver.kit.logs import report
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.states_elsewhere import StatesElsewhere
from homeserver.storage import event_graph, events
from homeserver.storage.engine import Database, ReadTx

_WALKS = 10
_AT_ONCE = 100
"""So many events are asked for at a time, going back."""
_MOST_EVENTS = 1000
_MOST_BYTES = 32 << 20
_STUCK = 100
_STUCK_OF_STRANGERS = 30
_LATEST = 20
_JUMPS = 20
_ROUNDS = 3
_REST_MS = 10_000


@dataclass(slots=True)
class Wanted:
    """Events that wait; None stands for all that do so in the room."""

    event_ids: dict[EventId, None] | None
    has_news: bool = False
    """Whether some were told since the last search began, which may have looked already."""


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


class GapFilling:
    """Fills gaps."""

    def __init__(
        self,
        database: Database,
        hot: HotRooms,
        inbox: Inbox,
        elsewhere: StatesElsewhere,
        client: FederationClient,
    ) -> None:
        self._database = database
        self._hot = hot
        self._inbox = inbox
        self._elsewhere = elsewhere
        self._client = client

    async def ask(self, room: HotRoom, server: ServerName, wanted: Wanted, *, is_whole: bool) -> int | None:
        """Ask one server until none of the events waits any more; how long to rest then. None if some go on waiting."""
        stuck = await self._walk(room, server, wanted)
        if not stuck:
            return 0
        for _ in range(_ROUNDS):
            before = {one.event_id for one in stuck}
            for one in stuck[:_JUMPS]:
                # Whatever becomes of it, something else may be had.
                await contained(self._jump(room, server, one, is_whole=is_whole), _tell)
            stuck = await self._stuck(room, wanted)
            if not stuck:
                # It took more than going back: whoever wants to can make that happen with every event.
                return _REST_MS
            if before <= {one.event_id for one in stuck}:
                break
        return None

    async def _walk(self, room: HotRoom, server: ServerName, wanted: Wanted) -> list[_Stuck]:
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

    async def _stuck(self, room: HotRoom, wanted: Wanted) -> list[_Stuck]:
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


def _tell(error: BaseException) -> None:
    """Report what is neither another server's fault, nor a sign that the room is gone."""
    if not isinstance(error, (RemoteFailure, NotFound)):
        report(error)


def _look(tx: ReadTx, room: HotRoom, event_ids: Collection[EventId] | None) -> list[_Stuck]:
    """Behind what these events wait, or all events of the room."""
    assert room.room_nid is not None
    if event_ids is None:
        strangers = event_graph.measure_waiting(tx, room.room_nid).keys() - room.servers
        waiting = event_graph.list_stuck(tx, room.room_nid, but=strangers, limit=_STUCK)
        if strangers:
            # Anybody can have events wait. Of theirs a few are looked for: behind one that joins, others may wait.
            waiting |= event_graph.list_stuck(tx, room.room_nid, only=strangers, limit=_STUCK_OF_STRANGERS)
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
