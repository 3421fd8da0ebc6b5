"""Events as they were before they were redacted, of rooms that are known in part. Nobody is shown them.

Whether a redaction was allowed is certain only when all of its room is known (docs/decisions/0018-redactions.md). They
are kept for that moment, and no longer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.events import events
from homeserver.storage.pdus import Pdu
from homeserver.storage.tables import Text, chunks, metadata, some_of_room

originals = Table(
    "originals",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # Of the event that was redacted.
    Column("room_nid", BigInteger, nullable=False),
    Column("sender", Text, nullable=False),
    Column("since_ts", BigInteger, nullable=False),
    Column("pdu", Pdu, nullable=False),
    Index("ix_originals_room_nid", "room_nid"),
)


@dataclass(frozen=True, slots=True)
class Original:
    """An event that is stored redacted, as it was."""

    position: int
    room_nid: int
    sender: UserId
    since_ts: int
    pdu: bytes


_ADD = insert(originals).on_conflict_do_nothing()
_SET_ASIDE = (
    insert(originals)
    .from_select(
        ["position", "room_nid", "sender", "since_ts", "pdu"],
        select(
            events.c.position,
            events.c.room_nid,
            bindparam("of", type_=Text),
            bindparam("now", type_=BigInteger),
            events.c.pdu,
        ).where(events.c.position == bindparam("target"), events.c.redacted_by.is_(None)),
    )
    .on_conflict_do_nothing()
)
_FIND = select(originals.c.position, originals.c.pdu).where(
    originals.c.position.in_(bindparam("positions", expanding=True))
)
_COUNT = select(func.count()).where(originals.c.room_nid == bindparam("nid"))
_REMOVE_AT = delete(originals).where(originals.c.position.in_(bindparam("positions", expanding=True)))
_REMOVE_OF_ROOM = delete(originals).where(originals.c.room_nid == bindparam("nid"))
_REMOVE_OLD = _REMOVE_OF_ROOM.where(originals.c.since_ts < bindparam("before"))
_REMOVE_OF_SENDER = delete(originals).where(originals.c.sender == bindparam("sender"))
_REMOVE_SOME = some_of_room(originals)


def add_many(tx: WriteTx, new: Iterable[Original]) -> None:
    """Keep originals of events that are stored redacted from the beginning."""
    tx.connection.execute(
        _ADD,
        [
            {
                "position": one.position,
                "room_nid": one.room_nid,
                "sender": one.sender,
                "since_ts": one.since_ts,
                "pdu": one.pdu,
            }
            for one in new
        ],
    )


def set_aside(tx: WriteTx, redacted: Iterable[tuple[int, UserId, int]]) -> None:
    """Keep events that are about to be redacted: triples of position, sender, and the time that it is.

    Those that were redacted before are not kept.
    """
    values = [{"target": position, "of": sender, "now": now} for position, sender, now in redacted]
    tx.connection.execute(_SET_ASIDE, values)


def find_pdus(tx: ReadTx, positions: Iterable[int]) -> dict[int, bytes]:
    """The bytes of those of the events whose originals are kept."""
    found: dict[int, bytes] = {}
    for part in chunks(positions):
        found.update((row.position, row.pdu) for row in tx.connection.execute(_FIND, {"positions": part}))
    return found


def count_in_room(tx: ReadTx, room_nid: int) -> int:
    """How many are kept of a room."""
    return int(tx.connection.execute(_COUNT, {"nid": room_nid}).scalar_one())


def remove_many(tx: WriteTx, positions: Iterable[int]) -> None:
    """Forget the originals of these events."""
    for part in chunks(positions):
        tx.connection.execute(_REMOVE_AT, {"positions": part})


def remove_of_room(tx: WriteTx, room_nid: int) -> None:
    """Forget the room's: what is redacted stays so."""
    tx.connection.execute(_REMOVE_OF_ROOM, {"nid": room_nid})


def remove_old(tx: WriteTx, room_nid: int, *, before: int) -> None:
    """Forget those of the room that were redacted before that time."""
    tx.connection.execute(_REMOVE_OLD, {"nid": room_nid, "before": before})


def remove_of_sender(tx: WriteTx, user_id: UserId) -> None:
    """Forget what this user said."""
    tx.connection.execute(_REMOVE_OF_SENDER, {"sender": user_id})


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of those of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount
