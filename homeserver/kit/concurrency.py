"""Tasks with owners, locks by key, and work that one caller's cancellation must not stop."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Background:
    """Owns tasks that outlive the request which started them.

    `close` waits for all of them: what a request began is finished before the process ends.
    A task that fails is reported to `on_error`; nobody else would see it.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_error = on_error

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` to its end, whoever waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Wait until every task has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if the caller is cancelled while it runs.

    The cancellation is delivered afterwards, so that a transaction is never left half way.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def contained(work: Coroutine[Any, Any, Any], on_error: Callable[[BaseException], None]) -> bool:
    """Run `work`, whose failure must end nothing else: it is told to `on_error`. Whether it did not fail."""
    outcomes: tuple[Any] = await asyncio.gather(work, return_exceptions=True)
    errors = [one for one in outcomes if isinstance(one, BaseException)]
    for error in errors:
        on_error(error)
    return not errors


class KeyedLocks(Generic[K]):
    """One mutual exclusion per key, or so many at once; a key costs nothing while nobody holds or awaits it."""

    def __init__(self, at_once: int = 1) -> None:
        self._locks: dict[K, tuple[asyncio.Semaphore, int]] = {}
        self._at_once = at_once

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Hold the key's lock; first come, first served."""
        lock, users = self._locks.get(key) or (asyncio.Semaphore(self._at_once), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


class FairTurns:
    """Has work that keeps the event loop busy for a moment begin piece by piece, whoever asks for how much of it.

    Between two pieces the loop comes round some times, so all that is short gets on. Groups are served by turns, and in
    each group its members: who asks for much waits behind the own pieces, and not others behind them. Nobody waits
    while there is nobody else.
    """

    def __init__(self, rounds: int) -> None:
        """The loop comes round so often between two pieces."""
        self._rounds = rounds
        self._waiting: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}
        self._is_resting = False

    async def take(self, group: str, member: str) -> None:
        """Wait for a turn."""
        if not self._is_resting:
            self._rest()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, {}).setdefault(member, deque()).append(turn)
        await turn

    def _rest(self) -> None:
        self._is_resting = True
        asyncio.get_running_loop().call_soon(self._go_on, self._rounds)

    def _go_on(self, rounds: int) -> None:
        if rounds > 1:
            asyncio.get_running_loop().call_soon(self._go_on, rounds - 1)
            return
        self._is_resting = False
        while self._waiting:
            turn = self._next()
            if not turn.done():  # Somebody may have stopped to wait.
                turn.set_result(None)
                self._rest()
                return

    def _next(self) -> "asyncio.Future[None]":
        group, members = next(iter(self._waiting.items()))
        member, turns = next(iter(members.items()))
        turn = turns.popleft()
        # Whoever had a turn is last.
        del self._waiting[group], members[member]
        if turns:
            members[member] = turns
        if members:
            self._waiting[group] = members
        return turn


class FairSemaphore:
    """Lets so many go on at once; where more want to, groups are served by turns, whoever wants how much of it."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def acquire(self, group: str = "") -> None:
        """Wait for a turn, to be given back."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()  # It was given just now.
            raise

    def release(self) -> None:
        """Give the turn to whoever is next."""
        while self._waiting:
            group, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            # Whoever had a turn is last.
            del self._waiting[group]
            if turns:
                self._waiting[group] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class SingleFlight(Generic[K, V]):
    """Concurrent requests for one key share one computation; no waiter's cancellation reaches the others."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Task[V]] = {}

    @property
    def count(self) -> int:
        """How many computations are under way."""
        return len(self._flights)

    def is_under_way(self, key: K) -> bool:
        """Whether a computation for the key has begun and not ended."""
        return key in self._flights

    async def run(self, key: K, compute: Callable[[], Awaitable[V]]) -> V:
        """The value, from the computation under way if there is one."""
        task = self._flights.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._compute(key, compute))
            self._flights[key] = task
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the computations under way; whoever still waits is cancelled with them."""
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _compute(self, key: K, compute: Callable[[], Awaitable[V]]) -> V:
        try:
            return await compute()
        finally:
            del self._flights[key]
