"""What it costs to send to many servers, most of which are down.

    python -m benchmarks.federation_out [--live 500] [--dead 1500] [--seconds 60] [--postgres]

One server in this process, joined in memory to others that take everything after 50 ms, or are never reached. A user of
each is in one room, in which somebody here says something once a second. The CPU time is that of this whole process:
sending the event, finding out for whom it is, signing and handing over the transactions, and writing down how it goes.
Sockets and TLS are not in it. The event loop is that of the server.
"""

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import uvloop

from homeserver.app.application import Application
from homeserver.app.migrations import migrate
from homeserver.errors import Unreachable
from homeserver.kit import logs
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import RoomId
from homeserver.outbound.transport import Call, Nowhere, Reply
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import destinations, outgoing, server_keys
from homeserver.storage.engine import ReadTx
from tests import room_graphs
from tests.client import client_of
from tests.processes import postgres, server
from tests.services.rooms.test_branches import Scene
from tests.world import User, World, settings


class Others(Nowhere):
    """Servers that take everything, and servers that are down."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.taken: dict[str, int] = {}
        self.attempts = 0
        self.times: list[float] = []

    async def exchange(self, call: Call) -> Reply:
        """What one of them answers."""
        self.attempts += 1
        destination = call.destination
        if destination in self.dead:
            await asyncio.sleep(0.2)
            raise Unreachable("There is nobody.")
        await asyncio.sleep(0.05)
        pdus = json.loads(call.body or b"{}").get("pdus", [])
        self.taken[destination] = self.taken.get(destination, 0) + len(pdus)
        now = time.time() * 1000
        self.times += [now - pdu["origin_server_ts"] for pdu in pdus]
        return Reply(200, {}, b'{"pdus":{}}')


async def room_with(world: World, alice: User, servers: list[str]) -> str:
    """A room in which a user of each of the servers is."""
    await world.container.database.write(server_keys.put_many, room_graphs.server_keys(servers))
    scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
    graph = await scene.graph()
    tip, joins = graph.events[-1], []
    for name in servers:
        user = f"@someone:{name}"
        tip = graph.say(user, "m.room.member", {"membership": "join"}, [tip], state_key=user)
        joins.append(tip.pdu)
    for start in range(0, len(joins), 200):
        await world.container.inbox.receive(RoomId(scene.room_id), joins[start : start + 200])
    return scene.room_id


async def talk(alice: User, room_id: str, seconds: int) -> tuple[float, float]:
    """CPU seconds for each second, and the median of the milliseconds in which a send is answered."""
    answers = []
    began, cpu = time.monotonic(), time.process_time()
    for number in range(seconds):
        sent = time.monotonic()
        await alice.send(room_id, f"Message {number}, of the usual length of one.")
        answers.append((time.monotonic() - sent) * 1000)
        await asyncio.sleep(max(0.0, began + number + 1 - time.monotonic()))
    used = (time.process_time() - cpu) / (time.monotonic() - began)
    return used, sorted(answers)[len(answers) // 2]


def _counts(tx: ReadTx) -> tuple[int, int, int]:
    rows = destinations.list_all(tx)
    missed = outgoing.count(tx, after=0, upto=1 << 60, limit=1_000_000)
    return len(rows), sum(1 for row in rows if row.failures), missed


async def run(live: int, dead: int, seconds: int, url: str, folder: str) -> None:
    """Print what it comes to."""
    logs.configure("error", json=False)
    others = Others()
    config = settings(url, folder, server_name="bench.test")
    await migrate(config)
    application = Application(config, clock=Clock(), transport=others)
    container = await application.start()
    try:
        async with client_of(application) as client:
            world = World(client, None, container)  # type: ignore[arg-type]  # the clock is a real one here
            _, session = await container.accounts.register(
                "alice", "alicealice", NewDevice(None, None, refreshable=False)
            )
            assert session is not None
            alice = User(client, session.user_id, session.device_id, session.tokens.access_token)
            names = [f"s{number}.test" for number in range(live + dead)]
            others.dead = set(names[live:])
            alone = await alice.create_room()
            began = time.monotonic()
            room_id = await room_with(world, alice, names)
            print(f"A room with {len(names)} servers was made in {time.monotonic() - began:.0f} s.")
            for _ in range(20):
                await alice.send(alone, "warm")
            used, answer = await talk(alice, alone, min(10, seconds))
            print(f"1 event/s to nobody: {100 * used:.1f} % of a core; a send is answered in {answer:.1f} ms")
            for title in ("while the dead are found out", "afterwards"):
                attempts, others.times = others.attempts, []
                used, answer = await talk(alice, room_id, seconds)
                await asyncio.sleep(2)
                times = sorted(others.times)
                print(
                    f"1 event/s to {live} + {dead} dead, {title}: {100 * used:.1f} % of a core; a send is answered in "
                    f"{answer:.1f} ms; the live have it after {times[len(times) // 2]:.0f} ms (p50), "
                    f"{times[len(times) * 99 // 100]:.0f} ms (p99); {others.attempts - attempts} requests"
                )
            events = {count for name, count in others.taken.items()}
            print(f"Each of the live has {events} events, of {2 * seconds}.")
            found = await container.database.snapshot(_counts)
            print(f"Destinations {found[0]}, of which {found[1]} fail; rows of outgoing events: {found[2]}.")
            # What everybody sends, whatever the destinations.
            began_cpu = time.process_time()
            for number in range(200):
                await alice.send(room_id, f"Message {number}, of the usual length of one.")
            print(f"200 events one after the other: {(time.process_time() - began_cpu) * 5:.2f} ms CPU each")
    finally:
        await application.stop()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", type=int, default=500)
    parser.add_argument("--dead", type=int, default=1500)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = server.sqlite_url(Path(folder) / "bench.db")
        if options.postgres:
            url = stack.enter_context(stack.enter_context(postgres.started(durable=True)).database())
        uvloop.run(run(options.live, options.dead, options.seconds, url, folder))


if __name__ == "__main__":
    main()
