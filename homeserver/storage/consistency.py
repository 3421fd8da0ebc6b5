"""Statements that look through several tables for rows which do not fit together (`services/rooms/consistency.py`)."""

from sqlalchemy import ColumnElement, Select, Table, bindparam, exists, func, literal, select, union_all

from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.storage.aliases import aliases
from homeserver.storage.deliveries import staged_pdus
from homeserver.storage.destinations import destinations
from homeserver.storage.engine import ReadTx
from homeserver.storage.event_graph import backward_extremities, pending_redactions, waiting_events
from homeserver.storage.events import events
from homeserver.storage.members import memberships
from homeserver.storage.originals import originals
from homeserver.storage.outgoing import outgoing_events
from homeserver.storage.partial_rooms import partial_rooms
from homeserver.storage.relations import relations
from homeserver.storage.resolutions import resolutions
from homeserver.storage.room_servers import room_servers
from homeserver.storage.rooms import forward_extremities, rooms
from homeserver.storage.stream_rows import stream_position
from homeserver.storage.transactions import transactions

_OF_ROOMS = (
    events,
    memberships,
    forward_extremities,
    backward_extremities,
    waiting_events,
    staged_pdus,
    pending_redactions,
    relations,
    resolutions,
    aliases,
    outgoing_events,
    partial_rooms,
    originals,
    room_servers,
)


def _homeless(table: Table) -> Select[tuple[str, int]]:
    known = exists().where(rooms.c.room_nid == table.c.room_nid)
    return select(literal(table.name).label("name"), table.c.room_nid).where(~known).distinct()


_HOMELESS = union_all(*(_homeless(table) for table in _OF_ROOMS))
_TOP = select(stream_position.c.value).scalar_subquery()
_AHEAD = (
    select(events.c.event_id, events.c.position)
    .where(events.c.position > _TOP)
    .order_by(events.c.position)
    .limit(bindparam("limit"))
)
_UNDONE = (
    select(transactions.c.txn_id, transactions.c.position)
    .where(transactions.c.position.is_not(None), ~exists().where(events.c.position == transactions.c.position))
    .order_by(transactions.c.position)
    .limit(bindparam("limit"))
)
_TWICE: ColumnElement[bool] = func.count() > 1
_DOUBLED = (
    select(events.c.event_id)
    .join(transactions, transactions.c.position == events.c.position)
    .group_by(events.c.event_id)
    .having(_TWICE)
    .order_by(events.c.event_id)
    .limit(bindparam("limit"))
)
_LOST_RELATIONS = (
    select(relations.c.position)
    .where(
        relations.c.room_nid == bindparam("room_nid"),
        ~exists().where(events.c.position == relations.c.position, events.c.room_nid == relations.c.room_nid),
    )
    .order_by(relations.c.position)
    .limit(bindparam("limit"))
)
_EARLY = (
    select(destinations.c.server_name, destinations.c.delivered)
    .where(destinations.c.delivered > _TOP)
    .order_by(destinations.c.server_name)
    .limit(bindparam("limit"))
)
_SHARED = (
    select(resolutions.c.position)
    .join(events, events.c.position == resolutions.c.position)
    .order_by(resolutions.c.position)
    .limit(bindparam("limit"))
)


def list_early(tx: ReadTx, *, limit: int) -> list[tuple[ServerName, int]]:
    """Servers that are said to have what there was not yet, with that position."""
    return [(row.server_name, row.delivered) for row in tx.connection.execute(_EARLY, {"limit": limit})]


def list_homeless(tx: ReadTx) -> list[tuple[str, int]]:
    """Tables that have rows of a room, and the numbers of rooms, where there is no such room."""
    return sorted((row.name, row.room_nid) for row in tx.connection.execute(_HOMELESS))


def list_ahead(tx: ReadTx, *, limit: int) -> list[tuple[EventId, int]]:
    """Events at positions that were never given out."""
    return [(row.event_id, row.position) for row in tx.connection.execute(_AHEAD, {"limit": limit})]


def list_undone(tx: ReadTx, *, limit: int) -> list[tuple[str, int]]:
    """Transaction ids whose event is not there, with the position at which it should be."""
    return [(row.txn_id, row.position) for row in tx.connection.execute(_UNDONE, {"limit": limit})]


def list_doubled(tx: ReadTx, *, limit: int) -> list[EventId]:
    """Events that more than one transaction is said to have made."""
    return list(tx.connection.execute(_DOUBLED, {"limit": limit}).scalars())


def list_lost_relations(tx: ReadTx, room_nid: int, *, limit: int) -> list[int]:
    """Positions of relations of the room that are of no event of the room."""
    return list(tx.connection.execute(_LOST_RELATIONS, {"room_nid": room_nid, "limit": limit}).scalars())


def list_shared_positions(tx: ReadTx, *, limit: int) -> list[int]:
    """Positions of resolutions at which there are events, too."""
    return list(tx.connection.execute(_SHARED, {"limit": limit}).scalars())
