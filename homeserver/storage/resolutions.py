"""Where states were resolved, from what, and what came of it: nothing is resolved twice, and it can be read again."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, LargeBinary, Table, UniqueConstraint, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata, some_of_room

resolutions = Table(
    "resolutions",
    metadata,
    # The number under which the new nodes of the state tree are stored, which is a position of no event.
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("room_nid", BigInteger, nullable=False),
    Column("roots", Text, nullable=False),  # Ascending, with commas between.
    Column("root", BigInteger, nullable=False),
    Column("report", LargeBinary, nullable=False),  # JSON: which entries changed, which events lost, and why.
    UniqueConstraint("room_nid", "roots"),
)


@dataclass(frozen=True, slots=True)
class Resolution:
    """States of a room, given by their roots, that were resolved to the state of another root."""

    position: int
    room_nid: int
    roots: tuple[int, ...]
    root: int
    report: bytes


_LAST = (1 << 63) - 1

_INSERT = insert(resolutions).on_conflict_do_nothing()
_FIND = select(resolutions).where(
    resolutions.c.room_nid == bindparam("room_nid"), resolutions.c.roots == bindparam("roots")
)
_LIST = (
    select(resolutions)
    .where(resolutions.c.room_nid == bindparam("room_nid"), resolutions.c.position <= bindparam("upto"))
    .order_by(resolutions.c.position.desc())
    .limit(bindparam("limit"))
)
_ROOTS = select(resolutions.c.root).where(
    resolutions.c.room_nid == bindparam("nid"),
    resolutions.c.position > bindparam("after"),
    resolutions.c.position <= bindparam("upto"),
)
_REMOVE = delete(resolutions).where(
    resolutions.c.room_nid == bindparam("nid"),
    resolutions.c.position > bindparam("after"),
    resolutions.c.position <= bindparam("upto"),
)
_REMOVE_SOME = some_of_room(resolutions)


def insert_one(tx: WriteTx, new: Resolution) -> None:
    """Keep a resolution; one that is known already is left as it is."""
    tx.connection.execute(
        _INSERT,
        {
            "position": new.position,
            "room_nid": new.room_nid,
            "roots": _text(new.roots),
            "root": new.root,
            "report": new.report,
        },
    )


def find(tx: ReadTx, room_nid: int, roots: Iterable[int]) -> Resolution | None:
    """What these states were resolved to, or None if they never were."""
    row = tx.connection.execute(_FIND, {"room_nid": room_nid, "roots": _text(roots)}).one_or_none()
    return None if row is None else _read(*row)


def list_newest(tx: ReadTx, room_nid: int, *, limit: int, upto: int = _LAST) -> list[Resolution]:
    """The room's newest resolutions up to a position, the newest first."""
    values = {"room_nid": room_nid, "upto": upto, "limit": limit}
    return [_read(*row) for row in tx.connection.execute(_LIST, values)]


def list_roots(tx: ReadTx, room_nid: int, *, after: int, upto: int) -> set[int]:
    """The roots of the states that came of the room's resolutions in (after, upto]."""
    return set(tx.connection.execute(_ROOTS, {"nid": room_nid, "after": after, "upto": upto}).scalars())


def remove_many(tx: WriteTx, room_nid: int, *, after: int, upto: int) -> None:
    """Forget the room's resolutions in (after, upto]."""
    tx.connection.execute(_REMOVE, {"nid": room_nid, "after": after, "upto": upto})


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the resolutions of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount


def _text(roots: Iterable[int]) -> str:
    return ",".join(str(root) for root in sorted(roots))


def _read(position: int, room_nid: int, roots: str, root: int, report: bytes) -> Resolution:
    return Resolution(position, room_nid, tuple(int(part) for part in roots.split(",")), root, report)
