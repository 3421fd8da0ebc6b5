"""Joining through this server (server-server API, Joining Rooms): the first half."""

from typing import Any

from msgspec import field

from homeserver.http.bodies import Query
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import Origin, RoomId, UserId
from homeserver.services.rooms.resident import Resident


class Versions(Query, frozen=True):
    ver: list[str] = field(default_factory=lambda: ["1"])


async def make_join(
    room_id: RoomId, user_id: UserId, query: Versions, origin: Origin, resident: Resident
) -> dict[str, Any]:
    template = await resident.make_join(origin, room_id, user_id, query.ver)
    return {"room_version": template.version, "event": template.event}


ENDPOINTS = [
    Endpoint("GET", "/make_join/{room_id}/{user_id}", make_join, auth=SERVER, limit="ask_to_join", body=None),
]
