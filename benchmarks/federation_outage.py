"""How long it takes until rooms are current again after an outage, what that does to users, and what a backlog costs.

    python -m benchmarks.federation_outage [--rooms 100] [--events 10000] [--hours 1]
    python -m benchmarks.federation_outage --pending 1000000 [--rooms 500]

Two servers in this process, joined in memory. In each of the rooms is a user of either. One server is cut off for some
hours of the servers' clock, in which somebody on the other one speaks; then it is back, with a sign of life, and the
clock on the wall says how long it takes until it has the newest event of every room. Meanwhile somebody of the server
that is back talks in a room of their own, as before.

With `--pending`, one server has so many events for another one that is down (rows, put into the table at once), and is
started; then the other one is back.
"""

import argparse
import asyncio
import json
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from homeserver.app.migrations import migrate
from homeserver.config.model import Config
from homeserver.errors import Unreachable
from homeserver.kit import logs
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.outbound.transport import Call, Reply
from homeserver.storage import events, outgoing, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.outgoing import OutgoingEvent
from tests.federation.foreign import bring_in
from tests.federation.network import Network, joined
from tests.federation.scenarios import join
from tests.federation.test_outbound import SEND, Taker
from tests.processes import server
from tests.world import User, eventually

_HOUR_S = 3600.0
_PAUSE_S = 0.05
_ROWS = 50_000


@dataclass
class Talk:
    """Somebody who talks and reads all the time, and how long each request took."""

    user: User
    room_id: str
    said_ms: list[float] = field(default_factory=list)
    read_ms: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Talk while this block lasts."""
        self.said_ms, self.read_ms = [], []
        task = asyncio.ensure_future(self._talk())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def for_s(self, seconds: float) -> str:
        """Talk for some seconds; how long that took."""
        async with self.going_on():
            await asyncio.sleep(seconds)
        return str(self)

    def __str__(self) -> str:
        """The 95th percentiles."""
        return f"{_p95(self.said_ms):.1f} ms to send, {_p95(self.read_ms):.1f} ms to read"

    async def _talk(self) -> None:
        while True:
            began = time.monotonic()
            await self.user.send(self.room_id, "Message of the usual length of one, more or less.")
            said = time.monotonic()
            await self.user.get(f"/rooms/{quote(self.room_id)}/messages", dir="b", limit=20)
            self.said_ms.append((said - began) * 1000)
            self.read_ms.append((time.monotonic() - said) * 1000)
            await asyncio.sleep(_PAUSE_S)


def _p95(ms: list[float]) -> float:
    return statistics.quantiles(ms, n=20)[-1] if len(ms) > 1 else 0.0


class Arrivals:
    """The transactions that come to a server: how many at once, and of how many events."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._under_way = 0
        self.most = 0
        self.sizes: list[int] = []

    async def __call__(self, call: Call, deliver: Callable[[], Awaitable[Reply]]) -> Reply:
        if call.destination != self._name or not call.target.startswith(SEND):
            return await deliver()
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            return await deliver()
        finally:
            self._under_way -= 1
            self.sizes.append(len(json.loads(call.body or b"{}").get("pdus", [])))


def _accepted(tx: ReadTx, ids: list[EventId]) -> int:
    return sum(1 for row in events.find_many_by_id(tx, ids).values() if row.status == events.OK)


async def arrived(database: Database, ids: list[EventId]) -> None:
    """Wait until the server has all of these events in its timelines."""
    while await database.read(_accepted, ids) < len(ids):  # noqa: ASYNC110 - as an observer would look
        await asyncio.sleep(0.05)


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@asynccontextmanager
async def network_of(folder: Path, count: int) -> AsyncIterator[Network]:
    """A network for so many servers, with their databases."""
    urls = [server.sqlite_url(folder / f"{number}.db") for number in range(count)]
    for url in urls:
        await migrate(Config(server_name="bench.test", database_url=url, data_dir=str(folder)))
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(joined(lambda: urls.pop(), folder))


