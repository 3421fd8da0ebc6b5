"""Invites for users of this server (server-server API, Inviting to a room)."""

from typing import Any

from msgspec import Raw, field

from homeserver.http.bodies import Body
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import EventId, Origin, RoomId
from homeserver.services.rooms.invitations import Invitations


class Invite(Body, frozen=True):
    room_version: str
    event: Raw
    invite_room_state: list[Raw] = field(default_factory=list)


async def invite(
    room_id: RoomId, event_id: EventId, body: Invite, origin: Origin, invitations: Invitations
) -> dict[str, Any]:
    state = [bytes(event) for event in body.invite_room_state]
    signed = await invitations.receive(origin, room_id, event_id, body.room_version, bytes(body.event), state)
    return {"event": Raw(signed)}


ENDPOINTS = [
    Endpoint("PUT", "/invite/{room_id}/{event_id}", invite, auth=SERVER, limit="invite_by_server", body=Invite),
]
