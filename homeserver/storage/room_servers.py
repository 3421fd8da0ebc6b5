"""Since when which other servers have users in which rooms, and until when: who is to have an event of a room.

It is written with the memberships, in the same transaction. A server is to have the events with positions in
(since, until]: its own first join it has, and the event by which its last user was removed is still for it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, or_, select, text, union, update
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, among, chunks, metadata, some_of_room

room_servers = Table(
    "room_servers",
    metadata,
    Column("server_name", Text, primary_key=True),
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("since", BigInteger, primary_key=True, autoincrement=False),
    Column("until", BigInteger),  # Null: to this day.
    # Who is in a room, and what has changed of late.
    Index("ix_room_servers_room_nid_since", "room_nid", "since"),
    Index(
        "ix_room_servers_room_nid_until",
        "room_nid",
        "until",
        postgresql_where=text("until IS NOT NULL"),
        sqlite_where=text("until IS NOT NULL"),
    ),
    # A server is in a room once at a time.
    Index(
        "ix_room_servers_open",
        "server_name",
        "room_nid",
        unique=True,
        postgresql_where=text("until IS NULL"),
        sqlite_where=text("until IS NULL"),
    ),
)


@dataclass(frozen=True, slots=True)
class Stay:
    """A server was in a room: it is to have the events in (since, until]."""

    server_name: ServerName
    since: int
    until: int | None


Passage = tuple[ServerName, int, int]
"""A server, a room, and the position at which it came there or left."""

_INSERT = insert(room_servers).on_conflict_do_nothing()
_CLOSE = (
    update(room_servers)
    .where(
        room_servers.c.server_name == bindparam("server"),
        room_servers.c.room_nid == bindparam("nid"),
        room_servers.c.until.is_(None),
    )
    .values(until=bindparam("position"))
)
_CHANGED = union(
    select(room_servers.c.room_nid).where(
        among(room_servers.c.room_nid, "nids"), room_servers.c.since > bindparam("after")
    ),
    select(room_servers.c.room_nid).where(
        among(room_servers.c.room_nid, "nids"), room_servers.c.until > bindparam("after"), text("until IS NOT NULL")
    ),
)
_STAYS = select(room_servers).where(
    among(room_servers.c.room_nid, "nids"),
    or_(room_servers.c.until.is_(None), room_servers.c.until > bindparam("after")),
)
_OPEN = select(room_servers.c.server_name).where(
    room_servers.c.room_nid == bindparam("nid"), room_servers.c.until.is_(None)
)
_OPEN_OF_ROOMS = select(room_servers.c.room_nid, room_servers.c.server_name).where(
    among(room_servers.c.room_nid, "room_nids"), room_servers.c.until.is_(None)
)
_ROOMS = select(room_servers.c.room_nid).where(
    room_servers.c.server_name == bindparam("server"),
    among(room_servers.c.room_nid, "room_nids"),
    room_servers.c.until.is_(None),
)
_LONGEST = _OPEN.order_by(room_servers.c.since, room_servers.c.server_name).limit(bindparam("limit"))
_REMOVE_SOME = some_of_room(room_servers)
_KNOWN = (
    select(room_servers.c.server_name)
    .where(room_servers.c.server_name.in_(bindparam("servers", expanding=True)))
    .distinct()
)
_NEIGHBOURS = select(room_servers.c.server_name).where(text("until IS NULL")).distinct()


def list_neighbours(tx: ReadTx) -> set[ServerName]:
    """The other servers that are in any room."""
    return {ServerName(name) for name in tx.connection.execute(_NEIGHBOURS).scalars()}


def find_known(tx: ReadTx, servers: Iterable[ServerName]) -> set[ServerName]:
    """Those of the servers that are in any room, or have been."""
    found: set[ServerName] = set()
    for part in chunks(servers):
        found.update(map(ServerName, tx.connection.execute(_KNOWN, {"servers": part}).scalars()))
    return found


def list_open(tx: ReadTx, room_nid: int) -> set[ServerName]:
    """The other servers that are in the room."""
    return {ServerName(name) for name in tx.connection.execute(_OPEN, {"nid": room_nid}).scalars()}


def list_open_many(tx: ReadTx, room_nids: Iterable[int]) -> dict[int, set[ServerName]]:
    """The other servers that are in each of the rooms; no entry where there are none."""
    found: dict[int, set[ServerName]] = {}
    for nid, server in tx.connection.execute(_OPEN_OF_ROOMS, {"room_nids": list(room_nids)}):
        found.setdefault(nid, set()).add(ServerName(server))
    return found


def list_of_rooms(tx: ReadTx, room_nids: Iterable[int]) -> set[ServerName]:
    """The other servers that are in any of the rooms."""
    return set().union(*list_open_many(tx, room_nids).values())


def find_rooms(tx: ReadTx, server: ServerName, room_nids: Iterable[int]) -> set[int]:
    """Those of the rooms which another server is in."""
    return set(tx.connection.execute(_ROOMS, {"server": server, "room_nids": list(room_nids)}).scalars())


def list_longest(tx: ReadTx, room_nid: int, *, limit: int) -> list[ServerName]:
    """The other servers that are in the room, those that have been for the longest time first."""
    return [ServerName(name) for name in tx.connection.execute(_LONGEST, {"nid": room_nid, "limit": limit}).scalars()]


def list_changed(tx: ReadTx, room_nids: Iterable[int], *, after: int) -> set[int]:
    """Those of the rooms to which servers have come behind this position, or that they have left."""
    found: set[int] = set()
    for part in chunks(room_nids):
        found.update(tx.connection.execute(_CHANGED, {"nids": part, "after": after}).scalars())
    return found


def list_stays(tx: ReadTx, room_nids: Iterable[int], *, after: int) -> dict[int, list[Stay]]:
    """For each of the rooms, which servers have been there behind this position."""
    found: dict[int, list[Stay]] = {}
    for part in chunks(room_nids):
        for row in tx.connection.execute(_STAYS, {"nids": part, "after": after}):
            found.setdefault(row.room_nid, []).append(Stay(ServerName(row.server_name), row.since, row.until))
    return found


def change(tx: WriteTx, come: Iterable[Passage], gone: Iterable[Passage]) -> None:
    """Note that servers have come to rooms and left them, each perhaps several times."""
    steps = sorted(
        [(position, True, server, nid) for server, nid, position in come]
        + [(position, False, server, nid) for server, nid, position in gone]
    )
    begun: dict[tuple[ServerName, int], int] = {}
    new: list[dict[str, object]] = []
    ended: list[dict[str, object]] = []
    for position, has_come, server, nid in steps:
        if has_come:
            begun[server, nid] = position
        elif (since := begun.pop((server, nid), None)) is not None:
            new.append({"server_name": server, "room_nid": nid, "since": since, "until": position})
        else:
            ended.append({"server": server, "nid": nid, "position": position})
    new += [
        {"server_name": server, "room_nid": nid, "since": since, "until": None}
        for (server, nid), since in begun.items()
    ]
    if ended:
        tx.connection.execute(_CLOSE, ended)
    if new:
        tx.connection.execute(_INSERT, new)


def replace(tx: WriteTx, room_nid: int, servers: Collection[ServerName], position: int) -> None:
    """Say which other servers are in a room, as of this position, where that does not follow from memberships.

    For a room that is known in part, whose members are yet to be told; a hot room has to be read again after this.
    """
    known = list_open(tx, room_nid)
    come = [(server, room_nid, position) for server in set(servers) - known]
    change(tx, come, [(server, room_nid, position) for server in known - set(servers)])


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the rows of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount
