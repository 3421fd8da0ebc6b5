"""Queries (server-server API, Querying for information)."""

from typing import Any

from homeserver.errors import NotFound
from homeserver.http.bodies import Query, identifier
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import Origin
from homeserver.services.rooms.directory import Directory
from homeserver.services.users.profiles import Profiles


class AliasQuery(Query, frozen=True):
    room_alias: str


class ProfileQuery(Query, frozen=True):
    user_id: str
    field: str | None = None


async def directory(query: AliasQuery, origin: Origin, directory: Directory) -> dict[str, Any]:
    room_id, servers = await directory.resolve_own(identifier(identifiers.room_alias, query.room_alias))
    return {"room_id": room_id, "servers": servers}


async def profile(query: ProfileQuery, origin: Origin, profiles: Profiles) -> dict[str, Any]:
    user_id = identifier(identifiers.user_id, query.user_id)
    if query.field is None:
        return await profiles.get_own(user_id)
    return {query.field: await profiles.get_own_field(user_id, query.field)}


async def other(query_type: str, origin: Origin) -> None:
    raise NotFound("There is no query of this kind.")


ENDPOINTS = [
    Endpoint("GET", "/query/directory", directory, auth=SERVER, limit="read", body=None),
    Endpoint("GET", "/query/profile", profile, auth=SERVER, limit="read", body=None),
    Endpoint("GET", "/query/{query_type}", other, auth=SERVER, limit="read", body=None),
]
