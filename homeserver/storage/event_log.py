"""All that is known of a room, in the order in which it came, whatever became of it: for checks and purges."""

from sqlalchemy import BindParameter, bindparam, func, select, text

from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent, events

_LIMIT: BindParameter[int] = bindparam("limit")
_OF_ROOM = events.c.room_nid == bindparam("nid")
_ABOVE = events.c.position > bindparam("after")
_BELOW = events.c.position < bindparam("below")

_ALL = select(events).where(_OF_ROOM).order_by(events.c.position)
_FROM = _ALL.where(_ABOVE).limit(_LIMIT)
_BACKWARDS = (
    select(events)
    .where(_OF_ROOM, events.c.position <= bindparam("upto"))
    .order_by(events.c.position.desc())
    .limit(_LIMIT)
)
_MESSAGES = (
    select(events.c.position)
    .where(_OF_ROOM, _ABOVE, _BELOW, events.c.pair_id.is_(None))
    .order_by(events.c.position)
    .limit(_LIMIT)
)
_COUNT_BELOW = select(func.count()).where(_OF_ROOM, _BELOW)
_COUNT_STATE_BELOW = _COUNT_BELOW.where(text("pair_id IS NOT NULL"))


def list_all(tx: ReadTx, room_nid: int) -> list[StoredEvent]:
    """Every event of the room."""
    return [StoredEvent(*row) for row in tx.connection.execute(_ALL, {"nid": room_nid})]


def list_from(tx: ReadTx, room_nid: int, *, after: int, limit: int) -> list[StoredEvent]:
    """The room's events behind a position, the oldest first."""
    values = {"nid": room_nid, "after": after, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_FROM, values)]


def list_backwards(tx: ReadTx, room_nid: int, *, upto: int, limit: int) -> list[StoredEvent]:
    """The room's events up to a position, the newest first."""
    values = {"nid": room_nid, "upto": upto, "limit": limit}
    return [StoredEvent(*row) for row in tx.connection.execute(_BACKWARDS, values)]


def list_messages(tx: ReadTx, room_nid: int, *, after: int, below: int, limit: int) -> list[int]:
    """The positions of the room's events between these which are no state events."""
    values = {"nid": room_nid, "after": after, "below": below, "limit": limit}
    return list(tx.connection.execute(_MESSAGES, values).scalars())


def count_below(tx: ReadTx, room_nid: int, position: int, *, only_state: bool = False) -> int:
    """How many events the room has below a position."""
    statement = _COUNT_STATE_BELOW if only_state else _COUNT_BELOW
    return int(tx.connection.execute(statement, {"nid": room_nid, "below": position}).scalar_one())
