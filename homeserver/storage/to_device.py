"""Messages from device to device, kept until they were received."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Table, bindparam, delete, insert, select

from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

to_device = Table(
    "to_device",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("body", Text, nullable=False),  # The event, a JSON object.
    Index("ix_to_device_user_id_device_id_position", "user_id", "device_id", "position"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """An event for one device."""

    position: int
    user_id: UserId
    device_id: DeviceId
    body: str


_INSERT = insert(to_device)
_OF_DEVICE = (to_device.c.user_id == bindparam("user")) & (to_device.c.device_id == bindparam("device"))
_LIST = (
    select(to_device)
    .where(_OF_DEVICE, to_device.c.position > bindparam("after"), to_device.c.position <= bindparam("upto"))
    .order_by(to_device.c.position)
    .limit(bindparam("limit"))
)
_DELETE = delete(to_device).where(_OF_DEVICE, to_device.c.position <= bindparam("upto"))


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
            }
            for message in messages
        ],
    )


def list_since(tx: ReadTx, user_id: UserId, device_id: DeviceId, *, after: int, upto: int, limit: int) -> list[Message]:
    """The device's messages in (after, upto], the oldest first."""
    values = {"user": user_id, "device": device_id, "after": after, "upto": upto, "limit": limit}
    return [Message(*row) for row in tx.connection.execute(_LIST, values)]


def delete_upto(tx: WriteTx, user_id: UserId, device_id: DeviceId, upto: int) -> None:
    """The device has these messages."""
    tx.connection.execute(_DELETE, {"user": user_id, "device": device_id, "upto": upto})


def remove_devices(tx: WriteTx, user_id: UserId, device_ids: Sequence[DeviceId]) -> None:
    """Nobody will receive what waits for these devices."""
    tx.connection.execute(
        delete(to_device).where(to_device.c.user_id == user_id, to_device.c.device_id.in_(list(device_ids)))
    )
