"""Leaving through this server (server-server API, Leaving Rooms): the second half."""

from homeserver.http.bodies import Empty, JsonObject
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.rooms.resident import Resident


async def send_leave(room_id: RoomId, event_id: EventId, body: JsonObject, origin: Origin, resident: Resident) -> Empty:
    await resident.send_leave(origin, room_id, event_id, body.raw)
    return Empty()


ENDPOINTS = [
    Endpoint(
        "PUT", "/send_leave/{room_id}/{event_id}", send_leave, auth=SERVER, limit="join_by_server", body=JsonObject
    ),
]
