"""Every endpoint of the server, in one list."""

from dataclasses import replace

from homeserver.api import ops
from homeserver.api.admin import federation as admin_federation
from homeserver.api.client import versions, well_known
from homeserver.api.client.v3 import (
    account,
    account_data,
    capabilities,
    devices,
    directory,
    fallback,
    keys,
    live,
    login,
    media,
    members,
    messages,
    profile,
    push,
    receipts,
    register,
    relations,
    room_keys,
    rooms,
    send,
    state,
    sync,
)
from homeserver.api.federation.v1 import (
    backfill,
    events,
    hierarchy,
    invite,
    join,
    knock,
    leave,
    openid,
    public_rooms,
    query,
    third_party,
    user,
    version,
)
from homeserver.api.federation.v1 import media as federation_media
from homeserver.api.federation.v1 import send as federation_send
from homeserver.api.federation.v1 import state as federation_state
from homeserver.api.federation.v2 import invite as invite_v2
from homeserver.api.federation.v2 import join as join_v2
from homeserver.api.federation.v2 import leave as leave_v2
from homeserver.api.keys.v2 import server
from homeserver.http.endpoint import Endpoint

_V3 = [
    *account.ENDPOINTS,
    *account_data.ENDPOINTS,
    *capabilities.ENDPOINTS,
    *devices.ENDPOINTS,
    *directory.ENDPOINTS,
    *fallback.ENDPOINTS,
    *keys.ENDPOINTS,
    *live.ENDPOINTS,
    *login.ENDPOINTS,
    *members.ENDPOINTS,
    *messages.ENDPOINTS,
    *profile.ENDPOINTS,
    *push.ENDPOINTS,
    *receipts.ENDPOINTS,
    *register.ENDPOINTS,
    *room_keys.ENDPOINTS,
    *rooms.ENDPOINTS,
    *send.ENDPOINTS,
    *state.ENDPOINTS,
    *sync.ENDPOINTS,
]

_V1 = [
    *directory.ENDPOINTS_V1,
    *media.ENDPOINTS_V1,
    *messages.ENDPOINTS_V1,
    *register.ENDPOINTS_V1,
    *relations.ENDPOINTS_V1,
    *rooms.ENDPOINTS_V1,
]

_FEDERATION_V1 = [
    *invite.ENDPOINTS,
    *join.ENDPOINTS,
    *knock.ENDPOINTS,
    *leave.ENDPOINTS,
    *backfill.ENDPOINTS,
    *events.ENDPOINTS,
    *federation_media.ENDPOINTS,
    *hierarchy.ENDPOINTS,
    *openid.ENDPOINTS,
    *public_rooms.ENDPOINTS,
    *query.ENDPOINTS,
    *third_party.ENDPOINTS,
    *federation_send.ENDPOINTS,
    *federation_state.ENDPOINTS,
    *user.ENDPOINTS,
    *version.ENDPOINTS,
]

_FEDERATION_V2 = [
    *invite_v2.ENDPOINTS,
    *join_v2.ENDPOINTS,
    *leave_v2.ENDPOINTS,
]


def _below(prefix: str, endpoints: list[Endpoint]) -> list[Endpoint]:
    return [replace(endpoint, path=prefix + endpoint.path) for endpoint in endpoints]


ENDPOINTS = [
    *versions.ENDPOINTS,
    *well_known.ENDPOINTS,
    *_below("/_matrix/client/v3", _V3),
    *_below("/_matrix/client/r0", _V3),  # The older name of the same operations.
    *_below("/_matrix/client/v1", _V1),
    *_below("/_matrix/federation/v1", _FEDERATION_V1),
    *_below("/_matrix/federation/v2", _FEDERATION_V2),
    *_below("/_matrix/key/v2", server.ENDPOINTS),
    *_below("/_synapse/admin/v1", register.ENDPOINTS_ADMIN),
    *_below("/_synapse/admin/v1", admin_federation.ENDPOINTS),
    *_below("/_matrix/static/client", fallback.ENDPOINTS_STATIC),
    *_below("/_matrix/media", media.ENDPOINTS_MEDIA),
    *ops.ENDPOINTS,
]
