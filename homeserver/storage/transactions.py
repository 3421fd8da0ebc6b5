"""What clients' requests with a transaction id did, so that a repeated request is answered like the first.

A transaction id belongs to a device and a scope (an endpoint with its path). Rows of one device go with the device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from homeserver.errors import HomeserverError
from homeserver.matrix.identifiers import DeviceId, EventId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

transactions = Table(
    "transactions",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("txn_id", Text, primary_key=True),
    Column("event_id", Text),
    Column("created_ts", BigInteger, nullable=False),
    Index("ix_transactions_event_id", "event_id"),
    Index("ix_transactions_created_ts", "created_ts"),
)


class Repeated(HomeserverError):
    """A transaction id was used before."""


@dataclass(frozen=True, slots=True)
class Done:
    """A request that was carried out, and the event that it made, if it made one."""

    user_id: UserId
    device_id: DeviceId
    scope: str
    txn_id: str
    event_id: EventId | None
    created_ts: int


_KEY = (
    (transactions.c.user_id == bindparam("user_id"))
    & (transactions.c.device_id == bindparam("device_id"))
    & (transactions.c.scope == bindparam("scope"))
    & (transactions.c.txn_id == bindparam("txn_id"))
)
_FIND = select(transactions).where(_KEY)
_OF_EVENTS = select(transactions.c.event_id, transactions.c.txn_id).where(
    transactions.c.event_id.in_(bindparam("event_ids", expanding=True)),
    transactions.c.user_id == bindparam("user_id"),
    transactions.c.device_id == bindparam("device_id"),
)
_RECORD = insert(transactions).on_conflict_do_nothing().returning(transactions.c.txn_id)
_REMOVE_EVENTS = delete(transactions).where(transactions.c.event_id.in_(bindparam("event_ids", expanding=True)))
_DELETE_OLDER = delete(transactions).where(transactions.c.created_ts < bindparam("before"))


def find(tx: ReadTx, user_id: UserId, device_id: DeviceId, scope: str, txn_id: str) -> Done | None:
    """What was done under this transaction id, or None if it is new."""
    values = {"user_id": user_id, "device_id": device_id, "scope": scope, "txn_id": txn_id}
    row = tx.connection.execute(_FIND, values).one_or_none()
    return None if row is None else Done(*row)


def find_txn_ids(tx: ReadTx, user_id: UserId, device_id: DeviceId, event_ids: Sequence[EventId]) -> dict[EventId, str]:
    """The transaction ids by which this device sent those of the events that it sent."""
    values = {"user_id": user_id, "device_id": device_id, "event_ids": list(event_ids)}
    return {row.event_id: row.txn_id for row in tx.connection.execute(_OF_EVENTS, values)}


def record_many(tx: WriteTx, done: Sequence[Done]) -> None:
    """Note what was done. Raises `Repeated` if one of the transaction ids was used before."""
    rows = tx.connection.execute(
        _RECORD,
        [
            {
                "user_id": one.user_id,
                "device_id": one.device_id,
                "scope": one.scope,
                "txn_id": one.txn_id,
                "event_id": one.event_id,
                "created_ts": one.created_ts,
            }
            for one in done
        ],
    ).all()
    if len(rows) < len(done):
        raise Repeated("A transaction id was used before.")


def remove_devices(tx: WriteTx, user_id: UserId, device_ids: Sequence[DeviceId]) -> None:
    """Forget what these devices did: whoever logs in under their names begins anew."""
    tx.connection.execute(
        delete(transactions).where(transactions.c.user_id == user_id, transactions.c.device_id.in_(list(device_ids)))
    )


def remove_events(tx: WriteTx, event_ids: Iterable[EventId]) -> None:
    """Forget by which requests these events were made: they are gone."""
    for part in chunks(event_ids):
        tx.connection.execute(_REMOVE_EVENTS, {"event_ids": part})


def delete_older(tx: WriteTx, *, before: int) -> None:
    """Forget what was done before that time."""
    tx.connection.execute(_DELETE_OLDER, {"before": before})
