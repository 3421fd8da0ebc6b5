"""The events that authorise others: those which they cite, and what these cite in turn (server-server API, Rooms)."""

from collections.abc import Iterable

from homeserver.matrix import auth_graph
from homeserver.matrix.identifiers import EventId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.rooms.hot import parse
from homeserver.storage import auth_nodes, events
from homeserver.storage.auth_nodes import AuthNode
from homeserver.storage.engine import ReadTx
from homeserver.storage.rooms import Room

_STEPS = 8
"""Chains are mostly short: so many steps down are made by asking for just what is cited."""
_PAGE = 5000
"""A longer one is followed by reading all the state events of the room below where it stands."""


def auth_chain(tx: ReadTx, room: Room, positions: Iterable[int], *, page: int = _PAGE) -> list[int]:
    """The positions of all events of the auth chains of these events of the room, ascending.

    An event is in it if one of the others cites it, whether it is among those that were given or not. In room versions
    whose events do not cite the create event, but name the room after it, that is in it as well. The effort is that of
    a few statements, and one for each few thousand state events of the room where a chain is long.
    """
    asked = set(positions)
    if not asked:
        return []
    rows = {row.position: row for row in auth_nodes.find_many(tx, asked)}
    found = set(_cited(tx, room, asked - rows.keys()))
    found.update(cited for row in rows.values() for cited in _edges(row))
    if not ROOM_VERSIONS[room.version].create_in_auth_events:
        found.update(events.find_positions(tx, [EventId("$" + room.room_id[1:])]).values())
    waiting = found - rows.keys()
    for _ in range(_STEPS):
        if not waiting:
            return sorted(found)
        cited = {at for row in auth_nodes.find_many(tx, waiting) for at in _edges(row)}
        # Of those that were given, and that were found before, the edges are known already.
        waiting = cited - found - rows.keys()
        found |= cited
    _go_down(tx, room, found, waiting, page)
    return sorted(found)


def _go_down(tx: ReadTx, room: Room, found: set[int], waiting: set[int], page: int) -> None:
    """Find what the waiting events cite. An event cites what is below it, so one pass downwards meets all of them."""
    while waiting:
        rows = auth_nodes.list_below(tx, room.room_nid, below=max(waiting) + 1, limit=page)
        for row in rows:
            if row.position in waiting:
                new = {at for at in _edges(row) if at not in found}
                found |= new
                waiting |= new
        lowest = rows[-1].position if rows else 0
        waiting = {at for at in waiting if at < lowest}


def _cited(tx: ReadTx, room: Room, positions: Iterable[int]) -> Iterable[int]:
    """What events cite whose edges are not stored: those that are no state."""
    rows = events.find_many(tx, positions).values()
    ids = {EventId(cited) for row in rows for cited in parse(row, room.version).auth_events}
    standings = events.find_standings_by_id(tx, ids).values()
    return [standing.position for standing in standings if standing.room_nid == room.room_nid]


def _edges(row: AuthNode) -> list[int]:
    return auth_graph.unpack(row.position, row.auth)
