"""The one counter that orders everything which happens on this server (docs/decisions/0002-one-position.md)."""

from sqlalchemy import BigInteger, Column, Integer, Table, bindparam, select, update

from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import metadata

stream_position = Table(
    "stream_position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # Always 1: the table has one row.
    Column("value", BigInteger, nullable=False),
)

_ADVANCE = (
    update(stream_position)
    .values(value=stream_position.c.value + bindparam("count"))
    .returning(stream_position.c.value)
)
_CURRENT = select(stream_position.c.value)


def advance(tx: WriteTx, count: int = 1) -> int:
    """Take `count` positions and return the last of them.

    The row stays locked until the transaction ends, so positions become visible in order: whoever reads position N
    in a snapshot sees every row up to N.
    """
    last = int(tx.value(_ADVANCE, {"count": count}))
    tx.take(last - count + 1, last)
    return last


def current(tx: ReadTx) -> int:
    """The last position that was committed."""
    return int(tx.connection.execute(_CURRENT).scalar_one())
