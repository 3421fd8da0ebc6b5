"""Which events relate to which: edits, reactions, threads, references."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, case, delete, func, insert, select, text, tuple_

from homeserver.matrix.identifiers import EventId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.events import OK, events
from homeserver.storage.tables import Text, chunks, metadata, some_of_room

relations = Table(
    "relations",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # Of the event that relates to another.
    Column("place", BigInteger, nullable=False, server_default=text("0")),  # Of the same.
    Column("room_nid", BigInteger, nullable=False),
    Column("parent_id", Text, nullable=False),
    Column("rel_type", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("key", Text),  # Of annotations.
    Index("ix_relations_parent_id_rel_type_place", "parent_id", "rel_type", "place"),
    Index("ix_relations_room_nid_rel_type_place", "room_nid", "rel_type", "place"),
)


@dataclass(frozen=True, slots=True)
class Relation:
    """An event that relates to another of its room."""

    position: int
    place: int
    room_nid: int
    parent_id: EventId
    rel_type: str
    type: str
    sender: UserId
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Child:
    """An event that relates to another, without what it says."""

    position: int
    place: int
    parent_id: EventId
    rel_type: str
    type: str
    sender: UserId
    event_id: EventId
    origin_server_ts: int
    state_after: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What relates to an event in one way, in short."""

    parent_id: EventId
    rel_type: str
    count: int
    latest: int
    """The place of the last of them."""
    has_own: bool
    """Whether the user who asks sent one of them."""


_INSERT = insert(relations)
_REMOVE = delete(relations).where(relations.c.position.in_(bindparam("positions", expanding=True)))
_BY_POSITIONS = select(relations).where(relations.c.position.in_(bindparam("positions", expanding=True)))
_REMOVE_SOME = some_of_room(relations)
_CHILDREN = (
    select(
        relations.c.position,
        relations.c.place,
        relations.c.parent_id,
        relations.c.rel_type,
        relations.c.type,
        relations.c.sender,
        events.c.event_id,
        events.c.origin_server_ts,
        events.c.state_after,
    )
    .join(events, events.c.position == relations.c.position)
    .where(relations.c.room_nid == bindparam("room_nid"), events.c.status == OK)
)
_BY_PARENTS = _CHILDREN.where(relations.c.parent_id.in_(bindparam("parent_ids", expanding=True)))
_ranked = (
    select(
        relations.c.position,
        func.row_number()
        .over(partition_by=(relations.c.parent_id, relations.c.rel_type), order_by=relations.c.place.desc())
        .label("rank"),
    )
    .where(
        relations.c.room_nid == bindparam("room_nid"),
        tuple_(relations.c.parent_id, relations.c.rel_type).in_(bindparam("wanted", expanding=True)),
    )
    .subquery()
)
_OF_TYPES = (
    _CHILDREN.join(_ranked, _ranked.c.position == relations.c.position)
    .where(_ranked.c.rank <= bindparam("most"))
    .order_by(relations.c.place)
)
_ANNOTATED = select(relations.c.position).where(
    relations.c.parent_id == bindparam("parent_id"),
    relations.c.room_nid == bindparam("room_nid"),
    relations.c.rel_type == "m.annotation",
    relations.c.type == bindparam("type"),
    relations.c.sender == bindparam("sender"),
    relations.c.key == bindparam("key"),
)
_SUMMARIES = (
    select(
        relations.c.parent_id,
        relations.c.rel_type,
        func.count(),
        func.max(relations.c.place),
        func.max(case((relations.c.sender == bindparam("user_id"), 1), else_=0)),
    )
    .where(
        relations.c.room_nid == bindparam("room_nid"),
        relations.c.rel_type.in_(bindparam("rel_types", expanding=True)),
        relations.c.sender.not_in(bindparam("ignored", expanding=True)),
    )
    .group_by(relations.c.parent_id, relations.c.rel_type)
)
_SUMMARIES_OF = _SUMMARIES.where(relations.c.parent_id.in_(bindparam("parent_ids", expanding=True)))
_THREADS = (
    _SUMMARIES.where(relations.c.place <= bindparam("known"))
    .having(func.max(relations.c.place) <= bindparam("upto"))
    .order_by(func.max(relations.c.place).desc())
    .limit(bindparam("limit"))
)


