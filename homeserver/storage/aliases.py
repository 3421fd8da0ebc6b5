"""Local aliases of rooms."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import RoomAlias, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

aliases = Table(
    "aliases",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("room_nid", BigInteger, nullable=False),
    Column("creator", Text, nullable=False),
    Column("created_ts", BigInteger, nullable=False),
    Index("ix_aliases_room_nid", "room_nid"),
)


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias and where it points."""

    alias: RoomAlias
    room_nid: int
    creator: UserId
    created_ts: int


_INSERT = insert(aliases).on_conflict_do_nothing()
_FIND_MANY = select(aliases).where(aliases.c.alias.in_(bindparam("names", expanding=True)))
_OF_ROOMS = (
    select(aliases).where(aliases.c.room_nid.in_(bindparam("room_nids", expanding=True))).order_by(aliases.c.alias)
)
_MOVE = update(aliases).where(aliases.c.room_nid == bindparam("old")).values(room_nid=bindparam("new"))
_DELETE_OF_ROOM = delete(aliases).where(aliases.c.room_nid == bindparam("nid"))
_DELETE = delete(aliases).where(aliases.c.alias == bindparam("name"))


def add(tx: WriteTx, alias: Alias) -> bool:
    """Add the alias; False if it is taken."""
    values = {
        "alias": alias.alias,
        "room_nid": alias.room_nid,
        "creator": alias.creator,
        "created_ts": alias.created_ts,
    }
    return tx.connection.execute(_INSERT, values).rowcount == 1


def find(tx: ReadTx, alias: RoomAlias) -> Alias | None:
    """The alias, or None if there is none of the name."""
    return find_many(tx, [alias]).get(alias)


def find_many(tx: ReadTx, names: Iterable[RoomAlias]) -> dict[RoomAlias, Alias]:
    """Those of the aliases that there are."""
    found: dict[RoomAlias, Alias] = {}
    for part in chunks(names):
        found.update((row.alias, Alias(*row)) for row in tx.connection.execute(_FIND_MANY, {"names": part}))
    return found


def list_of_rooms(tx: ReadTx, room_nids: Iterable[int]) -> list[Alias]:
    """The aliases that point to these rooms."""
    return [Alias(*row) for row in tx.connection.execute(_OF_ROOMS, {"room_nids": list(room_nids)})]


def move(tx: WriteTx, old_nid: int, new_nid: int) -> None:
    """Let all aliases of one room point to another one."""
    tx.connection.execute(_MOVE, {"old": old_nid, "new": new_nid})


def remove(tx: WriteTx, alias: RoomAlias) -> None:
    """Remove the alias."""
    tx.connection.execute(_DELETE, {"name": alias})


def remove_of_room(tx: WriteTx, room_nid: int) -> None:
    """Remove all aliases of a room."""
    tx.connection.execute(_DELETE_OF_ROOM, {"nid": room_nid})
