"""What other servers tell of their users' typing, presence and reading (server-server API, Typing Notifications,
Presence, Receipts)."""

from typing import Any

import msgspec

from homeserver.errors import Forbidden, NotFound, RequestError
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import RoomId, ServerName, UserId
from homeserver.services.federation.contents import decoded, identifier, user_of
from homeserver.services.live import presence, receipts
from homeserver.services.live.presence import STATES, Presence
from homeserver.services.live.receipts import READ, Receipts
from homeserver.services.live.typing import Typing
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.server_acl import ServerAcls

_MOST_USERS = 1000
_MOST_ROOMS = 100
_LONGEST_STATUS = 1000
_LARGEST_NUMBER = 2**53
_LONGEST_AGO_MS = 10 * 365 * 24 * 60 * 60 * 1000

Json = dict[str, Any]


class _Typing(msgspec.Struct, frozen=True):
    room_id: str
    user_id: str
    typing: bool


class _Presences(msgspec.Struct, frozen=True):
    push: list[Any]


class _Presence(msgspec.Struct, frozen=True):
    user_id: str
    presence: str
    last_active_ago: int = 0
    status_msg: str | None = None
    currently_active: bool | None = None


class _ReceiptData(msgspec.Struct, frozen=True):
    ts: int
    thread_id: str | None = None


class _Receipt(msgspec.Struct, frozen=True):
    event_ids: list[str]
    data: _ReceiptData


class TypingEdus:
    """Takes `m.typing`."""

    def __init__(self, typing: Typing, hot: HotRooms, acls: ServerAcls) -> None:
        self._typing = typing
        self._hot = hot
        self._acls = acls

    async def receive(self, origin: ServerName, content: Json) -> None:
        """Take it. Raises `RequestError` where it is not what it should be."""
        told = decoded(content, _Typing)
        user_id = user_of(origin, told.user_id)
        room = await self._hot.find(identifier(identifiers.room_id, told.room_id))
        if not _may_speak(room, self._acls, origin, user_id):
            raise Forbidden("The user is not in the room.")
        self._typing.hear(room.room_id, user_id, is_typing=told.typing)


class PresenceEdus:
    """Takes `m.presence`; what is wrong with one user is no matter to the others."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    async def receive(self, origin: ServerName, content: Json) -> None:
        """Take it. Raises `RequestError` where it is not what it should be."""
        heard = []
        for one in decoded(content, _Presences).push[:_MOST_USERS]:
            told = _presence(origin, one)
            if told is not None:
                heard.append(told)
        if heard:
            await self._presence.hear(heard)


class ReceiptEdus:
    """Takes `m.receipt`: `m.read` alone, of users who are in the room; what is wrong in one is no matter to others."""

    def __init__(self, receipts: Receipts, hot: HotRooms, acls: ServerAcls) -> None:
        self._receipts = receipts
        self._hot = hot
        self._acls = acls

    async def receive(self, origin: ServerName, content: Json) -> None:
        """Take it."""
        heard: list[receipts.Heard] = []
        for room_id, of_room in list(content.items())[:_MOST_ROOMS]:
            read = of_room.get(READ) if isinstance(of_room, dict) else None
            if isinstance(read, dict):
                told = [_receipt(origin, room_id, user_id, one) for user_id, one in list(read.items())[:_MOST_USERS]]
                heard += await self._allowed(origin, [one for one in told if one is not None])
        if heard:
            await self._receipts.hear(heard[:_MOST_USERS])

    async def _allowed(self, origin: ServerName, told: list[receipts.Heard]) -> list[receipts.Heard]:
        """Those of what was told of one room whose users are in it."""
        if not told:
            return []
        try:
            room = await self._hot.find(told[0].room_id)
        except NotFound:
            return []
        return [one for one in told if _may_speak(room, self._acls, origin, one.user_id)]


def _may_speak(room: HotRoom, acls: ServerAcls, origin: ServerName, user_id: UserId) -> bool:
    membership = room.membership_of(user_id)
    # As long as not all members are known, the servers are.
    is_there = membership == "join" or (room.partial is not None and membership == "leave" and origin in room.servers)
    return is_there and acls.allows(room, origin)


def _presence(origin: ServerName, value: Any) -> presence.Heard | None:
    try:
        told = msgspec.convert(value, _Presence)
        user_id = user_of(origin, told.user_id)
    except (msgspec.ValidationError, RequestError):
        return None
    if told.presence not in STATES:
        return None
    return presence.Heard(
        user_id,
        told.presence,
        None if told.status_msg is None else told.status_msg[:_LONGEST_STATUS],
        min(max(told.last_active_ago, 0), _LONGEST_AGO_MS),
        bool(told.currently_active) and told.presence == "online",
    )


def _receipt(origin: ServerName, room_id: str, user_id: str, value: Any) -> receipts.Heard | None:
    try:
        told = msgspec.convert(value, _Receipt)
        [event_id] = [identifiers.event_id(event_id) for event_id in told.event_ids[:2]]
        reader, room = user_of(origin, user_id), identifiers.room_id(room_id)
    except (msgspec.ValidationError, RequestError, ValueError):
        return None
    thread_id = told.data.thread_id
    if not 0 <= told.data.ts < _LARGEST_NUMBER:
        return None
    if thread_id is not None and (not thread_id or len(thread_id) > identifiers.LONGEST or "\0" in thread_id):
        return None
    return receipts.Heard(RoomId(room), reader, event_id, thread_id, told.data.ts)
