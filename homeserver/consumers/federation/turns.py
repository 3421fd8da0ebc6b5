"""Whose turn it is to be sent something.

A server has one transaction at a time. Those that take long keep nobody else waiting, up to a bound; those that are
down are tried when their timer ends, a few at once, beside the others.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count

from homeserver.consumers.federation.ledger import AT_A_TIME
from homeserver.consumers.federation.lines import Line, Lines, Stage
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations, Health

# Of the requests that may be under way to all servers together; the rest is for whoever asks for something.
_AT_ONCE = 0.4
"""Transactions that have not taken long yet."""
_MOST_AT_ONCE = 0.8
_TRIES_AT_ONCE = 0.1
"""Attempts to reach servers that are down."""
_LONG_S = 5.0

Serve = Callable[[Line], Awaitable[None]]


class Turns:
    """Has servers served, as many at once as there is room for."""

    def __init__(self, clock: Clock, lines: Lines, health: Destinations, connections: int) -> None:
        self._at_once = int(connections * _AT_ONCE)
        self._most_at_once = int(connections * _MOST_AT_ONCE)
        self._tries_at_once = int(connections * _TRIES_AT_ONCE)
        self._clock = clock
        self._lines = lines
        self._health = health
        self._ready: deque[Line] = deque()
        self._trying: deque[Line] = deque()
        self._changed = asyncio.Event()
        self._begun: dict[ServerName, float] = {}
        """The servers that are being served, since when; without those that are tried."""
        self._tries = 0
        self._timers: list[tuple[float, ServerName]] = []

    def wake(self, line: Line) -> None:
        """There is something for the server: it has its turn, unless it is down."""
        if line.stage is Stage.AT_REST and self._health.find(line.name) is None and self._lines.has_work(line):
            self._queue(line, self._ready)

    def attempt(self, line: Line) -> None:
        """It is time to try a server that was down."""
        if line.stage is not Stage.AT_REST:
            return
        if self._health.find(line.name) is None:
            self.wake(line)
            return
        if not self._lines.has_work(line):
            line.is_greeted = False  # Whether it is back is worth knowing all the same.
        self._queue(line, self._trying)

    def leave_alone(self, line: Line, health: Health) -> None:
        """The server is down: try it when it is time."""
        wait_s = max(0, health.next_retry_ts - self._clock.now()) / 1000
        self.set_timer(line, self._clock.monotonic() + wait_s)

    def set_timer(self, line: Line, due: float) -> None:
        """Try the server at that time, and at no other that was set before."""
        line.due = due
        heapq.heappush(self._timers, (due, line.name))

    def look_at_timers(self) -> None:
        """Try the servers whose time has come; those that have taken long by now make room."""
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, server = heapq.heappop(self._timers)
            line = self._lines.find(server)
            if line is not None and line.due == due:
                self.attempt(line)
        self._changed.set()

    async def run(self, serve: Serve) -> None:
        """Begin with a few at a time: whoever waits for an answer of this server comes in between."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for begun in count(1):
                    line = self._next()
                    if line is None:
                        break
                    group.create_task(self._serve(line, serve))
                    if begun % AT_A_TIME == 0:
                        await asyncio.sleep(0)

    def _next(self) -> Line | None:
        """Whose turn it is; it is being served from now on."""
        if self._ready and self._has_room():
            line = self._ready.popleft()
            self._begun[line.name] = self._clock.monotonic()
        elif self._trying and self._tries < self._tries_at_once:
            line = self._trying.popleft()
            self._tries += 1
        else:
            return None
        line.stage = Stage.SERVED
        return line

    async def _serve(self, line: Line, serve: Serve) -> None:
        await serve(line)
        line.stage = Stage.AT_REST
        if self._begun.pop(line.name, None) is None:
            self._tries -= 1
        if (health := self._health.find(line.name)) is not None:
            self.leave_alone(line, health)  # Its timer may have ended while it was served, when nobody looked.
        self.wake(line)
        self._changed.set()

    def _queue(self, line: Line, queue: deque[Line]) -> None:
        line.stage = Stage.QUEUED
        if line.waiting_since is None:
            line.waiting_since = self._clock.monotonic()
        queue.append(line)
        self._changed.set()

    def _has_room(self) -> bool:
        """Whether another transaction may be sent."""
        if len(self._begun) < self._at_once:
            return True
        young = self._clock.monotonic() - _LONG_S
        begun = sum(1 for started in self._begun.values() if started > young)
        return begun < self._at_once and len(self._begun) < self._most_at_once
