"""What came before events (server-server API, Backfilling and retrieving missing events)."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from homeserver.config.model import Config
from homeserver.http.bodies import Body, Query
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.federation.history import History

Count = Annotated[int, Meta(ge=0)]


class BackfillQuery(Query, frozen=True):
    v: list[EventId]
    limit: Count


class Gap(Body, frozen=True):
    earliest_events: list[EventId]
    latest_events: list[EventId]
    limit: Count = 10
    min_depth: int = 0


async def backfill(
    room_id: RoomId, query: BackfillQuery, origin: Origin, history: History, clock: Clock, config: Config
) -> dict[str, Any]:
    pdus = await history.backfill(origin, room_id, query.v, limit=query.limit)
    return {
        "origin": config.server_name,
        "origin_server_ts": clock.now(),
        "pdus": [msgspec.Raw(pdu) for pdu in pdus],
    }


async def get_missing_events(room_id: RoomId, body: Gap, origin: Origin, history: History) -> dict[str, Any]:
    pdus = await history.missing(
        origin,
        room_id,
        earliest=body.earliest_events,
        latest=body.latest_events,
        limit=body.limit,
        min_depth=body.min_depth,
    )
    return {"events": [msgspec.Raw(pdu) for pdu in pdus]}


ENDPOINTS = [
    Endpoint("GET", "/backfill/{room_id}", backfill, auth=SERVER, limit="read", body=None),
    Endpoint("POST", "/get_missing_events/{room_id}", get_missing_events, auth=SERVER, limit="read", body=Gap),
]
