"""Rooms: their version, the state after their newest events, and those events (the forward extremities)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Table,
    bindparam,
    delete,
    false,
    insert,
    select,
    text,
    union_all,
    update,
)

from homeserver.matrix.identifiers import RoomId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata, some_of_room

rooms = Table(
    "rooms",
    metadata,
    # The position at which the room became known: small, unique, and needs no counter of its own.
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("room_id", Text, nullable=False, unique=True),
    Column("version", Text, nullable=False),
    Column("is_public", Boolean, nullable=False, server_default=false()),
    Column("state_root", BigInteger, nullable=False),
    # The newest event that did not simply follow all before it: up to it, the state may have changed by itself.
    Column("forked_at", BigInteger, nullable=False, server_default=text("0")),
    # Of what was before this position only that is left which the state still needs, and forward extremities.
    Column("purged_before", BigInteger, nullable=False, server_default=text("0")),
    # The newest redaction of a state event: what was made of the same state before is not to be shown any more.
    Column("redacted_at", BigInteger, nullable=False, server_default=text("0")),
    # The newest event before which others were missing when it came: no timeline goes on beyond it.
    Column("gapped_at", BigInteger, nullable=False, server_default=text("0")),
    # The join event by which this server last came (back) into the room: what was accepted before has no ends.
    Column("arrived_at", BigInteger, nullable=False, server_default=text("0")),
    # When the whole state of a room that was known in part became known, and the state of the room then.
    Column("completed_at", BigInteger, nullable=False, server_default=text("0")),
    Column("completed_root", BigInteger),
    # The directory: few of many rooms.
    Index("ix_rooms_public", "room_nid", postgresql_where=text("is_public"), sqlite_where=text("is_public")),
)

forward_extremities = Table(
    "forward_extremities",
    metadata,
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
)


@dataclass(frozen=True, slots=True)
class Room:
    """A room as it is stored."""

    room_nid: int
    room_id: RoomId
    version: str
    is_public: bool
    state_root: int
    forked_at: int = 0
    purged_before: int = 0
    redacted_at: int = 0
    gapped_at: int = 0
    arrived_at: int = 0
    completed_at: int = 0
    completed_root: int | None = None


_INSERT = insert(rooms)
_BY_ID = select(rooms).where(rooms.c.room_id == bindparam("room_id"))
_BY_IDS = select(rooms).where(rooms.c.room_id.in_(bindparam("room_ids", expanding=True)))
_NID = select(rooms.c.room_nid).where(rooms.c.room_id == bindparam("room_id"))
_BY_NIDS = select(rooms).where(rooms.c.room_nid.in_(bindparam("room_nids", expanding=True)))
_SET_ROOT = update(rooms).where(rooms.c.room_nid == bindparam("nid")).values(state_root=bindparam("root"))
_SET_FORKED = update(rooms).where(rooms.c.room_nid == bindparam("nid")).values(forked_at=bindparam("position"))
_SET_GAPPED = update(rooms).where(rooms.c.room_nid == bindparam("nid")).values(gapped_at=bindparam("position"))
_SET_PUBLIC = update(rooms).where(rooms.c.room_nid == bindparam("nid")).values(is_public=bindparam("public"))
_SET_REDACTED = update(rooms).where(rooms.c.room_nid == bindparam("nid")).values(redacted_at=bindparam("position"))
_SET_PURGED = update(rooms).where(rooms.c.room_nid == bindparam("nid")).values(purged_before=bindparam("position"))
_SET_ARRIVED = update(rooms).where(rooms.c.room_nid == bindparam("nid")).values(arrived_at=bindparam("position"))
_SET_COMPLETED = (
    update(rooms)
    .where(rooms.c.room_nid == bindparam("nid"))
    .values(completed_at=bindparam("position"), completed_root=bindparam("root"))
)
_REMOVE = delete(rooms).where(rooms.c.room_nid == bindparam("nid"))
_PUBLIC = select(rooms).where(text("is_public"))
_PAGE = select(rooms).where(rooms.c.room_nid > bindparam("after")).order_by(rooms.c.room_nid).limit(bindparam("limit"))
_EXTREMITIES = select(forward_extremities.c.position).where(forward_extremities.c.room_nid == bindparam("room_nid"))
_CHANGED = union_all(
    select(forward_extremities.c.room_nid).where(
        forward_extremities.c.room_nid.in_(bindparam("room_nids", expanding=True)),
        forward_extremities.c.position > bindparam("after"),
    ),
    # What was an outlier, or fills a gap, is no extremity of a higher position.
    select(rooms.c.room_nid).where(
        rooms.c.room_nid.in_(bindparam("room_nids", expanding=True)), rooms.c.forked_at > bindparam("after")
    ),
)
_ADD_EXTREMITY = insert(forward_extremities)
_MOVE_EXTREMITY = (
    update(forward_extremities)
    .where(forward_extremities.c.room_nid == bindparam("nid"), forward_extremities.c.position == bindparam("old"))
    .values(position=bindparam("new"))
)
_REMOVE_EXTREMITY = delete(forward_extremities).where(
    forward_extremities.c.room_nid == bindparam("nid"), forward_extremities.c.position == bindparam("old")
)
_REMOVE_EXTREMITIES = some_of_room(forward_extremities)


def insert_many(tx: WriteTx, new: Sequence[Room]) -> None:
    """Add rooms."""
    tx.connection.execute(
        _INSERT,
        [
            {
                "room_nid": room.room_nid,
                "room_id": room.room_id,
                "version": room.version,
                "is_public": room.is_public,
                "state_root": room.state_root,
            }
            for room in new
        ],
    )


def find(tx: ReadTx, room_id: RoomId) -> Room | None:
    """The room, or None if this server does not know it."""
    row = tx.connection.execute(_BY_ID, {"room_id": room_id}).one_or_none()
    return None if row is None else Room(*row)


def find_nid(tx: ReadTx, room_id: RoomId) -> int | None:
    """The room's number, or None if this server does not know it."""
    return tx.connection.execute(_NID, {"room_id": room_id}).scalar_one_or_none()


