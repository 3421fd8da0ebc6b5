"""Where events of the past are to stand: each before all that follow it, in the free places of its gap."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId
from homeserver.services.rooms.hot import HotRoom
from homeserver.storage import event_graph, events, places, timelines
from homeserver.storage.engine import ReadTx


@dataclass(frozen=True, slots=True)
class Planned:
    """An event of the past, and where it is to stand."""

    event: Event
    place: int


def plan_places(tx: ReadTx, room: HotRoom, found: Mapping[EventId, Event]) -> list[Planned]:
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
            plan.append(Planned(event, place))
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
