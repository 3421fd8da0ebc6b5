"""Account data: what clients keep for their user, for all rooms or for one."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

GLOBAL = ""
"""Stands for all rooms."""

account_data = Table(
    "account_data",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("content", Text, nullable=False),  # A JSON object.
    Column("position", BigInteger, nullable=False),
    Index("ix_account_data_user_id_position", "user_id", "position"),
)


@dataclass(frozen=True, slots=True)
class AccountData:
    """One piece of data. `content` is the text of a JSON object; `room_id` is empty for all rooms."""

    user_id: UserId
    room_id: str
    type: str
    content: str
    position: int


_INSERT = insert(account_data)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["user_id", "room_id", "type"],
    set_={"content": _INSERT.excluded.content, "position": _INSERT.excluded.position},
)
_FIND = select(account_data.c.content).where(
    account_data.c.user_id == bindparam("user_id"),
    account_data.c.room_id == bindparam("room_id"),
    account_data.c.type == bindparam("type"),
)
_OF_USERS = select(account_data.c.user_id, account_data.c.content).where(
    account_data.c.user_id.in_(bindparam("user_ids", expanding=True)),
    account_data.c.room_id == bindparam("room_id"),
    account_data.c.type == bindparam("type"),
)
_REMOVE_ALL = delete(account_data).where(account_data.c.user_id == bindparam("user"))
_REMOVE_OF_ROOM = delete(account_data).where(account_data.c.room_id == bindparam("gone_id"))
_SINCE = (
    select(account_data)
    .where(
        account_data.c.user_id == bindparam("user_id"),
        account_data.c.position > bindparam("after"),
        account_data.c.position <= bindparam("upto"),
    )
    .order_by(account_data.c.position)
)


def put(tx: WriteTx, data: AccountData) -> None:
    """Keep the data in the place of what was there."""
    tx.connection.execute(
        _UPSERT,
        {
            "user_id": data.user_id,
            "room_id": data.room_id,
            "type": data.type,
            "content": data.content,
            "position": data.position,
        },
    )


def remove_all(tx: WriteTx, user_id: UserId) -> None:
    """Remove everything that a user has kept."""
    tx.connection.execute(_REMOVE_ALL, {"user": user_id})


def remove_of_room(tx: WriteTx, room_id: RoomId) -> None:
    """Remove what users have kept for a room, tags and read markers among it."""
    tx.connection.execute(_REMOVE_OF_ROOM, {"gone_id": room_id})


def find(tx: ReadTx, user_id: UserId, room_id: str, type_: str) -> str | None:
    """The text of the content, or None."""
    values = {"user_id": user_id, "room_id": room_id, "type": type_}
    return tx.connection.execute(_FIND, values).scalar_one_or_none()


def find_of_users(tx: ReadTx, user_ids: Iterable[UserId], room_id: str, type_: str) -> dict[UserId, str]:
    """The texts of one type's contents, of those users who have some."""
    found: dict[UserId, str] = {}
    for part in chunks(user_ids):
        rows = tx.connection.execute(_OF_USERS, {"user_ids": part, "room_id": room_id, "type": type_})
        found.update((row.user_id, row.content) for row in rows)
    return found


def list_since(tx: ReadTx, user_id: UserId, *, after: int, upto: int) -> list[AccountData]:
    """What the user's data became in (after, upto], in that order; each piece once."""
    values = {"user_id": user_id, "after": after, "upto": upto}
    return [AccountData(*row) for row in tx.connection.execute(_SINCE, values)]
