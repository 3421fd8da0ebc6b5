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
from homeserver.consumers.federation.recipients import Recipient, Recipients
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

Serve = Callable[[Recipient], Awaitable[None]]


class Turns:
    """Has servers served, as many at once as there is room for."""

    def __init__(self, clock: Clock, recipients: Recipients, health: Destinations, connections: int) -> None:
        self._at_once = int(connections * _AT_ONCE)
        self._most_at_once = int(connections * _MOST_AT_ONCE)
        self._tries_at_once = int(connections * _TRIES_AT_ONCE)
        self._clock = clock
        self._recipients = recipients
        self._health = health
        self._busy: set[ServerName] = set()
        """The servers that wait for their turn, or are being served; all others are at rest."""
        self._ready: deque[Recipient] = deque()
        self._trying: deque[Recipient] = deque()
        self._changed = asyncio.Event()
        self._begun: dict[ServerName, float] = {}
        """The servers that are being served, since when; without those that are tried."""
        self._tries = 0
        self._timers: list[tuple[float, ServerName]] = []
        self._due: dict[ServerName, float] = {}
        """When the timer of each ends that has one; what else is in `_timers` does not count any more."""

    def wake(self, recipient: Recipient) -> None:
        """There is something for the server: it has its turn, unless it is down."""
        if (
            recipient.name not in self._busy
            and self._health.find(recipient.name) is None
            and self._recipients.has_work(recipient)
        ):
            self._queue(recipient, self._ready)

    def attempt(self, recipient: Recipient) -> None:
        """It is time to try a server that was down."""
        if recipient.name in self._busy:
            return
        if self._health.find(recipient.name) is None:
            self.wake(recipient)
            return
        if not self._recipients.has_work(recipient):
            recipient.pending.owe_greeting()  # Whether it is back is worth knowing all the same.
        self._queue(recipient, self._trying)

    def leave_alone(self, recipient: Recipient, health: Health) -> None:
        """The server is down: try it when it is time."""
        wait_s = max(0, health.next_retry_ts - self._clock.now()) / 1000
        self.set_timer(recipient, self._clock.monotonic() + wait_s)

    def set_timer(self, recipient: Recipient, due: float) -> None:
        """Try the server at that time, and at no other that was set before."""
        self._due[recipient.name] = due
        heapq.heappush(self._timers, (due, recipient.name))

    def look_at_timers(self) -> None:
        """Try the servers whose time has come; those that have taken long by now make room."""
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, server = heapq.heappop(self._timers)
            recipient = self._recipients.find(server)
            if recipient is not None and self._due.get(server) == due:
                self.attempt(recipient)
        self._changed.set()

    async def run(self, serve: Serve) -> None:
        """Begin with a few at a time: whoever waits for an answer of this server comes in between."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for begun in count(1):
                    recipient = self._next()
                    if recipient is None:
                        break
                    group.create_task(self._serve(recipient, serve))
                    if begun % AT_A_TIME == 0:
                        await asyncio.sleep(0)

    def _next(self) -> Recipient | None:
        """Whose turn it is; it is being served from now on."""
        if self._ready and self._has_room():
            recipient = self._ready.popleft()
            self._begun[recipient.name] = self._clock.monotonic()
        elif self._trying and self._tries < self._tries_at_once:
            recipient = self._trying.popleft()
            self._tries += 1
        else:
            return None
        return recipient

    async def _serve(self, recipient: Recipient, serve: Serve) -> None:
        await serve(recipient)
        self._busy.discard(recipient.name)
        if self._begun.pop(recipient.name, None) is None:
            self._tries -= 1
        if (health := self._health.find(recipient.name)) is not None:
            self.leave_alone(recipient, health)  # Its timer may have ended while it was served, when nobody looked.
        self.wake(recipient)
        self._changed.set()

    def _queue(self, recipient: Recipient, queue: deque[Recipient]) -> None:
        self._busy.add(recipient.name)
        recipient.age.begin(self._clock.monotonic())
        queue.append(recipient)
        self._changed.set()

    def _has_room(self) -> bool:
        """Whether another transaction may be sent."""
        if len(self._begun) < self._at_once:
            return True
        young = self._clock.monotonic() - _LONG_S
        begun = sum(1 for started in self._begun.values() if started > young)
        return begun < self._at_once and len(self._begun) < self._most_at_once
