"""Devices and keys of this server's users, for other servers (server-server API, Device Management, End-to-End
Encryption)."""

from typing import Any

from homeserver.http.bodies import Body
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import DeviceId, Origin, UserId
from homeserver.services.auth.limits import Limits, host_of
from homeserver.services.users.e2e_keys import E2eKeys, count_claims

Json = dict[str, Any]

_USERS = 50
"""To ask for the keys of so many users counts as another request."""


class KeyQuery(Body, frozen=True):
    device_keys: dict[str, list[str]]


class Claim(Body, frozen=True):
    one_time_keys: dict[str, dict[str, str]]


async def devices(user_id: UserId, origin: Origin, keys: E2eKeys) -> Json:
    return await keys.list_for_server(user_id)


async def query(body: KeyQuery, origin: Origin, keys: E2eKeys, limits: Limits) -> Json:
    limits.take("keys_by_server", host_of(origin), len(body.device_keys) // _USERS)
    wanted = {UserId(user): list(map(DeviceId, ids)) for user, ids in body.device_keys.items()}
    return await keys.query_for_server(wanted)


async def claim(body: Claim, origin: Origin, keys: E2eKeys, limits: Limits) -> Json:
    limits.take("claim_by_server", host_of(origin), count_claims(body.one_time_keys))
    wanted = {
        UserId(user): {DeviceId(device): algorithm for device, algorithm in of_user.items()}
        for user, of_user in body.one_time_keys.items()
    }
    return {"one_time_keys": await keys.claim(wanted)}


ENDPOINTS = [
    Endpoint("GET", "/user/devices/{user_id}", devices, auth=SERVER, limit="keys_by_server", body=None),
    Endpoint("POST", "/user/keys/query", query, auth=SERVER, limit="keys_by_server", body=KeyQuery),
    Endpoint("POST", "/user/keys/claim", claim, auth=SERVER, limit="keys_by_server", body=Claim),
]
