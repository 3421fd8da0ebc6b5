"""Typing and presence (client-server API, Typing Notifications, Presence)."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from homeserver.errors import MissingParam
from homeserver.http.bodies import Body, Empty
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.presence import Presence
from homeserver.services.live.typing import Typing


class Typist(Body, frozen=True):
    typing: bool
    timeout: Annotated[int, Meta(ge=0)] | None = None


class Status(Body, frozen=True):
    presence: Literal["online", "offline", "unavailable"]
    status_msg: str | None = None


async def put_typing(room_id: RoomId, user_id: UserId, body: Typist, who: Requester, typing: Typing) -> Empty:
    if body.typing and body.timeout is None:
        raise MissingParam("Say with `timeout` for how long.")
    await typing.set(who, room_id, user_id, body.timeout if body.typing else None)
    return Empty()


async def get_presence(user_id: UserId, who: Requester, presence: Presence) -> dict[str, Any]:
    return await presence.get(who, user_id)


async def put_presence(user_id: UserId, body: Status, who: Requester, presence: Presence) -> Empty:
    await presence.set(who, user_id, body.presence, body.status_msg)
    return Empty()


ENDPOINTS = [
    Endpoint("PUT", "/rooms/{room_id}/typing/{user_id}", put_typing, auth=USER_OR_GUEST, limit=None, body=Typist),
    Endpoint("GET", "/presence/{user_id}/status", get_presence, auth=USER, limit=None, body=None),
    Endpoint("PUT", "/presence/{user_id}/status", put_presence, auth=USER, limit=None, body=Status),
]
