"""Knocking through this server (server-server API, Knocking upon a room)."""

from typing import Any

from msgspec import Raw

from homeserver.api.federation.v1.join import Versions
from homeserver.http.bodies import JsonObject
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import EventId, Origin, RoomId, UserId
from homeserver.services.rooms.resident import Resident


async def make_knock(
    room_id: RoomId, user_id: UserId, query: Versions, origin: Origin, resident: Resident
) -> dict[str, Any]:
    template = await resident.make_knock(origin, room_id, user_id, query.ver)
    return {"room_version": template.version, "event": template.event}


async def send_knock(
    room_id: RoomId, event_id: EventId, body: JsonObject, origin: Origin, resident: Resident
) -> dict[str, Any]:
    state = await resident.send_knock(origin, room_id, event_id, body.raw)
    return {"knock_room_state": [Raw(event) for event in state]}


ENDPOINTS = [
    Endpoint("GET", "/make_knock/{room_id}/{user_id}", make_knock, auth=SERVER, limit="ask_to_join", body=None),
    Endpoint(
        "PUT", "/send_knock/{room_id}/{event_id}", send_knock, auth=SERVER, limit="join_by_server", body=JsonObject
    ),
]
