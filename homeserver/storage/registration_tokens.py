"""Tokens that let their bearers register."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Integer, Table, bindparam, delete, insert, or_, select, update

from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

registration_tokens = Table(
    "registration_tokens",
    metadata,
    Column("token", Text, primary_key=True),
    Column("uses_allowed", Integer),  # Null: any number.
    Column("uses", Integer, nullable=False),
    Column("expires_ts", BigInteger),  # Null: never.
    Column("created_ts", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class RegistrationToken:
    """A token, and how often it was used."""

    token: str
    uses_allowed: int | None
    uses: int
    expires_ts: int | None
    created_ts: int


_GOOD = (
    (registration_tokens.c.token == bindparam("given"))
    & or_(
        registration_tokens.c.uses_allowed.is_(None),
        registration_tokens.c.uses < registration_tokens.c.uses_allowed,
    )
    & or_(registration_tokens.c.expires_ts.is_(None), registration_tokens.c.expires_ts > bindparam("now"))
)
_FIND_GOOD = select(registration_tokens.c.token).where(_GOOD)
_USE = update(registration_tokens).where(_GOOD).values(uses=registration_tokens.c.uses + 1)
_LIST = select(registration_tokens).order_by(registration_tokens.c.created_ts)
_INSERT = insert(registration_tokens)
_DELETE = delete(registration_tokens).where(registration_tokens.c.token == bindparam("given"))


def add(tx: WriteTx, token: RegistrationToken) -> None:
    """Add a token."""
    values = {
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "uses": token.uses,
        "expires_ts": token.expires_ts,
        "created_ts": token.created_ts,
    }
    tx.connection.execute(_INSERT, values)


def is_good(tx: ReadTx, token: str, *, now: int) -> bool:
    """Whether somebody may register with the token now."""
    return tx.connection.execute(_FIND_GOOD, {"given": token, "now": now}).first() is not None


def use(tx: WriteTx, token: str, *, now: int) -> bool:
    """Use the token once; False if it is used up, over, or unknown."""
    return tx.connection.execute(_USE, {"given": token, "now": now}).rowcount == 1


def list_all(tx: ReadTx) -> list[RegistrationToken]:
    """All tokens, the oldest first."""
    return [RegistrationToken(*row) for row in tx.connection.execute(_LIST)]


def remove(tx: WriteTx, token: str) -> bool:
    """Remove the token; False if there is none."""
    return tx.connection.execute(_DELETE, {"given": token}).rowcount == 1
