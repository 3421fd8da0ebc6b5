"""Filters that clients have stored."""

from sqlalchemy import Column, Table, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

filters = Table(
    "filters",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("filter_id", Text, primary_key=True),
    Column("body", Text, nullable=False),  # A JSON object.
)

_INSERT = insert(filters).on_conflict_do_nothing()
_FIND = select(filters.c.body).where(
    filters.c.user_id == bindparam("user_id"), filters.c.filter_id == bindparam("filter_id")
)


def ensure(tx: WriteTx, user_id: UserId, filter_id: str, body: str) -> None:
    """Keep the filter."""
    tx.connection.execute(_INSERT, {"user_id": user_id, "filter_id": filter_id, "body": body})


def find(tx: ReadTx, user_id: UserId, filter_id: str) -> str | None:
    """The text of the filter, or None."""
    return tx.connection.execute(_FIND, {"user_id": user_id, "filter_id": filter_id}).scalar_one_or_none()
