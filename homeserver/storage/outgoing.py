"""Which events are to be sent to other servers. (Data that is no event is in `outgoing_edus`.)

An event has one row here, whatever the number of servers: who is to have it follows from who was in the room
(`storage/room_servers.py`), and how far a server has got is one number (`storage/destinations.py`). See
docs/decisions/0013-outbound.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Select,
    Table,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    union,
)
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName
from homeserver.storage.destinations import destinations
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.events import events
from homeserver.storage.room_servers import room_servers
from homeserver.storage.tables import Text, metadata, some_of_room

FEDERATION = "federation"
"""Whoever sends to other servers waits for this key."""

outgoing_events = Table(
    "outgoing_events",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("room_nid", BigInteger, nullable=False),
    Column("except_for", Text),  # A server that has the event already.
    Column("also_to", Text),  # A server that is to have it although it is not in the room.
    # What is new in a room.
    Index("ix_outgoing_events_room_nid_position", "room_nid", "position"),
    Index(
        "ix_outgoing_events_also_to",
        "also_to",
        "position",
        postgresql_where=text("also_to IS NOT NULL"),
        sqlite_where=text("also_to IS NOT NULL"),
    ),
)


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event that this server is to send to those who are in the room."""

    position: int
    room_nid: int
    except_for: ServerName | None = None
    """A server that has the event already."""
    also_to: ServerName | None = None
    """A server that is to have it although it is not in the room."""


_INSERT_EVENT = insert(outgoing_events)
_FORWARD = (
    insert(outgoing_events)
    .from_select(
        ["position", "room_nid", "except_for"],
        select(events.c.position, events.c.room_nid, bindparam("has_it", type_=Text)).where(
            events.c.position == bindparam("at")
        ),
    )
    .on_conflict_do_nothing()
)
_REMOVE_SOME = some_of_room(outgoing_events)
_NEW = (
    select(outgoing_events)
    .where(outgoing_events.c.position > bindparam("after"), outgoing_events.c.position <= bindparam("upto"))
    .order_by(outgoing_events.c.position)
    .limit(bindparam("limit"))
)
_COUNT = select(func.count()).select_from(
    select(outgoing_events.c.position)
    .where(outgoing_events.c.position > bindparam("after"), outgoing_events.c.position <= bindparam("upto"))
    .limit(bindparam("limit"))
    .subquery()
)
_AFTER = bindparam("after", type_=BigInteger)
_UPTO = bindparam("upto", type_=BigInteger)
_SERVER = bindparam("server", type_=Text)
_IS_FOR_ONE = text("also_to IS NOT NULL")
_FOR_IT_ALONE = select(outgoing_events.c.position).where(
    outgoing_events.c.also_to == _SERVER,
    _IS_FOR_ONE,
    outgoing_events.c.position > _AFTER,
    outgoing_events.c.position <= _UPTO,
)
_IS_FOR_IT = or_(outgoing_events.c.except_for.is_(None), outgoing_events.c.except_for != _SERVER)
_DURING_STAY = (outgoing_events.c.room_nid == room_servers.c.room_nid) & (
    outgoing_events.c.position > room_servers.c.since
)


def _in_order(found: Select[tuple[int]]) -> Select[tuple[int]]:
    """These and what is for the server alone, some of them, the oldest first."""
    both = union(found, _FOR_IT_ALONE).subquery()
    return select(both.c.position).order_by(both.c.position).limit(bindparam("limit"))


