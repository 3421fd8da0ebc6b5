"""Events: one row each, with the event's bytes.

A position says which event it is, and when it came to be known. Where it stands in the room's timeline is its place
(`storage/places.py`); an outlier stands nowhere.

What an event cites is stored before it: edges of the auth graph lead to lower positions. Edges to earlier events are in
the event itself; `storage/event_graph.py` has the ends that hang loose.

Here events are found by what they are called, and changed. `storage/timelines.py` goes along them as they stand in
their rooms, `storage/event_log.py` as they came, and `storage/auth_nodes.py` has those of state as the auth graph.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    text,
    update,
)

from homeserver.matrix.identifiers import EventId
from homeserver.storage import places
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.pdus import Pdu
from homeserver.storage.tables import Text, among, chunks, metadata

_ROWS = 500
"""So many rows are changed by one statement."""

OK = 0
"""The event is part of the room's history as everybody sees it."""

SOFT_FAILED = 1
"""The event was allowed where it was sent, but not by the room as it was when it came. Clients do not see it."""

REJECTED = 2
"""The event is not allowed. It changes nothing, and what cites it as an auth event is rejected too."""

OUTLIER = 3
"""The event is known because another cites it; the state before it is not known, and it is in no timeline."""

events = Table(
    "events",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("place", BigInteger),  # In the timeline; null for outliers.
    Column("room_nid", BigInteger, nullable=False),
    Column("event_id", Text, nullable=False, unique=True),
    Column("depth", BigInteger, nullable=False),
    Column("origin_server_ts", BigInteger, nullable=False),
    Column("pair_id", BigInteger),  # Of (type, state_key), for state events.
    Column("replaces", BigInteger),  # Position of the state event that was current before this one.
    Column("state_before", BigInteger),  # Roots of the state tree; null before the first event.
    Column("state_after", BigInteger),
    # The room's state after this event had come, where other branches made it another than the state after the event.
    Column("room_state", BigInteger),
    Column("auth", LargeBinary),  # Of state events: positions of the auth events (`matrix/auth_graph.py`).
    Column("status", SmallInteger, nullable=False),
    Column("redacted_by", BigInteger),  # Position of the redaction; `pdu` is then the redacted form.
    Column("pdu", Pdu, nullable=False),
    Index("ix_events_room_nid_place", "room_nid", "place"),
    # All that is known of a room, for purges and checks.
    Index("ix_events_room_nid_position", "room_nid", "position"),
    # The auth graph of a room, from a point on.
    Index(
        "ix_events_state",
        "room_nid",
        "position",
        postgresql_where=text("pair_id IS NOT NULL"),
        sqlite_where=text("pair_id IS NOT NULL"),
    ),
    # What a redaction did.
    Index(
        "ix_events_redacted_by",
        "redacted_by",
        postgresql_where=text("redacted_by IS NOT NULL"),
        sqlite_where=text("redacted_by IS NOT NULL"),
    ),
    Index("ix_events_room_nid_origin_server_ts", "room_nid", "origin_server_ts"),
)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is stored. `pdu` is its federation format, redacted if `redacted_by` is set."""

    position: int
    place: int | None
    room_nid: int
    event_id: EventId
    depth: int
    origin_server_ts: int
    pair_id: int | None
    replaces: int | None
    state_before: int | None
    state_after: int | None
    room_state: int | None
    auth: bytes | None
    status: int
    redacted_by: int | None
    pdu: bytes

    @property
    def has_state(self) -> bool:
        """Whether the state at the event is known; before a create event there is none, and after it there is."""
        return self.state_before is not None or self.state_after is not None

    @property
    def room_root(self) -> int | None:
        """The state of the room when this event had come."""
        return self.state_after if self.room_state is None else self.room_state

    @property
    def came_at(self) -> int:
        """The position at which it came into the timeline; for one of the past, the last before what follows it."""
        return self.position if self.place is None else places.position_of(self.place)

    @property
    def timeline_place(self) -> int:
        """Where an event stands that is no outlier."""
        assert self.place is not None
        return self.place


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an event is, and what it is there."""

    position: int
    room_nid: int
    event_id: EventId
    pair_id: int | None
    status: int
    place: int | None

    @property
    def came_at(self) -> int:
        """The position at which it came into the timeline; for one of the past, the last before what follows it."""
        return self.position if self.place is None else places.position_of(self.place)


