"""The log of local users who came to rooms, whose servers have still to hear of the users' devices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Table, bindparam, delete, insert, select

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata, some_of_room

INTRODUCTIONS = "introductions"
"""Whoever makes them waits for this key."""

introductions = Table(
    "introductions",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, primary_key=True),
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
)


@dataclass(frozen=True, slots=True)
class Introduction:
    """A local user is in a room, by the member event at this position."""

    position: int
    user_id: UserId
    room_nid: int


_INSERT = insert(introductions)
_LIST = select(introductions).order_by(introductions.c.position).limit(bindparam("limit"))
_REMOVE = delete(introductions).where(
    introductions.c.position == bindparam("at"),
    introductions.c.user_id == bindparam("who"),
    introductions.c.room_nid == bindparam("nid"),
)
_REMOVE_SOME = some_of_room(introductions)


def add_many(tx: WriteTx, new: Iterable[Introduction]) -> None:
    """Leave word that these are to be made."""
    tx.connection.execute(
        _INSERT, [{"position": one.position, "user_id": one.user_id, "room_nid": one.room_nid} for one in new]
    )
    tx.wake([INTRODUCTIONS])


def list_first(tx: ReadTx, *, limit: int) -> list[Introduction]:
    """The oldest that were not made yet."""
    return [Introduction(*row) for row in tx.connection.execute(_LIST, {"limit": limit})]


def remove_many(tx: WriteTx, done: Sequence[Introduction]) -> None:
    """They are made."""
    tx.connection.execute(_REMOVE, [{"at": one.position, "who": one.user_id, "nid": one.room_nid} for one in done])


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of those for a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount
