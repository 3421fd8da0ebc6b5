"""Every endpoint of the server, in one list."""

from dataclasses import replace

from homeserver.api import ops
from homeserver.api.client import versions, well_known
from homeserver.api.client.v3 import login, members, messages, register, rooms, send, state, sync
from homeserver.http.endpoint import Endpoint

_V3 = [
    *login.ENDPOINTS,
    *register.ENDPOINTS,
    *rooms.ENDPOINTS,
    *members.ENDPOINTS,
    *messages.ENDPOINTS,
    *send.ENDPOINTS,
    *state.ENDPOINTS,
    *sync.ENDPOINTS,
]

_V1 = [*messages.ENDPOINTS_V1]


def _below(prefix: str, endpoints: list[Endpoint]) -> list[Endpoint]:
    return [replace(endpoint, path=prefix + endpoint.path) for endpoint in endpoints]


ENDPOINTS = [
    *versions.ENDPOINTS,
    *well_known.ENDPOINTS,
    *_below("/_matrix/client/v3", _V3),
    *_below("/_matrix/client/r0", _V3),  # The older name of the same operations.
    *_below("/_matrix/client/v1", _V1),
    *ops.ENDPOINTS,
]
