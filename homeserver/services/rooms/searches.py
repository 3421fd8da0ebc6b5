"""Searches at other servers for what a room lacks: one in a room at a time, and fewer the less comes of them.

A search may take some minutes. After one in vain the room is left alone for a while, longer each time: no peer, and
nobody who reads, can keep this server busy.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from homeserver.errors import NotFound, Unavailable
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background
from homeserver.matrix.identifiers import RoomId

log = structlog.get_logger()

_LONGEST_S = 180.0
_PAUSE_MS = 30_000
_LONGEST_PAUSE_MS = 60 * 60 * 1000
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Pause:
    """Until when a room is left alone, and how often nothing came of it."""

    until: int
    failures: int


class Searches:
    """The searches of one kind.

    Each is a task that nobody's cancellation stops. When the server ends, they are: what was found is in the database.
    """

    def __init__(self, clock: Clock, background: Background) -> None:
        self._clock = clock
        self._background = background
        self._under_way: dict[RoomId, asyncio.Task[bool]] = {}
        self._pauses: Lru[RoomId, _Pause] = Lru(_REMEMBERED)
        self._is_closing = False

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    def under_way(self, room_id: RoomId) -> "asyncio.Task[bool] | None":
        """The search in this room."""
        return self._under_way.get(room_id)

    def is_resting(self, room_id: RoomId) -> bool:
        """Whether the room is to be left alone now."""
        pause = self._pauses.get(room_id)
        return pause is not None and pause.until > self._clock.now()

    def failures(self, room_id: RoomId) -> int:
        """How often nothing came of it, since something did."""
        pause = self._pauses.get(room_id)
        return 0 if pause is None else pause.failures

    def rest(self, room_id: RoomId, pause_ms: int) -> None:
        """Leave the room alone for a while; there was no failure."""
        self._pauses.put(room_id, _Pause(self._clock.now() + pause_ms, 0))

    def wake(self, room_id: RoomId) -> None:
        """Forget that the room should be left alone."""
        self._pauses.drop(room_id)

    def begin(self, room_id: RoomId, search: Callable[[], Coroutine[Any, Any, bool]]) -> "asyncio.Task[bool] | None":
        """Search in a room where no search is under way; it says whether it has found what there was to be found.

        Nobody asks whether the room is resting. None if the server is about to end.
        """
        if self._is_closing:
            return None
        task = self._under_way[room_id] = self._background.start(self._run(room_id, search))
        return task

    async def close(self) -> None:
        """End all of them."""
        self._is_closing = True
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, room_id: RoomId, search: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        has_found = False
        try:
            async with asyncio.timeout(_LONGEST_S):
                has_found = await search()
        except TimeoutError:
            log.info("a search for what a room lacks took too long", room_id=room_id)
        except (NotFound, Unavailable):
            pass  # The room is gone, or changes too quickly: it can be tried again.
        finally:
            del self._under_way[room_id]
        if not has_found:
            failures = self.failures(room_id)
            pause_ms = min(_PAUSE_MS << min(failures, 20), _LONGEST_PAUSE_MS)
            self._pauses.put(room_id, _Pause(self._clock.now() + pause_ms, failures + 1))
        return has_found
