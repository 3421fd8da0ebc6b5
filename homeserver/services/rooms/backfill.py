"""History from before what is known of a room is fetched from servers that were there (server-server API, Backfilling).

A gap is where events are missing before one that is known: mostly that by which this server came into the room. Who
reads back as far as a gap waits for one fetch, and not for long; who comes near it has the next page fetched meanwhile.

A room has one fetch at a time (`services/rooms/searches.py`). Each has bounds in requests, events, bytes and time.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from homeserver.errors import RemoteFailure
from homeserver.kit.metrics import Metrics
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, domain_of
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.askable import Askable
from homeserver.services.rooms.hot import HotRoom, HotRooms, parse
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.past import Past
from homeserver.services.rooms.searches import Searches
from homeserver.services.rooms.states_elsewhere import StatesElsewhere
from homeserver.storage import event_graph, events, places, purges, timelines
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair

log = structlog.get_logger()

_LEAST, _MOST = 20, 100
"""So many events are asked for at a time."""
_LATEST = 20
_STATES = 10
"""So often one server is asked for a state, for one fetch."""
_AUTH = 3
_PATIENCE_S = 10.0
_FETCHES = 50


@dataclass(frozen=True, slots=True)
class _Gap:
    """What is missing in one place of a timeline, and who spoke right behind it."""

    missing: Sequence[EventId]
    servers: Sequence[ServerName]


@dataclass(frozen=True, slots=True)
class _Known:
    """Which events of the room are known, and of which also the state."""

    events: frozenset[EventId]
    in_graph: frozenset[EventId]


class Backfill:
    """Fetches history."""

    def __init__(
        self,
        database: Database,
        hot: HotRooms,
        inbox: Inbox,
        elsewhere: StatesElsewhere,
        past: Past,
        client: FederationClient,
        metrics: Metrics,
        askable: Askable,
        searches: Searches[RoomId],
    ) -> None:
        self._database = database
        self._hot = hot
        self._inbox = inbox
        self._elsewhere = elsewhere
        self._past = past
        self._client = client
        self._metrics = metrics
        self._askable = askable
        self._searches = searches

    async def ensure(self, room_id: RoomId, *, before: int, wanted: int) -> bool:
        """Fetch what is missing before the event at a place, and wait for that a while; whether anything came."""
        task = self.begin(room_id, before=before, wanted=wanted)
        if task is None:
            return False
        await asyncio.wait([task], timeout=_PATIENCE_S)
        return task.done() and not task.cancelled() and task.exception() is None and task.result()

    def begin(self, room_id: RoomId, *, before: int, wanted: int) -> "asyncio.Task[bool] | None":
        """Fetch it while nobody waits; None where nothing can come of it now."""
        if (task := self._searches.under_way(room_id)) is not None:
            return task
        if self._searches.is_resting(room_id) or self._searches.count >= _FETCHES:
            return None
        limit = min(max(2 * wanted, _LEAST), _MOST)
        return self._searches.begin(room_id, partial(self._fetch, room_id, before, limit))

    async def _fetch(self, room_id: RoomId, before: int, limit: int) -> bool:
        has_come = False
        try:
            has_come = await self._ask_around(await self._hot.find(room_id), before, limit)
        finally:
            self._metrics.backfills.labels("come" if has_come else "nothing").inc()
        if has_come:
            self._searches.wake(room_id)
        else:
            log.info("history could not be had", room_id=room_id)
        return has_come

    async def _ask_around(self, room: HotRoom, before: int, limit: int) -> bool:
        """Ask servers one after the other until one has it."""
        gap = await self._database.snapshot(_look, room, before)
        if not gap.missing:
            return False
        # Who spoke right behind the gap was there.
        for server in self._askable.servers(room, gap.servers):
            try:
                if await self._fetch_from(room, server, gap.missing, limit):
                    return True
            except RemoteFailure:
                continue  # Another one may have it.
        return False

    async def _fetch_from(self, room: HotRoom, server: ServerName, missing: Sequence[EventId], limit: int) -> bool:
        answer = await self._client.backfill(server, room.room_id, missing, limit=limit)
        found = await self._inbox.check(room, [bytes(pdu) for pdu in answer.pdus[: limit + len(missing)]])
        cited = {EventId(one) for event in found.values() for one in (*event.prev_events, *event.auth_events)}
        known = await self._database.snapshot(_what_is_known, room, cited | found.keys())
        chain = _chain(found, missing, known.in_graph)
        if not chain:
            return False
        states = await self._find_states(room, server, chain, known)
        await self._bring_auth(room, server, chain, known)
        return await self._past.take(room.room_id, chain, states) > 0

    async def _find_states(
        self, room: HotRoom, server: ServerName, chain: dict[EventId, Event], known: _Known
    ) -> dict[EventId, Mapping[Pair, EventId]]:
        """The states before those events of the chain that follow what is not there.

        An event whose state cannot be had is left out of the chain: then its followers follow what is not there.
        """
        states: dict[EventId, Mapping[Pair, EventId]] = {}
        for _ in range(_STATES):
            lowest = min(
                (one for one in chain.values() if one.event_id not in states and _is_loose(one, chain, known)),
                key=lambda one: one.depth,
                default=None,
            )
            if lowest is None:
                break
            event_id = EventId(lowest.event_id)
            state: Mapping[Pair, EventId] = {}
            try:
                state = await self._elsewhere.before(room, server, event_id)
            except RemoteFailure:
                log.info("the state at an event of the past could not be had", room_id=room.room_id, server=server)
            if state:
                states[event_id] = state
            else:
                del chain[event_id]
        return states

    async def _bring_auth(
        self, room: HotRoom, server: ServerName, chain: Mapping[EventId, Event], known: _Known
    ) -> None:
        """Take in what events of the chain are allowed by and what is not there."""
        for _ in range(_AUTH):
            cited = {EventId(one) for event in chain.values() for one in event.auth_events} - chain.keys()
            there = await self._database.snapshot(_what_is_known, room, cited - known.events)
            wanted = cited - known.events - there.events
            asker = next((one for one in chain.values() if not wanted.isdisjoint(one.auth_events)), None)
            if asker is None:
                return
            await self._elsewhere.bring_auth(room, server, EventId(asker.event_id))


def _look(tx: ReadTx, room: HotRoom, before: int) -> _Gap:
    """What is missing before the event at a place, and before others in the same gap.

    What was purged is not fetched again: what is missing before events that were there then, may have been purged.
    """
    assert room.room_nid is not None
    purge = purges.find_last(tx, room.room_nid)
    purged_at = 0 if purge is None else purge.purge_id
    ends = [(one, at) for one, at in event_graph.list_backward_extremities(tx, room.room_nid) if at > purged_at]
    stand = timelines.find_places(tx, {at for _, at in ends})
    start = places.start_of_gap(before)
    end = max(before, places.upto(places.position_of(start)) + 1)
    inside = sorted(
        ((stand[at], one, at) for one, at in ends if at in stand and start < stand[at] <= end), reverse=True
    )
    chosen = inside[:_LATEST]
    rows = events.find_many(tx, {at for _, _, at in chosen})
    speakers = [parse(rows[at], room.version.identifier).sender for _, _, at in chosen]
    servers = dict.fromkeys(ServerName(domain_of(sender)) for sender in speakers)
    return _Gap(list(dict.fromkeys(one for _, one, _ in chosen)), list(servers))


def _what_is_known(tx: ReadTx, room: HotRoom, event_ids: Iterable[EventId]) -> _Known:
    assert room.room_nid is not None
    wanted = set(event_ids)
    standings = events.find_standings_by_id(tx, wanted)
    here = {event_id for event_id, one in standings.items() if one.room_nid == room.room_nid}
    return _Known(frozenset(here), frozenset(events.find_in_graph(tx, room.room_nid, here)))


def _chain(
    found: Mapping[EventId, Event], wanted: Iterable[EventId], in_graph: frozenset[EventId]
) -> dict[EventId, Event]:
    """Those of the events that are wanted, and that come before these; the others were not asked for."""
    chain: dict[EventId, Event] = {}
    coming = [one for one in wanted if one in found and one not in in_graph]
    while coming:
        event_id = coming.pop()
        if event_id not in chain:
            chain[event_id] = event = found[event_id]
            before = (EventId(one) for one in event.prev_events)
            coming.extend(one for one in before if one in found and one not in in_graph)
    return chain


def _is_loose(event: Event, chain: Mapping[EventId, Event], known: _Known) -> bool:
    """Whether the event follows one that is not there."""
    return any(one not in chain and one not in known.in_graph for one in map(EventId, event.prev_events))
