"""Joining through this server (server-server API, Joining Rooms): the second half."""

from starlette.responses import StreamingResponse

from homeserver.http.bodies import JsonObject, Query
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.rooms.resident import Resident


class Omit(Query, frozen=True):
    omit_members: bool = False


async def send_join(
    room_id: RoomId, event_id: EventId, query: Omit, body: JsonObject, origin: Origin, resident: Resident
) -> StreamingResponse:
    welcome = await resident.send_join(origin, room_id, event_id, body.raw, omit_members=query.omit_members)
    return StreamingResponse(resident.tell(welcome), media_type="application/json")


ENDPOINTS = [
    Endpoint("PUT", "/send_join/{room_id}/{event_id}", send_join, auth=SERVER, limit="join_by_server", body=JsonObject),
]
