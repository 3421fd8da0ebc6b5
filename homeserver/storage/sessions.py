"""Access and refresh tokens, by their hashes."""

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Table,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy import (
    insert as insert_into,
)

from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata
from homeserver.storage.users import users

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("refresh_hash", LargeBinary, unique=True),
    Column("expires_ts", BigInteger),
    # The token that this one replaces, until this one is first used.
    Column("follows", LargeBinary),
    Column("created_ts", BigInteger, nullable=False),
    ForeignKeyConstraint(["user_id", "device_id"], ["devices.user_id", "devices.device_id"]),
    Index("ix_access_tokens_user_id_device_id", "user_id", "device_id"),
)


@dataclass(frozen=True, slots=True)
class Session:
    """What a token stands for."""

    user_id: UserId
    device_id: DeviceId
    expires_ts: int | None
    follows: bytes | None
    is_guest: bool
    is_admin: bool


_FIND = (
    select(
        access_tokens.c.user_id,
        access_tokens.c.device_id,
        access_tokens.c.expires_ts,
        access_tokens.c.follows,
        users.c.is_guest,
        users.c.is_admin,
    )
    .join(users, users.c.user_id == access_tokens.c.user_id)
    .where(access_tokens.c.token_hash == bindparam("token_hash"))
)
_FOLLOWS = select(access_tokens.c.follows).where(access_tokens.c.token_hash == bindparam("token_hash"))
_FIND_REFRESH = select(access_tokens.c.token_hash, access_tokens.c.user_id, access_tokens.c.device_id).where(
    access_tokens.c.refresh_hash == bindparam("refresh_hash")
)


def find(tx: ReadTx, token_hash: bytes) -> Session | None:
    """What the access token stands for, or None if it is unknown."""
    row = tx.connection.execute(_FIND, {"token_hash": token_hash}).one_or_none()
    return Session(*row) if row else None


def find_refresh(tx: ReadTx, refresh_hash: bytes) -> tuple[bytes, UserId, DeviceId] | None:
    """The access token's hash, the user and the device of a refresh token, or None if it is unknown."""
    row = tx.connection.execute(_FIND_REFRESH, {"refresh_hash": refresh_hash}).one_or_none()
    return (bytes(row[0]), row[1], row[2]) if row else None


def insert(
    tx: WriteTx,
    token_hash: bytes,
    *,
    user_id: UserId,
    device_id: DeviceId,
    refresh_hash: bytes | None,
    expires_ts: int | None,
    follows: bytes | None,
    now: int,
) -> None:
    """Store a token."""
    values = {
        "token_hash": token_hash,
        "user_id": user_id,
        "device_id": device_id,
        "refresh_hash": refresh_hash,
        "expires_ts": expires_ts,
        "follows": follows,
        "created_ts": now,
    }
    tx.connection.execute(insert_into(access_tokens), values)


def confirm(tx: WriteTx, token_hash: bytes) -> list[bytes]:
    """The token has been used: end the one that it replaces. The hashes of those that ended."""
    follows = tx.connection.execute(_FOLLOWS, {"token_hash": token_hash}).scalar_one_or_none()
    if follows is None:
        return []
    tx.connection.execute(delete(access_tokens).where(access_tokens.c.token_hash == follows))
    tx.connection.execute(update(access_tokens).where(access_tokens.c.token_hash == token_hash).values(follows=None))
    return [bytes(follows)]


def delete_of(tx: WriteTx, user_id: UserId, *, device_id: DeviceId | None, keep: bytes | None) -> list[bytes]:
    """End the tokens of a device, or of all, save the one to keep; the hashes of those that ended."""
    statement = delete(access_tokens).where(access_tokens.c.user_id == user_id)
    if device_id is not None:
        statement = statement.where(access_tokens.c.device_id == device_id)
    if keep is not None:
        statement = statement.where(access_tokens.c.token_hash != keep)
    return [bytes(row[0]) for row in tx.connection.execute(statement.returning(access_tokens.c.token_hash))]
