"""Profiles of local users, and the log of changes that rooms have still to hear of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Table, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

profiles = Table(
    "profiles",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("fields", Text, nullable=False),  # A JSON object.
)

profile_changes = Table(
    "profile_changes",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, nullable=False),
)

_INSERT = insert(profiles)
_UPSERT = _INSERT.on_conflict_do_update(index_elements=["user_id"], set_={"fields": _INSERT.excluded.fields})
_FIND = select(profiles).where(profiles.c.user_id.in_(bindparam("user_ids", expanding=True)))
_NOTE = insert(profile_changes)
_PENDING = (
    select(profile_changes)
    .where(profile_changes.c.position > bindparam("after"))
    .order_by(profile_changes.c.position)
    .limit(bindparam("limit"))
)
_FORGET = delete(profile_changes).where(profile_changes.c.position == bindparam("at"))


@dataclass(frozen=True, slots=True)
class Change:
    """A name or a picture was changed, and the user's rooms have not been told yet."""

    position: int
    user_id: UserId


def find_many(tx: ReadTx, user_ids: Iterable[UserId]) -> dict[UserId, dict[str, Any]]:
    """The profiles, field by field; users without one are left out."""
    found: dict[UserId, dict[str, Any]] = {}
    for part in chunks(user_ids):
        rows = tx.connection.execute(_FIND, {"user_ids": part})
        found.update((row.user_id, msgspec.json.decode(row.fields)) for row in rows)
    return found


def put(tx: WriteTx, user_id: UserId, fields: Mapping[str, Any]) -> None:
    """Replace the profile."""
    tx.connection.execute(_UPSERT, {"user_id": user_id, "fields": msgspec.json.encode(fields).decode()})


def note_change(tx: WriteTx, change: Change) -> None:
    """Leave word that the user's rooms must be told."""
    tx.connection.execute(_NOTE, {"position": change.position, "user_id": change.user_id})


def list_changes(tx: ReadTx, *, after: int = 0, limit: int) -> list[Change]:
    """The oldest changes behind a position that rooms have not been told of."""
    return [Change(*row) for row in tx.connection.execute(_PENDING, {"after": after, "limit": limit})]


def forget_changes(tx: WriteTx, changes: Iterable[Change]) -> None:
    """The rooms have been told."""
    tx.connection.execute(_FORGET, [{"at": change.position} for change in changes])
