"""What other servers delivered: events that were acknowledged and not yet taken in, and what was answered.

A staged event is of a room that is known. Its number is a position, so that what a server says in a room is taken in
the order in which it was acknowledged. Of the answers to a server, the last few are kept: a server repeats a delivery
until it is answered, and then it makes the next. So they are a ring, and the table does not grow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, LargeBinary, SmallInteger, Table, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import RoomId, ServerName
from homeserver.storage import stream_rows
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.pdus import Pdu
from homeserver.storage.rooms import rooms
from homeserver.storage.tables import Text, chunks, metadata, some_of_room

KEPT = 16
"""So many answers to a server are kept."""
NAME = 16
"""So many bytes the name of a delivery has."""

staged_pdus = Table(
    "staged_pdus",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("room_nid", BigInteger, nullable=False),
    Column("origin", Text, nullable=False),  # The server that delivered it.
    Column("staged_ts", BigInteger, nullable=False),
    Column("pdu", Pdu, nullable=False),
    Index("ix_staged_pdus_room_nid_origin_number", "room_nid", "origin", "number"),
)

answered_deliveries = Table(
    "answered_deliveries",
    metadata,
    Column("origin", Text, primary_key=True),
    Column("slot", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),  # How many came before; the slot is what remains of it.
    Column("name", LargeBinary, nullable=False),  # A hash of the transaction id, and one of the events.
    Column("answer", LargeBinary, nullable=False),
    Column("answered_ts", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Staged:
    """An event that was acknowledged."""

    number: int
    pdu: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered to a delivery."""

    origin: ServerName
    number: int
    name: bytes
    answer: bytes
    answered_ts: int
    body: bytes = b""
    """A hash of the events that were delivered, as long as not all of it is known to have been taken in."""


_STAGE = insert(staged_pdus)
_OF_LINE = (
    select(staged_pdus.c.number, staged_pdus.c.pdu)
    .where(staged_pdus.c.room_nid == bindparam("room_nid"), staged_pdus.c.origin == bindparam("origin"))
    .order_by(staged_pdus.c.number)
    .limit(bindparam("limit"))
)
_UNSTAGE = delete(staged_pdus).where(staged_pdus.c.number.in_(bindparam("numbers", expanding=True)))
_LINES = (
    select(rooms.c.room_id, staged_pdus.c.origin)
    .join(staged_pdus, staged_pdus.c.room_nid == rooms.c.room_nid)
    .group_by(rooms.c.room_id, staged_pdus.c.origin)
    .order_by(func.min(staged_pdus.c.number))
)
_COUNTS = select(staged_pdus.c.origin, func.count().label("how_many")).group_by(staged_pdus.c.origin)
_REMOVE_SOME = some_of_room(staged_pdus)
_ANSWERS = (
    select(answered_deliveries)
    .where(answered_deliveries.c.origin == bindparam("of"))
    .order_by(answered_deliveries.c.number)
)
_ANSWER = insert(answered_deliveries)
_KEEP_ANSWER = _ANSWER.on_conflict_do_update(
    index_elements=["origin", "slot"],
    set_={name: _ANSWER.excluded[name] for name in ("number", "name", "answer", "answered_ts")},
    where=answered_deliveries.c.number <= _ANSWER.excluded.number,
)
_BEGIN_ANSWER = _ANSWER.on_conflict_do_update(
    index_elements=["origin", "slot"],
    set_={name: _ANSWER.excluded[name] for name in ("number", "name", "answer", "answered_ts")},
    where=answered_deliveries.c.number < _ANSWER.excluded.number,
)


def stage(tx: WriteTx, new: Sequence[tuple[int, bytes]], origin: ServerName, *, now: int) -> list[int]:
    """Keep events, as pairs of room and bytes, until they are taken in; their numbers, in the same order."""
    last = stream_rows.advance(tx, len(new))
    numbers = list(range(last - len(new) + 1, last + 1))
    tx.connection.execute(
        _STAGE,
        [
            {"number": number, "room_nid": room_nid, "origin": origin, "staged_ts": now, "pdu": pdu}
            for number, (room_nid, pdu) in zip(numbers, new, strict=True)
        ],
    )
    return numbers


def list_staged(tx: ReadTx, room_nid: int, origin: ServerName, *, limit: int) -> list[Staged]:
    """What a server delivered for a room that was acknowledged and not taken in, in order."""
    rows = tx.connection.execute(_OF_LINE, {"room_nid": room_nid, "origin": origin, "limit": limit})
    return [Staged(row.number, row.pdu) for row in rows]


def unstage(tx: WriteTx, numbers: Iterable[int]) -> None:
    """These events were taken in."""
    for part in chunks(numbers):
        tx.connection.execute(_UNSTAGE, {"numbers": part})


def list_lines(tx: ReadTx) -> list[tuple[RoomId, ServerName]]:
    """The rooms of which events are staged, each with a server that delivered some; the first in line first."""
    return [(RoomId(row.room_id), ServerName(row.origin)) for row in tx.connection.execute(_LINES)]


def count_staged(tx: ReadTx) -> dict[ServerName, int]:
    """How many events of each server are staged."""
    return {ServerName(row.origin): row.how_many for row in tx.connection.execute(_COUNTS)}


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of what is staged for a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount


def list_answers(tx: ReadTx, origin: ServerName) -> list[Answered]:
    """The last answers to a server, the newest last."""
    rows = tx.connection.execute(_ANSWERS, {"of": origin})
    return [
        Answered(ServerName(row.origin), row.number, row.name[:NAME], row.answer, row.answered_ts, body=row.name[NAME:])
        for row in rows
    ]


def keep_answers(tx: WriteTx, answered: Sequence[Answered]) -> None:
    """Keep answers in the place of the oldest ones, unless a later answer is there already."""
    slots = {(one.origin, one.number % KEPT): one for one in sorted(answered, key=lambda one: one.number)}
    tx.run(_KEEP_ANSWER, [_as_row(one) for one in slots.values()])


def begin_answer(tx: WriteTx, answered: Answered) -> None:
    """Keep what is probably going to be answered, unless a later answer is there already, or this one."""
    tx.run(_BEGIN_ANSWER, [_as_row(answered)])


def _as_row(one: Answered) -> dict[str, object]:
    return {
        "origin": one.origin,
        "slot": one.number % KEPT,
        "number": one.number,
        "name": one.name + one.body,
        "answer": one.answer,
        "answered_ts": one.answered_ts,
    }
