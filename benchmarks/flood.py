"""What other servers notice while one server floods this one.

    python -m benchmarks.flood [--seconds 10] [--sqlite] [--only KIND ...]

A server process on a throw-away PostgreSQL (durable, fsync on) is sent all that it takes by `b.example`, over six
connections at a time, as fast as it answers; rate limits are off. Meanwhile `c.example` delivers one event every 40 ms,
and how long its answers take is measured: before, during the flood, and after. What is sent is made before. The kinds:

    events        50 messages in each delivery, for five rooms
    one room      50 messages in each delivery, for the room that c.example speaks in
    forged        50 messages in each delivery, whose signatures do not hold
    messages      100 messages to devices in each delivery
    devices       100 changes of devices in each delivery, of 100 users with whom a room is shared
    receipts      100 receipts in each delivery
    typing        100 changes of who is typing in each delivery
    all           50 messages, and 100 of the rest in each delivery
    too large     transactions of 10 MiB, which are refused
    too many      51 messages in each delivery, which are refused
"""

import argparse
import asyncio
import itertools
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection as PipeEnd
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks import subjects
from benchmarks.inbound import Sender, stored
from benchmarks.subjects import Subject
from benchmarks.wire import Closed, Connection, Person
from homeserver.matrix.events import Event
from homeserver.storage import server_keys
from homeserver.storage.engine import Database
from tests import room_graphs
from tests.room_graphs import Graph

FLOODER, QUIET = "b.example", "c.example"
BOB, CAT = "@bob:b.example", "@cat:c.example"
_AT_ONCE = 6
_EVERY_S = 0.04
_USERS = 100
_PROCESSES = multiprocessing.get_context("spawn")
_KINDS = (
    "events",
    "one room",
    "forged",
    "messages",
    "devices",
    "receipts",
    "typing",
    "all",
    "too large",
    "too many",
)

Json = dict[str, Any]
Told = tuple[Counter[int], int]


def say(graph: Graph, sender: str, number: int) -> Event:
    """The next message of a room; its state stays the same, so it is not looked at again."""
    tip = graph.events[-1]
    said = graph.build(sender, "m.room.message", {"msgtype": "m.text", "body": f"message {number}"}, [tip])
    graph.events.append(said)
    graph.by_id[said.event_id] = said
    graph.after[said.event_id] = graph.after.pop(tip.event_id)
    return said


@dataclass
class Stage:
    """Rooms, who is in them, and the two servers."""

    subject: Subject
    alice: Person
    graphs: list[Graph]
    """The flooder's rooms; the last one is the quiet server's, too."""

    def loop_ms(self) -> float:
        """CPU time that the server's event loop has had so far; others on the machine make no difference to it."""
        assert self.subject.process is not None
        return int(Path(f"/proc/{self.subject.process.pid}/schedstat").read_text().split()[0]) / 1_000_000

    async def connect(self) -> Connection:
        parts = urlsplit(self.subject.url)
        assert parts.hostname is not None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, parts.hostname, parts.port)
        return connection

    def sender(self, connection: Connection, name: str) -> Sender:
        return Sender(connection, urlsplit(self.subject.url).netloc, name)

    async def ask(self, sender: Sender, connection: Connection, pdus: Sequence[bytes]) -> None:
        status, body = await connection.ask(sender.prepare(pdus))
        if status != 200 or any(orjson.loads(body)["pdus"].values()):
            raise RuntimeError(f"{status} {body[:500]!r}")

    def edus(self, kind: str, numbers: Iterator[int]) -> list[Json]:
        """A hundred of one kind."""
        return [self._edu(kind, next(numbers)) for _ in range(100)]

    def _edu(self, kind: str, number: int) -> Json:
        user = f"@u{number % _USERS}:{FLOODER}"
        if kind == "messages":
            content: Json = {
                "sender": BOB,
                "type": "m.test",
                "message_id": f"m{number}",
                "messages": {self.alice.user_id: {"*": {"text": "x" * 200}}},
            }
            return {"edu_type": "m.direct_to_device", "content": content}
        if kind == "devices":
            content = {"user_id": user, "device_id": f"D{number}", "stream_id": number, "prev_id": [number - _USERS]}
            return {"edu_type": "m.device_list_update", "content": content}
        room = self.graphs[number % len(self.graphs)]
        if kind == "receipts":
            receipt = {user: {"event_ids": [room.events[number % len(room.events)].event_id], "data": {"ts": number}}}
            return {"edu_type": "m.receipt", "content": {room.room_id: {"m.read": receipt}}}
        content = {"room_id": room.room_id, "user_id": user, "typing": number % 2 == 0}
        return {"edu_type": "m.typing", "content": content}

    def requests(self, kind: str, sender: Sender, numbers: Iterator[int]) -> Callable[[], bytes]:
        """Makes deliveries of this kind."""
        rooms = itertools.cycle(self.graphs[-1:] if kind == "one room" else self.graphs[:-1])

        def events(count: int) -> list[bytes]:
            return [say(next(rooms), BOB, next(numbers)).pdu for _ in range(count)]

        def make() -> bytes:
            if kind == "too large":
                return sender.prepare([], [{"edu_type": "m.typing", "content": {"x": "y" * (10 << 20)}}])
            if kind == "too many":
                return sender.prepare([self.graphs[0].events[-1].pdu] * 51)
            if kind == "forged":
                room = self.graphs[0]
                pdus = [room.build(BOB, "m.test", {"n": next(numbers)}, [room.events[-1]]).pdu for _ in range(50)]
                return sender.prepare([_forged(pdu) for pdu in pdus])
            if kind in ("events", "one room"):
                return sender.prepare(events(50))
            if kind == "all":
                edus = itertools.chain.from_iterable(
                    self.edus(one, numbers)[:25] for one in ("messages", "devices", "receipts", "typing")
                )
                return sender.prepare(events(50), list(edus))
            return sender.prepare([], self.edus(kind, numbers))

        return make


