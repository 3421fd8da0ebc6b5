"""Timelines: the events of a room by where they stand in it (docs/decisions/0012-places.md).

"The room's events" are those that everybody is shown, unless it is said otherwise. Outliers stand nowhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BindParameter, bindparam, func, select

from homeserver.storage import places
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import OK, StoredEvent, events
from homeserver.storage.tables import chunks


@dataclass(frozen=True, slots=True)
class Roots:
    """The states that an event has to do with."""

    position: int
    place: int
    state_before: int | None
    state_after: int | None
    room_state: int | None


_PLACE = events.c.place
_LIMIT: BindParameter[int] = bindparam("limit")
_OF_ROOM = events.c.room_nid == bindparam("nid")
_IS_PAST = _PLACE.bitwise_and(places.PAST) != 0
_IS_LIVE = _PLACE.bitwise_and(places.PAST) == 0
_ABOVE = bindparam("after") < _PLACE
_BELOW = bindparam("below") > _PLACE

_EVERY = select(events).where(_OF_ROOM)
_SHOWN = _EVERY.where(events.c.status == OK)
_BY_PLACES = _EVERY.where(_PLACE.in_(bindparam("places", expanding=True)))
_PLACES = select(events.c.position, _PLACE).where(
    events.c.position.in_(bindparam("positions", expanding=True)), _PLACE.is_not(None)
)
_LOWEST = select(func.min(_PLACE)).where(_OF_ROOM, bindparam("above") < _PLACE)
_LIVE = select(events.c.position).where(_OF_ROOM, bindparam("upto") >= _PLACE, _IS_LIVE).limit(1)
_FIRST_AT = select(func.min(_PLACE)).where(
    _OF_ROOM, events.c.status == OK, events.c.origin_server_ts >= bindparam("ts")
)
_BETWEEN = _SHOWN.where(_ABOVE, bindparam("upto") >= _PLACE).limit(_LIMIT)
_FORWARDS = _BETWEEN.order_by(_PLACE)
_BACKWARDS = _BETWEEN.order_by(_PLACE.desc())
_BACKWARDS_IN_ROOMS = (
    select(events)
    .where(
        events.c.room_nid.in_(bindparam("room_nids", expanding=True)),
        events.c.status == OK,
        events.c.position <= bindparam("upto"),
        _IS_LIVE,
    )
    .order_by(events.c.position.desc())
    .limit(_LIMIT)
)
_EVERY_BACKWARDS = _EVERY.where(_BELOW).order_by(_PLACE.desc()).limit(_LIMIT)
_EVERY_FORWARDS = _EVERY.where(_ABOVE).order_by(_PLACE).limit(_LIMIT)
_PAST = _EVERY.where(_ABOVE, _BELOW, _IS_PAST).order_by(_PLACE).limit(_LIMIT)
_ROOTS = (
    select(events.c.position, _PLACE, events.c.state_before, events.c.state_after, events.c.room_state)
    .where(_OF_ROOM, _ABOVE)
    .order_by(_PLACE)
    .limit(_LIMIT)
)
_FROM_TIME = (
    _SHOWN.where(events.c.origin_server_ts >= bindparam("ts")).order_by(events.c.origin_server_ts, _PLACE).limit(_LIMIT)
)
_UNTIL_TIME = (
    _SHOWN.where(events.c.origin_server_ts <= bindparam("ts"))
    .order_by(events.c.origin_server_ts.desc(), _PLACE.desc())
    .limit(_LIMIT)
)


def find_many(tx: ReadTx, room_nid: int, wanted: Iterable[int]) -> dict[int, StoredEvent]:
    """The events of the room at these places."""
    found: dict[int, StoredEvent] = {}
    for part in chunks(wanted):
        rows = tx.connection.execute(_BY_PLACES, {"nid": room_nid, "places": part})
        found.update((row.place, StoredEvent(*row)) for row in rows)
    return found


def find_places(tx: ReadTx, positions: Iterable[int]) -> dict[int, int]:
    """Where those of the events at these positions stand that stand somewhere."""
    found: dict[int, int] = {}
    for part in chunks(positions):
        found.update((row.position, row.place) for row in tx.connection.execute(_PLACES, {"positions": part}))
    return found


def find_lowest_place(tx: ReadTx, room_nid: int, *, above: int) -> int | None:
    """The lowest place above that one at which the room has an event."""
    lowest: int | None = tx.connection.execute(_LOWEST, {"nid": room_nid, "above": above}).scalar_one()
    return lowest


def has_live_upto(tx: ReadTx, room_nid: int, place: int) -> bool:
    """Whether an event of the room that came as it happened stands at the place or below."""
    return tx.connection.execute(_LIVE, {"nid": room_nid, "upto": place}).first() is not None


def find_first_at(tx: ReadTx, room_nid: int, ts: int) -> int | None:
    """The place of the first of the room's events that bear this time or a later one; None if all are older."""
    first: int | None = tx.connection.execute(_FIRST_AT, {"nid": room_nid, "ts": ts}).scalar_one()
    return first


def list_forwards(tx: ReadTx, room_nid: int, *, after: int, upto: int, limit: int) -> list[StoredEvent]:
    """The room's events at places in (after, upto], in order."""
    values = {"nid": room_nid, "after": after, "upto": upto, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_FORWARDS, values)]


def list_backwards(tx: ReadTx, room_nid: int, *, after: int, upto: int, limit: int) -> list[StoredEvent]:
    """The room's events at places in (after, upto], the last first."""
    values = {"nid": room_nid, "after": after, "upto": upto, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_BACKWARDS, values)]


def list_backwards_in_rooms(tx: ReadTx, room_nids: Iterable[int], *, upto: int, limit: int) -> list[StoredEvent]:
    """The newest events of these rooms up to a position, the newest first, without those of the past."""
    found: list[StoredEvent] = []
    for part in chunks(room_nids):
        values = {"room_nids": part, "upto": upto, "limit": limit}
        found.extend(StoredEvent(*row) for row in tx.connection.execute(_BACKWARDS_IN_ROOMS, values))
    return sorted(found, key=lambda event: event.position, reverse=True)[:limit]


def list_graph_backwards(tx: ReadTx, room_nid: int, *, below: int, limit: int) -> list[StoredEvent]:
    """The room's events below a place, the last first: also those that nobody is shown, without outliers."""
    values = {"nid": room_nid, "below": below, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_EVERY_BACKWARDS, values)]


def list_placed(tx: ReadTx, room_nid: int, *, after: int, limit: int) -> list[StoredEvent]:
    """The room's events that stand behind a place, whatever became of them, in order."""
    values = {"nid": room_nid, "after": after, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_EVERY_FORWARDS, values)]


def list_past(tx: ReadTx, room_nid: int, *, after: int, below: int, limit: int) -> list[StoredEvent]:
    """The room's events of the past between these places, whatever became of them, in order."""
    values = {"nid": room_nid, "after": after, "below": below, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_PAST, values)]


def list_roots(tx: ReadTx, room_nid: int, *, after: int, limit: int) -> list[Roots]:
    """The states that the room's events behind a place have to do with, in their order."""
    values = {"nid": room_nid, "after": after, "limit": limit}
    return [Roots(*row) for row in tx.connection.execute(_ROOTS, values)]


def list_by_time(tx: ReadTx, room_nid: int, *, ts: int, forwards: bool, limit: int) -> list[StoredEvent]:
    """The room's events that are nearest to this time on one side of it, the nearest first."""
    values = {"nid": room_nid, "ts": ts, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_FROM_TIME if forwards else _UNTIL_TIME, values)]
