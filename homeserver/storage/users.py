"""Accounts of this server."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, Column, Table, bindparam, false, select, true, update
from sqlalchemy.exc import IntegrityError

from homeserver.errors import Unsupported
from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("password_hash", Text),  # None: nobody can log in with a password.
    Column("is_guest", Boolean, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("is_deactivated", Boolean, nullable=False),
    Column("created_ts", BigInteger, nullable=False),
    # Whoever comes to a room later is shown this user's events redacted.
    Column("is_erased", Boolean, nullable=False, server_default=false()),
)


@dataclass(frozen=True, slots=True)
class User:
    """An account."""

    user_id: UserId
    password_hash: str | None
    is_guest: bool
    is_admin: bool
    is_deactivated: bool
    created_ts: int
    is_erased: bool


_SET_PASSWORD = (
    update(users).where(users.c.user_id == bindparam("user")).values(password_hash=bindparam("hash"), is_guest=False)
)
_DEACTIVATE = (
    update(users)
    .where(users.c.user_id == bindparam("user"))
    .values(password_hash=None, is_deactivated=True, is_erased=bindparam("erase"))
)
_ERASED = select(users.c.user_id).where(
    users.c.user_id.in_(bindparam("user_ids", expanding=True)), users.c.is_erased == true()
)
_FIND = select(*users.c).where(users.c.user_id == bindparam("user_id"))
_LOCK = _FIND.with_for_update(key_share=True)
_ANY = select(users.c.user_id).limit(1)
_FIND_MANY = select(*users.c).where(users.c.user_id.in_(bindparam("user_ids", expanding=True)))


def find(tx: ReadTx, user_id: UserId) -> User | None:
    """The account, or None if there never was one; a deactivated one is still found."""
    row = tx.connection.execute(_FIND, {"user_id": user_id}).one_or_none()
    return User(*row) if row else None


def find_any(tx: ReadTx) -> UserId | None:
    """Somebody who has an account, if anybody has."""
    return tx.connection.execute(_ANY).scalar_one_or_none()


def lock(tx: WriteTx, user_id: UserId) -> User | None:
    """The account, as it is until the transaction ends: whoever changes or locks it waits."""
    row = tx.connection.execute(_LOCK, {"user_id": user_id}).one_or_none()
    return User(*row) if row else None


def find_many(tx: ReadTx, user_ids: Iterable[UserId]) -> dict[UserId, User]:
    """The accounts of those who have one, or had one."""
    found: dict[UserId, User] = {}
    for part in chunks(user_ids):
        found.update((row.user_id, User(*row)) for row in tx.connection.execute(_FIND_MANY, {"user_ids": part}))
    return found


def set_password(tx: WriteTx, user_id: UserId, password_hash: str) -> None:
    """Set the password; whoever was a guest no longer is."""
    tx.connection.execute(_SET_PASSWORD, {"user": user_id, "hash": password_hash})


def deactivate(tx: WriteTx, user_id: UserId, *, erase: bool) -> None:
    """Nobody can log in to the account any more, and nobody else gets its name."""
    tx.connection.execute(_DEACTIVATE, {"user": user_id, "erase": erase})


def find_erased(tx: ReadTx, user_ids: Iterable[UserId]) -> set[UserId]:
    """Those of the users whose events are not for people who come later."""
    found: set[UserId] = set()
    for part in chunks(user_ids):
        found.update(tx.connection.execute(_ERASED, {"user_ids": part}).scalars())
    return found


def insert(
    tx: WriteTx, user_id: UserId, *, password_hash: str | None, is_guest: bool, is_admin: bool, now: int
) -> None:
    """Make the account. Raises `Unsupported` with `M_USER_IN_USE` if the name was ever taken."""
    values = {
        "user_id": user_id,
        "password_hash": password_hash,
        "is_guest": is_guest,
        "is_admin": is_admin,
        "is_deactivated": False,
        "created_ts": now,
    }
    try:
        tx.connection.execute(users.insert(), values)
    except IntegrityError:
        raise Unsupported("M_USER_IN_USE", "This user name is taken.") from None
