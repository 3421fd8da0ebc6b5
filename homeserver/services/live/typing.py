"""Who is typing (client-server API, Typing Notifications). Nothing of it is stored."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from homeserver.errors import Forbidden
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.counter import LiveCounter
from homeserver.storage import members, rooms
from homeserver.storage.engine import Database, ReadTx
from homeserver.streams.notifier import Notifier

LONGEST_MS = 120_000


@dataclass
class _Room:
    typists: dict[UserId, asyncio.TimerHandle] = field(default_factory=dict)
    changed: int = 0


class Typing:
    """Who is typing in which room; each by themselves ceases to after a while."""

    def __init__(self, database: Database, notifier: Notifier, counter: LiveCounter) -> None:
        self._database = database
        self._notifier = notifier
        self._counter = counter
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
            self._start(room_id, user_id, min(timeout_ms, LONGEST_MS) / 1000)

    def stop(self, room_id: RoomId, user_id: UserId) -> None:
        """The user no longer types there."""
        room = self._rooms.get(room_id)
        timer = None if room is None else room.typists.pop(user_id, None)
        if timer is not None:
            timer.cancel()
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
            for timer in room.typists.values():
                timer.cancel()

    def _start(self, room_id: RoomId, user_id: UserId, seconds: float) -> None:
        room = self._rooms.setdefault(room_id, _Room())
        before = room.typists.pop(user_id, None)
        if before is not None:
            before.cancel()
        room.typists[user_id] = asyncio.get_running_loop().call_later(seconds, self.stop, room_id, user_id)
        if before is None:
            self._announce(room_id)

    def _announce(self, room_id: RoomId) -> None:
        self._rooms[room_id].changed = self._counter.advance()
        self._notifier.wake([room_id])


def _is_joined(tx: ReadTx, room_id: RoomId, user_id: UserId) -> bool:
    room_nid = rooms.find_nid(tx, room_id)
    member = None if room_nid is None else members.find(tx, room_nid, user_id)
    return member is not None and member.membership == "join"
