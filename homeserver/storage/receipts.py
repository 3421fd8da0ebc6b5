"""Read receipts: the newest of each user, kind and thread in a room."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, delete, or_, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import EventId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata, some_of_room

UNTHREADED = ""
"""Stands for a receipt that says nothing of threads."""

PRIVATE = "m.read.private"

receipts = Table(
    "receipts",
    metadata,
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("thread_id", Text, primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("event_position", BigInteger, nullable=False),  # At which it came into the timeline.
    Column("ts", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Index("ix_receipts_room_nid_position", "room_nid", "position"),
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A user has read up to an event, in a thread (`main`, or its root's id) or in the whole room."""

    room_nid: int
    user_id: UserId
    type: str
    thread_id: str
    event_id: EventId
    event_position: int
    ts: int
    position: int


_INSERT = insert(receipts)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["room_nid", "user_id", "type", "thread_id"],
    set_={name: _INSERT.excluded[name] for name in ("event_id", "event_position", "ts", "position")},
)
_OF_USER = select(receipts).where(
    receipts.c.user_id == bindparam("user_id"), receipts.c.room_nid.in_(bindparam("room_nids", expanding=True))
)
_OF_USERS = select(receipts).where(
    receipts.c.user_id.in_(bindparam("user_ids", expanding=True)),
    receipts.c.room_nid.in_(bindparam("room_nids", expanding=True)),
    receipts.c.type == bindparam("of_type"),
)
_SINCE = (
    select(receipts)
    .where(
        receipts.c.room_nid.in_(bindparam("room_nids", expanding=True)),
        receipts.c.position > bindparam("after"),
        receipts.c.position <= bindparam("upto"),
        or_(receipts.c.type != PRIVATE, receipts.c.user_id == bindparam("user_id")),
    )
    .order_by(receipts.c.position)
)
_REMOVE_POINTING = delete(receipts).where(
    receipts.c.room_nid == bindparam("nid"),
    receipts.c.event_position > bindparam("after"),
    receipts.c.event_position <= bindparam("upto"),
    receipts.c.event_position.not_in(bindparam("but", expanding=True)),
)
_REMOVE = delete(receipts).where(
    receipts.c.room_nid == bindparam("nid"),
    receipts.c.user_id == bindparam("who"),
    receipts.c.type == bindparam("of_type"),
    receipts.c.thread_id == bindparam("in_thread"),
)
_REMOVE_SOME = some_of_room(receipts)


def remove_many(tx: WriteTx, gone: Iterable[Receipt]) -> None:
    """Remove receipts."""
    values = [
        {"nid": one.room_nid, "who": one.user_id, "of_type": one.type, "in_thread": one.thread_id} for one in gone
    ]
    if values:
        tx.connection.execute(_REMOVE, values)


def remove_pointing(tx: WriteTx, room_nid: int, *, after: int, upto: int, but: Iterable[int]) -> None:
    """Remove the receipts that point to events in (after, upto], but for those that point to some of them."""
    tx.connection.execute(_REMOVE_POINTING, {"nid": room_nid, "after": after, "upto": upto, "but": list(but)})


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the receipts of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount


def put_many(tx: WriteTx, new: Sequence[Receipt]) -> None:
    """Keep receipts in the place of those before."""
    tx.connection.execute(
        _UPSERT,
        [
            {
                "room_nid": receipt.room_nid,
                "user_id": receipt.user_id,
                "type": receipt.type,
                "thread_id": receipt.thread_id,
                "event_id": receipt.event_id,
                "event_position": receipt.event_position,
                "ts": receipt.ts,
                "position": receipt.position,
            }
            for receipt in new
        ],
    )


def list_of_users(tx: ReadTx, user_ids: Collection[UserId], room_nids: Collection[int], type_: str) -> list[Receipt]:
    """The receipts of one kind of these users in these rooms; at most 10,000 of both."""
    values = {"user_ids": list(user_ids), "room_nids": list(room_nids), "of_type": type_}
    return [Receipt(*row) for row in tx.connection.execute(_OF_USERS, values)]


def list_of_user(tx: ReadTx, user_id: UserId, room_nids: Iterable[int]) -> list[Receipt]:
    """All receipts of a user in these rooms."""
    found: list[Receipt] = []
    for part in chunks(room_nids):
        rows = tx.connection.execute(_OF_USER, {"user_id": user_id, "room_nids": part})
        found.extend(Receipt(*row) for row in rows)
    return found


def list_since(tx: ReadTx, room_nids: Iterable[int], user_id: UserId, *, after: int, upto: int) -> list[Receipt]:
    """The receipts in these rooms that are new in (after, upto], as far as this user may see them."""
    found: list[Receipt] = []
    for part in chunks(room_nids):
        values = {"room_nids": part, "user_id": user_id, "after": after, "upto": upto}
        found.extend(Receipt(*row) for row in tx.connection.execute(_SINCE, values))
    return found
