"""Leaving through this server (server-server API, Leaving Rooms): the first half."""

from typing import Any

from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import Origin, RoomId, UserId
from homeserver.services.rooms.resident import Resident


async def make_leave(room_id: RoomId, user_id: UserId, origin: Origin, resident: Resident) -> dict[str, Any]:
    template = await resident.make_leave(origin, room_id, user_id)
    return {"room_version": template.version, "event": template.event}


ENDPOINTS = [
    Endpoint("GET", "/make_leave/{room_id}/{user_id}", make_leave, auth=SERVER, limit="ask_to_join", body=None),
]
