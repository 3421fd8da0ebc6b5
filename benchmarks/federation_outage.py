"""How long it takes until rooms are current again after an outage.

    python -m benchmarks.federation_outage [--rooms 100] [--events 10000]

Two servers in this process, joined in memory. In each of the rooms is a user of either. One server is cut off for an
hour of the servers' clock, in which somebody on the other one speaks; then it is back, with a sign of life, and the
clock on the wall says how long it takes until it has the newest event of every room.
"""

import argparse
import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from homeserver.app.migrations import migrate
from homeserver.config.model import Config
from homeserver.kit import logs
from homeserver.matrix.identifiers import EventId
from homeserver.storage import events
from homeserver.storage.engine import Database, ReadTx
from tests.federation.network import joined
from tests.federation.scenarios import join
from tests.processes import server

_HOUR_S = 3600.0


def _accepted(tx: ReadTx, ids: list[EventId]) -> int:
    return sum(1 for row in events.find_many_by_id(tx, ids).values() if row.status == events.OK)


async def arrived(database: Database, ids: list[EventId]) -> None:
    """Wait until the server has all of these events in its timelines."""
    while await database.read(_accepted, ids) < len(ids):  # noqa: ASYNC110 - as an observer would look
        await asyncio.sleep(0.05)


async def run(rooms: int, count: int, folder: Path) -> None:
    """Print what it comes to."""
    logs.configure("error", json=False)
    urls = [server.sqlite_url(folder / f"{number}.db") for number in range(2)]
    for url in urls:
        await migrate(Config(server_name="bench.test", database_url=url, data_dir=str(folder)))
    async with joined(lambda: urls.pop(), folder) as network:
        a, b = await network.server("a.test"), await network.server("b.test")
        alice, bob = await a.user("alice"), await b.user("bob")
        ids = []
        for _ in range(rooms):
            room_id = await alice.create_room(preset="public_chat")
            await join(bob, room_id, alice)
            ids.append(room_id)
        said = [EventId(await alice.send(room_id, "before")) for room_id in ids]
        await arrived(b.container.database, said)
        print(f"{rooms} rooms are on both servers.")
        network.cut("b.test")
        last: dict[str, EventId] = {}
        every = []
        for number in range(count):
            room_id = ids[number % rooms]
            last[room_id] = EventId(await alice.send(room_id, f"Message {number}, of the usual length of one."))
            every.append(last[room_id])
            if number % (count // 60 or 1) == 0:
                network.clock.advance(_HOUR_S / 60)
        network.heal("b.test")
        began, cpu = time.monotonic(), time.process_time()
        await bob.send(ids[0], "here again")
        await arrived(b.container.database, list(last.values()))
        print(
            f"After an hour in which {count} events came about: all rooms are current {time.monotonic() - began:.1f} s "
            f"after the return ({time.process_time() - cpu:.1f} s CPU of both servers)."
        )
        await asyncio.sleep(1)
        there = await b.container.database.read(_accepted, every)
        print(f"Of the events in between it has {there} of {count}; the others it fetches when somebody reads back.")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        asyncio.run(run(options.rooms, options.events, Path(folder)))


if __name__ == "__main__":
    main()
