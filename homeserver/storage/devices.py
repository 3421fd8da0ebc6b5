"""Devices of local users."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, ForeignKey, Table, bindparam, delete, insert, select, update

from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

devices = Table(
    "devices",
    metadata,
    Column("user_id", Text, ForeignKey("users.user_id"), primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("display_name", Text),
    Column("created_ts", BigInteger, nullable=False),
    Column("last_seen_ts", BigInteger),
    Column("last_seen_ip", Text),
)

_FIND = select(devices.c.device_id).where(
    devices.c.user_id == bindparam("user_id"), devices.c.device_id == bindparam("device_id")
)
_INSERT = insert(devices)
_OF_USERS = (
    select(devices)
    .where(devices.c.user_id.in_(bindparam("user_ids", expanding=True)))
    .order_by(devices.c.created_ts, devices.c.device_id)
)
_RENAME = (
    update(devices)
    .where(devices.c.user_id == bindparam("user"), devices.c.device_id == bindparam("device"))
    .values(display_name=bindparam("name"))
)
_SEEN = (
    update(devices)
    .where(devices.c.user_id == bindparam("user"), devices.c.device_id == bindparam("device"))
    .values(last_seen_ts=bindparam("ts"), last_seen_ip=bindparam("ip"))
)
_REMOVE = delete(devices).where(
    devices.c.user_id == bindparam("user"), devices.c.device_id.in_(bindparam("gone", expanding=True))
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a local user."""

    user_id: UserId
    device_id: DeviceId
    display_name: str | None
    created_ts: int
    last_seen_ts: int | None
    last_seen_ip: str | None


def ensure(tx: WriteTx, user_id: UserId, device_id: DeviceId, *, display_name: str | None, now: int) -> bool:
    """Make the device if it is new; the name of a known one stays as it is. Whether it is new."""
    if exists(tx, user_id, device_id):
        return False
    values = {"user_id": user_id, "device_id": device_id, "display_name": display_name, "created_ts": now}
    tx.connection.execute(_INSERT, values)
    return True


def exists(tx: ReadTx, user_id: UserId, device_id: DeviceId) -> bool:
    """Whether the user has this device."""
    return tx.connection.execute(_FIND, {"user_id": user_id, "device_id": device_id}).one_or_none() is not None


def list_of_users(tx: ReadTx, user_ids: Iterable[UserId]) -> list[Device]:
    """All devices of these users."""
    found: list[Device] = []
    for part in chunks(user_ids):
        found.extend(Device(*row) for row in tx.connection.execute(_OF_USERS, {"user_ids": part}))
    return found


def note_seen(tx: WriteTx, seen: Mapping[tuple[UserId, DeviceId], tuple[int, str]]) -> None:
    """Note when and from where devices were seen last."""
    tx.connection.execute(
        _SEEN,
        [
            {"user": user_id, "device": device_id, "ts": ts, "ip": ip}
            for (user_id, device_id), (ts, ip) in sorted(seen.items())
        ],
    )


def rename(tx: WriteTx, user_id: UserId, device_id: DeviceId, name: str) -> None:
    """Give the device a name."""
    tx.connection.execute(_RENAME, {"user": user_id, "device": device_id, "name": name})


def remove_many(tx: WriteTx, user_id: UserId, device_ids: Sequence[DeviceId]) -> None:
    """Remove devices."""
    tx.connection.execute(_REMOVE, {"user": user_id, "gone": list(device_ids)})
