"""Events of rooms that somebody here is just joining, which come before that is done.

The servers in the room tell of what happens in it as soon as they know of the join; this one knows the room a while
later. What comes meanwhile is kept in memory and taken in then. It is not acknowledged: should it be lost, the next
event will name it, and it will be asked for.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.errors import NotFound
from homeserver.kit.concurrency import Background
from homeserver.matrix.identifiers import RoomId, ServerName
from homeserver.services.federation.room_lines import Place, RoomLines
from homeserver.services.rooms.arrival import Arrivals
from homeserver.services.rooms.hot import HotRooms
from homeserver.services.rooms.server_acl import ServerAcls

_MOST_BYTES = 16 << 20
_MOST_OF_ROOM = 1000


@dataclass(slots=True)
class _Kept:
    """What has come for a room, in its order."""

    deliveries: list[tuple[ServerName, Sequence[bytes]]]
    count: int
    task: "asyncio.Task[None]"


class Early:
    """Keeps what comes early."""

    def __init__(
        self,
        hot: HotRooms,
        arrivals: Arrivals,
        acls: ServerAcls,
        lines: RoomLines,
        background: Background,
        server_name: str,
    ) -> None:
        self._hot = hot
        self._acls = acls
        self._arrivals = arrivals
        self._lines = lines
        self._background = background
        self._server_name = ServerName(server_name)
        self._kept: dict[RoomId, _Kept] = {}
        self._size = 0

    def keep(self, origin: ServerName, room_id: RoomId, pdus: Sequence[bytes]) -> bool:
        """Keep events of a room if somebody is about to arrive there; whether that is so."""
        ended = self._arrivals.ended(room_id)
        size = sum(map(len, pdus))
        if ended is None or self._size + size > _MOST_BYTES:
            return False
        kept = self._kept.get(room_id)
        if kept is None:
            kept = _Kept([], 0, self._background.start(self._wait(room_id, ended)))
            self._kept[room_id] = kept
        if kept.count + len(pdus) > _MOST_OF_ROOM:
            return False
        kept.deliveries.append((origin, pdus))
        kept.count += len(pdus)
        self._size += size
        return True

    async def close(self) -> None:
        """Forget all of it."""
        tasks = [kept.task for kept in self._kept.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _wait(self, room_id: RoomId, ended: asyncio.Event) -> None:
        try:
            await ended.wait()
        finally:
            kept = self._kept.pop(room_id)
            self._size -= sum(len(pdu) for _, pdus in kept.deliveries for pdu in pdus)
        try:
            room = await self._hot.find(room_id)
        except NotFound:
            return
        if self._server_name in room.servers:
            for origin, pdus in kept.deliveries:
                if self._acls.allows(room, origin):  # When it came, nobody here knew.
                    self._lines.join(Place(room, origin, pdus, None))
