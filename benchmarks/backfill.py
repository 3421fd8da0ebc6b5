"""What it costs to fetch history.

    python -m benchmarks.backfill [--events 1000] [--postgres]

Two servers in this process, joined in memory. In a room of one, somebody has said things and some have changed their
names; then a user of the other joins and reads back to the beginning. What counts is the time on the wall of all those
requests, and the CPU of both servers.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homeserver.app.migrations import migrate
from homeserver.config.model import Config
from homeserver.kit import logs
from tests.federation.network import joined
from tests.federation.scenarios import join
from tests.processes import postgres, server
from tests.world import User

_NAMES = 20
"""One of so many events is somebody's new name."""


async def read_back(user: User, room_id: str) -> int:
    """Read to the beginning of the room; how many events that were."""
    seen, token = 0, ""
    while True:
        start = f"&from={quote(token)}" if token else ""
        page: dict[str, Any] = (await user.get(f"/rooms/{quote(room_id)}/messages?dir=b&limit=50{start}")).json()
        seen += len(page["chunk"])
        if "end" not in page:
            return seen
        token = page["end"]


async def run(count: int, new_database: Callable[[], str], folder: Path) -> None:
    """Print what it comes to."""
    logs.configure("error", json=False)
    async with joined(new_database, folder) as network:
        a, b = await network.server("a.test"), await network.server("b.test")
        alice, bob = await a.user("alice"), await b.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        for number in range(count):
            if number % _NAMES:
                await alice.send(room_id, f"Message {number}, of the usual length of one.")
            else:
                content = {"membership": "join", "displayname": f"Alice {number}"}
                await alice.set_state(room_id, "m.room.member", content, alice.user_id)
        await join(bob, room_id, alice)
        began, cpu = time.monotonic(), time.process_time()
        seen = await read_back(bob, room_id)
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        print(f"{seen} events were read back in {wall:.2f} s ({1000 * cpu / seen:.2f} ms CPU of both servers each).")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--postgres", action="store_true", help="on a throw-away PostgreSQL, durable")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.postgres:
            cluster = stack.enter_context(postgres.started(durable=True))
            urls = [stack.enter_context(cluster.database()) for _ in range(2)]
        else:
            urls = [server.sqlite_url(folder / f"{number}.db") for number in range(2)]
        for url in urls:
            asyncio.run(migrate(Config(server_name="bench.test", database_url=url, data_dir=str(folder))))
        asyncio.run(run(options.events, urls.pop, folder))


if __name__ == "__main__":
    main()
