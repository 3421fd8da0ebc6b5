"""Setting state (client-server API, Sending events to a room)."""

from typing import Any

from homeserver.http.bodies import JsonObject
from homeserver.http.endpoint import USER, Endpoint
from homeserver.matrix.identifiers import RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.send import Sender


async def put(
    room_id: RoomId, event_type: str, state_key: str, body: JsonObject, who: Requester, sender: Sender
) -> dict[str, Any]:
    return {"event_id": await sender.set_state(who, room_id, event_type, state_key, body.raw)}


async def put_without_key(
    room_id: RoomId, event_type: str, body: JsonObject, who: Requester, sender: Sender
) -> dict[str, Any]:
    return {"event_id": await sender.set_state(who, room_id, event_type, "", body.raw)}


ENDPOINTS = [
    Endpoint("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}", put, auth=USER, limit="send", body=JsonObject),
    Endpoint("PUT", "/rooms/{room_id}/state/{event_type}", put_without_key, auth=USER, limit="send", body=JsonObject),
]
