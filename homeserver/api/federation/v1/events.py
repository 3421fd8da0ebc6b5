"""Single events, and what they rest on (server-server API, Retrieving events, Retrieving event authorization)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from homeserver.api.federation.v1.state import lists_of_events
from homeserver.config.model import Config
from homeserver.http.bodies import Query
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.federation.room_reads import RoomReads


class TimeQuery(Query, frozen=True):
    ts: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    dir: Literal["f", "b"]


async def event(event_id: EventId, origin: Origin, reads: RoomReads, clock: Clock, config: Config) -> dict[str, Any]:
    pdu = await reads.event(origin, event_id)
    return {"origin": config.server_name, "origin_server_ts": clock.now(), "pdus": [msgspec.Raw(pdu)]}


async def event_auth(room_id: RoomId, event_id: EventId, origin: Origin, reads: RoomReads) -> Response:
    return lists_of_events(reads, {"auth_chain": await reads.auth_chain(origin, room_id, event_id)})


async def at_time(room_id: RoomId, query: TimeQuery, origin: Origin, reads: RoomReads) -> dict[str, Any]:
    event_id, ts = await reads.at_time(origin, room_id, query.ts, forwards=query.dir == "f")
    return {"event_id": event_id, "origin_server_ts": ts}


ENDPOINTS = [
    Endpoint("GET", "/event/{event_id}", event, auth=SERVER, limit="read", body=None),
    Endpoint("GET", "/event_auth/{room_id}/{event_id}", event_auth, auth=SERVER, limit="state", body=None),
    Endpoint("GET", "/timestamp_to_event/{room_id}", at_time, auth=SERVER, limit="read", body=None),
]
