"""Searches at other servers for what rooms lack: one for a thing at a time, and fewer the less comes of them.

A search may take some minutes. After one in vain its thing is left alone for a while, longer each time: no peer, and
nobody who reads, can keep this server busy.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from homeserver.errors import NotFound, Unavailable
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background
from homeserver.kit.logs import report

log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)

_LONGEST_S = 180.0
_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 3600.0
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Pause:
    """Until when a thing is left alone, by the monotonic clock, and how often nothing came of it."""

    until: float
    failures: int


class Searches(Generic[K]):
    """The searches of one kind, by what they are for: a room, or a room and a server.

    Each is a task that nobody's cancellation stops. When the server ends, they are: what was found is in the database.
    """

    def __init__(self, clock: Clock, background: Background) -> None:
        self._clock = clock
        self._background = background
        self._under_way: dict[K, asyncio.Task[bool]] = {}
        self._pauses: Lru[K, _Pause] = Lru(_REMEMBERED)
        self._is_closing = False

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    def under_way(self, key: K) -> "asyncio.Task[bool] | None":
        """The search for this."""
        return self._under_way.get(key)

    def is_resting(self, key: K) -> bool:
        """Whether it is to be left alone now."""
        pause = self._pauses.get(key)
        return pause is not None and pause.until > self._clock.monotonic()

    def failures(self, key: K) -> int:
        """How often nothing came of it, since something did."""
        pause = self._pauses.get(key)
        return 0 if pause is None else pause.failures

    def rest(self, key: K, seconds: float) -> None:
        """Leave it alone for so long; there was no failure."""
        self._pauses.put(key, _Pause(self._clock.monotonic() + seconds, 0))

    def wake(self, key: K) -> None:
        """Forget that it should be left alone."""
        self._pauses.drop(key)

    def begin(self, key: K, search: Callable[[], Coroutine[Any, Any, bool]]) -> "asyncio.Task[bool] | None":
        """Begin a search where none is under way, even if it is resting; None if the server is about to end.

        The search says whether it has found what it was for.
        """
        if self._is_closing:
            return None
        task = self._under_way[key] = self._background.start(self._run(key, search))
        return task

    async def close(self) -> None:
        """End all of them."""
        self._is_closing = True
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, key: K, search: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        has_found = False
        outcome: bool | BaseException
        try:
            async with asyncio.timeout(_LONGEST_S):
                [outcome] = await asyncio.gather(search(), return_exceptions=True)
            has_found = _has_found(outcome)
        except TimeoutError:
            log.info("a search for what a room lacks took too long", key=key)
        except (NotFound, Unavailable):
            return False  # The room is gone, or changes too quickly: that is no reason to leave it alone.
        finally:
            del self._under_way[key]
        if not has_found:
            failures = self.failures(key)
            pause_s = min(_PAUSE_S * 2 ** min(failures, 20), _LONGEST_PAUSE_S)
            self._pauses.put(key, _Pause(self._clock.monotonic() + pause_s, failures + 1))
        return has_found


def _has_found(outcome: bool | BaseException) -> bool:
    """Whether a search has found what it was for; one that failed by a fault of ours is as one in vain."""
    if isinstance(outcome, (NotFound, Unavailable)):
        raise outcome
    if isinstance(outcome, BaseException):
        report(outcome)
        return False
    return outcome
