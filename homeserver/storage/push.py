"""What users have changed about their push rules, and the pushers of their devices."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Table, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

push_rules = Table(
    "push_rules",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("changes", Text, nullable=False),  # A JSON object: own rules, and what differs in the predefined ones.
    Column("position", BigInteger, nullable=False),
)

pushers = Table(
    "pushers",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("app_id", Text, primary_key=True),
    Column("pushkey", Text, primary_key=True),
    Column("body", Text, nullable=False),  # A JSON object, as the client gave it.
    Column("created_ts", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Changes:
    """A user's changes. `body` is a JSON object."""

    body: str
    position: int


_FIND = select(push_rules.c.changes, push_rules.c.position).where(push_rules.c.user_id == bindparam("user_id"))
_INSERT = insert(push_rules)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["user_id"],
    set_={"changes": _INSERT.excluded.changes, "position": _INSERT.excluded.position},
)
_PUSHERS = select(pushers.c.body).where(pushers.c.user_id == bindparam("user_id")).order_by(pushers.c.created_ts)
_NEW_PUSHER = insert(pushers)
_PUT_PUSHER = _NEW_PUSHER.on_conflict_do_update(
    index_elements=["user_id", "app_id", "pushkey"], set_={"body": _NEW_PUSHER.excluded.body}
)
_REMOVE_PUSHER = delete(pushers).where(
    pushers.c.user_id == bindparam("user"), pushers.c.app_id == bindparam("app"), pushers.c.pushkey == bindparam("key")
)
_REMOVE_ALL = delete(pushers).where(pushers.c.user_id == bindparam("user"))
_REMOVE_OTHERS = delete(pushers).where(
    pushers.c.user_id != bindparam("user"), pushers.c.app_id == bindparam("app"), pushers.c.pushkey == bindparam("key")
)


def find(tx: ReadTx, user_id: UserId) -> Changes | None:
    """The user's changes, or None if all is as predefined."""
    row = tx.connection.execute(_FIND, {"user_id": user_id}).one_or_none()
    return None if row is None else Changes(*row)


def put(tx: WriteTx, user_id: UserId, changes: Changes) -> None:
    """Replace the user's changes."""
    values = {"user_id": user_id, "changes": changes.body, "position": changes.position}
    tx.connection.execute(_UPSERT, values)


def list_pushers(tx: ReadTx, user_id: UserId) -> list[str]:
    """The user's pushers, each a JSON object."""
    return list(tx.connection.execute(_PUSHERS, {"user_id": user_id}).scalars())


def put_pusher(tx: WriteTx, user_id: UserId, app_id: str, pushkey: str, body: str, *, now: int) -> None:
    """Add the pusher, or replace the one of this app and key."""
    values = {"user_id": user_id, "app_id": app_id, "pushkey": pushkey, "body": body, "created_ts": now}
    tx.connection.execute(_PUT_PUSHER, values)


def remove_pusher(tx: WriteTx, user_id: UserId, app_id: str, pushkey: str) -> None:
    """Remove the user's pusher of this app and key."""
    tx.connection.execute(_REMOVE_PUSHER, {"user": user_id, "app": app_id, "key": pushkey})


def remove_all_pushers(tx: WriteTx, user_id: UserId) -> None:
    """Remove all pushers of a user."""
    tx.connection.execute(_REMOVE_ALL, {"user": user_id})


def remove_pushers_of_others(tx: WriteTx, user_id: UserId, app_id: str, pushkey: str) -> None:
    """Remove the pushers that other users have for this app and key: the device has changed hands."""
    tx.connection.execute(_REMOVE_OTHERS, {"user": user_id, "app": app_id, "key": pushkey})
