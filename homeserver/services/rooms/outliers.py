"""Events that are wanted only because others cite them, or as part of a state: they are in no timeline.

They are judged by their own auth events, and written hundreds at a time: while one group is committed, the next one
is judged.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from homeserver.kit.clock import Clock
from homeserver.kit.ordering import in_topological_order
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.persist import EventWriter
from homeserver.services.rooms.placement import Batch, NewEvent, Placement
from homeserver.services.rooms.redactions import Redactions, find_pending
from homeserver.services.rooms.verdicts import refusal
from homeserver.storage import event_graph, events
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.tables import chunks

_GROUP = 500
_FEW = 20
"""So many events are judged at once; more of them in a thread."""
_AHEAD = 2
"""So many groups may be on their way into the database."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of an event: its status, or which of its auth events are missing, so that it was left out."""

    status: int | None
    reason: str = ""
    missing: frozenset[EventId] = frozenset()


@dataclass(frozen=True, slots=True)
class _Cited:
    event: Event
    is_rejected: bool


class Outliers:
    """Takes outliers in."""

    def __init__(self, database: Database, clock: Clock, writer: EventWriter, redactions: Redactions) -> None:
        self._database = database
        self._clock = clock
        self._writer = writer
        self._redactions = redactions

    async def take(self, room: HotRoom, new: Collection[Event]) -> dict[EventId, Judged]:
        """Take in events that are not known yet; what became of each. Raises `Superseded`.

        They have passed the first checks. What they cite among them comes before them (`by_auth`).
        """
        cited = {event_id for event in new for event_id in event.auth_events}
        known: dict[str, _Cited] = {}
        judged: dict[EventId, Judged] = {}
        writing: deque[Awaitable[list[StoredEvent]]] = deque()
        for group in chunks(new, _GROUP):
            here = {event.event_id for event in group}
            wanted = {one for event in group for one in event.auth_events} - known.keys() - here - judged.keys()
            if wanted:
                known |= await self._database.read(_find_cited, room, [EventId(one) for one in wanted])
            if len(group) <= _FEW:
                fit = _judge(group, room.create, cited, known, judged)
            else:
                fit = await asyncio.to_thread(_judge, group, room.create, cited, known, judged)
            fit = await self._redacted(room, fit)
            if fit:
                writing.append(self._writer.write(Batch(room, fit, also=_settle(fit), now=self._clock.now())))
            while len(writing) > _AHEAD:
                await writing.popleft()
        for done in writing:
            await done
        return judged

    async def _redacted(self, room: HotRoom, new: list[NewEvent]) -> list[NewEvent]:
        """The same; what was redacted before it came is so from the beginning, as a state can be read."""
        pending = await self._database.read(find_pending, room, [EventId(one.event.event_id) for one in new])
        for index, one in enumerate(new if pending else ()):
            waiting = pending.get(EventId(one.event.event_id), ())
            redacted_by = await self._redactions.before(room, one.event, waiting)
            if redacted_by is not None:
                new[index] = replace(one, event=one.event.redacted(), redacted_by=redacted_by, original=one.event)
        return new


def by_auth(found: Mapping[EventId, Event]) -> list[Event]:
    """The events, each behind those among them by which it is allowed; circles are left out."""
    behind = {
        event_id: {EventId(one) for one in event.auth_events if one in found} for event_id, event in found.items()
    }
    return [found[event_id] for event_id in in_topological_order(behind)]


def _judge(
    group: Iterable[Event],
    create: Event | None,
    wanted: Collection[str],
    known: dict[str, _Cited],
    judged: dict[EventId, Judged],
) -> list[NewEvent]:
    """Judge events by their auth events; those that can be written. What others cite goes among what is known."""
    fit = []
    for event in group:
        event_id = EventId(event.event_id)
        missing = frozenset(EventId(one) for one in event.auth_events if one not in known)
        if missing:
            judged[event_id] = Judged(None, "Events that it cites are not to be had.", missing)
            continue
        reason = _refusal(event, [known[one] for one in dict.fromkeys(event.auth_events)], create)
        status = events.REJECTED if reason else events.OUTLIER
        judged[event_id] = Judged(status, reason)
        fit.append(NewEvent(event, status=status, placement=Placement(None)))
        if event_id in wanted:
            known[event_id] = _Cited(event, bool(reason))
    return fit


def _settle(new: Sequence[NewEvent]) -> Callable[[WriteTx, int], None] | None:
    """Statements for the transaction that writes the events.

    What is rejected waits for nothing any more, and nothing waits to redact what is redacted.
    """
    rejected = [EventId(one.event.event_id) for one in new if one.status == events.REJECTED]
    redacted = [EventId(one.event.event_id) for one in new if one.redacted_by is not None]
    if not rejected and not redacted:
        return None

    def also(tx: WriteTx, _: int) -> None:
        event_graph.end_waiting(tx, rejected)
        event_graph.remove_pending_redactions(tx, redacted)

    return also


def _refusal(event: Event, cited: Sequence[_Cited], create: Event | None) -> str:
    rejected = {one.event.event_id for one in cited if one.is_rejected}
    return refusal(event, [one.event for one in cited], create=create, rejected=rejected)


def _find_cited(tx: ReadTx, room: HotRoom, event_ids: Sequence[EventId]) -> dict[str, _Cited]:
    found = events.find_many_by_id(tx, event_ids)
    return {
        event_id: _Cited(parse(row, room.version.identifier), row.status == events.REJECTED)
        for event_id, row in found.items()
        # What is of another room is as good as not known.
        if row.room_nid == room.room_nid
    }
