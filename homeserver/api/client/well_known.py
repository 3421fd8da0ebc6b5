"""Where the server is found, and whom to turn to (both APIs, Well-known URIs and Server discovery)."""

from typing import Any

import msgspec

from homeserver.config.model import Config
from homeserver.errors import NotFound
from homeserver.http.endpoint import NOBODY, Endpoint


async def client(config: Config) -> dict[str, Any]:
    if config.public_base_url is None:
        raise NotFound("This server has no discovery information.")
    return {"m.homeserver": {"base_url": config.public_base_url}}


async def server(config: Config) -> dict[str, Any]:
    if config.well_known.server is None:
        raise NotFound("This server delegates to no other name.")
    return {"m.server": config.well_known.server}


async def support(config: Config) -> dict[str, Any]:
    settings = config.well_known
    found: dict[str, Any] = {}
    if settings.contacts:
        contacts = [msgspec.to_builtins(contact) for contact in settings.contacts]
        found["contacts"] = [{name: value for name, value in one.items() if value is not None} for one in contacts]
    if settings.support_page is not None:
        found["support_page"] = settings.support_page
    if not found:
        raise NotFound("This server does not say whom to turn to.")
    return found


async def policy_server(config: Config) -> dict[str, Any]:
    if config.well_known.policy_server_key is None:
        raise NotFound("There is no policy server of this name.")
    return {"public_keys": {"ed25519": config.well_known.policy_server_key}}


ENDPOINTS = [
    Endpoint("GET", "/.well-known/matrix/client", client, auth=NOBODY, limit=None, body=None),
    Endpoint("GET", "/.well-known/matrix/server", server, auth=NOBODY, limit=None, body=None),
    Endpoint("GET", "/.well-known/matrix/support", support, auth=NOBODY, limit=None, body=None),
    Endpoint("GET", "/.well-known/matrix/policy_server", policy_server, auth=NOBODY, limit=None, body=None),
]
