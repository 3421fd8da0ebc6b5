"""Account data, tags and filters (client-server API, Client Config, Room Tagging, Filtering)."""

from typing import Any

import msgspec

from homeserver.http.bodies import Empty, JsonObject
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.users.account_data import UserData


async def get(user_id: UserId, event_type: str, who: Requester, data: UserData) -> msgspec.Raw:
    return await data.get(who, user_id, event_type)


async def put(user_id: UserId, event_type: str, body: JsonObject, who: Requester, data: UserData) -> Empty:
    await data.put(who, user_id, event_type, body.raw)
    return Empty()


async def get_of_room(user_id: UserId, room_id: RoomId, event_type: str, who: Requester, data: UserData) -> msgspec.Raw:
    return await data.get(who, user_id, event_type, room_id)


async def put_of_room(
    user_id: UserId, room_id: RoomId, event_type: str, body: JsonObject, who: Requester, data: UserData
) -> Empty:
    await data.put(who, user_id, event_type, body.raw, room_id)
    return Empty()


async def tags(user_id: UserId, room_id: RoomId, who: Requester, data: UserData) -> dict[str, Any]:
    return {"tags": await data.tags(who, user_id, room_id)}


async def put_tag(
    user_id: UserId, room_id: RoomId, tag: str, body: JsonObject, who: Requester, data: UserData
) -> Empty:
    await data.put_tag(who, user_id, room_id, tag, body.value)
    return Empty()


async def delete_tag(user_id: UserId, room_id: RoomId, tag: str, who: Requester, data: UserData) -> Empty:
    await data.remove_tag(who, user_id, room_id, tag)
    return Empty()


async def store_filter(user_id: UserId, body: JsonObject, who: Requester, data: UserData) -> dict[str, Any]:
    return {"filter_id": await data.store_filter(who, user_id, body.raw)}


async def get_filter(user_id: UserId, filter_id: str, who: Requester, data: UserData) -> msgspec.Raw:
    return await data.get_filter(who, user_id, filter_id)


_USER = "/user/{user_id}"
_ROOM = "/user/{user_id}/rooms/{room_id}"

ENDPOINTS = [
    Endpoint("GET", _USER + "/account_data/{event_type}", get, auth=USER, limit=None, body=None),
    Endpoint("PUT", _USER + "/account_data/{event_type}", put, auth=USER, limit=None, body=JsonObject),
    Endpoint("GET", _ROOM + "/account_data/{event_type}", get_of_room, auth=USER, limit=None, body=None),
    Endpoint("PUT", _ROOM + "/account_data/{event_type}", put_of_room, auth=USER, limit=None, body=JsonObject),
    Endpoint("GET", _ROOM + "/tags", tags, auth=USER, limit=None, body=None),
    Endpoint("PUT", _ROOM + "/tags/{tag}", put_tag, auth=USER, limit=None, body=JsonObject),
    Endpoint("DELETE", _ROOM + "/tags/{tag}", delete_tag, auth=USER, limit=None, body=None),
    Endpoint("POST", _USER + "/filter", store_filter, auth=USER_OR_GUEST, limit=None, body=JsonObject),
    Endpoint("GET", _USER + "/filter/{filter_id}", get_filter, auth=USER_OR_GUEST, limit=None, body=None),
]
