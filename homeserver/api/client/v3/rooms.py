"""Making rooms (client-server API, Rooms)."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from homeserver.errors import InvalidParam, Unsupported
from homeserver.http.bodies import Body, Query
from homeserver.http.endpoint import USER, Endpoint
from homeserver.matrix.identifiers import RoomId
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.create import InitialState, NewRoom, RoomCreation
from homeserver.services.rooms.hierarchy import DEEPEST, DEFAULT_LIMIT, MOST_ROOMS, Hierarchy, View
from homeserver.services.rooms.members import MOST_INVITEES
from homeserver.services.rooms.upgrade import RoomUpgrade


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


class Upgrade(Body, frozen=True):
    new_version: str
    additional_creators: list[str] = field(default_factory=list)


class HierarchyQuery(Query, frozen=True):
    suggested_only: bool = False
    limit: Annotated[int, Meta(ge=1)] = DEFAULT_LIMIT
    max_depth: Annotated[int, Meta(ge=0)] = DEEPEST
    start: str | None = field(default=None, name="from")


async def create(body: CreateRoom, who: Requester, creation: RoomCreation, limits: Limits) -> dict[str, Any]:
    if body.invite_3pid:
        raise Unsupported("M_THREEPID_DENIED", "This server invites nobody by e-mail or telephone.", status=403)
    invited = {*body.invite, *(state.state_key for state in body.initial_state if state.type == "m.room.member")}
    # Whoever may invite some at a time would wait in vain for more than a bucket holds.
    if len(invited) > (most := limits.most("invite", MOST_INVITEES)):
        raise InvalidParam(f"At most {most} people can be invited with the room; invite the others later.")
    limits.take("invite", who.user_id, len(invited))
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


async def upgrade(room_id: RoomId, body: Upgrade, who: Requester, upgrades: RoomUpgrade) -> dict[str, Any]:
    return {"replacement_room": await upgrades.upgrade(who, room_id, body.new_version, body.additional_creators)}


async def hierarchy(room_id: RoomId, query: HierarchyQuery, who: Requester, spaces: Hierarchy) -> dict[str, Any]:
    view = View(query.suggested_only, min(query.limit, MOST_ROOMS), min(query.max_depth, DEEPEST))
    return await spaces.page(who, room_id, view, query.start)


ENDPOINTS = [
    Endpoint("POST", "/createRoom", create, auth=USER, limit="create", body=CreateRoom),
    Endpoint("POST", "/rooms/{room_id}/upgrade", upgrade, auth=USER, limit="create", body=Upgrade),
]

ENDPOINTS_V1 = [
    Endpoint("GET", "/rooms/{room_id}/hierarchy", hierarchy, auth=USER, limit=None, body=None),
]
