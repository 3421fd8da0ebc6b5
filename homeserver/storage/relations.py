"""Which events relate to which: edits, reactions, threads, references."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, case, delete, func, insert, select

from homeserver.matrix.identifiers import EventId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.events import StoredEvent, events
from homeserver.storage.tables import Text, chunks, metadata, some_of_room

relations = Table(
    "relations",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # Of the event that relates to another.
    Column("room_nid", BigInteger, nullable=False),
    Column("parent_id", Text, nullable=False),
    Column("rel_type", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("key", Text),  # Of annotations.
    Index("ix_relations_parent_id_rel_type_position", "parent_id", "rel_type", "position"),
    Index("ix_relations_room_nid_rel_type_position", "room_nid", "rel_type", "position"),
)


@dataclass(frozen=True, slots=True)
class Relation:
    """An event that relates to another of its room."""

    position: int
    room_nid: int
    parent_id: EventId
    rel_type: str
    type: str
    sender: UserId
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Thread:
    """What is known of a thread without reading it."""

    root_id: EventId
    count: int
    latest: int
    participated: bool


_INSERT = insert(relations)
_REMOVE = delete(relations).where(relations.c.position.in_(bindparam("positions", expanding=True)))
_REMOVE_CHILDREN = delete(relations).where(
    relations.c.parent_id.in_(bindparam("parent_ids", expanding=True)), relations.c.room_nid == bindparam("nid")
)
_REMOVE_SOME = some_of_room(relations)
_CHILDREN = (
    select(events, relations.c.parent_id)
    .join(relations, relations.c.position == events.c.position)
    .where(
        relations.c.parent_id.in_(bindparam("parent_ids", expanding=True)),
        relations.c.room_nid == bindparam("room_nid"),
    )
)
_OF_TYPE = _CHILDREN.where(relations.c.rel_type == bindparam("rel_type")).order_by(relations.c.position)
_ANNOTATED = select(relations.c.position).where(
    relations.c.parent_id == bindparam("parent_id"),
    relations.c.rel_type == "m.annotation",
    relations.c.type == bindparam("type"),
    relations.c.sender == bindparam("sender"),
    relations.c.key == bindparam("key"),
)
_participated = func.max(case((relations.c.sender == bindparam("user_id"), 1), else_=0))
_THREADS = (
    select(relations.c.parent_id, func.count(), func.max(relations.c.position), _participated)
    .where(
        relations.c.room_nid == bindparam("room_nid"),
        relations.c.rel_type == "m.thread",
        relations.c.sender.not_in(bindparam("ignored", expanding=True)),
    )
    .group_by(relations.c.parent_id)
)
_THREADS_OF = _THREADS.where(relations.c.parent_id.in_(bindparam("parent_ids", expanding=True)))
_THREADS_BEFORE = (
    _THREADS.having(func.max(relations.c.position) <= bindparam("upto"))
    .order_by(func.max(relations.c.position).desc())
    .limit(bindparam("limit"))
)


def insert_many(tx: WriteTx, new: Sequence[Relation]) -> None:
    """Add relations."""
    tx.connection.execute(
        _INSERT,
        [
            {
                "position": relation.position,
                "room_nid": relation.room_nid,
                "parent_id": relation.parent_id,
                "rel_type": relation.rel_type,
                "type": relation.type,
                "sender": relation.sender,
                "key": relation.key,
            }
            for relation in new
        ],
    )


def remove_many(tx: WriteTx, positions: Collection[int]) -> None:
    """These events no longer relate to anything: they were redacted."""
    tx.connection.execute(_REMOVE, {"positions": list(positions)})


def remove_children(tx: WriteTx, room_nid: int, parent_ids: Iterable[EventId]) -> None:
    """Nothing relates to these events any more: they are gone."""
    for part in chunks(parent_ids):
        tx.connection.execute(_REMOVE_CHILDREN, {"nid": room_nid, "parent_ids": part})


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the relations of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount


def list_children(
    tx: ReadTx,
    room_nid: int,
    parent_ids: Iterable[EventId],
    *,
    rel_type: str | None = None,
    type_: str | None = None,
    after: int,
    upto: int,
    newest_first: bool,
    limit: int,
) -> list[StoredEvent]:
    """The events in (after, upto] that relate to one of these, by their position."""
    statement = _CHILDREN.where(relations.c.position > after, relations.c.position <= upto)
    if rel_type is not None:
        statement = statement.where(relations.c.rel_type == rel_type)
    if type_ is not None:
        statement = statement.where(relations.c.type == type_)
    order = relations.c.position.desc() if newest_first else relations.c.position
    statement = statement.order_by(order).limit(limit)
    rows = tx.connection.execute(statement, {"parent_ids": list(parent_ids), "room_nid": room_nid})
    return [StoredEvent(*row[:-1]) for row in rows]


def list_of_type(
    tx: ReadTx, room_nid: int, parent_ids: Iterable[EventId], rel_type: str
) -> dict[EventId, list[StoredEvent]]:
    """The events that relate to these in one way, by parent, in order."""
    found: dict[EventId, list[StoredEvent]] = {}
    for part in chunks(parent_ids):
        values = {"parent_ids": part, "room_nid": room_nid, "rel_type": rel_type}
        for row in tx.connection.execute(_OF_TYPE, values):
            found.setdefault(row.parent_id, []).append(StoredEvent(*row[:-1]))
    return found


def is_annotated(tx: ReadTx, parent_id: EventId, type_: str, sender: UserId, key: str) -> bool:
    """Whether the sender has annotated the event like this before."""
    values = {"parent_id": parent_id, "type": type_, "sender": sender, "key": key}
    return tx.connection.execute(_ANNOTATED, values).first() is not None


def find_threads(
    tx: ReadTx, room_nid: int, root_ids: Iterable[EventId], user_id: UserId, ignored: Collection[UserId]
) -> dict[EventId, Thread]:
    """The threads that begin at these events, without what ignored users said."""
    found: dict[EventId, Thread] = {}
    for part in chunks(root_ids):
        values = {"room_nid": room_nid, "parent_ids": part, "user_id": user_id, "ignored": list(ignored)}
        rows = tx.connection.execute(_THREADS_OF, values)
        found.update((row[0], Thread(row[0], row[1], row[2], bool(row[3]))) for row in rows)
    return found


def list_threads(
    tx: ReadTx, room_nid: int, user_id: UserId, ignored: Collection[UserId], *, upto: int, limit: int
) -> list[Thread]:
    """The room's threads, the one with the newest event first, from those on whose newest is at `upto` at most."""
    values = {
        "room_nid": room_nid,
        "user_id": user_id,
        "ignored": list(ignored),
        "upto": upto,
        "limit": limit,
    }
    rows = tx.connection.execute(_THREADS_BEFORE, values)
    return [Thread(row[0], row[1], row[2], bool(row[3])) for row in rows]
