"""Data that is no event and is to be sent to other servers: messages to devices, changes of devices and keys.

It is a row for each server, as it is different for most of them. See docs/decisions/0013-outbound.md.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName
from homeserver.storage import stream_rows
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.outgoing import FEDERATION
from homeserver.storage.tables import Text, among, metadata

outgoing_edus = Table(
    "outgoing_edus",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("edu_type", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),  # A JSON object.
    # What is new.
    Index("ix_outgoing_edus_position", "position"),
)


@dataclass(frozen=True, slots=True)
class OutgoingEdu:
    """Data that is no event, for one server; `content` is a JSON object."""

    destination: ServerName
    edu_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class StoredEdu:
    """Data that waits for being sent, at its place among all that happened."""

    position: int
    edu_type: str
    content: bytes


_INSERT = insert(outgoing_edus)
_DESTINATIONS = select(outgoing_edus.c.destination).distinct()
_NEW_DESTINATIONS = _DESTINATIONS.where(
    outgoing_edus.c.position > bindparam("after"), outgoing_edus.c.position <= bindparam("upto")
)
_LIST = (
    select(outgoing_edus.c.position, outgoing_edus.c.edu_type, outgoing_edus.c.content)
    .where(outgoing_edus.c.destination == bindparam("to"), outgoing_edus.c.position > bindparam("after"))
    .order_by(outgoing_edus.c.position)
    .limit(bindparam("limit"))
)
_AT = (
    select(outgoing_edus.c.position, outgoing_edus.c.edu_type, outgoing_edus.c.content)
    .where(outgoing_edus.c.destination == bindparam("to"), among(outgoing_edus.c.position, "positions"))
    .order_by(outgoing_edus.c.position)
)
_COUNTS = select(outgoing_edus.c.destination, func.count()).group_by(outgoing_edus.c.destination)
_REMOVE = delete(outgoing_edus).where(
    outgoing_edus.c.destination == bindparam("to"), outgoing_edus.c.position == bindparam("at")
)


def add_many(tx: WriteTx, edus: Iterable[OutgoingEdu]) -> None:
    """Have data sent, each server's in the order given, once at least. It is never lost."""
    edus = list(edus)
    if not edus:
        return
    first = stream_rows.advance(tx, len(edus)) - len(edus) + 1
    tx.connection.execute(
        _INSERT,
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


def list_destinations(tx: ReadTx) -> set[ServerName]:
    """The servers for which data waits."""
    return {ServerName(name) for name in tx.connection.execute(_DESTINATIONS).scalars()}


def list_new_destinations(tx: ReadTx, *, after: int, upto: int) -> set[ServerName]:
    """The servers for which there is new data that is no event."""
    rows = tx.connection.execute(_NEW_DESTINATIONS, {"after": after, "upto": upto})
    return {ServerName(name) for name in rows.scalars()}


def list_for(tx: ReadTx, server: ServerName, *, after: int, limit: int) -> list[StoredEdu]:
    """The data for a server behind a position, the oldest first."""
    return [StoredEdu(*row) for row in tx.connection.execute(_LIST, {"to": server, "after": after, "limit": limit})]


def find_many(tx: ReadTx, server: ServerName, positions: Collection[int]) -> list[StoredEdu]:
    """The data for a server at these positions, the oldest first."""
    return [StoredEdu(*row) for row in tx.connection.execute(_AT, {"to": server, "positions": positions})]


def count_waiting(tx: ReadTx) -> dict[ServerName, int]:
    """How much data waits, by server."""
    return {ServerName(row[0]): row[1] for row in tx.connection.execute(_COUNTS)}


def remove_many(tx: WriteTx, delivered: Iterable[tuple[ServerName, int]]) -> None:
    """Forget data that was delivered: pairs of a server and a position."""
    tx.connection.execute(_REMOVE, [{"to": server, "at": position} for server, position in delivered])
