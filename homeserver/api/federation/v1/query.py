"""Queries (server-server API, Querying for information)."""

from homeserver.errors import NotFound
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import Origin


async def other(query_type: str, origin: Origin) -> None:
    raise NotFound("There is no query of this kind.")


ENDPOINTS = [Endpoint("GET", "/query/{query_type}", other, auth=SERVER, limit=None, body=None)]
