"""Aliases and the published directory (client-server API, Room aliases, Published room directory)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from homeserver.errors import InvalidParam
from homeserver.http.bodies import Body, Empty, Query, identifier
from homeserver.http.endpoint import ANYBODY, NOBODY, USER, USER_OR_GUEST, Endpoint
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import RoomAlias, RoomId, ServerName
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.directory import Directory, DirectoryPage
from homeserver.services.rooms.glance import Glances


class Target(Body, frozen=True):
    room_id: str


class Visibility(Body, frozen=True):
    visibility: Literal["public", "private"] = "public"


class ServerQuery(Query, frozen=True):
    server: str | None = None


class ViaQuery(Query, frozen=True):
    via: list[str] = msgspec.field(default_factory=list)


class ListQuery(Query, frozen=True):
    limit: Annotated[int, Meta(ge=0)] | None = None
    since: str | None = None
    server: str | None = None


class Wanted(msgspec.Struct, frozen=True):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class Search(Body, frozen=True):
    limit: Annotated[int, Meta(ge=0)] | None = None
    since: str | None = None
    filter: Wanted | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


async def resolve(room_alias: RoomAlias, directory: Directory) -> dict[str, Any]:
    room_id, servers = await directory.resolve(room_alias)
    return {"room_id": room_id, "servers": servers}


async def put(room_alias: RoomAlias, body: Target, who: Requester, directory: Directory) -> Empty:
    await directory.add(who, room_alias, identifier(identifiers.room_id, body.room_id))
    return Empty()


async def delete(room_alias: RoomAlias, who: Requester, directory: Directory) -> Empty:
    await directory.remove(who, room_alias)
    return Empty()


async def aliases(room_id: RoomId, who: Requester, directory: Directory) -> dict[str, Any]:
    return {"aliases": await directory.list_of_room(who, room_id)}


async def visibility(room_id: RoomId, directory: Directory) -> dict[str, Any]:
    return {"visibility": "public" if await directory.is_listed(room_id) else "private"}


async def set_visibility(room_id: RoomId, body: Visibility, who: Requester, directory: Directory) -> Empty:
    await directory.set_listed(who, room_id, is_public=body.visibility == "public")
    return Empty()


async def list_rooms(query: ListQuery, directory: Directory) -> dict[str, Any]:
    return await directory.list_public(DirectoryPage(query.limit, query.since), _server(query.server))


async def search(body: Search, query: ServerQuery, directory: Directory) -> dict[str, Any]:
    return await found(body, directory, _server(query.server))


async def found(body: Search, directory: Directory, server: ServerName | None = None) -> dict[str, Any]:
    """What is in the directory of this server, or of another one, that is searched for."""
    if body.include_all_networks and body.third_party_instance_id is not None:
        raise InvalidParam("Ask for all networks, or for one of them.")
    wanted = body.filter or Wanted()
    page = DirectoryPage(
        body.limit,
        body.since,
        wanted.generic_search_term,
        wanted.room_types,
        network=body.third_party_instance_id,
        all_networks=body.include_all_networks,
    )
    return await directory.list_public(page, server)


async def summary(
    room_id_or_alias: str, query: ViaQuery, who: Requester | None, directory: Directory, glances: Glances
) -> dict[str, Any]:
    room_id, servers = await directory.locate(room_id_or_alias)
    return await glances.find(who, room_id, [*query.via, *servers])


def _server(name: str | None) -> ServerName | None:
    return identifier(identifiers.server_name, name) if name is not None else None


ENDPOINTS = [
    Endpoint("GET", "/directory/room/{room_alias}", resolve, auth=NOBODY, limit="lookup", body=None),
    Endpoint("PUT", "/directory/room/{room_alias}", put, auth=USER, limit=None, body=Target),
    Endpoint("DELETE", "/directory/room/{room_alias}", delete, auth=USER, limit=None, body=None),
    Endpoint("GET", "/rooms/{room_id}/aliases", aliases, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/directory/list/room/{room_id}", visibility, auth=NOBODY, limit=None, body=None),
    Endpoint("PUT", "/directory/list/room/{room_id}", set_visibility, auth=USER, limit=None, body=Visibility),
    Endpoint("GET", "/publicRooms", list_rooms, auth=NOBODY, limit="lookup", body=None),
    Endpoint("POST", "/publicRooms", search, auth=USER_OR_GUEST, limit="lookup", body=Search),
]

ENDPOINTS_V1 = [
    Endpoint("GET", "/room_summary/{room_id_or_alias}", summary, auth=ANYBODY, limit="lookup", body=None),
]
