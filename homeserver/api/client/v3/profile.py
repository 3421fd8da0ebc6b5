"""Profiles (client-server API, Profiles)."""

from typing import Any

from homeserver.errors import MissingParam
from homeserver.http.bodies import Empty, JsonObject
from homeserver.http.endpoint import NOBODY, USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.users.profiles import Profiles


async def get(user_id: UserId, profiles: Profiles) -> dict[str, Any]:
    return await profiles.get(user_id)


async def get_field(user_id: UserId, key_name: str, profiles: Profiles) -> dict[str, Any]:
    return {key_name: await profiles.get_field(user_id, key_name)}


async def put_field(user_id: UserId, key_name: str, body: JsonObject, who: Requester, profiles: Profiles) -> Empty:
    if key_name not in body.value:
        raise MissingParam(f"The body has no property {key_name}.")
    await profiles.set_field(who, user_id, key_name, body.value[key_name])
    return Empty()


async def delete_field(user_id: UserId, key_name: str, who: Requester, profiles: Profiles) -> Empty:
    await profiles.remove_field(who, user_id, key_name)
    return Empty()


ENDPOINTS = [
    Endpoint("GET", "/profile/{user_id}", get, auth=NOBODY, limit="lookup", body=None),
    Endpoint("GET", "/profile/{user_id}/{key_name}", get_field, auth=NOBODY, limit="lookup", body=None),
    Endpoint("PUT", "/profile/{user_id}/{key_name}", put_field, auth=USER_OR_GUEST, limit="profile", body=JsonObject),
    Endpoint("DELETE", "/profile/{user_id}/{key_name}", delete_field, auth=USER_OR_GUEST, limit="profile", body=None),
]
