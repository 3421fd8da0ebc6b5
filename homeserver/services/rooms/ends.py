"""The forward extremities of a room, found anew from its events."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from homeserver.matrix.identifiers import EventId
from homeserver.storage import events
from homeserver.storage.events import Standing

Standings = Mapping[EventId, Standing]
Cited = Callable[[Iterable[EventId]], Mapping[EventId, tuple[list[EventId], Standings]]]
"""The events before each of these, and where those are."""


@dataclass(frozen=True, slots=True)
class Before:
    """A way back that was not walked yet; it is `weak` where nobody need have walked it when the event came."""

    event_id: EventId
    weak: bool


class Ends:
    """Accepted events that no accepted event follows, through rejected and soft-failed ones.

    Events are followed in the order of their positions. What is kept is only the ends there are at a time, and events
    that are cited before they come. An event that is cited through an outlier, or through one that came later than
    the event which cites it, may be an end or not: what was known then decided.
    """

    def __init__(self, cited: Cited) -> None:
        self._cited = cited
        self._ends: dict[EventId, int] = {}
        self._weakly: set[EventId] = set()
        self._early: set[EventId] = set()

    def follow(
        self,
        event_id: EventId,
        position: int,
        before: Iterable[EventId],
        standings: Standings,
        *,
        came_at: int,
        is_past: bool = False,
    ) -> None:
        """An accepted event comes, `came_at` into the timeline.

        One of the past takes nobody's place, but what it follows is none for certain.
        """
        if event_id in self._early:
            self._early.discard(event_id)
        else:
            self._ends[event_id] = position
        ways = [Before(one, weak=is_past) for one in before]
        seen = {one.event_id for one in ways}
        while ways:
            further = [one for one in ways if self._cover(one, position, standings)]
            ways = []
            known = self._cited([one.event_id for one in further]) if further else {}
            merged: dict[EventId, Standing] = {}
            for one in further:
                ids, more = known[one.event_id]
                merged.update(more)
                weak = one.weak or _is_weak(standings[one.event_id], came_at)
                ways.extend(Before(event_id, weak) for event_id in ids if event_id not in seen)
                seen.update(ids)
            standings = merged

    def must_be(self) -> set[int]:
        """Positions of what is an end for certain."""
        return {position for event_id, position in self._ends.items() if event_id not in self._weakly}

    def may_be(self) -> set[int]:
        """Positions of what can be an end."""
        return set(self._ends.values())

    def _cover(self, way: Before, position: int, standings: Standings) -> bool:
        """Note that the event is followed; whether the way goes on to what is before it."""
        standing = standings.get(way.event_id)
        if standing is None:
            return False
        if standing.status != events.OK:
            return True
        if way.weak:
            self._weakly.add(way.event_id)
        elif standing.position > position:
            self._early.add(way.event_id)
        else:
            self._ends.pop(way.event_id, None)
            self._weakly.discard(way.event_id)
        return False


def _is_weak(standing: Standing, came_at: int) -> bool:
    return standing.status == events.OUTLIER or standing.came_at > came_at