def _forged(pdu: bytes) -> bytes:
    value = orjson.loads(pdu)
    [(server, keys)] = value["signatures"].items()
    [(key_id, signature)] = keys.items()
    value["signatures"] = {server: {key_id: "A" + signature[1:] if signature[0] != "A" else "B" + signature[1:]}}
    return orjson.dumps(value)


async def setting(subject: Subject, database_url: str) -> Stage:
    """Five rooms of the flooder's and one that both servers are in."""
    alice = await Person.register(subject.url, "alice")
    made = [(await alice.call("POST", "/createRoom", {"preset": "public_chat"}))["room_id"] for _ in range(6)]
    async with Database.open(database_url) as database:
        graphs = [room_graphs.of_stored("12", room_id, await database.read(stored, room_id)) for room_id in made]
    stage = Stage(subject, alice, graphs)
    connection = await stage.connect()
    flooder, quiet = stage.sender(connection, FLOODER), stage.sender(connection, QUIET)
    for graph in graphs:
        users = [BOB, *(f"@u{number}:{FLOODER}" for number in range(_USERS))] if graph is graphs[0] else [BOB]
        for user in users:
            join = graph.say(user, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=user)
            await stage.ask(flooder, connection, [join.pdu])
    last = graphs[-1]
    join = last.say(CAT, "m.room.member", {"membership": "join"}, [last.events[-1]], state_key=CAT)
    await stage.ask(quiet, connection, [join.pdu])
    connection.close()
    return stage


@dataclass(frozen=True)
class Took:
    """How long an answer took, and how much of that the server's event loop was at work."""

    answer_ms: float
    loop_ms: float


class Quiet:
    """The server that says something now and then, in a branch of its own of the room that both are in."""

    def __init__(self, stage: Stage, connection: Connection) -> None:
        self._stage = stage
        self._connection = connection
        self._sender = stage.sender(connection, QUIET)
        room = stage.graphs[-1]
        self._graph = Graph(room.version, room.room_id, list(room.events), dict(room.after), by_id=dict(room.by_id))
        self._graph.clock = room.clock

    async def measure(self, seconds: float) -> list[Took]:
        """How long answers took."""
        took: list[Took] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            request = self._sender.prepare([say(self._graph, CAT, len(took)).pdu])
            cpu, began = self._stage.loop_ms(), time.perf_counter()
            status, body = await self._connection.ask(request)
            took.append(Took((time.perf_counter() - began) * 1000, self._stage.loop_ms() - cpu))
            if status != 200 or any(orjson.loads(body)["pdus"].values()):
                raise RuntimeError(f"{status} {body[:500]!r}")
            await asyncio.sleep(_EVERY_S)
        return took


