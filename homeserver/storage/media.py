"""Media of local users: what they are, and who gave them. The bytes are elsewhere."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, func, insert, select, update

from homeserver.matrix.identifiers import UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

media = Table(
    "media",
    metadata,
    Column("media_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("created_ts", BigInteger, nullable=False),
    # Null until the bytes have come.
    Column("size", BigInteger),
    Column("content_type", Text),
    Column("filename", Text),
    Index("ix_media_user_id_created_ts", "user_id", "created_ts"),
)


@dataclass(frozen=True, slots=True)
class Media:
    """A file; without a size it is announced, and its bytes have not come yet."""

    media_id: str
    user_id: UserId
    created_ts: int
    size: int | None
    content_type: str | None
    filename: str | None


_INSERT = insert(media)
_FIND = select(media).where(media.c.media_id == bindparam("media_id"))
_FILL = (
    update(media)
    .where(media.c.media_id == bindparam("id"), media.c.size.is_(None))
    .values(size=bindparam("bytes"), content_type=bindparam("kind"), filename=bindparam("name"))
)
_PENDING = (
    select(func.count())
    .select_from(media)
    .where(media.c.user_id == bindparam("user_id"), media.c.size.is_(None), media.c.created_ts > bindparam("since"))
)


def add(tx: WriteTx, one: Media) -> None:
    """Add a file."""
    tx.connection.execute(
        _INSERT,
        {
            "media_id": one.media_id,
            "user_id": one.user_id,
            "created_ts": one.created_ts,
            "size": one.size,
            "content_type": one.content_type,
            "filename": one.filename,
        },
    )


def find(tx: ReadTx, media_id: str) -> Media | None:
    """The file, or None."""
    row = tx.connection.execute(_FIND, {"media_id": media_id}).one_or_none()
    return None if row is None else Media(*row)


def fill(tx: WriteTx, media_id: str, *, size: int, content_type: str | None, filename: str | None) -> bool:
    """The bytes have come; False if they had come before."""
    values = {"id": media_id, "bytes": size, "kind": content_type, "name": filename}
    return tx.connection.execute(_FILL, values).rowcount == 1


def count_pending(tx: ReadTx, user_id: UserId, *, since: int) -> int:
    """How many files a user has announced since then whose bytes have not come."""
    return int(tx.connection.execute(_PENDING, {"user_id": user_id, "since": since}).scalar_one())
