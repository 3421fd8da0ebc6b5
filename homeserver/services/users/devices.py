"""Devices of users (client-server API, Device Management)."""

import builtins
from collections.abc import Sequence
from typing import Any

from homeserver.errors import InvalidParam, NotFound
from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.services.auth.sessions import Requester, Sessions
from homeserver.services.users import device_lists
from homeserver.storage import devices, e2e_keys, to_device, transactions, users
from homeserver.storage.devices import Device
from homeserver.storage.engine import Database, WriteTx

_LONGEST_NAME = 100

Json = dict[str, Any]


class Devices:
    """The devices of this server's users, and what goes with them."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions

    async def list(self, user_id: UserId) -> list[Device]:
        """All devices of a user."""
        found = await self._database.read(devices.list_of_users, [user_id])
        return [self._sessions.with_last_seen(device) for device in found]

    async def get(self, user_id: UserId, device_id: DeviceId) -> Device:
        """One device. Raises `NotFound`."""
        for device in await self.list(user_id):
            if device.device_id == device_id:
                return device
        raise NotFound("You have no such device.")

    async def rename(self, user_id: UserId, device_id: DeviceId, name: str) -> None:
        """Give a device a name, which others see. Raises `NotFound`."""
        check_name(name)
        await self.get(user_id, device_id)
        await self._database.write(_rename, user_id, device_id, name)

    async def remove(self, who: Requester, device_ids: Sequence[DeviceId]) -> None:
        """Remove devices with all that is theirs; those that are gone already count as removed."""
        known = {device.device_id for device in await self.list(who.user_id)}
        there = sorted(known.intersection(device_ids))
        if there:
            self._sessions.forget(await self._database.write(self.end, who.user_id, there))

    def end(self, tx: WriteTx, user_id: UserId, device_ids: Sequence[DeviceId]) -> builtins.list[bytes]:
        """End these devices in a transaction; give the result to `Sessions.forget` after its commit."""
        users.lock(tx, user_id)
        ended: builtins.list[bytes] = []
        for device_id in device_ids:
            ended += self._sessions.end(tx, user_id, device_id=device_id)
        e2e_keys.remove_devices(tx, user_id, device_ids)
        to_device.remove_devices(tx, user_id, device_ids)
        transactions.remove_devices(tx, user_id, device_ids)
        devices.remove_many(tx, user_id, device_ids)
        device_lists.note_devices(tx, user_id, device_ids)
        return ended


def check_name(name: str | None) -> None:
    """Raise `InvalidParam` for what no device may be called: other servers are told each name."""
    if name is not None and len(name) > _LONGEST_NAME:
        raise InvalidParam(f"The name of a device has at most {_LONGEST_NAME} characters.")


def _rename(tx: WriteTx, user_id: UserId, device_id: DeviceId, name: str) -> None:
    users.lock(tx, user_id)
    devices.rename(tx, user_id, device_id, name)
    device_lists.note_devices(tx, user_id, [device_id])
