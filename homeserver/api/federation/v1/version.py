"""The software of this server (server-server API, Retrieving server implementation information)."""

from importlib.metadata import version
from typing import Any

from homeserver.http.endpoint import NOBODY, Endpoint

_VERSION = version("homeserver")


async def server() -> dict[str, Any]:
    return {"server": {"name": "homeserver", "version": _VERSION}}


ENDPOINTS = [Endpoint("GET", "/version", server, auth=NOBODY, limit=None, body=None)]