def find_many(tx: ReadTx, room_nids: Iterable[int]) -> dict[int, Room]:
    """The rooms with these numbers."""
    found: dict[int, Room] = {}
    for part in chunks(room_nids):
        found.update((row.room_nid, Room(*row)) for row in tx.connection.execute(_BY_NIDS, {"room_nids": part}))
    return found


def find_many_by_id(tx: ReadTx, room_ids: Iterable[RoomId]) -> dict[RoomId, Room]:
    """Those of the rooms that this server knows."""
    found: dict[RoomId, Room] = {}
    for part in chunks(room_ids):
        found.update((row.room_id, Room(*row)) for row in tx.connection.execute(_BY_IDS, {"room_ids": part}))
    return found


def list_page(tx: ReadTx, *, after: int, limit: int) -> list[Room]:
    """The rooms with the next higher numbers, in order."""
    return [Room(*row) for row in tx.connection.execute(_PAGE, {"after": after, "limit": limit})]


def list_public(tx: ReadTx) -> list[Room]:
    """The rooms in the published directory."""
    return [Room(*row) for row in tx.connection.execute(_PUBLIC)]


def set_public(tx: WriteTx, room_nid: int, is_public: bool) -> None:
    """Publish the room in the directory, or take it out."""
    tx.connection.execute(_SET_PUBLIC, {"nid": room_nid, "public": is_public})


def set_state_roots(tx: WriteTx, roots: Iterable[tuple[int, int]]) -> None:
    """Say, for pairs of a room and a root, what the current state is."""
    tx.connection.execute(_SET_ROOT, [{"nid": room_nid, "root": root} for room_nid, root in roots])


def set_forked(tx: WriteTx, forks: Iterable[tuple[int, int]]) -> None:
    """Note, for pairs of a room and a position, the newest event that did not simply follow all before it."""
    tx.connection.execute(_SET_FORKED, [{"nid": room_nid, "position": position} for room_nid, position in forks])


def set_gapped(tx: WriteTx, gaps: Iterable[tuple[int, int]]) -> None:
    """Note, for pairs of a room and a position, the newest event before which others were missing when it came."""
    tx.connection.execute(_SET_GAPPED, [{"nid": room_nid, "position": position} for room_nid, position in gaps])


def set_redacted(tx: WriteTx, redactions: Iterable[tuple[int, int]]) -> None:
    """Note, for pairs of a room and a position, the newest redaction of a state event."""
    tx.connection.execute(_SET_REDACTED, [{"nid": room_nid, "position": position} for room_nid, position in redactions])


def set_purged(tx: WriteTx, room_nid: int, before: int) -> None:
    """Say that what was before this position is gone, or about to go."""
    tx.connection.execute(_SET_PURGED, {"nid": room_nid, "position": before})


def set_arrived(tx: WriteTx, room_nid: int, position: int) -> None:
    """Note the join event by which this server came into the room."""
    tx.connection.execute(_SET_ARRIVED, {"nid": room_nid, "position": position})


def set_completed(tx: WriteTx, room_nid: int, position: int, root: int) -> None:
    """Note when the whole state of the room became known, and what it was then."""
    tx.connection.execute(_SET_COMPLETED, {"nid": room_nid, "position": position, "root": root})


def remove(tx: WriteTx, room_nid: int) -> None:
    """From now on the room is not known."""
    tx.connection.execute(_REMOVE, {"nid": room_nid})


def remove_some_extremities(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the extremities of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_EXTREMITIES, {"nid": room_nid, "limit": limit}).rowcount


def list_extremities(tx: ReadTx, room_nid: int) -> list[int]:
    """The positions of the room's newest events, those that no event follows."""
    return list(tx.connection.execute(_EXTREMITIES, {"room_nid": room_nid}).scalars())


def list_changed(tx: ReadTx, room_nids: Iterable[int], *, after: int) -> set[int]:
    """Those of the rooms which have events behind that position."""
    found: set[int] = set()
    for part in chunks(room_nids):
        found.update(tx.connection.execute(_CHANGED, {"room_nids": part, "after": after}).scalars())
    return found


def replace_extremities(tx: WriteTx, removed: Iterable[tuple[int, int]], added: Iterable[tuple[int, int]]) -> None:
    """Exchange forward extremities, given as pairs of a room and a position."""
    old, new = _by_room(removed), _by_room(added)
    # Mostly a room had one and has another one.
    moved = [nid for nid in old.keys() & new.keys() if len(old[nid]) == len(new[nid]) == 1]
    if moved:
        values = [{"nid": nid, "old": old.pop(nid)[0], "new": new.pop(nid)[0]} for nid in moved]
        tx.run(_MOVE_EXTREMITY, values)
    gone = [{"nid": nid, "old": position} for nid, positions in old.items() for position in positions]
    if gone:
        tx.run(_REMOVE_EXTREMITY, gone)
    come = [{"room_nid": nid, "position": position} for nid, positions in new.items() for position in positions]
    if come:
        tx.run(_ADD_EXTREMITY, come)


def _by_room(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for room_nid, position in pairs:
        found.setdefault(room_nid, []).append(position)
    return found
