"""Wakes those who wait for something new.

Each waiter has one future, listed under every key it waits for: its user, and the rooms the user is in. A change
names its keys, so only those are touched who will see something. Nothing here is lost or late by design: a waiter
registers first and then looks at the database, and a change is announced after its commit.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

_REMEMBERED = 100_000
"""Of so many keys it is known when they changed last."""


class Waiter:
    """One request that waits, in a block in which the keys wake it."""

    def __init__(self, waiters: dict[str, set["Waiter"]], keys: Iterable[str]) -> None:
        self._waiters = waiters
        self._keys = list(keys)
        self._is_woken = False
        self._waking: asyncio.Future[None] | None = None

    def __enter__(self) -> "Waiter":
        for key in self._keys:
            self._waiters.setdefault(key, set()).add(self)
        return self

    def __exit__(self, *_: object) -> None:
        for key in self._keys:
            waiters = self._waiters[key]
            waiters.discard(self)
            if not waiters:
                del self._waiters[key]

    def wake(self) -> None:
        """End the wait, now or when it begins."""
        self._is_woken = True
        if self._waking is not None:
            _end(self._waking)

    async def wait(self, seconds: float) -> bool:
        """Wait at most that long; whether there was something."""
        if not self._is_woken:
            loop = asyncio.get_running_loop()
            self._waking = loop.create_future()
            timer = loop.call_later(seconds, _end, self._waking)
            try:
                await self._waking
            finally:
                timer.cancel()
                self._waking = None
        woken, self._is_woken = self._is_woken, False
        return woken


def _end(wait: "asyncio.Future[None]") -> None:
    if not wait.done():
        wait.set_result(None)


class Notifier:
    """Who waits for which keys (a user id, or a room id)."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        """Of so many keys it keeps when they changed last."""
        self._remembered = remembered
        self._waiters: dict[str, set[Waiter]] = {}
        self._changed: OrderedDict[str, int] = OrderedDict()
        """The position of each key's last change; what changed last is at the end."""
        self._known_since: int | None = None
        self.latest = 0
        """The last position that was announced."""
        self.is_stopping = False
        """Nobody should begin to wait any more."""

    def waiting_for(self, keys: Iterable[str]) -> Waiter:
        """A waiter that the keys wake for as long as its block lasts."""
        return Waiter(self._waiters, keys)

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
            self._changed.move_to_end(key)
        while len(self._changed) > self._remembered:
            _, forgotten = self._changed.popitem(last=False)
            # Of what was before this, nothing is certain any more.
            self._known_since = max(self._known_since or 0, forgotten)
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
