"""Other servers as this one sends to them: how far each has got, how it goes, and the transaction that is under way."""

from dataclasses import dataclass

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
)

from homeserver.matrix.identifiers import ServerName
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


@dataclass(frozen=True, slots=True)
class Destination:
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
