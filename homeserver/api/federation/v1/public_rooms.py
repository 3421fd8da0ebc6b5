"""The published rooms of this server (server-server API, Published Room Directory)."""

from typing import Annotated, Any

from msgspec import Meta

from homeserver.api.client.v3.directory import Search, found
from homeserver.http.bodies import Query
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import Origin
from homeserver.services.rooms.directory import Directory


class ListQuery(Query, frozen=True):
    limit: Annotated[int, Meta(ge=0)] | None = None
    since: str | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


async def list_rooms(query: ListQuery, origin: Origin, directory: Directory) -> dict[str, Any]:
    wanted = Search(
        limit=query.limit,
        since=query.since,
        include_all_networks=query.include_all_networks,
        third_party_instance_id=query.third_party_instance_id,
    )
    return await found(wanted, directory)


async def search(body: Search, origin: Origin, directory: Directory) -> dict[str, Any]:
    return await found(body, directory)


ENDPOINTS = [
    Endpoint("GET", "/publicRooms", list_rooms, auth=SERVER, limit="read", body=None),
    Endpoint("POST", "/publicRooms", search, auth=SERVER, limit="read", body=Search),
]
