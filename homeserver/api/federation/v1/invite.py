"""Invites for users of this server as older servers send them (server-server API, Inviting to a room)."""

from typing import Any

from msgspec import Raw, Struct, ValidationError, field, json

from homeserver.errors import BadJson
from homeserver.http.bodies import JsonObject
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.rooms.invitations import Invitations


class _Unsigned(Struct, frozen=True):
    invite_room_state: list[Raw] = field(default_factory=list)


class _Invite(Struct, frozen=True):
    unsigned: _Unsigned = field(default_factory=_Unsigned)


_decode = json.Decoder(_Invite).decode


async def invite(
    room_id: RoomId, event_id: EventId, body: JsonObject, origin: Origin, invitations: Invitations
) -> list[Any]:
    try:
        state = [bytes(event) for event in _decode(body.raw).unsigned.invite_room_state]
    except ValidationError as error:
        raise BadJson(f"The room's state is not well formed: {error}") from None
    # The room is of version 1 or 2, whose events do not differ (SS-INV-04).
    signed = await invitations.receive(origin, room_id, event_id, "1", body.raw, state)
    return [200, {"event": Raw(signed)}]


ENDPOINTS = [
    Endpoint("PUT", "/invite/{room_id}/{event_id}", invite, auth=SERVER, limit="invite_by_server", body=JsonObject),
]