async def flood(url: str, requests: list[bytes], seconds: float) -> Counter[int]:
    """Send all of this, six at a time, and the last of it again and again; how often there was which answer."""
    parts = urlsplit(url)
    statuses: Counter[int] = Counter()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def send() -> None:
        connection: Connection | None = None
        while loop.time() < end:
            if connection is None or not connection.is_open:
                _, connection = await loop.create_connection(Connection, parts.hostname, parts.port)
            request = requests.pop() if len(requests) > 1 else requests[0]
            try:
                status, _ = await connection.ask(request)
            except Closed:
                status = 0
            statuses[status] += 1

    await asyncio.gather(*(send() for _ in range(_AT_ONCE)))
    return statuses


def flood_alone(url: str, requests: list[bytes], seconds: float, told: "PipeEnd[Told, Any]") -> None:
    """Flood, in a process of its own: whoever measures must not wait for who floods."""
    statuses = asyncio.run(flood(url, requests, seconds))
    told.send((statuses, len(requests)))


def p95(values: Iterable[float]) -> float:
    values = sorted(values)
    return values[len(values) * 95 // 100]


def describe(took: Sequence[Took]) -> str:
    """Median and p95 of the answers, and of the CPU time that the server's event loop had meanwhile."""
    answers, cpu = [one.answer_ms for one in took], [one.loop_ms for one in took]
    return f"{statistics.median(answers):6.1f} {p95(answers):6.1f} {statistics.median(cpu):6.1f} {p95(cpu):6.1f}"


async def measure(stage: Stage, kind: str, seconds: float) -> None:
    """Tell what the quiet server notices of a flood of this kind."""
    connection = await stage.connect()
    quiet = Quiet(stage, connection)
    sender = stage.sender(connection, FLOODER)
    numbers = itertools.count(time.time_ns() // 1000)
    make = stage.requests(kind, sender, numbers)
    count = {"too large": 1, "too many": 1, "typing": 2000}.get(kind, int(60 * seconds))
    requests = [make() for _ in range(count)][::-1]
    await quiet.measure(1)
    before = await quiet.measure(seconds / 2)
    ours, theirs = _PROCESSES.Pipe()
    arguments = (stage.subject.url, requests, seconds + 1, theirs)
    process = _PROCESSES.Process(target=flood_alone, args=arguments)
    process.start()
    await asyncio.sleep(2)  # It takes about a second to start.
    cpu, began = stage.subject.cpu_ms(), time.monotonic()
    during = await quiet.measure(seconds - 1)
    spent = (stage.subject.cpu_ms() - cpu) / 10 / (time.monotonic() - began)
    statuses, left = await asyncio.to_thread(ours.recv)
    process.join()
    after = await quiet.measure(seconds / 2)
    connection.close()
    answers = p95(one.answer_ms for one in during) / p95(one.answer_ms for one in before)
    loop = p95(one.loop_ms for one in during) / p95(one.loop_ms for one in before)
    print(
        f"{kind:9} | {describe(before)} | {describe(during)} | {describe(after)} | x{answers:.1f} x{loop:.1f}"
        f" | {sum(statuses.values()) / (seconds + 1):5.0f}/s {dict(statuses)} left {left} cpu {spent:.0f}%",
        flush=True,
    )


async def run(subject: Subject, url: str, kinds: Sequence[str], seconds: float) -> None:
    stage = await setting(subject, url)
    print("          | answer p50, p95, loop p50, p95 | flooded, after", flush=True)
    for kind in kinds:
        await measure(stage, kind, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", nargs="*", choices=_KINDS, default=_KINDS)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder, url = subjects.new_database(stack, is_sqlite=arguments.sqlite)
        asyncio.run(_know_the_senders(url))
        subject = stack.enter_context(subjects.ours(folder / "data", url))
        asyncio.run(run(subject, url, arguments.only, arguments.seconds))


async def _know_the_senders(database_url: str) -> None:
    async with Database.open(database_url) as database:
        await database.write(server_keys.put_many, room_graphs.server_keys([FLOODER, QUIET]))


if __name__ == "__main__":
    main()
