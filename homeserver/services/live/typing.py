"""Who is typing (client-server API, Typing Notifications). Nothing of it is stored.

Other servers in the room are told when a user of this one begins, goes on for a while, and ceases; they tell the same
of theirs. Who of theirs is not heard to go on has ceased.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from homeserver.errors import Forbidden
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import RoomId, ServerName, UserId
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.counter import LiveCounter
from homeserver.services.rooms.hot import HotRooms
from homeserver.storage import members, rooms
from homeserver.storage.engine import Database, ReadTx
from homeserver.streams.notifier import Notifier

LONGEST_MS = 120_000
_REMOTE_S = 60.0
_AGAIN_S = 25.0


@dataclass
class _Typist:
    timer: asyncio.TimerHandle
    told: frozenset[ServerName] = frozenset()
    """The servers that were told."""
    told_at: float = 0.0


@dataclass
class _Room:
    typists: dict[UserId, _Typist] = field(default_factory=dict)
    changed: int = 0


class Typing:
    """Who is typing in which room; each by themselves ceases to after a while."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        notifier: Notifier,
        counter: LiveCounter,
        hot: HotRooms,
        ephemeral: Ephemeral,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._counter = counter
        self._hot = hot
        self._ephemeral = ephemeral
        self._own = frozenset([ServerName(server_name)])
        self._rooms: dict[RoomId, _Room] = {}

    async def set(self, who: Requester, room_id: RoomId, user_id: UserId, timeout_ms: int | None) -> None:
        """Type for that long at most, or cease. Only for oneself, in a room where one is."""
        if who.user_id != user_id:
            raise Forbidden("You can only type for yourself.")
        if not await self._database.read(_is_joined, room_id, user_id):
            raise Forbidden("You are not in this room.")
        if timeout_ms is None:
            self.stop(room_id, user_id)
        else:
            servers = (await self._hot.find(room_id)).servers - self._own
            typist = self._start(room_id, user_id, min(timeout_ms, LONGEST_MS) / 1000)
            self._tell(room_id, user_id, typist, servers)

    def hear(self, room_id: RoomId, user_id: UserId, *, is_typing: bool) -> None:
        """Another server tells of a user who is in the room."""
        if is_typing:
            self._start(room_id, user_id, _REMOTE_S)
        else:
            self.stop(room_id, user_id)

    def stop(self, room_id: RoomId, user_id: UserId) -> None:
        """The user no longer types there."""
        room = self._rooms.get(room_id)
        typist = None if room is None else room.typists.pop(user_id, None)
        if typist is not None:
            typist.timer.cancel()
            self._put(room_id, user_id, typist.told, is_typing=False)
            self._announce(room_id)

    def list_since(self, room_ids: Iterable[RoomId], after: int | None) -> dict[RoomId, list[UserId]]:
        """Who types in those of the rooms where that has changed; with no position, where anybody does."""
        found = {}
        for room_id in room_ids:
            room = self._rooms.get(room_id)
            if room is not None and (room.typists if after is None else room.changed > after):
                found[room_id] = sorted(room.typists)
        return found

    def close(self) -> None:
        """Stop the timers."""
        for room in self._rooms.values():
            for typist in room.typists.values():
                typist.timer.cancel()

    def _start(self, room_id: RoomId, user_id: UserId, seconds: float) -> _Typist:
        room = self._rooms.setdefault(room_id, _Room())
        timer = asyncio.get_running_loop().call_later(seconds, self.stop, room_id, user_id)
        typist = room.typists.get(user_id)
        if typist is not None:
            typist.timer.cancel()
            typist.timer = timer
            return typist
        room.typists[user_id] = _Typist(timer)
        self._announce(room_id)
        return room.typists[user_id]

    def _tell(self, room_id: RoomId, user_id: UserId, typist: _Typist, servers: frozenset[ServerName]) -> None:
        """Tell the other servers, unless they were told just now."""
        now = self._clock.monotonic()
        if servers - typist.told or now - typist.told_at >= _AGAIN_S:
            typist.told, typist.told_at = servers, now
            self._put(room_id, user_id, servers, is_typing=True)

    def _put(self, room_id: RoomId, user_id: UserId, servers: frozenset[ServerName], *, is_typing: bool) -> None:
        if servers:
            content = {"room_id": room_id, "user_id": user_id, "typing": is_typing}
            self._ephemeral.put(servers, "m.typing", f"{room_id} {user_id}", msgspec.json.encode(content))

    def _announce(self, room_id: RoomId) -> None:
        self._rooms[room_id].changed = self._counter.advance()
        self._notifier.wake([room_id])


def _is_joined(tx: ReadTx, room_id: RoomId, user_id: UserId) -> bool:
    room_nid = rooms.find_nid(tx, room_id)
    member = None if room_nid is None else members.find(tx, room_nid, user_id)
    return member is not None and member.membership == "join"
