"""What it costs to take in events of another server.

    python -m benchmarks.inbound [--rooms 20] [--events 6000] [--batch 50] [--sqlite]

A server process on a throw-away PostgreSQL (durable, fsync on) is sent deliveries over 127.0.0.1 by one other server,
one delivery at a time as servers do. Their events and signatures are made before, and the rooms take turns: in a
delivery of 50 events for 20 rooms each room has two or three. CPU is that of the server's process.
"""

import argparse
import asyncio
import statistics
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil

from benchmarks import subjects
from benchmarks.subjects import Subject
from benchmarks.wire import Connection, Person
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId
from homeserver.matrix.request_signing import sign_request
from homeserver.storage import event_log, rooms, server_keys
from homeserver.storage.engine import Database, ReadTx
from tests import room_graphs
from tests.room_graphs import Graph, key_of

ORIGIN = "b.example"
BOB = "@bob:b.example"
_SEND = "/_matrix/federation/v1/send/"


class Sender:
    """The other server."""

    def __init__(self, connection: Connection, host: str, origin: str = ORIGIN) -> None:
        self._connection = connection
        self._host = host
        self._origin = origin
        self._txn = 0

    def prepare(self, pdus: Sequence[bytes] = (), edus: Sequence[Any] = ()) -> bytes:
        """A whole request."""
        self._txn += 1
        events = [orjson.Fragment(pdu) for pdu in pdus]
        content = orjson.dumps({"origin": self._origin, "origin_server_ts": 0, "pdus": events, "edus": edus})
        target = f"{_SEND}{time.time_ns()}-{self._txn}"
        key = key_of(self._origin)
        header = sign_request(
            key, origin=self._origin, destination="localhost", method="PUT", target=target, content=content
        )
        head = (
            f"PUT {target} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: {header}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    async def send(self, request: bytes) -> None:
        status, body = await self._connection.ask(request)
        results = orjson.loads(body)
        if status != 200 or any(results["pdus"].values()):
            raise RuntimeError(f"{status} {body[:500]!r}")


def stored(tx: ReadTx, room_id: str) -> list[Event]:
    """The events of a room."""
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    return [Event.parse(row.pdu, room.version, row.event_id) for row in event_log.list_all(tx, room.room_nid)]


async def measure(subject: Subject, database_url: str, arguments: argparse.Namespace) -> None:
    """Tell what one server process does with what it is sent."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(subject.url)
    alice = await Person.register(subject.url, "alice")
    made = [
        (await alice.call("POST", "/createRoom", {"preset": "public_chat"}))["room_id"] for _ in range(arguments.rooms)
    ]
    async with Database.open(database_url) as database:
        graphs: list[Graph] = [
            room_graphs.of_stored("12", room_id, await database.read(stored, room_id)) for room_id in made
        ]
    _, connection = await loop.create_connection(Connection, parts.hostname, parts.port)
    sender = Sender(connection, parts.netloc)
    for graph in graphs:
        joined = graph.say(BOB, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=BOB)
        await sender.send(sender.prepare([joined.pdu]))
    count = arguments.events
    for batch in sorted({1, arguments.batch}):
        total = count if batch > 1 else count // 10
        pdus = []
        for number in range(total):
            graph = graphs[number % len(graphs)]
            state = graph.after[graph.events[-1].event_id]
            said = graph.build(
                BOB, "m.room.message", {"msgtype": "m.text", "body": f"message {number}"}, [graph.events[-1]]
            )
            graph.events.append(said)
            graph.by_id[said.event_id] = said
            graph.after[said.event_id] = state
            pdus.append(said.pdu)
        requests = [sender.prepare(pdus[first : first + batch]) for first in range(0, total, batch)]
        took = []
        others = _database_cpu(database_url)
        cpu, began = subject.cpu_ms(), time.monotonic()
        for request in requests:
            at = time.monotonic()
            await sender.send(request)
            took.append(time.monotonic() - at)
        while _staged(subject):  # To look takes a few milliseconds.
            pass
        seconds = time.monotonic() - began
        spent = subject.cpu_ms() - cpu
        took.sort()
        print(
            f"{batch:3} events in a delivery: {total / seconds:7.0f} events/s, {spent / total:.2f} ms CPU each"
            f" (database {(_database_cpu(database_url) - others) / total:.2f}),"
            f" answers p50 {statistics.median(took) * 1000:.1f} ms, p99 {took[len(took) * 99 // 100] * 1000:.1f},"
            f" longest {took[-1] * 1000:.0f} ms"
        )
    connection.close()


def _staged(subject: Subject) -> bool:
    """Whether something that was acknowledged waits to be taken in."""
    with urllib.request.urlopen(f"{subject.url}/metrics") as answer:
        return "homeserver_federation_staged_pdus 0.0" not in answer.read().decode()


def _database_cpu(database_url: str) -> float:
    if not database_url.startswith("postgresql"):
        return 0.0
    spent = 0.0
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            times = process.cpu_times()
            spent += (times.user + times.system) * 1000
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--events", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder, url = subjects.new_database(stack, is_sqlite=arguments.sqlite)
        asyncio.run(_know_the_sender(url))
        subject = stack.enter_context(subjects.ours(folder / "data", url))
        asyncio.run(measure(subject, url, arguments))


async def _know_the_sender(database_url: str) -> None:
    async with Database.open(database_url) as database:
        await database.write(server_keys.put_many, room_graphs.server_keys([ORIGIN]))


if __name__ == "__main__":
    main()
