"""What clients' requests with a transaction id did, so that a repeated request is answered like the first.

A transaction id belongs to a device and a scope (an endpoint with its path). Rows of one device go with the device.
There is a row for every message of the last day, so it holds hashes of what may be long: 64 bits of who it was, to
find a device's rows together, and 128 bits of the whole name.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.errors import HomeserverError
from homeserver.matrix.identifiers import DeviceId, EventId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.events import events
from homeserver.storage.tables import Text, chunks, metadata

transactions = Table(
    "transactions",
    metadata,
    Column("device", BigInteger, primary_key=True, autoincrement=False),
    Column("name", LargeBinary, primary_key=True),
    Column("position", BigInteger),  # Of the event that was made, if one was.
    Column("created_ts", BigInteger, nullable=False),
    Column("txn_id", Text, nullable=False),
    # The transaction ids of a device's own events; and what is old enough to be forgotten.
    Index("ix_transactions_position", "position"),
    Index("ix_transactions_created_ts", "created_ts"),
)


class Repeated(HomeserverError):
    """A transaction id was used before."""


@dataclass(frozen=True, slots=True)
class Done:
    """A request that was carried out, and the position of the event that it made, if it made one."""

    user_id: UserId
    device_id: DeviceId
    scope: str
    txn_id: str
    position: int | None
    created_ts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request did: the event that it made, if it made one and the event is still there."""

    event_id: EventId | None


_FIND = (
    select(events.c.event_id)
    .select_from(transactions.outerjoin(events, events.c.position == transactions.c.position))
    .where(transactions.c.device == bindparam("device"), transactions.c.name == bindparam("name"))
)
_OF_EVENTS = select(transactions.c.position, transactions.c.txn_id).where(
    transactions.c.position.in_(bindparam("positions", expanding=True)), transactions.c.device == bindparam("device")
)
_RECORD = insert(transactions).on_conflict_do_nothing().returning(transactions.c.txn_id)
_DELETE_DEVICES = delete(transactions).where(transactions.c.device.in_(bindparam("devices", expanding=True)))
_REMOVE_EVENTS = delete(transactions).where(transactions.c.position.in_(bindparam("positions", expanding=True)))
_DELETE_OLDER = delete(transactions).where(transactions.c.created_ts < bindparam("before"))


def find(tx: ReadTx, user_id: UserId, device_id: DeviceId, scope: str, txn_id: str) -> Outcome | None:
    """What was done under this transaction id, or None if it is new."""
    values = {"device": _device(user_id, device_id), "name": _name(user_id, device_id, scope, txn_id)}
    row = tx.connection.execute(_FIND, values).one_or_none()
    return None if row is None else Outcome(row.event_id)


def find_txn_ids(tx: ReadTx, user_id: UserId, device_id: DeviceId, positions: Iterable[int]) -> dict[int, str]:
    """The transaction ids by which this device sent those of the events at these positions that it sent."""
    values = {"device": _device(user_id, device_id), "positions": list(positions)}
    return {row.position: row.txn_id for row in tx.connection.execute(_OF_EVENTS, values)}


def record_many(tx: WriteTx, done: Sequence[Done]) -> None:
    """Note what was done. Raises `Repeated` if one of the transaction ids was used before."""
    rows = tx.connection.execute(
        _RECORD,
        [
            {
                "device": _device(one.user_id, one.device_id),
                "name": _name(one.user_id, one.device_id, one.scope, one.txn_id),
                "position": one.position,
                "created_ts": one.created_ts,
                "txn_id": one.txn_id,
            }
            for one in done
        ],
    ).all()
    if len(rows) < len(done):
        raise Repeated("A transaction id was used before.")


def remove_devices(tx: WriteTx, user_id: UserId, device_ids: Sequence[DeviceId]) -> None:
    """Forget what these devices did: whoever logs in under their names begins anew."""
    tx.connection.execute(_DELETE_DEVICES, {"devices": [_device(user_id, device_id) for device_id in device_ids]})


def remove_events(tx: WriteTx, positions: Iterable[int]) -> None:
    """Forget by which requests these events were made: they are gone."""
    for part in chunks(positions):
        tx.connection.execute(_REMOVE_EVENTS, {"positions": part})


def delete_older(tx: WriteTx, *, before: int) -> None:
    """Forget what was done before that time."""
    tx.connection.execute(_DELETE_OLDER, {"before": before})


def _device(user_id: str, device_id: str) -> int:
    return int.from_bytes(_hash(user_id, device_id)[:8], "big", signed=True)


def _name(*parts: str) -> bytes:
    return _hash(*parts)[:16]


def _hash(*parts: str) -> bytes:
    # Nobody can have a NUL in a user id or a device id, and the rest is a client's own affair.
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
