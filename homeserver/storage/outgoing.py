"""What is to be sent to other servers: events by their place in the log, and data that is no event, by server.

An event has one row here, whatever the number of servers: who is to have it follows from who was in the room
(`storage/room_servers.py`), and how far a server has got is one number (`storage/destinations.py`). See
docs/decisions/0013-outbound.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName
from homeserver.storage import stream_rows
from homeserver.storage.engine import WriteTx
from homeserver.storage.events import events
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
)

outgoing_edus = Table(
    "outgoing_edus",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("edu_type", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),  # A JSON object.
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


@dataclass(frozen=True, slots=True)
class OutgoingEdu:
    """Data that is no event, for one server; `content` is a JSON object."""

    destination: ServerName
    edu_type: str
    content: bytes


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
_INSERT_EDU = insert(outgoing_edus)
_REMOVE_SOME = some_of_room(outgoing_events)


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


def add_many(tx: WriteTx, edus: Iterable[OutgoingEdu]) -> None:
    """Have data sent, each server's in the order given, once at least. It is never lost."""
    edus = list(edus)
    if not edus:
        return
    first = stream_rows.advance(tx, len(edus)) - len(edus) + 1
    tx.connection.execute(
        _INSERT_EDU,
        [
            {
                "destination": edu.destination,
                "position": first + index,
                "edu_type": edu.edu_type,
                "content": edu.content,
            }
            for index, edu in enumerate(edus)
        ],
    )
    tx.wake([FEDERATION])


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the events of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount
