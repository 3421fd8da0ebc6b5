"""Wakes those who wait for something new.

Each waiter has one future, listed under every key it waits for: its user, and the rooms the user is in. A change
names its keys, so only those are touched who will see something. Nothing here is lost or late by design: a waiter
registers first and then looks at the database, and a change is announced after its commit.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Waiter:
    """One request that waits."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """End the wait, now or when it begins."""
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Wait at most that long; whether there was something."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


class Notifier:
    """Who waits for which keys (a user id, or a room id)."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self._changed: dict[str, int] = {}
        self._known_since: int | None = None
        self.latest = 0
        """The last position that was announced."""
        self.is_stopping = False
        """Nobody should begin to wait any more."""

    @contextmanager
    def waiting_for(self, keys: Iterable[str]) -> Iterator[Waiter]:
        """A waiter that the keys wake for as long as the block lasts."""
        keys = list(keys)
        waiter = Waiter()
        for key in keys:
            self._waiters.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            for key in keys:
                waiters = self._waiters[key]
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[key]

    def waits(self, key: str) -> bool:
        """Whether anybody waits for this key."""
        return key in self._waiters

    def begin(self, position: int) -> None:
        """From this position on the notifier hears of every change."""
        self._known_since = self.latest = position

    def may_have_changed(self, key: str, since: int) -> bool:
        """Whether something under the key may have happened after `since`; False is certain."""
        if self._known_since is None or since < self._known_since:
            return True
        return self._changed.get(key, 0) > since

    def changed(self, position: int, keys: Iterable[str]) -> None:
        """A commit up to this position concerns the keys: note it, and wake those who wait for one of them."""
        keys = list(keys)
        self.latest = max(self.latest, position)
        for key in keys:
            self._changed[key] = max(position, self._changed.get(key, 0))
        self.wake(keys)

    def wake(self, keys: Iterable[str]) -> None:
        """Wake everybody who waits for one of the keys, for what has no position in the log (typing, presence)."""
        for key in keys:
            for waiter in self._waiters.get(key, ()):
                waiter.wake()

    def wake_all(self) -> None:
        """Wake everybody: the server is about to stop."""
        self.is_stopping = True
        self.wake(list(self._waiters))