_INSERT = insert(events)
_ALL = select(events)
_BY_POSITIONS = _ALL.where(events.c.position.in_(bindparam("positions", expanding=True)))
_BY_IDS = _ALL.where(events.c.event_id.in_(bindparam("event_ids", expanding=True)))
_REDACT = (
    update(events)
    .where(events.c.position == bindparam("target"))
    .values(pdu=bindparam("redacted"), redacted_by=bindparam("redaction"))
)
_RESTORE = (
    update(events).where(events.c.position == bindparam("target")).values(pdu=bindparam("original"), redacted_by=null())
)
_POSITIONS = select(events.c.event_id, events.c.position).where(
    events.c.event_id.in_(bindparam("event_ids", expanding=True))
)
_IDS = select(events.c.position, events.c.event_id).where(among(events.c.position, "positions"))
_PDUS = select(events.c.position, events.c.pdu).where(among(events.c.position, "positions"))
_STANDINGS = select(
    events.c.position, events.c.room_nid, events.c.event_id, events.c.pair_id, events.c.status, events.c.place
)
_STANDINGS_AT = _STANDINGS.where(events.c.position.in_(bindparam("positions", expanding=True)))
_STANDINGS_OF = _STANDINGS.where(events.c.event_id.in_(bindparam("event_ids", expanding=True)))
_COUNT = select(func.count()).select_from(events)
_SET_STANDING = (
    update(events)
    .where(events.c.position == bindparam("at"))
    .values(
        place=bindparam("new_place"),
        replaces=bindparam("new_replaces"),
        state_before=bindparam("before"),
        state_after=bindparam("after"),
        room_state=bindparam("current"),
        status=bindparam("new_status"),
    )
)
_OF_ROOM = events.c.room_nid == bindparam("nid")
_REDACTED = select(events.c.position, events.c.redacted_by).where(
    events.c.redacted_by.in_(bindparam("redactions", expanding=True)), text("redacted_by IS NOT NULL")
)
_REDACTED_OF = select(events.c.event_id).where(
    events.c.event_id.in_(bindparam("event_ids", expanding=True)), _OF_ROOM, events.c.redacted_by.is_not(None)
)
_REDACTED_BETWEEN = select(events.c.position).where(
    events.c.redacted_by > bindparam("after"),
    events.c.redacted_by <= bindparam("upto"),
    text("redacted_by IS NOT NULL"),
)
_IN_GRAPH = select(events.c.event_id).where(
    events.c.event_id.in_(bindparam("event_ids", expanding=True)),
    _OF_ROOM,
    or_(events.c.state_before.is_not(None), events.c.state_after.is_not(None)),
)
_HIDE = (
    update(events)
    .where(events.c.position.in_(bindparam("positions", expanding=True)))
    .values(
        status=case((events.c.status == REJECTED, REJECTED), else_=OUTLIER),
        place=null(),
        replaces=null(),
        state_before=null(),
        state_after=null(),
        room_state=null(),
    )
)
_REMOVE = delete(events).where(events.c.position.in_(bindparam("positions", expanding=True)))


def insert_many(tx: WriteTx, new: Sequence[StoredEvent]) -> None:
    """Add events."""
    tx.run(
        _INSERT,
        [
            {
                "position": event.position,
                "place": event.place,
                "room_nid": event.room_nid,
                "event_id": event.event_id,
                "depth": event.depth,
                "origin_server_ts": event.origin_server_ts,
                "pair_id": event.pair_id,
                "replaces": event.replaces,
                "state_before": event.state_before,
                "state_after": event.state_after,
                "room_state": event.room_state,
                "auth": event.auth,
                "status": event.status,
                "redacted_by": event.redacted_by,
                "pdu": event.pdu,
            }
            for event in new
        ],
    )


def find_many(tx: ReadTx, positions: Iterable[int]) -> dict[int, StoredEvent]:
    """The events at these positions."""
    found: dict[int, StoredEvent] = {}
    for part in chunks(positions):
        rows = tx.connection.execute(_BY_POSITIONS, {"positions": part})
        found.update((row.position, StoredEvent(*row)) for row in rows)
    return found


def find_many_by_id(tx: ReadTx, event_ids: Iterable[EventId]) -> dict[EventId, StoredEvent]:
    """The events with these ids, in whatever room; those that are not known are left out."""
    found: dict[EventId, StoredEvent] = {}
    for part in chunks(event_ids):
        rows = tx.connection.execute(_BY_IDS, {"event_ids": part})
        found.update((row.event_id, StoredEvent(*row)) for row in rows)
    return found


def find_positions(tx: ReadTx, event_ids: Iterable[EventId]) -> dict[EventId, int]:
    """Where those of these events are that are known."""
    found: dict[EventId, int] = {}
    for part in chunks(event_ids):
        found.update((row.event_id, row.position) for row in tx.connection.execute(_POSITIONS, {"event_ids": part}))
    return found


