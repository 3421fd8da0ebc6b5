"""Reading a room's history (client-server API, Getting events for a room)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from homeserver.http.bodies import Query
from homeserver.http.endpoint import USER_OR_GUEST, Endpoint
from homeserver.matrix.filters import RoomEventFilter, parse_room_event_filter
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.nearest import NearestEvents
from homeserver.services.rooms.read import RoomReader, Window
from homeserver.streams.positions import RoomToken

_MOST_CONTEXT = 100


class MessagesQuery(Query, frozen=True):
    dir: Literal["f", "b"]
    start: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    limit: Annotated[int, Meta(ge=0)] | None = None
    filter: str | None = None


class ContextQuery(Query, frozen=True):
    limit: Annotated[int, Meta(ge=0)] = 10
    filter: str | None = None


class TimeQuery(Query, frozen=True):
    ts: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    dir: Literal["f", "b"]


async def messages(room_id: RoomId, query: MessagesQuery, who: Requester, reader: RoomReader) -> dict[str, Any]:
    wanted = _filter(query.filter)
    if query.limit:
        wanted = msgspec.structs.replace(wanted, limit=query.limit)
    window = Window(query.dir == "f", _token(query.start), query.start, _token(query.to), wanted)
    return await reader.messages(who, room_id, window)


async def context(
    room_id: RoomId, event_id: EventId, query: ContextQuery, who: Requester, reader: RoomReader
) -> dict[str, Any]:
    limit = min(query.limit, _MOST_CONTEXT)
    return await reader.context(who, room_id, event_id, limit, _filter(query.filter))


async def event(room_id: RoomId, event_id: EventId, who: Requester, reader: RoomReader) -> msgspec.Raw:
    return await reader.event(who, room_id, event_id)


async def at_time(room_id: RoomId, query: TimeQuery, who: Requester, nearest: NearestEvents) -> dict[str, Any]:
    found = await nearest.find(who, room_id, query.ts, forwards=query.dir == "f")
    return {"event_id": found.event_id, "origin_server_ts": found.origin_server_ts}


def _filter(text: str | None) -> RoomEventFilter:
    return parse_room_event_filter(text) if text else RoomEventFilter()


def _token(text: str | None) -> RoomToken | None:
    return RoomToken.parse(text) if text else None


ENDPOINTS = [
    Endpoint("GET", "/rooms/{room_id}/messages", messages, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/rooms/{room_id}/context/{event_id}", context, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/rooms/{room_id}/event/{event_id}", event, auth=USER_OR_GUEST, limit=None, body=None),
]

ENDPOINTS_V1 = [
    Endpoint("GET", "/rooms/{room_id}/timestamp_to_event", at_time, auth=USER_OR_GUEST, limit=None, body=None),
]
