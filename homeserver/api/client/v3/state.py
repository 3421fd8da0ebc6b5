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


def _endpoints(method: str, with_key: Any, without_key: Any, body: Any) -> list[Endpoint]:
    """For an empty state key the slash behind the type may be left out."""
    path = "/rooms/{room_id}/state/{event_type}"
    limit = None if method == "GET" else "send"
    return [
        Endpoint(method, f"{path}/{{state_key}}", with_key, auth=USER, limit=limit, body=body),
        Endpoint(method, f"{path}/", without_key, auth=USER, limit=limit, body=body),
        Endpoint(method, path, without_key, auth=USER, limit=limit, body=body),
    ]


ENDPOINTS = [
    *_endpoints("PUT", put, put_without_key, JsonObject),
]
