"""Media of other servers of which this one has a copy: what they are, and under which name their bytes are kept."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

remote_media = Table(
    "remote_media",
    metadata,
    Column("server_name", Text, primary_key=True),
    Column("media_id", Text, primary_key=True),
    Column("blob", Text, nullable=False),
    Column("fetched_ts", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content_type", Text),
    Column("filename", Text),
    # The oldest, with what they take.
    Index("ix_remote_media_fetched_ts_blob_size", "fetched_ts", "blob", "size"),
)


@dataclass(frozen=True, slots=True)
class RemoteMedia:
    """A copy of a file."""

    server_name: ServerName
    media_id: str
    blob: str
    fetched_ts: int
    size: int
    content_type: str | None
    filename: str | None


_INSERT = insert(remote_media).on_conflict_do_nothing()
_FIND = select(remote_media).where(
    remote_media.c.server_name == bindparam("server_name"), remote_media.c.media_id == bindparam("media_id")
)
_SIZE = select(func.coalesce(func.sum(remote_media.c.size), 0))
_OLDEST = (
    select(remote_media.c.blob, remote_media.c.size)
    .order_by(remote_media.c.fetched_ts, remote_media.c.blob)
    .limit(bindparam("limit"))
)
_REMOVE = delete(remote_media).where(remote_media.c.blob.in_(bindparam("blobs", expanding=True)))


def add(tx: WriteTx, one: RemoteMedia) -> bool:
    """Add a copy; False if there is one already."""
    values = {
        "server_name": one.server_name,
        "media_id": one.media_id,
        "blob": one.blob,
        "fetched_ts": one.fetched_ts,
        "size": one.size,
        "content_type": one.content_type,
        "filename": one.filename,
    }
    return tx.connection.execute(_INSERT, values).rowcount == 1


def find(tx: ReadTx, server_name: ServerName, media_id: str) -> RemoteMedia | None:
    """The copy, or None if there is none."""
    row = tx.connection.execute(_FIND, {"server_name": server_name, "media_id": media_id}).one_or_none()
    return None if row is None else RemoteMedia(*row)


def total_size(tx: ReadTx) -> int:
    """How many bytes all copies have."""
    return int(tx.connection.execute(_SIZE).scalar_one())


def list_oldest(tx: ReadTx, *, limit: int) -> list[tuple[str, int]]:
    """Names and sizes of the copies that were made first."""
    return [(row.blob, row.size) for row in tx.connection.execute(_OLDEST, {"limit": limit})]


def remove_many(tx: WriteTx, blobs: Iterable[str]) -> None:
    """Forget copies, by the names of their bytes."""
    for part in chunks(blobs):
        tx.connection.execute(_REMOVE, {"blobs": part})
