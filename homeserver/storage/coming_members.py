"""Members of rooms that are known in part, written beforehand: nobody sees them before the room becomes whole."""

from collections.abc import Iterable

from sqlalchemy import BigInteger, Column, Table, bindparam, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_unless

from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.members import Member, memberships
from homeserver.storage.tables import Text, metadata, some_of_room

coming_members = Table(
    "coming_members",
    metadata,
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, primary_key=True),
    Column("membership", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("event", BigInteger, nullable=False),
)

_INSERT = insert(coming_members)
_TAKE_IN = (
    insert_unless(memberships)
    .from_select(
        ["room_nid", "user_id", "membership", "sender", "position", "event"],
        select(
            coming_members.c.room_nid,
            coming_members.c.user_id,
            coming_members.c.membership,
            coming_members.c.sender,
            bindparam("position", type_=BigInteger),
            coming_members.c.event,
        ).where(coming_members.c.room_nid == bindparam("nid")),
    )
    .on_conflict_do_nothing(index_elements=["room_nid", "user_id"])
)
_REMOVE_SOME = some_of_room(coming_members)
_ROOMS = select(coming_members.c.room_nid).distinct()


def add_many(tx: WriteTx, coming: Iterable[Member]) -> None:
    """Write members down that were not yet; at which position they are in the room is not known yet."""
    rows = [
        {
            "room_nid": one.room_nid,
            "user_id": one.user_id,
            "membership": one.membership,
            "sender": one.sender,
            "event": one.event,
        }
        for one in coming
    ]
    tx.connection.execute(_INSERT, rows)


def take_in(tx: WriteTx, room_nid: int, position: int) -> None:
    """Let all that were written down be members of the room, but for those who are known there already."""
    tx.connection.execute(_TAKE_IN, {"nid": room_nid, "position": position})


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of what was written down; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount


def list_rooms(tx: ReadTx) -> list[int]:
    """The rooms of which something is written down."""
    return list(tx.connection.execute(_ROOMS).scalars())
