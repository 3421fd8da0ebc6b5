"""State events as nodes of the auth graph: where they are, and what they cite."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import bindparam, select, text

from homeserver.storage.engine import ReadTx
from homeserver.storage.events import events
from homeserver.storage.tables import among


@dataclass(frozen=True, slots=True)
class AuthNode:
    """A state event as a node of the auth graph."""

    position: int
    pair_id: int
    auth: bytes


_NODES = select(events.c.position, events.c.pair_id, events.c.auth).where(text("pair_id IS NOT NULL"))
_OF_ROOM = _NODES.where(events.c.room_nid == bindparam("nid"))
_BY_POSITIONS = _NODES.where(among(events.c.position, "positions"))
_ABOVE = _OF_ROOM.where(events.c.position > bindparam("after")).order_by(events.c.position)
_BELOW = (
    _OF_ROOM.where(events.c.position < bindparam("below")).order_by(events.c.position.desc()).limit(bindparam("limit"))
)


def find_many(tx: ReadTx, positions: Iterable[int]) -> list[AuthNode]:
    """The state events at these positions."""
    rows = tx.connection.execute(_BY_POSITIONS, {"positions": list(positions)})
    return [AuthNode(row.position, row.pair_id, row.auth or b"") for row in rows]


def list_above(tx: ReadTx, room_nid: int, *, after: int) -> list[AuthNode]:
    """All state events of the room behind a position, in order."""
    rows = tx.connection.execute(_ABOVE, {"nid": room_nid, "after": after})
    return [AuthNode(row.position, row.pair_id, row.auth or b"") for row in rows]


def list_below(tx: ReadTx, room_nid: int, *, below: int, limit: int) -> list[AuthNode]:
    """The room's state events below a position, the newest first."""
    rows = tx.connection.execute(_BELOW, {"nid": room_nid, "below": below, "limit": limit})
    return [AuthNode(row.position, row.pair_id, row.auth or b"") for row in rows]
