"""How it goes with other servers: which are down, when they are tried again, and what wakes them up.

It is known here from memory; `consumers/federation` reads it from the database and writes it there.

A server that fails is tried again after a quarter of the time for which it has been failing, at least after two
seconds, up to an hour; from a day on after a twenty-fourth part, up to a day. So a server that was away for a while is
found within a fraction of that while, and one that is gone costs next to nothing. Any sign of life ends the wait: it
sends something here, or answers something else that it is asked.
"""

import asyncio
import math
from dataclasses import dataclass

from homeserver.errors import Unreachable
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import ServerName

_SHORTEST_MS = 2_000
_LONGEST_MS = 24 * 60 * 60 * 1000
_LONGEST_AT_FIRST_MS = 60 * 60 * 1000
_JITTER = 0.2
_MOST_PATIENCE_MS = 60 * 60 * 1000
"""So long at most are we told to wait by a server that is busy."""
_KNOWN_DEAD_AFTER = 3
_GIVEN_UP_AFTER_MS = 30 * 24 * 60 * 60 * 1000
_ASK_AGAIN_MS = 60_000
_SIGN_EVERY_MS = 10_000
_SIGN_AT_LEAST_EVERY_MS = 10 * 60_000


@dataclass(slots=True)
class Health:
    """A server that fails: since when, how often, and why."""

    failures: int
    since_ts: int
    last_attempt_ts: int
    next_retry_ts: int
    error: str
    signs: int = 0
    """How often it was tried early because it gave a sign of life, and failed all the same."""


class Destinations:
    """The servers that fail; all others are believed to be well."""

    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._randomness = randomness
        self._failing: dict[ServerName, Health] = {}
        self._awake: set[ServerName] = set()
        self._changed = asyncio.Event()

    def find(self, server: ServerName) -> Health | None:
        """How it fails, or None if it does not."""
        return self._failing.get(server)

    def is_given_up(self, server: ServerName) -> bool:
        """Whether it has failed for so long that not all that waits for it is kept (30 days)."""
        health = self._failing.get(server)
        return health is not None and self._clock.now() - health.since_ts > _GIVEN_UP_AFTER_MS

    def forget_all(self) -> None:
        """Believe that all are well."""
        self._failing.clear()

    def restore(self, server: ServerName, health: Health) -> None:
        """What was known of a server that fails, before this server was started."""
        self._failing[server] = health

    def failed(self, server: ServerName, error: str, *, patience_ms: float | None = None) -> Health:
        """A server did not take what was sent; it may have said for how long it wants to be left alone."""
        now = self._clock.now()
        health = self._failing.get(server)
        if health is None:
            health = self._failing[server] = Health(0, now, now, now, "")
        health.failures += 1
        health.last_attempt_ts = now
        # The clock may have been set back.
        health.since_ts = min(health.since_ts, now)
        health.error = error
        pause = max(self._pause(now - health.since_ts), _sensible(patience_ms))
        health.next_retry_ts = now + pause
        return health

    def succeeded(self, server: ServerName) -> Health | None:
        """A server took what was sent; how it had failed before."""
        return self._failing.pop(server, None)

    def alive(self, server: ServerName) -> None:
        """A server gave a sign of life: if it was failing, it is tried again at once."""
        health = self._failing.get(server)
        if health is None:
            return
        now = self._clock.now()
        # One that can speak and not hear would be tried each time that it speaks.
        pause = min(_SIGN_EVERY_MS * 2 ** min(health.signs, 10), _SIGN_AT_LEAST_EVERY_MS) if health.signs else 0
        if 0 <= now - health.last_attempt_ts < pause:
            return
        health.signs += 1
        health.next_retry_ts = now
        self.wake(server)

    def wake(self, server: ServerName) -> None:
        """Have the server tried now."""
        self._awake.add(server)
        self._changed.set()

    async def awake(self) -> set[ServerName]:
        """Wait until there are servers that are to be tried now; which."""
        await self._changed.wait()
        self._changed.clear()
        awake, self._awake = self._awake, set()
        return awake

    def check(self, server: ServerName) -> None:
        """Raise `Unreachable` for a server that is known to be down and was tried a moment ago: nobody has to wait."""
        health = self._failing.get(server)
        if health is None or health.failures < _KNOWN_DEAD_AFTER:
            return
        now = self._clock.now()
        if 0 <= now - health.last_attempt_ts < _ASK_AGAIN_MS and now < health.next_retry_ts:
            raise Unreachable(f"{server} is down, as it was a moment ago: {health.error}")

    def silent(self, server: ServerName) -> None:
        """A server gave no answer to something else that it was asked: if it is known to be down, it still is."""
        if (health := self._failing.get(server)) is not None:
            health.last_attempt_ts = self._clock.now()

    def _pause(self, outage_ms: int) -> int:
        pause = max(min(outage_ms / 4, _LONGEST_AT_FIRST_MS), outage_ms / 24, _SHORTEST_MS)
        # Servers that failed together are not all tried together.
        chance = int.from_bytes(self._randomness.bytes(2), "big") / 0xFFFF
        return int(min(pause * (1 + _JITTER * (2 * chance - 1)), _LONGEST_MS))


def _sensible(patience_ms: float | None) -> int:
    """What a server asks for, as far as it can be taken seriously."""
    if patience_ms is None or math.isnan(patience_ms) or patience_ms <= 0:
        return 0
    return int(min(patience_ms, _MOST_PATIENCE_MS))
