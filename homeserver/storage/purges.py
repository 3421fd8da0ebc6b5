"""Purges of rooms and of their history: durable jobs, each with how far it has come and who works at it.

Leftovers are numbers that a purge has still to look at: roots of states that it gave up, and then the pages that
nothing reaches any more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    SmallInteger,
    Table,
    and_,
    bindparam,
    delete,
    false,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import RoomId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

ROOT = 0
PAGE = 1

purges = Table(
    "purges",
    metadata,
    Column("purge_id", BigInteger, primary_key=True, autoincrement=False),  # A position.
    Column("room_id", Text, nullable=False),
    Column("room_nid", BigInteger, nullable=False),
    Column("before", BigInteger),  # Of the first event that stays its position, or where it is past, the next of any.
    Column("is_forced", Boolean, nullable=False),
    Column("stage", Text, nullable=False),
    Column("cursor", BigInteger, nullable=False),  # What it means depends on the stage.
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("created_ts", BigInteger, nullable=False),
    Column("ended_ts", BigInteger),
    Column("failure", Text),
    Column("holder", Text, nullable=False),  # The process that works at it, for as long as it says so again in time.
    Column("is_held_by_server", Boolean, nullable=False),
    Column("held_until", BigInteger, nullable=False),
    Column("before_place", BigInteger),  # Of the first event that stays, if it is past.
    # One purge of a room at a time.
    Index(
        "ix_purges_open",
        "room_nid",
        unique=True,
        postgresql_where=text("ended_ts IS NULL"),
        sqlite_where=text("ended_ts IS NULL"),
    ),
)

purge_leftovers = Table(
    "purge_leftovers",
    metadata,
    Column("purge_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
)


@dataclass(frozen=True, slots=True)
class Job:
    """A purge and how far it has come: `done` of `total` in its stage."""

    purge_id: int
    room_id: RoomId
    room_nid: int
    before: int | None
    is_forced: bool
    stage: str
    cursor: int
    done: int
    total: int
    created_ts: int
    ended_ts: int | None = None
    failure: str | None = None
    holder: str = ""
    is_held_by_server: bool = False
    held_until: int = 0
    before_place: int | None = None


_INSERT = insert(purges).on_conflict_do_nothing()
_FIND = select(purges).where(purges.c.purge_id == bindparam("purge_id"))
_LAST = select(purges).where(purges.c.room_nid == bindparam("room_nid")).order_by(purges.c.purge_id.desc()).limit(1)
_OPEN = select(purges).where(text("ended_ts IS NULL")).order_by(purges.c.purge_id)
_CLAIM = (
    update(purges)
    .where(
        purges.c.purge_id == bindparam("id"),
        text("ended_ts IS NULL"),
        or_(
            purges.c.holder == bindparam("by"),
            purges.c.held_until < bindparam("now"),
            # A server has the rooms in memory: a command that works at it gives way.
            and_(purges.c.is_held_by_server == false(), bindparam("server", type_=Boolean)),
        ),
    )
    .values(holder=bindparam("by"), is_held_by_server=bindparam("server"), held_until=bindparam("until"))
)
_ADVANCE = (
    update(purges)
    .where(purges.c.purge_id == bindparam("id"), purges.c.holder == bindparam("by"))
    .values(
        stage=bindparam("new_stage"),
        cursor=bindparam("new_cursor"),
        done=bindparam("new_done"),
        total=bindparam("new_total"),
        ended_ts=bindparam("end"),
        failure=bindparam("why"),
        held_until=bindparam("until"),
    )
)
_ADD_LEFTOVERS = insert(purge_leftovers).on_conflict_do_nothing()
_OF_KIND = and_(purge_leftovers.c.purge_id == bindparam("id"), purge_leftovers.c.kind == bindparam("of_kind"))
_LEFTOVERS = (
    select(purge_leftovers.c.number).where(_OF_KIND).order_by(purge_leftovers.c.number).limit(bindparam("limit"))
)
_ALL_LEFTOVERS = select(purge_leftovers.c.number).where(_OF_KIND)
_COUNT_LEFTOVERS = select(func.count()).where(_OF_KIND)
_REMOVE_LEFTOVERS = delete(purge_leftovers).where(_OF_KIND)
_REMOVE_THESE = _REMOVE_LEFTOVERS.where(purge_leftovers.c.number.in_(bindparam("numbers", expanding=True)))


def insert_one(tx: WriteTx, job: Job) -> bool:
    """Add a purge; False if there is one of the room that has not ended."""
    values = {
        "purge_id": job.purge_id,
        "room_id": job.room_id,
        "room_nid": job.room_nid,
        "before": job.before,
        "is_forced": job.is_forced,
        "stage": job.stage,
        "cursor": job.cursor,
        "done": job.done,
        "total": job.total,
        "created_ts": job.created_ts,
        "holder": job.holder,
        "is_held_by_server": job.is_held_by_server,
        "held_until": job.held_until,
        "before_place": job.before_place,
    }
    return tx.connection.execute(_INSERT, values).rowcount == 1


def find(tx: ReadTx, purge_id: int) -> Job | None:
    """The purge, or None if there is none of that number."""
    row = tx.connection.execute(_FIND, {"purge_id": purge_id}).one_or_none()
    return None if row is None else Job(*row)


def find_last(tx: ReadTx, room_nid: int) -> Job | None:
    """The purge of the room that began last, whether or not it has ended."""
    row = tx.connection.execute(_LAST, {"room_nid": room_nid}).one_or_none()
    return None if row is None else Job(*row)


def list_open(tx: ReadTx) -> list[Job]:
    """The purges that have not ended, the oldest first."""
    return [Job(*row) for row in tx.connection.execute(_OPEN)]


def claim(tx: WriteTx, purge_id: int, holder: str, *, is_server: bool, now: int, until: int) -> bool:
    """Work at a purge from now on, unless somebody else does."""
    values = {"id": purge_id, "by": holder, "server": is_server, "now": now, "until": until}
    return tx.connection.execute(_CLAIM, values).rowcount == 1


def advance(tx: WriteTx, job: Job, *, until: int) -> bool:
    """Note how far its holder has come; False if it is held by somebody else by now."""
    values = {
        "id": job.purge_id,
        "by": job.holder,
        "new_stage": job.stage,
        "new_cursor": job.cursor,
        "new_done": job.done,
        "new_total": job.total,
        "end": job.ended_ts,
        "why": job.failure,
        "until": until,
    }
    return tx.connection.execute(_ADVANCE, values).rowcount == 1


def add_leftovers(tx: WriteTx, purge_id: int, kind: int, numbers: Iterable[int]) -> None:
    """Note numbers that are to be looked at later."""
    rows = [{"purge_id": purge_id, "kind": kind, "number": number} for number in numbers]
    if rows:
        tx.connection.execute(_ADD_LEFTOVERS, rows)


def list_leftovers(tx: ReadTx, purge_id: int, kind: int, *, limit: int) -> list[int]:
    """The lowest of the numbers of this kind."""
    return list(tx.connection.execute(_LEFTOVERS, {"id": purge_id, "of_kind": kind, "limit": limit}).scalars())


def list_all_leftovers(tx: ReadTx, purge_id: int, kind: int) -> list[int]:
    """All of the numbers of this kind."""
    return list(tx.connection.execute(_ALL_LEFTOVERS, {"id": purge_id, "of_kind": kind}).scalars())


def count_leftovers(tx: ReadTx, purge_id: int, kind: int) -> int:
    """How many numbers of this kind there are."""
    return int(tx.connection.execute(_COUNT_LEFTOVERS, {"id": purge_id, "of_kind": kind}).scalar_one())


def remove_leftovers(tx: WriteTx, purge_id: int, kind: int, numbers: Iterable[int] | None = None) -> None:
    """These numbers have been looked at, or all of the kind."""
    values = {"id": purge_id, "of_kind": kind}
    if numbers is None:
        tx.connection.execute(_REMOVE_LEFTOVERS, values)
        return
    for part in chunks(numbers):
        tx.connection.execute(_REMOVE_THESE, {**values, "numbers": part})
