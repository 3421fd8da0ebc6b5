"""The rest of rooms that were joined with a part of their state."""

import asyncio
from functools import partial

from homeserver.consumers.loop import forever
from homeserver.kit.clock import Clock
from homeserver.kit.logs import report
from homeserver.services.rooms.completion import Completion
from homeserver.services.rooms.gaps import Gaps
from homeserver.services.rooms.landing import PARTIAL
from homeserver.storage.partial_rooms import PartialRoom
from homeserver.streams.notifier import Notifier

_LOOK_AGAIN_S = 2.0
_IDLE_S = 60.0
"""So long nothing is looked at while all rooms are whole: what comes is announced."""
_AT_ONCE = 2


class RoomCompletion:
    """Makes rooms whole, a few at a time: at once when they are joined, and later if that did not succeed."""

    def __init__(self, clock: Clock, notifier: Notifier, completion: Completion, gaps: Gaps) -> None:
        self._clock = clock
        self._notifier = notifier
        self._gaps = gaps
        self._completion = completion
        self._working: set[int] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Work until cancelled."""
        self._working.clear()
        await self._completion.tidy()
        async with asyncio.TaskGroup() as tasks:
            # Should it fail to look, those that are being worked at go on.
            await forever(partial(self._look, tasks), self._clock)

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        with self._notifier.waiting_for([PARTIAL]) as waiter:
            rooms = await self._completion.list_all()
            for room in rooms:
                if self._completion.is_due(room) and room.room_nid not in self._working:
                    self._working.add(room.room_nid)
                    tasks.create_task(self._work(room))
            await waiter.wait(_LOOK_AGAIN_S if rooms else _IDLE_S)

    async def _work(self, room: PartialRoom) -> None:
        try:
            async with self._turns:
                [outcome] = await asyncio.gather(self._completion.complete(room), return_exceptions=True)
            if isinstance(outcome, BaseException):
                report(outcome)  # Whatever it is, it concerns this room alone, which is tried again later.
            elif outcome is not None:
                self._gaps.begin_anew(outcome)
        finally:
            self._working.discard(room.room_nid)
