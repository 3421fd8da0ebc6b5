"""Invites by an address elsewhere (server-server API, Third-party invites)."""

from typing import Any

from msgspec import Struct, ValidationError, convert
from starlette.requests import Request

from homeserver.errors import InvalidParam
from homeserver.http.auth import address_of
from homeserver.http.bodies import Body, Empty, identifier
from homeserver.http.endpoint import NOBODY, SERVER, Endpoint
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import InvalidIdentifier, Origin, RoomId
from homeserver.services.auth.limits import Limits, network_of
from homeserver.services.rooms.third_party import MOST_INVITES, Proof, ThirdPartyInvites


class ThirdPartyInvite(Struct, frozen=True):
    signed: dict[str, Any]


class Content(Struct, frozen=True):
    membership: str
    third_party_invite: ThirdPartyInvite


class Exchange(Body, frozen=True):
    type: str
    room_id: str
    sender: str
    state_key: str
    content: Content


class PendingInvite(Struct, frozen=True):
    room_id: str
    sender: str
    signed: dict[str, Any]


class Binding(Body, frozen=True):
    mxid: str
    invites: list[Any]


async def exchange(room_id: RoomId, body: Exchange, origin: Origin, third_party: ThirdPartyInvites) -> Empty:
    if body.type != "m.room.member" or body.content.membership != "invite" or body.room_id != room_id:
        raise InvalidParam("The event is no invite to the room that the path names.")
    proof = Proof.parse(body.content.third_party_invite.signed)
    await third_party.exchange(origin, room_id, body.sender, body.state_key, proof)
    return Empty()


async def on_bind(body: Binding, third_party: ThirdPartyInvites, limits: Limits, request: Request) -> Empty:
    user_id = identifier(identifiers.user_id, body.mxid)
    found = map(_pending, body.invites[:MOST_INVITES])
    invites = [one for one in found if one is not None]
    # One was taken with the request.
    limits.take("invite", network_of(address_of(request)), max(0, len(invites) - 1))
    await third_party.bind(user_id, invites)
    return Empty()


def _pending(value: Any) -> tuple[RoomId, str, Proof] | None:
    """Room, sender and proof of an invite; None if it is none. The others are not told again: they must not suffer."""
    try:
        one = convert(value, PendingInvite)
        return identifiers.room_id(one.room_id), one.sender, Proof.parse(one.signed)
    except (InvalidIdentifier, InvalidParam, ValidationError):
        return None


ENDPOINTS = [
    Endpoint(
        "PUT",
        "/exchange_third_party_invite/{room_id}",
        exchange,
        auth=SERVER,
        limit="invite_by_server",
        body=Exchange,
    ),
    Endpoint("PUT", "/3pid/onbind", on_bind, auth=NOBODY, limit="invite", body=Binding),
]
