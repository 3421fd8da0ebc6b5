"""Rooms whose state is known in part: joined a moment ago, most members are still to come."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Integer, Table, bindparam, delete, insert, select, update

from homeserver.matrix.identifiers import EventId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

partial_rooms = Table(
    "partial_rooms",
    metadata,
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),  # Of the join event.
    Column("given_root", BigInteger, nullable=False),  # The state before it, as far as it was given.
    Column("via", Text, nullable=False),
    Column("since_ts", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False),  # Events of the state that were taken in, of how many.
    Column("total", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),  # How often it was tried.
    Column("retry_ts", BigInteger, nullable=False),
    Column("failure", Text),
    # How often the rest was told, and something of it was not to be had.
    Column("lacking", Integer, nullable=False, server_default="0"),
)

# What the server that let us in has named as state, besides members, and was not to be had or proven then. Whoever
# gives one of these events gives what belongs to the state.
left_out = Table(
    "left_out",
    metadata,
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", Text, primary_key=True),
)


@dataclass(frozen=True, slots=True)
class PartialRoom:
    """What is known of a room that is known in part, and how far the rest has come."""

    room_nid: int
    position: int
    given_root: int
    via: str
    since_ts: int
    done: int = 0
    total: int = 0
    failures: int = 0
    retry_ts: int = 0
    failure: str | None = None
    lacking: int = 0


_INSERT = insert(partial_rooms)
_FIND = select(partial_rooms).where(partial_rooms.c.room_nid.in_(bindparam("room_nids", expanding=True)))
_LIST = select(partial_rooms).order_by(partial_rooms.c.position)
_SET_PROGRESS = (
    update(partial_rooms)
    .where(partial_rooms.c.room_nid == bindparam("nid"))
    .values(done=bindparam("so_far"), total=bindparam("of"))
)
_SET_BEGUN = (
    update(partial_rooms)
    .where(partial_rooms.c.room_nid == bindparam("nid"))
    .values(failures=partial_rooms.c.failures + 1, retry_ts=bindparam("again"))
)
_SET_FAILED = (
    update(partial_rooms)
    .where(partial_rooms.c.room_nid == bindparam("nid"))
    .values(retry_ts=bindparam("again"), failure=bindparam("why"))
)
_SET_LACKING = (
    update(partial_rooms)
    .where(partial_rooms.c.room_nid == bindparam("nid"))
    .values(lacking=partial_rooms.c.lacking + 1)
)
_REMOVE = delete(partial_rooms).where(partial_rooms.c.room_nid == bindparam("nid"))
_LEAVE_OUT = insert(left_out)
_LEFT_OUT = select(left_out.c.event_id).where(left_out.c.room_nid == bindparam("nid")).order_by(left_out.c.event_id)
_FORGET_LEFT_OUT = delete(left_out).where(left_out.c.room_nid == bindparam("nid"))


def put(tx: WriteTx, room: PartialRoom, event_ids: Iterable[EventId] = ()) -> None:
    """Note that a room is known in part, and which events of its state besides members were left out.

    It takes the place of what was noted before.
    """
    remove(tx, room.room_nid)
    for part in chunks(dict.fromkeys(event_ids)):
        tx.connection.execute(_LEAVE_OUT, [{"room_nid": room.room_nid, "event_id": one} for one in part])
    values = {
        "room_nid": room.room_nid,
        "position": room.position,
        "given_root": room.given_root,
        "via": room.via,
        "since_ts": room.since_ts,
        "done": room.done,
        "total": room.total,
        "failures": room.failures,
        "retry_ts": room.retry_ts,
        "failure": room.failure,
        "lacking": room.lacking,
    }
    tx.connection.execute(_INSERT, values)


def find_many(tx: ReadTx, room_nids: Iterable[int]) -> dict[int, PartialRoom]:
    """Those of these rooms that are known in part."""
    found: dict[int, PartialRoom] = {}
    for part in chunks(room_nids):
        found.update((row.room_nid, PartialRoom(*row)) for row in tx.connection.execute(_FIND, {"room_nids": part}))
    return found


def list_all(tx: ReadTx) -> list[PartialRoom]:
    """All rooms that are known in part, the one that was joined first in front."""
    return [PartialRoom(*row) for row in tx.connection.execute(_LIST)]


def set_progress(tx: WriteTx, room_nid: int, done: int, total: int) -> None:
    """Say how many events of the state were taken in, of how many."""
    tx.connection.execute(_SET_PROGRESS, {"nid": room_nid, "so_far": done, "of": total})


def set_begun(tx: WriteTx, room_nid: int, *, retry_ts: int) -> None:
    """Note that the rest of the state is asked for, and when to try again if nothing is heard of that any more."""
    tx.connection.execute(_SET_BEGUN, {"nid": room_nid, "again": retry_ts})


def set_failed(tx: WriteTx, room_nid: int, failure: str, *, retry_ts: int) -> None:
    """Note why the rest of the state could not be had, and when to try again."""
    tx.connection.execute(_SET_FAILED, {"nid": room_nid, "why": failure, "again": retry_ts})


def set_lacking(tx: WriteTx, room_nid: int) -> None:
    """Note that the rest of the state was told once more, and that something of it was not to be had."""
    tx.connection.execute(_SET_LACKING, {"nid": room_nid})


def list_left_out(tx: ReadTx, room_nid: int) -> list[EventId]:
    """What the server that let us in has named as state besides members, and was left out."""
    return [EventId(one) for one in tx.connection.execute(_LEFT_OUT, {"nid": room_nid}).scalars()]


def remove(tx: WriteTx, room_nid: int) -> None:
    """From now on the room is known whole, or not at all."""
    tx.connection.execute(_REMOVE, {"nid": room_nid})
    tx.connection.execute(_FORGET_LEFT_OUT, {"nid": room_nid})
