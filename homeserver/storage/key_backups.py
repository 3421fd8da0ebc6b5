"""Backups of room keys, encrypted by clients."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, Column, Table, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

backup_versions = Table(
    "backup_versions",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("algorithm", Text, nullable=False),
    Column("auth_data", Text, nullable=False),  # A JSON object.
    Column("etag", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),  # A version's number is never given again.
)

backup_keys = Table(
    "backup_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("room_id", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("first_message_index", BigInteger, nullable=False),
    Column("forwarded_count", BigInteger, nullable=False),
    Column("is_verified", Boolean, nullable=False),
    Column("session_data", Text, nullable=False),  # A JSON object.
)


@dataclass(frozen=True, slots=True)
class Version:
    """A backup."""

    version: int
    algorithm: str
    auth_data: str
    etag: int


@dataclass(frozen=True, slots=True)
class Key:
    """The key of one session."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: str


_VERSION_COLUMNS = (
    backup_versions.c.version,
    backup_versions.c.algorithm,
    backup_versions.c.auth_data,
    backup_versions.c.etag,
)
_LIVE = select(*_VERSION_COLUMNS).where(
    backup_versions.c.user_id == bindparam("user"), backup_versions.c.deleted.is_(False)
)
_ONE = _LIVE.where(backup_versions.c.version == bindparam("number"))
_LATEST = _LIVE.order_by(backup_versions.c.version.desc()).limit(1)
_LAST_NUMBER = select(func.coalesce(func.max(backup_versions.c.version), 0)).where(
    backup_versions.c.user_id == bindparam("user")
)
_THIS = (backup_versions.c.user_id == bindparam("user")) & (backup_versions.c.version == bindparam("number"))
_WAS_DELETED = select(backup_versions.c.deleted).where(_THIS)
_SET_AUTH = update(backup_versions).where(_THIS).values(auth_data=bindparam("data"))
_SET_ETAG = update(backup_versions).where(_THIS).values(etag=backup_versions.c.etag + 1)
_DELETE_VERSION = update(backup_versions).where(_THIS).values(deleted=True)
_KEYS_OF = (backup_keys.c.user_id == bindparam("user")) & (backup_keys.c.version == bindparam("number"))
_KEY_COLUMNS = (
    backup_keys.c.room_id,
    backup_keys.c.session_id,
    backup_keys.c.first_message_index,
    backup_keys.c.forwarded_count,
    backup_keys.c.is_verified,
    backup_keys.c.session_data,
)
_CHOSEN = select(*_KEY_COLUMNS).where(
    _KEYS_OF, tuple_(backup_keys.c.room_id, backup_keys.c.session_id).in_(bindparam("sessions", expanding=True))
)
_COUNT = select(func.count()).select_from(backup_keys).where(_KEYS_OF)
_INSERT_KEY = upsert(backup_keys)
_PUT_KEY = _INSERT_KEY.on_conflict_do_update(
    index_elements=["user_id", "version", "room_id", "session_id"],
    set_={
        name: _INSERT_KEY.excluded[name]
        for name in ("first_message_index", "forwarded_count", "is_verified", "session_data")
    },
)


def create_version(tx: WriteTx, user_id: UserId, algorithm: str, auth_data: str) -> int:
    """Begin a new backup; its number."""
    number = int(tx.connection.execute(_LAST_NUMBER, {"user": user_id}).scalar_one()) + 1
    tx.connection.execute(
        insert(backup_versions).values(
            user_id=user_id, version=number, algorithm=algorithm, auth_data=auth_data, etag=0, deleted=False
        )
    )
    return number


def find_version(tx: ReadTx, user_id: UserId, version: int | None) -> Version | None:
    """The backup of this number, or the newest; None if there is none, or it was deleted."""
    if version is None:
        row = tx.connection.execute(_LATEST, {"user": user_id}).one_or_none()
    else:
        row = tx.connection.execute(_ONE, {"user": user_id, "number": version}).one_or_none()
    return None if row is None else Version(*row)


def was_deleted(tx: ReadTx, user_id: UserId, version: int) -> bool:
    """Whether there was a backup of this number."""
    return bool(tx.connection.execute(_WAS_DELETED, {"user": user_id, "number": version}).scalar_one_or_none())


def set_auth_data(tx: WriteTx, user_id: UserId, version: int, auth_data: str) -> None:
    """Replace the data by which clients trust the backup."""
    tx.connection.execute(_SET_AUTH, {"user": user_id, "number": version, "data": auth_data})


def advance_etag(tx: WriteTx, user_id: UserId, version: int) -> None:
    """The keys of the backup have changed."""
    tx.connection.execute(_SET_ETAG, {"user": user_id, "number": version})


def delete_version(tx: WriteTx, user_id: UserId, version: int) -> None:
    """Remove the backup and its keys."""
    tx.connection.execute(_DELETE_VERSION, {"user": user_id, "number": version})
    tx.connection.execute(delete(backup_keys).where(_KEYS_OF), {"user": user_id, "number": version})


def remove_all(tx: WriteTx, user_id: UserId) -> None:
    """Remove all backups of a user."""
    tx.connection.execute(delete(backup_keys).where(backup_keys.c.user_id == user_id))
    tx.connection.execute(delete(backup_versions).where(backup_versions.c.user_id == user_id))


def count_keys(tx: ReadTx, user_id: UserId, version: int) -> int:
    """How many keys the backup has."""
    return int(tx.connection.execute(_COUNT, {"user": user_id, "number": version}).scalar_one())


def find_keys(
    tx: ReadTx, user_id: UserId, version: int, sessions: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Key]:
    """Those keys which the backup has, by room and session."""
    found: dict[tuple[str, str], Key] = {}
    for part in chunks(sessions):
        for row in tx.connection.execute(_CHOSEN, {"user": user_id, "number": version, "sessions": part}):
            found[row.room_id, row.session_id] = Key(*row)
    return found


def list_keys(
    tx: ReadTx, user_id: UserId, version: int, room_id: str | None = None, session_id: str | None = None
) -> list[Key]:
    """The keys of a backup: all, or of one room, or of one session."""
    statement = select(*_KEY_COLUMNS).where(_KEYS_OF)
    if room_id is not None:
        statement = statement.where(backup_keys.c.room_id == room_id)
    if session_id is not None:
        statement = statement.where(backup_keys.c.session_id == session_id)
    return [Key(*row) for row in tx.connection.execute(statement, {"user": user_id, "number": version})]


def put_keys(tx: WriteTx, user_id: UserId, version: int, keys: Sequence[Key]) -> None:
    """Keep keys in the place of those before."""
    tx.connection.execute(
        _PUT_KEY,
        [
            {
                "user_id": user_id,
                "version": version,
                "room_id": key.room_id,
                "session_id": key.session_id,
                "first_message_index": key.first_message_index,
                "forwarded_count": key.forwarded_count,
                "is_verified": key.is_verified,
                "session_data": key.session_data,
            }
            for key in keys
        ],
    )


def delete_keys(tx: WriteTx, user_id: UserId, version: int, room_id: str | None, session_id: str | None) -> int:
    """Remove keys: all, or of one room, or of one session; how many there were."""
    statement = delete(backup_keys).where(_KEYS_OF)
    if room_id is not None:
        statement = statement.where(backup_keys.c.room_id == room_id)
    if session_id is not None:
        statement = statement.where(backup_keys.c.session_id == session_id)
    return tx.connection.execute(statement, {"user": user_id, "number": version}).rowcount
