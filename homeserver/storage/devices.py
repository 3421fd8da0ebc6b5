"""Devices of local users."""

from sqlalchemy import BigInteger, Column, ForeignKey, Table, bindparam, delete, insert, select

from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.storage.engine import WriteTx
from homeserver.storage.tables import Text, metadata

devices = Table(
    "devices",
    metadata,
    Column("user_id", Text, ForeignKey("users.user_id"), primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("display_name", Text),
    Column("created_ts", BigInteger, nullable=False),
)

_FIND = select(devices.c.device_id).where(
    devices.c.user_id == bindparam("user_id"), devices.c.device_id == bindparam("device_id")
)
_INSERT = insert(devices)


def ensure(tx: WriteTx, user_id: UserId, device_id: DeviceId, *, display_name: str | None, now: int) -> None:
    """Make the device if it is new; the name of a known one stays as it is."""
    if tx.connection.execute(_FIND, {"user_id": user_id, "device_id": device_id}).one_or_none() is None:
        values = {"user_id": user_id, "device_id": device_id, "display_name": display_name, "created_ts": now}
        tx.connection.execute(_INSERT, values)


def remove(tx: WriteTx, user_id: UserId, *, device_id: DeviceId | None) -> None:
    """Remove the device, or all of the user's."""
    statement = delete(devices).where(devices.c.user_id == user_id)
    if device_id is not None:
        statement = statement.where(devices.c.device_id == device_id)
    tx.connection.execute(statement)
