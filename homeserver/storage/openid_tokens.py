"""Tokens by which a user proves to others who they are (client-server API, OpenID)."""

from sqlalchemy import BigInteger, Column, LargeBinary, Table, bindparam, delete, insert, select

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

openid_tokens = Table(
    "openid_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("expires_ts", BigInteger, nullable=False, index=True),
)

_INSERT = insert(openid_tokens)
_FIND = select(openid_tokens.c.user_id).where(
    openid_tokens.c.token_hash == bindparam("token_hash"), openid_tokens.c.expires_ts > bindparam("now")
)
_EXPIRED = delete(openid_tokens).where(openid_tokens.c.expires_ts <= bindparam("before"))


def add(tx: WriteTx, token_hash: bytes, user_id: UserId, *, expires_ts: int, now: int) -> None:
    """Add a token, and clear away those that are over."""
    tx.connection.execute(_EXPIRED, {"before": now})
    tx.connection.execute(_INSERT, {"token_hash": token_hash, "user_id": user_id, "expires_ts": expires_ts})


def find(tx: ReadTx, token_hash: bytes, *, now: int) -> UserId | None:
    """Whose token it is, or None if it is unknown or over."""
    return tx.connection.execute(_FIND, {"token_hash": token_hash, "now": now}).scalar_one_or_none()
