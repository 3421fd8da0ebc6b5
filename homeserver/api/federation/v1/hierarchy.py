"""A space and the rooms in it, for other servers (server-server API, Spaces)."""

from typing import Any

from homeserver.http.bodies import Query
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import Origin, RoomId
from homeserver.services.rooms.hierarchy import Hierarchy


class HierarchyQuery(Query, frozen=True):
    suggested_only: bool = False


async def hierarchy(room_id: RoomId, query: HierarchyQuery, origin: Origin, spaces: Hierarchy) -> dict[str, Any]:
    return await spaces.for_server(origin, room_id, suggested_only=query.suggested_only)


ENDPOINTS = [Endpoint("GET", "/hierarchy/{room_id}", hierarchy, auth=SERVER, limit="state", body=None)]
