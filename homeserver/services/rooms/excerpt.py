"""A piece of a room's event graph, read for people to look at: `homeserver room graph` and `room resolutions`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from homeserver.errors import NotFound
from homeserver.matrix.events import Event, MalformedEvent
from homeserver.matrix.identifiers import EventId, RoomAlias, RoomId
from homeserver.storage import aliases, event_graph, event_log, events, resolutions, rooms
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.resolutions import Resolution
from homeserver.storage.rooms import Room

_LAST = (1 << 63) - 1
# A resolved state has a position of its own, right before or behind that of the event for which it was resolved.
_NEAR = 8
_RESOLUTIONS = 1000


class _Change(msgspec.Struct, frozen=True):
    """An entry of the state that was resolved to another event, as it is in a report."""

    type: str
    state_key: str
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None


class _Lost(msgspec.Struct, frozen=True):
    """An event that did not prevail, as it is in a report."""

    event_id: str
    reason: str


class _Story(msgspec.Struct, frozen=True):
    """What is told of a resolution."""

    changes: Sequence[_Change] = ()
    lost: Sequence[_Lost] = ()


_decode = msgspec.json.Decoder(_Story).decode


@dataclass(frozen=True, slots=True)
class Resolved:
    """A resolution of states, in words: at which event it was, what it changed, and which events lost."""

    position: int
    states: int
    where: str
    changes: Sequence[str]
    lost: Sequence[str]


@dataclass(frozen=True, slots=True)
class Drawn:
    """An event as it is shown."""

    event_id: EventId
    position: int
    depth: int
    type: str
    state_key: str | None
    sender: str
    status: int
    is_redacted: bool
    is_newest: bool
    """It is a forward extremity: no accepted event follows it."""
    before: Sequence[str]
    resolved: Sequence[Resolved]


@dataclass(frozen=True, slots=True)
class Graph:
    """Some of a room's events, the oldest first."""

    room_id: RoomId
    version: str
    events: Sequence[Drawn]
    missing: frozenset[str]
    """Backward extremities: events that are not known, although others follow them."""


def read_graph(tx: ReadTx, name: str, *, newest: str | None, limit: int) -> Graph:
    """The newest events of a room (an id or an alias), or those from one event back. Raises `NotFound`."""
    room = _find_room(tx, name)
    upto = _LAST
    if newest is not None:
        last = events.find_by_id(tx, room.room_nid, EventId(newest))
        if last is None:
            raise NotFound(f"The room has no event {newest}.")
        upto = last.position
    rows = event_log.list_backwards(tx, room.room_nid, upto=upto, limit=limit)[::-1]
    tips = set(rooms.list_extremities(tx, room.room_nid))
    near = min(upto, _LAST - _NEAR) + _NEAR
    known = resolutions.list_newest(tx, room.room_nid, upto=near, limit=_RESOLUTIONS)
    at = {row.position: _resolved_at(room, row, known) for row in rows}
    ids = _ids_told({one.position: one for ones in at.values() for one, _ in ones}.values())
    senders = _senders(tx, room, ids)
    drawn = [
        _drawn(room, row, row.position in tips, [_told(one, where, senders) for one, where in at[row.position]])
        for row in rows
    ]
    missing = frozenset(str(event_id) for event_id, _ in event_graph.list_backward_extremities(tx, room.room_nid))
    return Graph(room.room_id, room.version, drawn, missing)


def read_resolutions(tx: ReadTx, name: str, *, limit: int) -> list[Resolved]:
    """The newest resolutions of a room (an id or an alias), the newest first. Raises `NotFound`."""
    room = _find_room(tx, name)
    newest = resolutions.list_newest(tx, room.room_nid, limit=limit)
    near = events.find_many(tx, {one.position + way for one in newest for way in range(-_NEAR, _NEAR + 1)})
    where: dict[int, str] = {}
    for _, row in sorted(near.items()):
        if row.room_nid == room.room_nid:
            for one, words in _resolved_at(room, row, newest):
                where.setdefault(one.position, words)  # Where the same states met again, nothing was resolved anew.
    senders = _senders(tx, room, _ids_told(newest))
    return [_told(one, where.get(one.position, "at an event that came before"), senders) for one in newest]


def _find_room(tx: ReadTx, name: str) -> Room:
    alias = aliases.find(tx, RoomAlias(name)) if name.startswith("#") else None
    room = rooms.find(tx, RoomId(name)) if alias is None else rooms.find_many(tx, [alias.room_nid]).get(alias.room_nid)
    if room is None:
        raise NotFound(f"This server does not know the room {name}.")
    return room


def _parse(room: Room, row: StoredEvent) -> Event | None:
    try:
        return Event.parse(row.pdu, room.version, row.event_id)
    except MalformedEvent:  # `homeserver fsck` names it.
        return None


def _resolved_at(room: Room, row: StoredEvent, known: Iterable[Resolution]) -> list[tuple[Resolution, str]]:
    """The resolutions that there were for an event, each with words for where."""
    found = []
    for one in known:
        if row.room_state is not None and one.root == row.room_state:
            found.append((one, f"when {row.event_id} came beside others"))
        elif one.root == row.state_before:
            event = _parse(room, row)
            if event is not None and len(event.prev_events) > 1:
                found.append((one, f"before {row.event_id}"))
    return found


def _drawn(room: Room, row: StoredEvent, is_newest: bool, resolved: Sequence[Resolved]) -> Drawn:
    event = _parse(room, row)
    return Drawn(
        event_id=row.event_id,
        position=row.position,
        depth=row.depth,
        type="unreadable" if event is None else event.type,
        state_key=None if event is None else event.state_key,
        sender="" if event is None else event.sender,
        status=row.status,
        is_redacted=row.redacted_by is not None,
        is_newest=is_newest,
        before=() if event is None else event.prev_events,
        resolved=resolved,
    )


def _story(resolution: Resolution) -> _Story | None:
    try:
        return _decode(resolution.report)
    except msgspec.DecodeError:
        return None


def _ids_told(known: Iterable[Resolution]) -> set[EventId]:
    stories = [story for one in known if (story := _story(one)) is not None]
    told = [event_id for story in stories for change in story.changes for event_id in (change.from_, change.to)]
    told += [lost.event_id for story in stories for lost in story.lost]
    return {EventId(event_id) for event_id in told if event_id is not None}


def _senders(tx: ReadTx, room: Room, event_ids: Iterable[EventId]) -> dict[str, str]:
    rows = events.find_many_by_id(tx, event_ids)
    parsed = {str(event_id): _parse(room, row) for event_id, row in rows.items()}
    return {event_id: event.sender for event_id, event in parsed.items() if event is not None}


def _told(resolution: Resolution, where: str, senders: Mapping[str, str]) -> Resolved:
    def name(event_id: str | None) -> str:
        if event_id is None:
            return "nothing"
        return f"{event_id} by {senders[event_id]}" if event_id in senders else event_id

    story = _story(resolution)
    if story is None:
        return Resolved(resolution.position, len(resolution.roots), where, ["Its report cannot be read."], [])
    return Resolved(
        resolution.position,
        len(resolution.roots),
        where,
        [f"{one.type} {one.state_key!r}: from {name(one.from_)} to {name(one.to)}" for one in story.changes],
        [f"{name(one.event_id)}: {one.reason}" for one in story.lost],
    )