async def catch_up(room_count: int, count: int, hours: float, folder: Path) -> None:
    """Print what an outage comes to."""
    async with network_of(folder, 2) as network:
        a, b = await network.server("a.test"), await network.server("b.test")
        alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol")
        ids = []
        for _ in range(room_count):
            room_id = await alice.create_room(preset="public_chat")
            await join(bob, room_id, alice)
            ids.append(room_id)
        said = [EventId(await alice.send(room_id, "before")) for room_id in ids]
        await arrived(b.container.database, said)
        talk = Talk(carol, await carol.create_room())
        usual = await talk.for_s(5)
        print(f"{room_count} rooms are on both servers.")
        network.cut("b.test")
        last, every = await _speak(network, alice, ids, count, hours)
        arrivals = network.weather = Arrivals("b.test")
        network.heal("b.test")
        began, cpu, memory = time.monotonic(), time.process_time(), peak_mib()
        async with talk.going_on():
            await bob.send(ids[0], "here again")
            await arrived(b.container.database, list(last.values()))
        print(
            f"After {hours:g} h in which {count} events came about: all rooms are current "
            f"{time.monotonic() - began:.1f} s after the return ({time.process_time() - cpu:.1f} s CPU of both)."
        )
        print(
            f"Transactions: {len(arrivals.sizes)} with {sum(arrivals.sizes)} events in all, {arrivals.most} at once. "
            f"Memory of both servers: {memory:.0f} MiB at most before, {peak_mib():.0f} MiB then."
        )
        print(f"Who talks on the server that is back waits (p95) {usual} as a rule; {talk} then.")
        await asyncio.sleep(1)
        there = sum([await b.container.database.read(_accepted, every[at : at + 500]) for at in range(0, count, 500)])
        print(f"Of the events in between it has {there} of {count}; the others it fetches when somebody reads back.")


async def _speak(
    network: Network, alice: User, ids: Sequence[str], count: int, hours: float
) -> tuple[dict[str, EventId], list[EventId]]:
    """Say so much in these rooms; the newest event of each, and all."""
    last: dict[str, EventId] = {}
    every = []
    for number in range(count):
        room_id = ids[number % len(ids)]
        last[room_id] = EventId(await alice.send(room_id, f"Message {number}, of the usual length of one."))
        every.append(last[room_id])
        if number % (count // 60 or 1) == 0:
            network.clock.advance(hours * _HOUR_S / 60)
    return last, every


async def backlog(room_count: int, pending: int, folder: Path) -> None:
    """Print what a backlog comes to."""
    async with network_of(folder, 1) as network:
        a = await network.server("a.test")
        alice = await a.user("alice")
        taker = Taker(network.peer("c.test"))
        ids = []
        for number in range(room_count):
            ids.append(await alice.create_room(preset="public_chat"))
            await bring_in(network.peers["c.test"], "a.test", ids[-1], f"@user{number}:c.test")
        talk = Talk(alice, await alice.create_room())
        usual = await talk.for_s(5)
        taker.failure = Unreachable("It is down.")
        before = EventId(await alice.send(ids[0], "Is anybody there?"))
        await eventually(lambda: a.container.database.read(_accepted, [before]), lambda found: bool(taker.offered))
        for first in range(0, pending, _ROWS):
            await a.container.database.write(_pend, ids, min(_ROWS, pending - first))
        newest = {room_id: await alice.send(room_id, "The newest.") for room_id in ids}
        await network.stop("a.test")
        memory = peak_mib()
        a = await network.server("a.test")
        alice.client = a.client
        offered = len(taker.offered)
        print(f"{pending} events in {room_count} rooms wait for a server that is down.")
        taker.failure = None
        arrivals = network.weather = Arrivals("c.test")
        began, cpu = time.monotonic(), time.process_time()
        async with talk.going_on():
            network.clock.advance(24 * _HOUR_S)
            while len(taker.events) < len(newest):  # noqa: ASYNC110 - as an observer would look
                await asyncio.sleep(0.05)
        took = time.monotonic() - began
        said = [pdu["content"].get("body") for pdu in taker.events]
        print(
            f"{took:.1f} s after its return it has {said.count('The newest.')} newest events of {len(newest)}, in "
            f"{len(taker.offered) - offered} transactions, {arrivals.most} at once "
            f"({time.process_time() - cpu:.1f} s CPU)."
        )
        print(f"Memory: {memory:.0f} MiB at most before the start with the backlog, {peak_mib():.0f} MiB then.")
        print(f"Who talks meanwhile waits (p95) {usual} as a rule; {talk} then.")


def _pend(tx: WriteTx, room_ids: Sequence[str], count: int) -> None:
    """Let so many events wait in these rooms, in turn. There is nothing else of them: nobody is to get them."""
    nids = [nid for room_id in room_ids if (nid := rooms.find_nid(tx, RoomId(room_id))) is not None]
    last = stream_rows.advance(tx, count)
    rows = [OutgoingEvent(last - count + 1 + number, nids[number % len(nids)]) for number in range(count)]
    outgoing.add_events(tx, rows)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--pending", type=int, default=0)
    options = parser.parse_args()
    logs.configure("error", json=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.pending:
            asyncio.run(backlog(options.rooms, options.pending, folder))
        else:
            asyncio.run(catch_up(options.rooms, options.events, options.hours, folder))


if __name__ == "__main__":
    main()
