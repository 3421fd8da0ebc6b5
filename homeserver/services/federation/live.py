"""What other servers tell of their users' typing, presence and reading (server-server API, Typing Notifications,
Presence, Receipts)."""

from typing import Any

import msgspec

from homeserver.errors import Forbidden, NotFound, RequestError
from homeserver.kit.caching import Lru
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
_MOST_BELIEVED = 100
"""So many users of a server are believed to be in a room of which not all members are known."""
_MOST_BELIEVED_OF = 1000
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


class Speakers:
    """Knows who may tell of themselves in a room.

    As long as not all members of a room are known, its servers are; so a few users of each are believed to be in it.
    """

    def __init__(self, acls: ServerAcls) -> None:
        self._acls = acls
        self._believed: Lru[tuple[RoomId, ServerName], set[UserId]] = Lru(_MOST_BELIEVED_OF)

    def may_speak(self, room: HotRoom, origin: ServerName, user_id: UserId) -> bool:
        """Whether a user of this server may."""
        return self._is_there(room, origin, user_id) and self._acls.allows(room, origin)

    def _is_there(self, room: HotRoom, origin: ServerName, user_id: UserId) -> bool:
        if room.partial is None or room.state.knows(user_id):
            return room.membership_of(user_id) == "join"
        return origin in room.servers and self._is_believed(room.room_id, origin, user_id)

    def _is_believed(self, room_id: RoomId, origin: ServerName, user_id: UserId) -> bool:
        believed = self._believed.get((room_id, origin)) or set()
        if len(believed) < _MOST_BELIEVED:
            self._believed.put((room_id, origin), believed | {user_id})
            return True
        return user_id in believed


class TypingEdus:
    """Takes `m.typing`."""

    def __init__(self, typing: Typing, hot: HotRooms, speakers: Speakers) -> None:
        self._typing = typing
        self._hot = hot
        self._speakers = speakers

    async def receive(self, origin: ServerName, content: Json) -> None:
        """Take it. Raises `RequestError` where it is not what it should be."""
        told = decoded(content, _Typing)
        user_id = user_of(origin, told.user_id)
        room = await self._hot.find(identifier(identifiers.room_id, told.room_id))
        if not self._speakers.may_speak(room, origin, user_id):
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

    def __init__(self, receipts: Receipts, hot: HotRooms, speakers: Speakers) -> None:
        self._receipts = receipts
        self._hot = hot
        self._speakers = speakers

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
        return [one for one in told if self._speakers.may_speak(room, origin, one.user_id)]


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
