"""Events of the past: they are put before what is known of a room already (docs/decisions/0012-places.md).

They pass the same checks as all others, but that of the present: whoever may not speak any more could speak then. And
nothing that the room is now is another for them: neither its state nor its members nor its forward extremities.
"""

import heapq
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from homeserver.kit.clock import Clock
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms.graph import Graph
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.loose_ends import settle
from homeserver.services.rooms.persist import EventWriter, Superseded
from homeserver.services.rooms.placement import Batch, NewEvent, State
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import event_graph, events, places, timelines
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair


@dataclass(frozen=True, slots=True)
class _Planned:
    """An event of the past, and where it is to stand."""

    event: Event
    place: int


class Past:
    """Takes events of the past in.

    Meanwhile nothing that comes from elsewhere is taken into the room; its own people go on talking.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        trees: StateTrees,
        hot: HotRooms,
        writer: EventWriter,
        graph: Graph,
        inbox: Inbox,
    ) -> None:
        self._database = database
        self._clock = clock
        self._trees = trees
        self._hot = hot
        self._writer = writer
        self._graph = graph
        self._inbox = inbox

    async def take(
        self, room_id: RoomId, found: Mapping[EventId, Event], states: Mapping[EventId, Mapping[Pair, EventId]]
    ) -> int:
        """Take events that passed the first checks, and say how many could be placed.

        Only what is known to be missing in the room can be, and what comes before that. `states` are those before
        events whose predecessors are not all known, nor here.
        """
        taken = 0
        async with self._inbox.turn(room_id):
            room = await self._hot.find(room_id)
            plan = await self._database.snapshot(_plan, room, found)
            for one in reversed(plan):  # What follows another event is placed behind it.
                state = states.get(EventId(one.event.event_id))
                given = None if state is None else await self._database.snapshot(self._as_changes, room, state)
                placed = await self._graph.place_past(room, one.event, one.place, given=given)
                if placed.new is None:
                    continue
                await self._write(room_id, placed.new)
                taken += 1
        return taken

    async def _write(self, room_id: RoomId, new: NewEvent) -> None:
        while True:
            batch = Batch(await self._hot.find(room_id), [new], also=settle(new), now=self._clock.now())
            with suppress(Superseded):  # What is past does not stand on what was not written.
                await self._writer.write(batch)
                return

    def _as_changes(self, tx: ReadTx, room: HotRoom, state: Mapping[Pair, EventId]) -> State:
        """The state as what is different in it from that of now, which is most alike of those that are stored."""
        rows = events.find_standings_by_id(tx, state.values()).values()
        then = {row.pair_id: row.position for row in rows if row.pair_id is not None and row.room_nid == room.room_nid}
        now = {pair_id: at for pair_id, (_, at) in self._trees.differing_ids(tx, None, room.root).items()}
        changes: dict[int, int | None] = {pair_id: at for pair_id, at in then.items() if now.get(pair_id) != at}
        changes.update((pair_id, None) for pair_id in now.keys() - then.keys())
        return State(room.root, changes)


def _plan(tx: ReadTx, room: HotRoom, found: Mapping[EventId, Event]) -> list[_Planned]:
    """Where the events are to stand, the last first: each before all that follow it.

    What no event is known to follow has no place, and neither has what finds no room in its gap.
    """
    assert room.room_nid is not None
    standings = events.find_standings_by_id(tx, found)
    in_graph = events.find_in_graph(tx, room.room_nid, found)
    new = {
        event_id: event
        for event_id, event in found.items()
        # What was rejected as an outlier has no state yet that others could stand upon.
        if event_id not in in_graph and ((one := standings.get(event_id)) is None or one.room_nid == room.room_nid)
    }
    followers = event_graph.find_behind_missing(tx, room.room_nid, new)
    known = timelines.find_places(tx, {position for positions in followers.values() for position in positions})
    lowest: dict[EventId, int] = {}
    for event_id, positions in followers.items():
        stand = [known[position] for position in positions if position in known]
        if stand:
            lowest[event_id] = min(stand)
    waiting = dict.fromkeys(new, 0)
    for event in new.values():
        for before in set(event.prev_events) & new.keys():
            waiting[EventId(before)] += 1
    shelf = _Shelf(tx, room.room_nid)
    ready = [_key(new[event_id]) for event_id, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    plan = []
    while ready:
        event = new[heapq.heappop(ready)[-1]]
        bound = lowest.get(EventId(event.event_id))
        place = None if bound is None else shelf.take(bound)
        if place is not None:
            plan.append(_Planned(event, place))
        for before in {EventId(one) for one in event.prev_events} & new.keys():
            if place is not None:
                lowest[before] = min(place, lowest.get(before, place))
            waiting[before] -= 1
            if waiting[before] == 0:
                heapq.heappush(ready, _key(new[before]))
    return plan


def _key(event: Event) -> tuple[int, int, EventId]:
    """Branches stand beside each other by depth, and by the time that they claim."""
    return -event.depth, -event.origin_server_ts, EventId(event.event_id)


class _Shelf:
    """The free places of a room's gaps. What comes into a gap stands before all that came into it earlier."""

    def __init__(self, tx: ReadTx, room_nid: int) -> None:
        self._tx = tx
        self._room_nid = room_nid
        self._ends: dict[int, int] = {}
        self._lowest: dict[int, int] = {}

    def take(self, bound: int) -> int | None:
        """A place below the bound, which is that of an event; None where there is no more room."""
        start = places.start_of_gap(bound)
        if start not in self._ends:
            # Where nothing came before as it happened, there is no end to the past.
            is_bounded = timelines.has_live_upto(self._tx, self._room_nid, start)
            self._ends[start] = start if is_bounded else places.FIRST
        end = self._ends[start]
        if end not in self._lowest:
            self._lowest[end] = timelines.find_lowest_place(self._tx, self._room_nid, above=end) or bound
        place = places.before(min(self._lowest[end], bound))
        if place <= end:
            return None
        self._lowest[end] = place
        return place
