"""An event loop in which time passes only when nobody has anything to do, and everything happens in one thread.

What would run in a thread runs in the loop, after a delay that chance decides; a chance that is seeded makes every run
of a program the same. A process that is killed is a `Life` that has ended: whatever it still waits for never comes.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness

_BEGIN_MS = 1_700_000_000_000


class Life:
    """One run of a server, from its start to its end or its death."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False


LIFE: ContextVar[Life | None] = ContextVar("LIFE", default=None)
"""Whose work this is."""


class _Leap(selectors.BaseSelector):
    """A selector with nothing to select: it is asked to wait, and time leaps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._map: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._map[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("Everybody waits, and nothing will ever happen.")
        self.now += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map


class SimulationLoop(asyncio.SelectorEventLoop):
    """The event loop."""

    def __init__(self, chance: random.Random) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)
        self._chance = chance
        self._free_at: dict[int, float] = {}

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._leap.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """Run the function in a while, and give its result a while later; one thread takes one after the other."""
        future: asyncio.Future[Any] = self.create_future()
        life = LIFE.get()
        at = self.time() + self._chance.uniform(0.0001, 0.004)
        if isinstance(executor, ThreadPoolExecutor) and executor._max_workers == 1:
            at = max(at, self._free_at.get(id(executor), 0.0) + 0.0001)
            self._free_at[id(executor)] = at

        def run() -> None:
            if life is not None and life.is_over:
                return
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for it
                self.call_later(self._chance.uniform(0.00001, 0.001), fail, error)
            else:
                self.call_later(self._chance.uniform(0.00001, 0.001), give, result)

        def give(result: Any) -> None:
            if not future.done() and not (life is not None and life.is_over):
                future.set_result(result)

        def fail(error: BaseException) -> None:
            if not future.done() and not (life is not None and life.is_over):
                future.set_exception(error)

        self.call_at(at, run)
        return future


class SimulatedClock(Clock):
    """The loop's time; servers may disagree on what time of day that is."""

    def __init__(self, loop: SimulationLoop, skew_ms: int = 0) -> None:
        self._loop = loop
        self._skew_ms = skew_ms

    def now(self) -> int:
        return _BEGIN_MS + self._skew_ms + int(self._loop.time() * 1000)

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        life = LIFE.get()
        await super().sleep(seconds)
        if life is not None and life.is_over:
            await self._loop.create_future()


class SeededRandomness(Randomness):
    """Chance that repeats."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)