def insert_many(tx: WriteTx, new: Sequence[Relation]) -> None:
    """Add relations."""
    tx.connection.execute(
        _INSERT,
        [
            {
                "position": relation.position,
                "place": relation.place,
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
    """These events no longer relate to anything: they were redacted, or are gone."""
    tx.connection.execute(_REMOVE, {"positions": list(positions)})


def find_many(tx: ReadTx, positions: Iterable[int]) -> dict[int, Relation]:
    """The relations of the events at these positions."""
    found: dict[int, Relation] = {}
    for part in chunks(positions):
        found.update(
            (row.position, Relation(*row)) for row in tx.connection.execute(_BY_POSITIONS, {"positions": part})
        )
    return found


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the relations of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount


def list_children(
    tx: ReadTx,
    room_nid: int,
    parent_ids: Iterable[EventId],
    *,
    rel_type: str | None,
    type_: str | None,
    after: int,
    upto: int,
    newest_first: bool,
    limit: int,
) -> list[Child]:
    """The events at places in (after, upto] that relate to one of these, in their order."""
    statement = _BY_PARENTS.where(relations.c.place > after, relations.c.place <= upto)
    if rel_type is not None:
        statement = statement.where(relations.c.rel_type == rel_type)
    if type_ is not None:
        statement = statement.where(relations.c.type == type_)
    order = relations.c.place.desc() if newest_first else relations.c.place
    rows = tx.connection.execute(
        statement.order_by(order).limit(limit), {"parent_ids": list(parent_ids), "room_nid": room_nid}
    )
    return [Child(*row) for row in rows]


def list_of_types(
    tx: ReadTx, room_nid: int, wanted: Iterable[tuple[EventId, str]], *, most: int
) -> dict[tuple[EventId, str], list[Child]]:
    """The events that relate to others, given pairs of a parent and a type of relation; by such a pair, in order.

    Of each pair the newest ones, `most` of them.
    """
    found: dict[tuple[EventId, str], list[Child]] = {}
    for part in chunks(wanted):
        for row in tx.connection.execute(_OF_TYPES, {"wanted": part, "room_nid": room_nid, "most": most}):
            child = Child(*row)
            found.setdefault((child.parent_id, child.rel_type), []).append(child)
    return found


def is_annotated(tx: ReadTx, room_nid: int, parent_id: EventId, *, type_: str, sender: UserId, key: str) -> bool:
    """Whether the sender has annotated the event like this before."""
    values = {"room_nid": room_nid, "parent_id": parent_id, "type": type_, "sender": sender, "key": key}
    return tx.connection.execute(_ANNOTATED, values).first() is not None


def summarise_many(
    tx: ReadTx,
    room_nid: int,
    parent_ids: Iterable[EventId],
    rel_types: Iterable[str],
    *,
    user_id: UserId,
    ignored: Collection[UserId],
) -> list[Summary]:
    """What relates to these events in such ways, without what ignored users said."""
    found: list[Summary] = []
    values = {"room_nid": room_nid, "rel_types": list(rel_types), "user_id": user_id, "ignored": list(ignored)}
    for part in chunks(parent_ids):
        rows = tx.connection.execute(_SUMMARIES_OF, values | {"parent_ids": part})
        found += (_summary(row) for row in rows)
    return found


def list_threads(
    tx: ReadTx, room_nid: int, *, user_id: UserId, ignored: Collection[UserId], known: int, upto: int, limit: int
) -> list[Summary]:
    """The room's threads, the one with the newest event first, from those on whose newest is at `upto` at most.

    Events behind the place `known` do not count.
    """
    values = {
        "room_nid": room_nid,
        "rel_types": ["m.thread"],
        "user_id": user_id,
        "ignored": list(ignored),
        "known": known,
        "upto": upto,
        "limit": limit,
    }
    return [_summary(row) for row in tx.connection.execute(_THREADS, values)]


def _summary(row: Iterable[Any]) -> Summary:
    parent_id, rel_type, count, latest, has_own = row
    return Summary(parent_id, rel_type, count, latest, bool(has_own))
