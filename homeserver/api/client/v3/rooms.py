"""Making rooms (client-server API, Rooms)."""

from typing import Any, Literal

from msgspec import Struct, field

from homeserver.errors import Unsupported
from homeserver.http.bodies import Body
from homeserver.http.endpoint import USER, Endpoint
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.create import InitialState, NewRoom, RoomCreation


class StateEvent(Struct, frozen=True):
    type: str
    content: dict[str, Any]
    state_key: str = ""


class CreateRoom(Body, frozen=True):
    visibility: Literal["public", "private"] = "private"
    preset: Literal["private_chat", "public_chat", "trusted_private_chat"] | None = None
    room_version: str | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[str] = field(default_factory=list)
    invite_3pid: list[dict[str, Any]] = field(default_factory=list)
    is_direct: bool = False
    creation_content: dict[str, Any] = field(default_factory=dict)
    initial_state: list[StateEvent] = field(default_factory=list)
    power_level_content_override: dict[str, Any] = field(default_factory=dict)


async def create(body: CreateRoom, who: Requester, creation: RoomCreation) -> dict[str, Any]:
    if body.invite_3pid:
        raise Unsupported("M_THREEPID_DENIED", "This server invites nobody by e-mail or telephone.", status=403)
    is_public = body.visibility == "public"
    wish = NewRoom(
        preset=body.preset or ("public_chat" if is_public else "private_chat"),
        is_public=is_public,
        version=body.room_version,
        alias_localpart=body.room_alias_name,
        name=body.name,
        topic=body.topic,
        invite=body.invite,
        is_direct=body.is_direct,
        creation_content=body.creation_content,
        initial_state=[InitialState(state.type, state.content, state.state_key) for state in body.initial_state],
        power_levels=body.power_level_content_override,
    )
    return {"room_id": await creation.create(who, wish)}


ENDPOINTS = [
    Endpoint("POST", "/createRoom", create, auth=USER, limit="create", body=CreateRoom),
]