def find_ids(tx: ReadTx, positions: Iterable[int]) -> dict[int, EventId]:
    """The ids of the events at these positions."""
    return dict(tx.connection.execute(_IDS, {"positions": list(positions)}).all())


def find_pdus(tx: ReadTx, positions: Iterable[int]) -> dict[int, bytes]:
    """The federation format of the events at these positions, redacted if they are."""
    return dict(tx.connection.execute(_PDUS, {"positions": list(positions)}).all())


def find_standings(tx: ReadTx, positions: Iterable[int]) -> dict[int, Standing]:
    """What is at these positions, in whatever room."""
    found: dict[int, Standing] = {}
    for part in chunks(positions):
        rows = tx.connection.execute(_STANDINGS_AT, {"positions": part})
        found.update((row.position, Standing(*row)) for row in rows)
    return found


def find_standings_by_id(tx: ReadTx, event_ids: Iterable[EventId]) -> dict[EventId, Standing]:
    """Where those of these events are that are known, in whatever room."""
    found: dict[EventId, Standing] = {}
    for part in chunks(event_ids):
        rows = tx.connection.execute(_STANDINGS_OF, {"event_ids": part})
        found.update((row.event_id, Standing(*row)) for row in rows)
    return found


def find_by_id(tx: ReadTx, room_nid: int, event_id: EventId) -> StoredEvent | None:
    """The event, or None if the room has no such event."""
    event = find_many_by_id(tx, [event_id]).get(event_id)
    return event if event is not None and event.room_nid == room_nid else None


def count(tx: ReadTx) -> int:
    """How many events there are."""
    return int(tx.connection.execute(_COUNT).scalar_one())


def set_standings(tx: WriteTx, found: Iterable[StoredEvent]) -> None:
    """Say where events stand, and what became of them."""
    for part in chunks(found, _ROWS):
        tx.connection.execute(
            _SET_STANDING,
            [
                {
                    "at": event.position,
                    "new_place": event.place,
                    "new_replaces": event.replaces,
                    "before": event.state_before,
                    "after": event.state_after,
                    "current": event.room_state,
                    "new_status": event.status,
                }
                for event in part
            ],
        )


def redact_many(tx: WriteTx, redactions: Sequence[tuple[int, int, bytes]]) -> None:
    """Replace events, given by position, by their redacted form: triples of target, redaction, new bytes."""
    tx.connection.execute(
        _REDACT,
        [{"target": target, "redaction": position, "redacted": pdu} for target, position, pdu in redactions],
    )


def restore_many(tx: WriteTx, originals: Sequence[tuple[int, bytes]]) -> None:
    """Let events, given by position, be as if they had never been redacted: with these bytes."""
    tx.connection.execute(_RESTORE, [{"target": target, "original": pdu} for target, pdu in originals])


def list_redacted(tx: ReadTx, redactions: Iterable[int]) -> list[tuple[int, int]]:
    """The events that were redacted by one of these, as pairs of their position and that of the redaction."""
    found: list[tuple[int, int]] = []
    for part in chunks(redactions):
        rows = tx.connection.execute(_REDACTED, {"redactions": part})
        found.extend((row.position, row.redacted_by) for row in rows)
    return found


def find_redacted(tx: ReadTx, room_nid: int, event_ids: Iterable[EventId]) -> set[EventId]:
    """Those of these events of the room that were redacted."""
    found: set[EventId] = set()
    for part in chunks(event_ids):
        found.update(tx.connection.execute(_REDACTED_OF, {"nid": room_nid, "event_ids": part}).scalars())
    return found


def list_redacted_between(tx: ReadTx, *, after: int, upto: int) -> list[int]:
    """The positions of the events that were redacted by those in (after, upto]."""
    return list(tx.connection.execute(_REDACTED_BETWEEN, {"after": after, "upto": upto}).scalars())


def find_in_graph(tx: ReadTx, room_nid: int, event_ids: Iterable[EventId]) -> set[EventId]:
    """Those of these events of the room at which its state is known."""
    found: set[EventId] = set()
    for part in chunks(event_ids):
        found.update(tx.connection.execute(_IN_GRAPH, {"nid": room_nid, "event_ids": part}).scalars())
    return found


def hide_many(tx: WriteTx, positions: Iterable[int]) -> None:
    """Take events out of the graph: from now on they are only known because others refer to them."""
    for part in chunks(positions):
        tx.connection.execute(_HIDE, {"positions": part})


def remove_many(tx: WriteTx, positions: Iterable[int]) -> None:
    """Remove events."""
    for part in chunks(positions):
        tx.connection.execute(_REMOVE, {"positions": part})
