"""The keys of this server, and what it knows of those of others (server-server API, Retrieving server keys)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from homeserver.http.auth import address_of
from homeserver.http.bodies import Body, Query
from homeserver.http.endpoint import NOBODY, Endpoint
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import ServerName
from homeserver.services.auth.limits import network_of
from homeserver.services.federation.server_keys import PublishedKeys


class Criteria(msgspec.Struct, frozen=True):
    minimum_valid_until_ts: int | None = None


class KeyQuery(Body, frozen=True):
    server_keys: Mapping[str, Mapping[str, Criteria]]


class Wanted(Query, frozen=True):
    minimum_valid_until_ts: int | None = None


async def own(keys: PublishedKeys) -> Response:
    return Response(keys.own(), media_type="application/json")


async def of_server(
    server_name: ServerName, query: Wanted, keys: PublishedKeys, clock: Clock, request: Request
) -> dict[str, Any]:
    wanted: dict[str, int] = {server_name: query.minimum_valid_until_ts or clock.now()}
    return _told(await keys.vouch(wanted, network_of(address_of(request))))


async def of_servers(body: KeyQuery, keys: PublishedKeys, clock: Clock, request: Request) -> dict[str, Any]:
    now = clock.now()
    wanted = {
        server: max((one.minimum_valid_until_ts or now for one in of_keys.values()), default=now)
        for server, of_keys in body.server_keys.items()
    }
    return _told(await keys.vouch(wanted, network_of(address_of(request))))


def _told(documents: list[bytes]) -> dict[str, Any]:
    return {"server_keys": [msgspec.Raw(document) for document in documents]}


ENDPOINTS = [
    Endpoint("GET", "/server", own, auth=NOBODY, limit=None, body=None),
    Endpoint("GET", "/query/{server_name}", of_server, auth=NOBODY, limit="keys", body=None),
    Endpoint("POST", "/query", of_servers, auth=NOBODY, limit="keys", body=KeyQuery),
]
