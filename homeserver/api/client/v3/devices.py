"""Devices (client-server API, Device Management)."""

from typing import Any

from homeserver.http.bodies import Body, Empty
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import DeviceId
from homeserver.services.auth.interactive import AuthData
from homeserver.services.auth.sessions import Requester
from homeserver.services.users.confirmation import Confirmation
from homeserver.services.users.devices import Devices
from homeserver.storage.devices import Device


class Name(Body, frozen=True):
    display_name: str | None = None


class Confirmed(Body, frozen=True):
    auth: AuthData | None = None


class Several(Body, frozen=True):
    devices: list[str]
    auth: AuthData | None = None


async def list_devices(who: Requester, devices: Devices) -> dict[str, Any]:
    return {"devices": [_shown(device) for device in await devices.list(who.user_id)]}


async def get(device_id: DeviceId, who: Requester, devices: Devices) -> dict[str, Any]:
    return _shown(await devices.get(who.user_id, device_id))


async def put(device_id: DeviceId, body: Name, who: Requester, devices: Devices) -> Empty:
    if body.display_name is None:
        await devices.get(who.user_id, device_id)
    else:
        await devices.rename(who.user_id, device_id, body.display_name)
    return Empty()


async def delete(
    device_id: DeviceId, body: Confirmed, who: Requester, devices: Devices, confirmation: Confirmation
) -> Empty:
    session = await confirmation.require(who, f"delete the device {device_id}", body.auth)
    await devices.remove(who, [device_id])
    await confirmation.end(session)
    return Empty()


async def delete_several(body: Several, who: Requester, devices: Devices, confirmation: Confirmation) -> Empty:
    operation = "delete the devices " + " ".join(sorted(body.devices))
    session = await confirmation.require(who, operation, body.auth)
    await devices.remove(who, [DeviceId(device) for device in body.devices])
    await confirmation.end(session)
    return Empty()


def _shown(device: Device) -> dict[str, Any]:
    shown: dict[str, Any] = {"device_id": device.device_id}
    if device.display_name is not None:
        shown["display_name"] = device.display_name
    if device.last_seen_ts is not None:
        shown |= {"last_seen_ts": device.last_seen_ts, "last_seen_ip": device.last_seen_ip}
    return shown


ENDPOINTS = [
    Endpoint("GET", "/devices", list_devices, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/devices/{device_id}", get, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("PUT", "/devices/{device_id}", put, auth=USER_OR_GUEST, limit=None, body=Name),
    Endpoint("DELETE", "/devices/{device_id}", delete, auth=USER, limit=None, body=Confirmed),
    Endpoint("POST", "/delete_devices", delete_several, auth=USER, limit=None, body=Several),
]