_EACH = _in_order(
    select(outgoing_events.c.position)
    .join(room_servers, _DURING_STAY)
    .where(
        outgoing_events.c.position > _AFTER,
        outgoing_events.c.position <= _UPTO,
        room_servers.c.server_name == _SERVER,
        or_(room_servers.c.until.is_(None), outgoing_events.c.position <= room_servers.c.until),
        _IS_FOR_IT,
    )
)
# By the index, for each room alone: what there is between is not looked at.
_LAST_OF_STAY = (
    select(outgoing_events.c.position)
    .where(
        outgoing_events.c.room_nid == room_servers.c.room_nid,
        outgoing_events.c.position <= case((room_servers.c.until < _UPTO, room_servers.c.until), else_=_UPTO),
        _IS_FOR_IT,
    )
    .order_by(outgoing_events.c.position.desc())
    .limit(1)
    .correlate(room_servers)
    .scalar_subquery()
)
_lasts = (
    select(_LAST_OF_STAY.label("position"), room_servers.c.since)
    .where(
        room_servers.c.server_name == _SERVER,
        or_(room_servers.c.until.is_(None), room_servers.c.until > _AFTER),
    )
    .subquery()
)
_NEWEST = _in_order(select(_lasts.c.position).where(_lasts.c.position > _AFTER, _lasts.c.position > _lasts.c.since))
_DELIVERED = func.coalesce(
    select(destinations.c.delivered)
    .where(destinations.c.server_name == room_servers.c.server_name)
    .correlate(room_servers)
    .scalar_subquery(),
    0,
)
_IS_PENDING = (
    exists()
    .where(
        _DURING_STAY,
        outgoing_events.c.position > _DELIVERED,
        or_(room_servers.c.until.is_(None), outgoing_events.c.position <= room_servers.c.until),
    )
    .correlate(room_servers)
)
_PENDING = union(
    select(room_servers.c.server_name).where(_IS_PENDING),
    select(outgoing_events.c.also_to)
    .outerjoin(destinations, destinations.c.server_name == outgoing_events.c.also_to)
    .where(_IS_FOR_ONE, outgoing_events.c.position > func.coalesce(destinations.c.delivered, 0)),
)
_newer = outgoing_events.alias("newer")
_next = outgoing_events.alias("following")
_HAS_NEWER = exists().where(
    _newer.c.room_nid == outgoing_events.c.room_nid,
    _newer.c.position > outgoing_events.c.position,
    _newer.c.position < bindparam("below"),
    _newer.c.except_for.is_(None),
)
_IS_LAST_OF_STAY = exists().where(
    room_servers.c.room_nid == outgoing_events.c.room_nid,
    room_servers.c.until >= outgoing_events.c.position,
    text("until IS NOT NULL"),
    ~exists()
    .where(
        _next.c.room_nid == outgoing_events.c.room_nid,
        _next.c.position > outgoing_events.c.position,
        _next.c.position <= room_servers.c.until,
    )
    .correlate(outgoing_events, room_servers),
)
_HAS_IT = exists().where(
    destinations.c.server_name == outgoing_events.c.also_to, destinations.c.delivered >= outgoing_events.c.position
)
_TRIM = delete(outgoing_events).where(
    outgoing_events.c.position.in_(
        select(outgoing_events.c.position)
        .where(
            outgoing_events.c.position < bindparam("below"),
            _HAS_NEWER,
            ~_IS_LAST_OF_STAY,
            or_(outgoing_events.c.also_to.is_(None), _HAS_IT),
        )
        .limit(bindparam("limit"))
    )
)
_FORGET_STAYS = delete(room_servers).where(
    room_servers.c.until < bindparam("below"), text("until IS NOT NULL"), ~_IS_PENDING
)


def add_events(tx: WriteTx, new: Sequence[OutgoingEvent]) -> None:
    """Note events to be sent; they are sent in the order of their positions."""
    tx.connection.execute(
        _INSERT_EVENT,
        [
            {
                "position": event.position,
                "room_nid": event.room_nid,
                "except_for": event.except_for,
                "also_to": event.also_to,
            }
            for event in new
        ],
    )
    tx.wake([FEDERATION])


def forward(tx: WriteTx, position: int, except_for: ServerName) -> None:
    """Send on an event of another server that this server has let into the room (a join, for instance).

    To be called in the transaction that stores the event, once it is stored.
    """
    tx.connection.execute(_FORWARD, {"at": position, "has_it": except_for})
    tx.wake([FEDERATION])


def list_new(tx: ReadTx, *, after: int, upto: int, limit: int) -> list[OutgoingEvent]:
    """The events in (after, upto], the oldest first."""
    rows = tx.connection.execute(_NEW, {"after": after, "upto": upto, "limit": limit})
    return [OutgoingEvent(*row) for row in rows]


def count(tx: ReadTx, *, after: int, upto: int, limit: int) -> int:
    """How many events there are in (after, upto], for whomever; not counted further than `limit`."""
    values = {"after": after, "upto": upto, "limit": limit}
    return int(tx.connection.execute(_COUNT, values).scalar_one())


def list_for(tx: ReadTx, server: ServerName, *, after: int, upto: int, limit: int) -> list[int]:
    """The positions in (after, upto] of the events that a server is to have, the oldest first."""
    values = {"server": server, "after": after, "upto": upto, "limit": limit}
    return [row.position for row in tx.connection.execute(_EACH, values)]


def list_newest_for(tx: ReadTx, server: ServerName, *, after: int, upto: int, limit: int) -> list[int]:
    """The same, but of each room only the newest, and what is for this server alone.

    The effort is that of a look into each of its rooms, however much has happened there.
    """
    values = {"server": server, "after": after, "upto": upto, "limit": limit}
    return [row.position for row in tx.connection.execute(_NEWEST, values)]


def list_pending_servers(tx: ReadTx) -> set[ServerName]:
    """The servers for which there may be events that they do not have."""
    return {ServerName(name) for name in tx.connection.execute(_PENDING).scalars()}


def trim(tx: WriteTx, *, below: int, limit: int) -> int:
    """Forget some events below a position that nobody will be sent any more; how many.

    Who has missed events is sent the newest one of each room, of those from the time when that server was there.
    """
    return tx.connection.execute(_TRIM, {"below": below, "limit": limit}).rowcount


def forget_stays(tx: WriteTx, *, below: int) -> None:
    """Forget where servers were until some time before a position, unless they lack something of that time."""
    tx.connection.execute(_FORGET_STAYS, {"below": below})


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the events of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount
