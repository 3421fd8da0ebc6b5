"""The loose ends of rooms' event graphs: events that wait for others, and what is known to be missing.

An event that came before what it follows waits, as its bytes, until that has come too. A backward extremity is an
event that is missing although an event that follows it was accepted, because the state was known from elsewhere.
A redaction that came before its target waits for it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Row, Table, bindparam, delete, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata, some_of_room

waiting_events = Table(
    "waiting_events",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("room_nid", BigInteger, nullable=False),
    Column("since_ts", BigInteger, nullable=False),
    Column("pdu", LargeBinary, nullable=False),
    # Whose user it is of. Empty: it is older than this column.
    Column("server_name", Text, nullable=False, server_default=text("''")),
    Index("ix_waiting_events_room_nid_since_ts", "room_nid", "since_ts"),
)

waiting_for = Table(
    "waiting_for",
    metadata,
    Column("missing_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Index("ix_waiting_for_event_id", "event_id"),
)

backward_extremities = Table(
    "backward_extremities",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # Of the event that follows it.
    Column("room_nid", BigInteger, nullable=False),
    Index("ix_backward_extremities_room_nid", "room_nid"),
)

pending_redactions = Table(
    "pending_redactions",
    metadata,
    Column("target_id", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # Of the redaction.
    Column("room_nid", BigInteger, nullable=False),
    Index("ix_pending_redactions_room_nid", "room_nid"),
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that waits for those which are missing."""

    event_id: EventId
    room_nid: int
    since_ts: int
    pdu: bytes
    missing: frozenset[EventId]
    server: ServerName
    """Whose user it is of, who has signed it."""


_ADD = insert(waiting_events).on_conflict_do_nothing()
_ADD_FOR = insert(waiting_for).on_conflict_do_nothing()
_REMOVE = delete(waiting_events).where(waiting_events.c.event_id.in_(bindparam("event_ids", expanding=True)))
_REMOVE_FOR = delete(waiting_for).where(waiting_for.c.event_id.in_(bindparam("event_ids", expanding=True)))
_KNOWN = select(waiting_events.c.event_id).where(waiting_events.c.event_id.in_(bindparam("ids", expanding=True)))
_followers = (
    select(waiting_for.c.event_id)
    .where(waiting_for.c.missing_id == bindparam("missing"))
    .cte("followers", recursive=True)
)
_followers = _followers.union(
    select(waiting_for.c.event_id).join(_followers, waiting_for.c.missing_id == _followers.c.event_id)
)
_FOLLOWERS = (
    select(waiting_events.c.event_id, waiting_events.c.pdu)
    .join(_followers, waiting_events.c.event_id == _followers.c.event_id)
    .where(waiting_events.c.room_nid == bindparam("room_nid"))
    .limit(bindparam("limit"))
)
_IS_OF = waiting_events.c.server_name.in_(bindparam("servers", expanding=True))
_OTHER = waiting_events.alias("other")
_STUCK = (
    select(waiting_events.c.event_id, waiting_events.c.pdu, waiting_for.c.missing_id)
    .select_from(waiting_events.join(waiting_for, waiting_events.c.event_id == waiting_for.c.event_id))
    .where(
        waiting_events.c.room_nid == bindparam("room_nid"),
        ~exists().where(_OTHER.c.event_id == waiting_for.c.missing_id),
    )
    .order_by(waiting_events.c.since_ts, waiting_events.c.event_id)
    .limit(bindparam("limit"))
)
_BEHIND_WAITING = (
    select(waiting_events.c.event_id)
    .where(waiting_events.c.event_id.in_(bindparam("event_ids", expanding=True)))
    .cte("behind", recursive=True)
)
_BEHIND_WAITING = _BEHIND_WAITING.union(
    select(waiting_for.c.missing_id).join(_BEHIND_WAITING, waiting_for.c.event_id == _BEHIND_WAITING.c.event_id)
)
_STUCK_OF = _STUCK.where(_IS_OF)
_STUCK_BUT_OF = _STUCK.where(~_IS_OF)
_STUCK_BEHIND = _STUCK.where(waiting_events.c.event_id.in_(select(_BEHIND_WAITING.c.event_id)))
_MISSING = (
    select(waiting_for.c.missing_id).distinct().where(waiting_for.c.missing_id.in_(bindparam("ids", expanding=True)))
)
_AMONG_ROOMS = (
    select(waiting_events.c.room_nid)
    .distinct()
    .where(waiting_events.c.room_nid.in_(bindparam("room_nids", expanding=True)))
)
_MEASURE = (
    select(waiting_events.c.server_name, func.count(), func.sum(func.length(waiting_events.c.pdu)))
    .where(waiting_events.c.room_nid == bindparam("room_nid"))
    .group_by(waiting_events.c.server_name)
)
_OLDEST_OF = (
    select(waiting_events.c.event_id, func.length(waiting_events.c.pdu))
    .where(waiting_events.c.room_nid == bindparam("room_nid"), waiting_events.c.server_name == bindparam("server"))
    .order_by(waiting_events.c.since_ts, waiting_events.c.event_id)
    .limit(bindparam("limit"))
)
_COUNT = select(func.count()).where(waiting_events.c.room_nid == bindparam("room_nid"))
_OLDEST = (
    select(waiting_events.c.event_id)
    .where(waiting_events.c.room_nid == bindparam("room_nid"))
    .order_by(waiting_events.c.since_ts, waiting_events.c.event_id)
    .limit(bindparam("limit"))
)
_ROOMS = select(waiting_events.c.room_nid).distinct()
_ADD_BACKWARD = insert(backward_extremities).on_conflict_do_nothing()
_REMOVE_BACKWARD = delete(backward_extremities).where(
    backward_extremities.c.event_id.in_(bindparam("event_ids", expanding=True))
)
_BACKWARD_BY_ID = select(backward_extremities.c.event_id).where(
    backward_extremities.c.event_id.in_(bindparam("event_ids", expanding=True))
)
_BACKWARD = select(backward_extremities.c.event_id, backward_extremities.c.position).where(
    backward_extremities.c.room_nid == bindparam("room_nid")
)
_BEHIND = _BACKWARD.where(backward_extremities.c.event_id.in_(bindparam("event_ids", expanding=True)))
_ADD_PENDING = insert(pending_redactions).on_conflict_do_nothing()
_PENDING = select(pending_redactions.c.target_id, pending_redactions.c.position).where(
    pending_redactions.c.target_id.in_(bindparam("target_ids", expanding=True))
)
_REMOVE_PENDING = delete(pending_redactions).where(
    pending_redactions.c.target_id.in_(bindparam("target_ids", expanding=True))
)
_REMOVE_FOLLOWERS = delete(backward_extremities).where(
    backward_extremities.c.room_nid == bindparam("nid"),
    backward_extremities.c.position.in_(bindparam("positions", expanding=True)),
)
_REMOVE_REDACTIONS = delete(pending_redactions).where(
    pending_redactions.c.room_nid == bindparam("nid"),
    pending_redactions.c.position.in_(bindparam("positions", expanding=True)),
)
_OLD = select(waiting_events.c.event_id).where(
    waiting_events.c.room_nid == bindparam("room_nid"), waiting_events.c.since_ts < bindparam("before")
)
_REMOVE_SOME_BACKWARD = some_of_room(backward_extremities)
_REMOVE_SOME_PENDING = some_of_room(pending_redactions)


def let_wait(tx: WriteTx, new: Sequence[Waiting]) -> None:
    """Keep events until what they wait for has come; those that did so before wait for this alone."""
    rows = [
        {
            "event_id": one.event_id,
            "room_nid": one.room_nid,
            "since_ts": one.since_ts,
            "pdu": one.pdu,
            "server_name": one.server,
        }
        for one in new
    ]
    tx.connection.execute(_ADD, rows)
    for part in chunks(one.event_id for one in new):
        tx.connection.execute(_REMOVE_FOR, {"event_ids": part})
    tx.connection.execute(
        _ADD_FOR, [{"missing_id": missing, "event_id": one.event_id} for one in new for missing in sorted(one.missing)]
    )


def end_waiting(tx: WriteTx, event_ids: Iterable[EventId]) -> None:
    """These events wait no longer."""
    for part in chunks(event_ids):
        tx.connection.execute(_REMOVE, {"event_ids": part})
        tx.connection.execute(_REMOVE_FOR, {"event_ids": part})


def find_waiting(tx: ReadTx, event_ids: Iterable[EventId]) -> set[EventId]:
    """Those of the events that wait."""
    found: set[EventId] = set()
    for part in chunks(event_ids):
        found.update(tx.connection.execute(_KNOWN, {"ids": part}).scalars())
    return found


def list_followers(tx: ReadTx, room_nid: int, missing: EventId, *, limit: int) -> dict[EventId, bytes]:
    """The events of the room that wait for this one, or for those, and so on, as bytes; so many at most."""
    values = {"room_nid": room_nid, "missing": missing, "limit": limit}
    return {row.event_id: row.pdu for row in tx.connection.execute(_FOLLOWERS, values)}


def find_missing(tx: ReadTx, event_ids: Iterable[EventId]) -> set[EventId]:
    """Those of the events for which others wait."""
    found: set[EventId] = set()
    for part in chunks(event_ids):
        found.update(tx.connection.execute(_MISSING, {"ids": part}).scalars())
    return found


def find_rooms_waiting(tx: ReadTx, room_nids: Iterable[int]) -> set[int]:
    """Those of the rooms in which events wait."""
    found: set[int] = set()
    for part in chunks(room_nids):
        found.update(tx.connection.execute(_AMONG_ROOMS, {"room_nids": part}).scalars())
    return found


def list_stuck(
    tx: ReadTx,
    room_nid: int,
    *,
    but: Collection[ServerName] = (),
    only: Collection[ServerName] | None = None,
    limit: int,
) -> dict[EventId, tuple[bytes, set[EventId]]]:
    """The room's events that wait for what does not wait itself, with their bytes and what that is.

    At most `limit` such pairs; what one event waits for may not be complete. Events of the users of these servers
    alone, or not these.
    """
    statement, servers = (_STUCK_BUT_OF, but) if only is None else (_STUCK_OF, only)
    values = {"room_nid": room_nid, "limit": limit, "servers": list(servers)}
    return _stuck(tx.connection.execute(statement, values))


def list_stuck_behind(
    tx: ReadTx, room_nid: int, event_ids: Iterable[EventId], *, limit: int
) -> dict[EventId, tuple[bytes, set[EventId]]]:
    """The same for these events of the room, and those for which they wait, and so on."""
    values = {"room_nid": room_nid, "event_ids": list(event_ids), "limit": limit}
    return _stuck(tx.connection.execute(_STUCK_BEHIND, values))


def _stuck(rows: Iterable[Row[Any]]) -> dict[EventId, tuple[bytes, set[EventId]]]:
    found: dict[EventId, tuple[bytes, set[EventId]]] = {}
    for row in rows:
        found.setdefault(row.event_id, (row.pdu, set()))[1].add(row.missing_id)
    return found


def count_waiting(tx: ReadTx, room_nid: int) -> int:
    """How many events of the room wait."""
    return int(tx.connection.execute(_COUNT, {"room_nid": room_nid}).scalar_one())


def list_oldest_waiting(tx: ReadTx, room_nid: int, *, limit: int) -> list[EventId]:
    """The events that have waited for the longest time."""
    return list(tx.connection.execute(_OLDEST, {"room_nid": room_nid, "limit": limit}).scalars())


def measure_waiting(tx: ReadTx, room_nid: int) -> dict[ServerName, tuple[int, int]]:
    """How many events of the room wait, and how many bytes they have, by whose users they are of."""
    rows = tx.connection.execute(_MEASURE, {"room_nid": room_nid})
    return {ServerName(server): (count, size) for server, count, size in rows}


def list_oldest_of(tx: ReadTx, room_nid: int, server: ServerName, *, limit: int) -> list[tuple[EventId, int]]:
    """The events of a server's users that have waited for the longest time, each with the number of its bytes."""
    rows = tx.connection.execute(_OLDEST_OF, {"room_nid": room_nid, "server": server, "limit": limit})
    return [(event_id, size) for event_id, size in rows]


def list_rooms_waiting(tx: ReadTx) -> list[int]:
    """The rooms in which events wait."""
    return list(tx.connection.execute(_ROOMS).scalars())


def add_backward_extremities(tx: WriteTx, room_nid: int, position: int, missing: Iterable[EventId]) -> None:
    """Note that the event at a position was accepted although these before it are missing."""
    add_many_backward_extremities(tx, room_nid, [(position, event_id) for event_id in missing])


def add_many_backward_extremities(tx: WriteTx, room_nid: int, missing: Iterable[tuple[int, EventId]]) -> None:
    """The same for several events, as pairs of the position of one and what is missing before it."""
    rows = [{"event_id": event_id, "position": position, "room_nid": room_nid} for position, event_id in missing]
    if rows:
        tx.connection.execute(_ADD_BACKWARD, rows)


def remove_backward_extremities(tx: WriteTx, event_ids: Iterable[EventId]) -> None:
    """These events are missing no longer."""
    for part in chunks(event_ids):
        tx.connection.execute(_REMOVE_BACKWARD, {"event_ids": part})


def find_backward_extremities(tx: ReadTx, event_ids: Iterable[EventId]) -> set[EventId]:
    """Those of the events that are missing, and that an accepted event follows."""
    found: set[EventId] = set()
    for part in chunks(event_ids):
        found.update(tx.connection.execute(_BACKWARD_BY_ID, {"event_ids": part}).scalars())
    return found


def list_backward_extremities(tx: ReadTx, room_nid: int) -> list[tuple[EventId, int]]:
    """The missing events of the room, each with the position of an event that follows it."""
    return [(row.event_id, row.position) for row in tx.connection.execute(_BACKWARD, {"room_nid": room_nid})]


def find_behind_missing(tx: ReadTx, room_nid: int, missing: Iterable[EventId]) -> dict[EventId, list[int]]:
    """The positions of the room's events that follow those which are missing, by the missing one."""
    found: dict[EventId, list[int]] = {}
    for part in chunks(missing):
        for row in tx.connection.execute(_BEHIND, {"room_nid": room_nid, "event_ids": part}):
            found.setdefault(row.event_id, []).append(row.position)
    return found


def add_pending_redactions(tx: WriteTx, new: Iterable[tuple[int, EventId, int]]) -> None:
    """Keep redactions whose target is not known, as triples of room, target and the redaction's position."""
    rows = [{"room_nid": nid, "target_id": target, "position": position} for nid, target, position in new]
    if rows:
        tx.connection.execute(_ADD_PENDING, rows)


def find_pending_redactions(tx: ReadTx, target_ids: Iterable[EventId]) -> dict[EventId, list[int]]:
    """The positions of the redactions that wait for these events, in order."""
    found: dict[EventId, list[int]] = {}
    for part in chunks(target_ids):
        for row in tx.connection.execute(_PENDING, {"target_ids": part}):
            found.setdefault(row.target_id, []).append(row.position)
    return {target: sorted(positions) for target, positions in found.items()}


def remove_pending_redactions(tx: WriteTx, target_ids: Iterable[EventId]) -> None:
    """The targets have come."""
    for part in chunks(target_ids):
        tx.connection.execute(_REMOVE_PENDING, {"target_ids": part})


def remove_loose_ends(tx: WriteTx, room_nid: int, positions: Iterable[int]) -> None:
    """Forget what is missing before these events, and which events they wait to redact: they are gone themselves."""
    for part in chunks(positions):
        tx.connection.execute(_REMOVE_FOLLOWERS, {"nid": room_nid, "positions": part})
        tx.connection.execute(_REMOVE_REDACTIONS, {"nid": room_nid, "positions": part})


def list_waiting_since(tx: ReadTx, room_nid: int, *, before: int) -> list[EventId]:
    """The room's events that have waited since before that time."""
    return list(tx.connection.execute(_OLD, {"room_nid": room_nid, "before": before}).scalars())


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the loose ends of a room that is not known any more; how many."""
    values = {"nid": room_nid, "limit": limit}
    waiting = list_oldest_waiting(tx, room_nid, limit=limit)
    end_waiting(tx, waiting)
    backward = tx.connection.execute(_REMOVE_SOME_BACKWARD, values).rowcount
    return len(waiting) + backward + tx.connection.execute(_REMOVE_SOME_PENDING, values).rowcount
