"""Messages from device to device, kept until they were received, and which messages of other servers have come."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    LargeBinary,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert as insert_once

from homeserver.matrix.identifiers import DeviceId, ServerName, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

to_device = Table(
    "to_device",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("body", Text, nullable=False),  # The event, a JSON object.
    Column("server_name", Text),  # Whence it came. None: it is older than this column.
    Index("ix_to_device_user_id_device_id_position", "user_id", "device_id", "position"),
)

received_messages = Table(
    "received_messages",
    metadata,
    Column("name", LargeBinary, primary_key=True),  # 128 bits of a hash of the server and the id it gave.
    Column("received_ts", BigInteger, nullable=False),
    Index("ix_received_messages_received_ts", "received_ts"),
)

_PAIRS = 5_000

Device = tuple[UserId, DeviceId]


@dataclass(frozen=True, slots=True)
class Message:
    """An event for one device."""

    position: int
    user_id: UserId
    device_id: DeviceId
    body: str
    server_name: ServerName | None


_INSERT = insert(to_device)
_OF_DEVICE = (to_device.c.user_id == bindparam("user")) & (to_device.c.device_id == bindparam("device"))
_AMONG = tuple_(to_device.c.user_id, to_device.c.device_id).in_(bindparam("devices", expanding=True))
_LIST = (
    select(to_device)
    .where(_OF_DEVICE, to_device.c.position > bindparam("after"), to_device.c.position <= bindparam("upto"))
    .order_by(to_device.c.position)
    .limit(bindparam("limit"))
)
_COUNTS = (
    select(
        to_device.c.user_id,
        to_device.c.device_id,
        to_device.c.server_name,
        func.count(),
        func.sum(func.length(to_device.c.body)),
    )
    .where(_AMONG)
    .group_by(to_device.c.user_id, to_device.c.device_id, to_device.c.server_name)
)
_DELETE = delete(to_device).where(_OF_DEVICE, to_device.c.position <= bindparam("upto"))
_DELETE_OLDEST = delete(to_device).where(
    to_device.c.position.in_(
        select(to_device.c.position)
        .where(_OF_DEVICE, func.coalesce(to_device.c.server_name, "") == bindparam("server"))
        .order_by(to_device.c.position)
        .limit(bindparam("count"))
    )
)
_RECEIVE = (
    insert_once(received_messages)
    .on_conflict_do_nothing(index_elements=["name"])
    .returning(received_messages.c.received_ts)
)
_FORGET = delete(received_messages).where(received_messages.c.name == bindparam("name"))
_FORGET_RECEIVED = delete(received_messages).where(received_messages.c.received_ts < bindparam("before"))


def add_many(tx: WriteTx, messages: Sequence[Message]) -> None:
    """Add messages."""
    tx.connection.execute(
        _INSERT,
        [
            {
                "position": message.position,
                "user_id": message.user_id,
                "device_id": message.device_id,
                "body": message.body,
                "server_name": message.server_name,
            }
            for message in messages
        ],
    )


def list_since(tx: ReadTx, user_id: UserId, device_id: DeviceId, *, after: int, upto: int, limit: int) -> list[Message]:
    """The device's messages in (after, upto], the oldest first."""
    values = {"user": user_id, "device": device_id, "after": after, "upto": upto, "limit": limit}
    return [Message(*row) for row in tx.connection.execute(_LIST, values)]


def count_waiting(tx: ReadTx, devices: Collection[Device]) -> dict[Device, dict[ServerName | None, tuple[int, int]]]:
    """How many messages wait for each of the devices, and how long they are, by the server they came from."""
    found: dict[Device, dict[ServerName | None, tuple[int, int]]] = {}
    for part in chunks(devices, _PAIRS):
        for user_id, device_id, server_name, count, size in tx.connection.execute(_COUNTS, {"devices": part}):
            found.setdefault((user_id, device_id), {})[server_name] = (count, size)
    return found


def delete_upto(tx: WriteTx, user_id: UserId, device_id: DeviceId, upto: int) -> None:
    """The device has these messages."""
    tx.connection.execute(_DELETE, {"user": user_id, "device": device_id, "upto": upto})


def delete_oldest(tx: WriteTx, counts: Mapping[Device, Mapping[ServerName | None, int]]) -> None:
    """Forget so many messages for each device of each of these servers, the oldest."""
    rows = [
        {"user": user_id, "device": device_id, "server": server or "", "count": count}
        for (user_id, device_id), of_device in counts.items()
        for server, count in of_device.items()
    ]
    tx.connection.execute(_DELETE_OLDEST, rows)


def remove_devices(tx: WriteTx, user_id: UserId, device_ids: Sequence[DeviceId]) -> None:
    """Nobody will receive what waits for these devices."""
    tx.connection.execute(
        delete(to_device).where(to_device.c.user_id == user_id, to_device.c.device_id.in_(list(device_ids)))
    )


def receive(tx: WriteTx, server_name: ServerName, message_id: str, *, now: int) -> bool:
    """Note that a message of another server has come; False if it had come before."""
    return (
        tx.connection.execute(_RECEIVE, {"name": _name(server_name, message_id), "received_ts": now}).first()
        is not None
    )


def forget(tx: WriteTx, server_name: ServerName, message_id: str) -> None:
    """Have it that a message has not come."""
    tx.connection.execute(_FORGET, {"name": _name(server_name, message_id)})


def forget_received(tx: WriteTx, *, before: int) -> None:
    """Forget which messages came before that time: no server repeats them any more."""
    tx.connection.execute(_FORGET_RECEIVED, {"before": before})


def _name(server_name: ServerName, message_id: str) -> bytes:
    return hashlib.sha256(f"{server_name}\0{message_id}".encode("utf-8", "surrogatepass")).digest()[:16]
