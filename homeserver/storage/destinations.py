"""Other servers as this one sends to them: how far each has got, how it goes, and the transaction that is under way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Row, SmallInteger, Table, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

MOST_PDUS = 50
MOST_EDUS = 100

destinations = Table(
    "destinations",
    metadata,
    Column("server_name", Text, primary_key=True),
    Column("delivered", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("failing_since_ts", BigInteger),
    Column("last_success_ts", BigInteger),
    Column("last_attempt_ts", BigInteger),
    Column("next_retry_ts", BigInteger),
    Column("error", Text, nullable=False),
    Column("at_most", SmallInteger, nullable=False),
    Column("txn_id", Text),
    Column("txn", LargeBinary),  # What it consists of (`Parcel`), as JSON.
)

# What a server refused so long that it was left out.
skipped_items = Table(
    "skipped_items",
    metadata,
    Column("server_name", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("skipped_ts", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
)


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """What a transaction consists of: events and data by position; what is ephemeral, in full."""

    pdus: tuple[int, ...] = ()
    edus: tuple[int, ...] = ()
    ephemeral: tuple[msgspec.Raw, ...] = ()
    upto: int = 0
    """Up to this position everything is delivered then."""

    @property
    def is_durable(self) -> bool:
        """Whether there is something in it that has to be delivered."""
        return bool(self.pdus or self.edus)

    @property
    def size(self) -> int:
        """How many things are in it."""
        return len(self.pdus) + len(self.edus) + len(self.ephemeral)


class Destination(msgspec.Struct, frozen=True):
    """How it goes with a server. It is failing as long as it has `failures`."""

    server_name: ServerName
    delivered: int = 0
    """Of the events up to this position, it has those that it is to have."""
    failures: int = 0
    failing_since_ts: int | None = None
    last_success_ts: int | None = None
    last_attempt_ts: int | None = None
    next_retry_ts: int | None = None
    error: str = ""
    at_most: int = MOST_PDUS
    """So many things in one transaction: fewer while it is being found out which of them a server refuses."""
    txn_id: str | None = None
    txn: Parcel | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """An event, or data, that was left out as the server refuses it."""

    server_name: ServerName
    position: int
    skipped_ts: int
    error: str


_ALL = select(destinations)
_ONE = _ALL.where(destinations.c.server_name == bindparam("server"))
_INSERT = insert(destinations)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["server_name"],
    set_={column.name: _INSERT.excluded[column.name] for column in destinations.columns if not column.primary_key},
)
_SKIP = insert(skipped_items).on_conflict_do_nothing()
_SKIPPED = (
    select(skipped_items)
    .where(skipped_items.c.server_name == bindparam("server"))
    .order_by(skipped_items.c.position.desc())
    .limit(bindparam("limit"))
)
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Parcel).decode


def list_all(tx: ReadTx) -> list[Destination]:
    """All servers that were ever sent something."""
    return [_destination(row) for row in tx.connection.execute(_ALL)]


def find(tx: ReadTx, server: ServerName) -> Destination | None:
    """How it goes with a server, or None if it was never sent anything."""
    row = tx.connection.execute(_ONE, {"server": server}).one_or_none()
    return None if row is None else _destination(row)


def save_many(tx: WriteTx, rows: Iterable[Destination]) -> None:
    """Write down how it goes; each server may be named once."""
    tx.run(
        _UPSERT,
        [
            {
                "server_name": row.server_name,
                "delivered": row.delivered,
                "failures": row.failures,
                "failing_since_ts": row.failing_since_ts,
                "last_success_ts": row.last_success_ts,
                "last_attempt_ts": row.last_attempt_ts,
                "next_retry_ts": row.next_retry_ts,
                "error": row.error,
                "at_most": row.at_most,
                "txn_id": row.txn_id,
                "txn": None if row.txn is None else _encode(row.txn),
            }
            for row in rows
        ],
    )


def skip_many(tx: WriteTx, skipped: Sequence[Skipped]) -> None:
    """Note what was left out."""
    tx.connection.execute(
        _SKIP,
        [
            {
                "server_name": one.server_name,
                "position": one.position,
                "skipped_ts": one.skipped_ts,
                "error": one.error,
            }
            for one in skipped
        ],
    )


def list_skipped(tx: ReadTx, server: ServerName, *, limit: int) -> list[Skipped]:
    """What was left out for a server, the newest first."""
    rows = tx.connection.execute(_SKIPPED, {"server": server, "limit": limit})
    return [Skipped(ServerName(row.server_name), row.position, row.skipped_ts, row.error) for row in rows]


def _destination(row: Row[Any]) -> Destination:
    return Destination(
        server_name=ServerName(row.server_name),
        delivered=row.delivered,
        failures=row.failures,
        failing_since_ts=row.failing_since_ts,
        last_success_ts=row.last_success_ts,
        last_attempt_ts=row.last_attempt_ts,
        next_retry_ts=row.next_retry_ts,
        error=row.error,
        at_most=row.at_most,
        txn_id=row.txn_id,
        txn=None if row.txn is None else _decode(row.txn),
    )
