"""Reading and setting state (client-server API, Getting events for a room, Sending events to a room)."""

from typing import Any, Literal

import msgspec

from homeserver.http.bodies import JsonObject, Query
from homeserver.http.endpoint import USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import RoomId
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.state_events import StateEvents


class StateQuery(Query, frozen=True):
    format: Literal["content", "event"] = "content"


async def get(
    room_id: RoomId, event_type: str, state_key: str, query: StateQuery, who: Requester, reader: RoomReader
) -> msgspec.Raw:
    return await reader.state_event(who, room_id, event_type, state_key, whole=query.format == "event")


async def get_without_key(
    room_id: RoomId, event_type: str, query: StateQuery, who: Requester, reader: RoomReader
) -> msgspec.Raw:
    return await get(room_id, event_type, "", query, who, reader)


async def get_all(room_id: RoomId, who: Requester, reader: RoomReader) -> list[msgspec.Raw]:
    return await reader.state(who, room_id)


async def put(
    room_id: RoomId,
    event_type: str,
    state_key: str,
    body: JsonObject,
    who: Requester,
    states: StateEvents,
    limits: Limits,
) -> dict[str, Any]:
    if event_type == "m.room.member" and (
        name := _limit_of(body.value.get("membership"), of_self=state_key == who.user_id)
    ):
        limits.take(name, who.user_id)
    return {"event_id": await states.put(who, room_id, event_type, state_key, body.raw, body.value)}


async def put_without_key(
    room_id: RoomId, event_type: str, body: JsonObject, who: Requester, states: StateEvents, limits: Limits
) -> dict[str, Any]:
    return await put(room_id, event_type, "", body, who, states, limits)


def _limit_of(membership: object, *, of_self: bool) -> str | None:
    """The limit of what a membership does, which has endpoints of its own besides."""
    match membership:
        case "invite":
            return "invite"
        case "join" | "knock":
            return "join"
        case "leave" | "ban" if not of_self:
            return "moderate"
    return None


_PATH = "/rooms/{room_id}/state/{event_type}"

# For an empty state key the slash behind the type may be left out.
ENDPOINTS = [
    Endpoint("GET", "/rooms/{room_id}/state", get_all, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", _PATH + "/{state_key}", get, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", _PATH + "/", get_without_key, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", _PATH, get_without_key, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("PUT", _PATH + "/{state_key}", put, auth=USER_OR_GUEST, limit="send", body=JsonObject),
    Endpoint("PUT", _PATH + "/", put_without_key, auth=USER_OR_GUEST, limit="send", body=JsonObject),
    Endpoint("PUT", _PATH, put_without_key, auth=USER_OR_GUEST, limit="send", body=JsonObject),
]
