"""What this server can do, and the answers of those parts that it has none of (client-server API, Capabilities)."""

from typing import Any

from homeserver.config.model import Config
from homeserver.errors import NotFound
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix.room_versions import ROOM_VERSIONS


async def capabilities(config: Config) -> dict[str, Any]:
    return {
        "capabilities": {
            "m.room_versions": {
                "default": config.default_room_version,
                "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
            },
            "m.change_password": {"enabled": True},
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": True},
            "m.profile_fields": {"enabled": True},
            "m.3pid_changes": {"enabled": False},
            "m.get_login_token": {"enabled": False},
        }
    }


async def turn_server() -> dict[str, Any]:
    return {}


async def contacts() -> dict[str, Any]:
    return {"threepids": []}


async def protocols() -> dict[str, Any]:
    return {}


async def locations() -> list[Any]:
    return []


async def unknown_protocol(protocol: str) -> dict[str, Any]:
    raise NotFound("No bridge to this network is here.")


ENDPOINTS = [
    Endpoint("GET", "/capabilities", capabilities, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/voip/turnServer", turn_server, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/account/3pid", contacts, auth=USER, limit=None, body=None),
    Endpoint("GET", "/thirdparty/protocols", protocols, auth=USER, limit=None, body=None),
    Endpoint("GET", "/thirdparty/location", locations, auth=USER, limit=None, body=None),
    Endpoint("GET", "/thirdparty/user", locations, auth=USER, limit=None, body=None),
    Endpoint("GET", "/thirdparty/protocol/{protocol}", unknown_protocol, auth=USER, limit=None, body=None),
    Endpoint("GET", "/thirdparty/location/{protocol}", unknown_protocol, auth=USER, limit=None, body=None),
    Endpoint("GET", "/thirdparty/user/{protocol}", unknown_protocol, auth=USER, limit=None, body=None),
]
