"""Where the server is found (client-server API, Well-known URI)."""

from typing import Any

from homeserver.config.model import Config
from homeserver.errors import NotFound
from homeserver.http.endpoint import NOBODY, Endpoint


async def client(config: Config) -> dict[str, Any]:
    if config.public_base_url is None:
        raise NotFound("This server has no discovery information.")
    return {"m.homeserver": {"base_url": config.public_base_url}}


ENDPOINTS = [Endpoint("GET", "/.well-known/matrix/client", client, auth=NOBODY, limit=None, body=None)]
