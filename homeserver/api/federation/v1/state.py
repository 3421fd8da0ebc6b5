"""The state of a room at an event (server-server API, Retrieving events)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response, StreamingResponse

from homeserver.http.bodies import Query, identifier
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import Origin, RoomId
from homeserver.services.federation.room_reads import RoomReads


class StateQuery(Query, frozen=True):
    event_id: str


async def state(room_id: RoomId, query: StateQuery, origin: Origin, reads: RoomReads) -> Response:
    found = await reads.state_before(origin, room_id, identifier(identifiers.event_id, query.event_id))
    return lists_of_events(reads, {"auth_chain": found.auth_chain, "pdus": found.state})


async def state_ids(room_id: RoomId, query: StateQuery, origin: Origin, reads: RoomReads) -> dict[str, Any]:
    found = await reads.state_before(origin, room_id, identifier(identifiers.event_id, query.event_id))
    return {"auth_chain_ids": await reads.ids(found.auth_chain), "pdu_ids": await reads.ids(found.state)}


def lists_of_events(reads: RoomReads, lists: Mapping[str, Sequence[int]]) -> Response:
    """An object of lists of events. These may be many: their bytes are passed on as they come from the database."""

    async def parts() -> AsyncIterator[bytes]:
        before = b"{"
        for name, positions in lists.items():
            yield before + b'"%s":[' % name.encode()
            between = b""
            async for batch in reads.pdus(positions):
                if batch:
                    yield between + b",".join(batch)
                    between = b","
            before = b"],"
        yield b"]}"

    return StreamingResponse(parts(), media_type="application/json")


ENDPOINTS = [
    Endpoint("GET", "/state/{room_id}", state, auth=SERVER, limit="state", body=None),
    Endpoint("GET", "/state_ids/{room_id}", state_ids, auth=SERVER, limit="state", body=None),
]
