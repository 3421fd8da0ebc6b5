"""Turns in rooms: what comes from elsewhere is taken into a room by one at a time; rooms do not wait for each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from homeserver.kit.concurrency import KeyedLocks
from homeserver.matrix.identifiers import RoomId


class Turns:
    """The turns of all rooms, and the moments between them: what was read at one is true until the next turn."""

    def __init__(self) -> None:
        self._locks: KeyedLocks[RoomId] = KeyedLocks()
        self._moments: dict[RoomId, int] = {}
        """By room; another one comes when a turn begins, and when it ends: it is odd while somebody has the turn."""

    @asynccontextmanager
    async def hold(self, room_id: RoomId) -> AsyncIterator[None]:
        """Have the room's turn; first come, first served."""
        async with self._locks.hold(room_id):
            self._moments[room_id] = self.moment(room_id) + 1
            try:
                yield
            finally:
                self._moments[room_id] += 1

    def moment(self, room_id: RoomId) -> int:
        """The moment that it is for the room."""
        return self._moments.get(room_id, 0)

    def is_still(self, room_id: RoomId, moment: int) -> bool:
        """Whether it is still that moment, and nobody had the turn then."""
        return moment % 2 == 0 and self.moment(room_id) == moment

    def is_right_after(self, room_id: RoomId, moment: int) -> bool:
        """Whether the turn that somebody has is the first since that moment, at which nobody had one."""
        return self.moment(room_id) == moment + 1
