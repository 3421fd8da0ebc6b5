"""Data that is no event and is to be sent to other servers: messages to devices, changes of devices and keys.

It is a row for each server, as it is different for most of them. What waits there is bounded (`supersede`,
`count_messages`, `drop_oldest`): see docs/decisions/0013-outbound.md.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Delete, Index, LargeBinary, Table, bindparam, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.storage import stream_rows
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.outgoing import FEDERATION
from homeserver.storage.tables import Text, among, chunks, metadata

TO_DEVICE = "m.direct_to_device"
DEVICE_LIST = "m.device_list_update"
SIGNING_KEY = "m.signing_key_update"

# Not a parameter: the databases use an index of some rows only where they see that these are meant.
_IS_MESSAGE = text(f"edu_type = '{TO_DEVICE}'")

outgoing_edus = Table(
    "outgoing_edus",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("edu_type", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),  # A JSON object.
    Column("user_id", Text),  # Of whom it is.
    # What is new.
    Index("ix_outgoing_edus_position", "position"),
    # How many messages to devices of a user's wait for a server.
    Index(
        "ix_outgoing_edus_user_id_destination",
        "user_id",
        "destination",
        postgresql_where=_IS_MESSAGE,
        sqlite_where=_IS_MESSAGE,
    ),
)


@dataclass(frozen=True, slots=True)
class OutgoingEdu:
    """Data that is no event, for one server; `content` is a JSON object."""

    destination: ServerName
    edu_type: str
    content: bytes
    user_id: UserId
    """The local user who sends it, or of whose devices it tells."""


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
_MESSAGES = (
    select(outgoing_edus.c.destination, func.count())
    .where(
        outgoing_edus.c.user_id == bindparam("user"),
        outgoing_edus.c.destination.in_(bindparam("servers", expanding=True)),
        _IS_MESSAGE,
    )
    .group_by(outgoing_edus.c.destination)
)
_COUNT = select(func.count()).select_from(outgoing_edus)
_REMOVE = delete(outgoing_edus).where(
    outgoing_edus.c.destination == bindparam("to"), outgoing_edus.c.position == bindparam("at")
)


def _those_behind(edu_types: Sequence[str]) -> Delete:
    """A statement that removes some of what is not among the newest of its kind, for servers, of each user."""
    place = func.row_number().over(
        partition_by=(outgoing_edus.c.destination, outgoing_edus.c.edu_type, outgoing_edus.c.user_id),
        order_by=outgoing_edus.c.position.desc(),
    )
    placed = (
        select(outgoing_edus.c.position, place.label("place"))
        .where(
            outgoing_edus.c.destination.in_(bindparam("servers", expanding=True)),
            outgoing_edus.c.edu_type.in_(edu_types),
            ~among(outgoing_edus.c.position, "under_way"),
        )
        .subquery()
    )
    behind = (
        select(placed.c.position)
        .where(placed.c.place > bindparam("kept"))
        .order_by(placed.c.position)
        .limit(bindparam("limit"))
    )
    return delete(outgoing_edus).where(outgoing_edus.c.position.in_(behind))


_SUPERSEDE = _those_behind([DEVICE_LIST, SIGNING_KEY])
_DROP = _those_behind([TO_DEVICE]).returning(outgoing_edus.c.destination)


def add_many(tx: WriteTx, edus: Iterable[OutgoingEdu]) -> None:
    """Have data sent, each server's in the order given, once at least, unless it is superseded or there is too much."""
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
                "user_id": edu.user_id,
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


def count_messages(tx: ReadTx, user_id: UserId, servers: Collection[ServerName]) -> dict[ServerName, int]:
    """How many pieces of data with a local user's messages to devices wait for each of the servers, if any do."""
    found: dict[ServerName, int] = {}
    for part in chunks(servers):
        for server, count in tx.connection.execute(_MESSAGES, {"user": user_id, "servers": part}):
            found[ServerName(server)] = count
    return found


def count_all(tx: ReadTx) -> int:
    """How much data waits."""
    return int(tx.connection.execute(_COUNT).scalar_one())


def remove_many(tx: WriteTx, delivered: Iterable[tuple[ServerName, int]]) -> None:
    """Forget data that was delivered: pairs of a server and a position."""
    tx.connection.execute(_REMOVE, [{"to": server, "at": position} for server, position in delivered])


def supersede(tx: WriteTx, servers: Collection[ServerName], *, under_way: Collection[int], limit: int) -> int:
    """Leave each of the servers the newest change of each user's devices, and of their keys.

    How many others went, `limit` at most. Who gets it sees that it misses the one before, and fetches the whole list,
    keys included. What is in transactions that are under way, by position, stays as it is.
    """
    values = {"servers": list(servers), "under_way": under_way, "kept": 1, "limit": limit}
    return tx.connection.execute(_SUPERSEDE, values).rowcount


def drop_oldest(
    tx: WriteTx, servers: Collection[ServerName], *, under_way: Collection[int], kept: int, limit: int
) -> Counter[ServerName]:
    """Leave each of the servers so many messages to devices of each user, the newest.

    How many others went, `limit` at most together.
    """
    values = {"servers": list(servers), "under_way": under_way, "kept": kept, "limit": limit}
    return Counter(ServerName(name) for name in tx.connection.execute(_DROP, values).scalars())
