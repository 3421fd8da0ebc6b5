"""What the room engine costs: sending, waking who listens, bytes in the database, old state, starting.

    python -m benchmarks.engine WHAT… [--synapse FOLDER] [--rounds 3] [--small]

WHAT is any of

    sends     CPU per sent event with 20 senders; durable sends per second of 200 senders in 100 rooms
    pollers   CPU per delivery to a waiting /sync; from the send until 1,000 members of one room have seen the message
    storage   bytes per plain message in a database of a million of them, by table and index
    members   bytes per membership change in a room of 50,000 members
    state     one entry of the state before an old event, in both of these databases
    start     from the start of a process with the million messages to its first answered sync

Starts a throw-away PostgreSQL (durable, fsync on) and, where there is something to compare, one process of each
server, and measures them in turn, round by round, so that a noisy machine is noisy for both. Everything goes over
127.0.0.1 or within the process, has an end, and is gone afterwards. CPU is that of the server's process; what
PostgreSQL's processes use is a line of its own.
"""

import argparse
import asyncio
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random as Chance
from urllib.parse import parse_qs, urlsplit

import psutil
import uvloop

from benchmarks import filling, sizes, subjects
from benchmarks.filling import Filled
from benchmarks.subjects import Subject
from benchmarks.wire import Person, crowd, room
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.create import NewRoom
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, stream_rows, timelines
from homeserver.storage.engine import ReadTx
from homeserver.storage.state import Pair
from tests.processes import postgres
from tests.processes import server as server_process
from tests.processes.postgres import Postgres

Figures = dict[str, float]

_LONGEST_S = 20.0  # One part of one round; who has not done everything by then is measured by what was done.
_SYNAPSE_LISTENERS = 100


@dataclass(frozen=True)
class Profiler:
    """Samples a server with py-spy, if it is given one, and leaves files of stacks with their counts."""

    program: Path | None
    folder: Path

    @contextmanager
    def sampling(self, subject: Subject, what: str) -> Iterator[None]:
        if self.program is None or subject.name != "homeserver":
            yield
            return
        assert subject.process is not None
        file = self.folder / f"{what.replace(' ', '-').replace(',', '')}.txt"
        command = [str(self.program), "record", "--rate", "400", "--duration", "60", "--format", "raw"]
        running = subprocess.Popen(
            [*command, "--output", str(file), "--pid", str(subject.process.pid)], stdout=subprocess.DEVNULL
        )
        time.sleep(1)  # It takes a moment to find its way about the process.
        try:
            yield
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(30)
            print(f"stacks: {file}", file=sys.stderr)


@dataclass
class Meter:
    """CPU and time between `started` and `stopped`."""

    subject: Subject
    postgres: psutil.Process
    cpu_ms: float = 0.0
    postgres_ms: float = 0.0
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        cpu, of_postgres, began = self.subject.cpu_ms(), self._of_postgres(), time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began
        self.cpu_ms += self.subject.cpu_ms() - cpu
        self.postgres_ms += self._of_postgres() - of_postgres

    def _of_postgres(self) -> float:
        """Of the server, its children, and those who have ended."""
        total = 0.0
        for process in (self.postgres, *self.postgres.children()):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            if process is self.postgres:
                total += times.children_user + times.children_system
        return total * 1000


def process_of(server: Postgres) -> psutil.Process:
    folder = Path(parse_qs(urlsplit(server.url).query)["host"][0])
    return psutil.Process(int((folder / "data/postmaster.pid").read_text().split("\n", 1)[0]))


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(len(values) * part) - 1)]


# What is measured over HTTP


@dataclass
class Sends:
    """People who talk and nobody who listens."""

    subject: Subject
    postgres: psutil.Process
    factor: int
    profiler: Profiler
    people: list[Person] = field(default_factory=list)
    one_room: str = ""
    rooms: list[str] = field(default_factory=list)

    async def prepare(self) -> None:
        self.people = await crowd(self.subject.url, [f"talker{number}" for number in range(200)])
        self.one_room = await room(self.people[:20])
        self.rooms = [await room(self.people[2 * number : 2 * number + 2]) for number in range(100)]

    async def round(self) -> Figures:
        twenty = [(one, self.one_room) for one in self.people[:20]]
        everybody = [(one, self.rooms[number // 2]) for number, one in enumerate(self.people)]
        found = await self._talk("20 senders, one room", twenty, 200 // self.factor)
        return found | await self._talk("200 senders, 100 rooms", everybody, 60 // self.factor)

    async def _talk(self, what: str, speakers: list[tuple[Person, str]], each: int) -> Figures:
        latencies: list[float] = []

        async def talk(one: Person, room_id: str) -> None:
            for _ in range(each):
                began = time.perf_counter()
                if began > deadline:
                    break
                await one.send(room_id)
                latencies.append((time.perf_counter() - began) * 1000)

        await asyncio.gather(*(one.send(room_id) for one, room_id in speakers[:20]))
        meter = Meter(self.subject, self.postgres)
        own = time.process_time()
        deadline = time.perf_counter() + _LONGEST_S
        with self.profiler.sampling(self.subject, what), meter.running():
            await asyncio.gather(*(talk(*speaker) for speaker in speakers))
        own = time.process_time() - own
        count = len(latencies)
        return {
            f"CPU ms per sent event, {what}": meter.cpu_ms / count,
            f"CPU ms of PostgreSQL per sent event, {what}": meter.postgres_ms / count,
            f"CPU ms of whoever asks per sent event, {what}": own * 1000 / count,
            f"sends per second, {what}": count / meter.seconds,
            f"send ms p50, {what}": percentile(latencies, 0.5),
            f"send ms p99, {what}": percentile(latencies, 0.99),
        }

    def close(self) -> None:
        for one in self.people:
            one.close()


@dataclass
class Pollers:
    """Many members of a room who listen while one talks; all have seen a message before the next is sent."""

    subject: Subject
    postgres: psutil.Process
    factor: int
    profiler: Profiler
    people: list[Person] = field(default_factory=list)
    alone: str = ""
    rooms: dict[int, str] = field(default_factory=dict)
    positions: list[str] = field(default_factory=list)

    @property
    def listeners(self) -> int:
        return 1000 // self.factor if self.subject.name == "homeserver" else _SYNAPSE_LISTENERS

    async def prepare(self) -> None:
        self.people = await crowd(self.subject.url, [f"listener{number}" for number in range(self.listeners + 1)])
        self.alone = await room(self.people[:1])
        for size in sorted({_SYNAPSE_LISTENERS, self.listeners}):
            self.rooms[size] = await room(self.people[: size + 1])
        self.positions = [""] * len(self.people)
        waiting = iter(range(len(self.people)))

        async def listen() -> None:
            for number in waiting:
                self.positions[number] = await self.people[number].listen()

        await asyncio.gather(*(listen() for _ in range(10)))

    async def round(self) -> Figures:
        found = await self._hear(_SYNAPSE_LISTENERS, 12 // self.factor)
        if self.listeners > _SYNAPSE_LISTENERS:
            found |= await self._hear(self.listeners, 8 // self.factor)
        return found

    async def _hear(self, size: int, times: int) -> Figures:
        # Coming online, everybody is told of everybody; only when that is over there is silence to be broken.
        await self._hear_each(size, 1)
        with self.profiler.sampling(self.subject, f"{size} listeners"):
            return await self._hear_each(size, times)

    async def _hear_each(self, size: int, times: int) -> Figures:
        speaker, listeners = self.people[0], self.people[1 : size + 1]
        room_id = self.rooms[size]
        alone, waking, returning = (Meter(self.subject, self.postgres) for _ in range(3))
        with alone.running():
            for _ in range(5):
                await speaker.send(self.alone)
        seen: list[float] = []
        last: list[float] = []
        for number in range(times):
            sign = f"sign {time.time_ns()}.{number}."
            with returning.running():
                hearing = [
                    asyncio.ensure_future(one.hear(self.positions[index], sign.encode()))
                    for index, one in enumerate(listeners, 1)
                ]
                await asyncio.sleep(max(0.5, size * (0.001 if self.subject.name == "homeserver" else 0.01)))
            with waking.running():
                began = time.perf_counter()
                await speaker.send(room_id, sign)
                heard = await asyncio.gather(*hearing)
                # What the server still does for an answer that has come already.
                await asyncio.sleep(0.05)
            for index, (at, position) in enumerate(heard, 1):
                seen.append((at - began) * 1000)
                self.positions[index] = position
            last.append((max(at for at, _ in heard) - began) * 1000)
        deliveries = times * size
        return {
            f"CPU ms per delivery, {size} listeners": (waking.cpu_ms - times * alone.cpu_ms / 5) / deliveries,
            f"CPU ms of PostgreSQL per delivery, {size} listeners": waking.postgres_ms / deliveries,
            f"CPU ms to come back and wait, {size} listeners": returning.cpu_ms / deliveries,
            f"ms from send to seen p50, {size} listeners": percentile(seen, 0.5),
            f"ms from send to seen p99, {size} listeners": percentile(seen, 0.99),
            f"ms until the last has seen it, {size} listeners": statistics.median(last),
        }

    def close(self) -> None:
        for one in self.people:
            one.close()


Bench = Sends | Pollers


async def measure(benches: list[Bench], rounds: int) -> dict[str, dict[str, list[float]]]:
    figures: dict[str, dict[str, list[float]]] = {}
    for bench in benches:
        began = time.perf_counter()
        await bench.prepare()
        print(f"{bench.subject.name}: prepared in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for number in range(rounds):
        for bench in benches:
            for what, value in (await bench.round()).items():
                figures.setdefault(bench.subject.name, {}).setdefault(what, []).append(value)
            print(f"round {number + 1} of {rounds}: {bench.subject.name} done", file=sys.stderr)
    for bench in benches:
        bench.close()
    return figures


def over_http(kind: Callable[[Subject, psutil.Process, int, Profiler], Bench], asked: argparse.Namespace) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(postgres.started(durable=True))
        chosen = _subjects(stack, server, folder, asked.synapse)
        profiler = Profiler(asked.profile, asked.profiles)
        benches = [kind(subject, process_of(server), 4 if asked.small else 1, profiler) for subject in chosen]
        show(uvloop.run(measure(benches, asked.rounds)))


def _subjects(stack: ExitStack, server: Postgres, folder: Path, synapse: Path | None) -> list[Subject]:
    chosen = [subjects.ours(folder / "ours", stack.enter_context(server.database()))]
    if synapse is not None:
        chosen.append(subjects.synapse(folder / "synapse", stack.enter_context(server.database()), synapse))
    for subject in chosen:
        with subject:  # The first start prepares the database; what is measured is a start as after an update.
            pass
        stack.enter_context(subject)
    return chosen


def show(figures: dict[str, dict[str, list[float]]]) -> None:
    """A table of medians; what only one of the servers was asked has no ratio."""
    names = list(figures)
    print(f"| medians | {' | '.join(names)} |" + (f" {names[1]} / {names[0]} |" if len(names) == 2 else ""))
    print("|---" * (len(names) + (2 if len(names) == 2 else 1)) + "|")
    for what in dict.fromkeys(what for name in names for what in figures[name]):
        values = [statistics.median(figures[name].get(what, [math.nan])) for name in names]
        shown = " | ".join("–" if math.isnan(value) else f"{value:.2f}" for value in values)
        line = f"| {what} | {shown} |"
        if len(values) == 2:
            line += " – |" if math.isnan(sum(values)) or not values[0] else f" {values[1] / values[0]:.1f} |"
        print(line)
    print()


# What is measured in databases that were filled through the engine


@dataclass
class Store:
    """A database to be filled: on PostgreSQL, or SQLite in the folder."""

    folder: Path
    server: Postgres | None
    url: str | None

    @property
    def name(self) -> str:
        return "SQLite" if self.server is None else "PostgreSQL"

    def sizes(self) -> sizes.Sizes:
        if self.server is None or self.url is None:
            return sizes.of_sqlite(self.folder / "homeserver.db")
        return sizes.of_postgres(self.server, urlsplit(self.url).path[1:])

    def subject(self) -> Subject:
        """A server process upon it."""
        return subjects.ours(self.folder, self.url)


@contextmanager
def stores() -> Iterator[list[Store]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(postgres.started(durable=True, settings=("autovacuum_naptime=15s",)))
        url = stack.enter_context(server.database())
        found = [Store(folder / "postgres", server, url), Store(folder / "sqlite", None, None)]
        for store in found:
            store.folder.mkdir()
            migrated = store.url or server_process.sqlite_url(store.folder / "homeserver.db")
            server_process.migrate(migrated, store.folder)
        yield found


def filled_stores(what: set[str], asked: argparse.Namespace) -> None:
    """The figures of a database with very many messages."""
    count = 20_000 if asked.small else 1_000_000
    with stores() as found:
        for store in found:
            filled, growth = uvloop.run(_fill(store, count))
            rate, cpu = count / filled.seconds, filled.cpu_seconds / count * 1000
            print(f"{store.name}: {count:,} messages, {rate:,.0f} per second, {cpu:.3f} ms CPU for each\n", flush=True)
            if "storage" in what:
                sizes.show(f"{store.name}, plain messages", growth, count)
            if "state" in what:
                pairs = [("m.room.power_levels", ""), ("m.room.member", filled.requesters[3].user_id)]
                show({f"{store.name}, {count:,} messages": uvloop.run(_old_state(store, filled.rooms, pairs))})
            if "start" in what:
                _start(store, filled, asked.rounds)
    if "storage" in what and asked.synapse is not None:
        _synapse_storage(asked)


async def _fill(store: Store, count: int) -> tuple[Filled, sizes.Sizes]:
    async with filling.opened(store.folder, store.url) as container:
        # The first messages pay for what every database has once.
        filled = await filling.talked_in(container, count // 100, rooms=100, members=20)
        before = store.sizes()
        filled.seconds, filled.cpu_seconds = await filling.messages(
            container, filled.requesters, filled.rooms, count, seed=2
        )
        filled.position = await container.database.read(stream_rows.current)
        return filled, sizes.grown(before, store.sizes())


def _start(store: Store, filled: Filled, rounds: int) -> None:
    times: dict[str, list[float]] = {}

    def note(what: str, since: float) -> None:
        times.setdefault(what, []).append(time.perf_counter() - since)

    async def sync(who: Person, since: str | None) -> None:
        await who.sync(since, 0)
        who.close()

    for _ in range(max(3, rounds)):
        for since, what in (
            (f"s{filled.position}_0", "first answered sync of who was here before"),
            (None, "first answered sync of who comes anew, to 100 rooms"),
        ):
            began = time.perf_counter()
            with store.subject() as subject:
                note("seconds from start to any answer", began)
                uvloop.run(sync(Person(server_process.HOST, subject.port, "", filled.tokens[1]), since))
                note(f"seconds from start to {what}", began)
                times.setdefault(f"CPU seconds until {what}", []).append(subject.cpu_ms() / 1000)
    show({store.name: times})


def _synapse_storage(asked: argparse.Namespace) -> None:
    count = 500 if asked.small else 4000
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(postgres.started(durable=True, settings=("autovacuum_naptime=15s",)))
        url = stack.enter_context(server.database())
        subject = stack.enter_context(subjects.synapse(folder / "synapse", url, asked.synapse))

        async def talk(people: list[Person], rooms: list[str], bodies: list[str]) -> None:
            waiting = iter(enumerate(bodies))

            async def one() -> None:
                for number, body in waiting:
                    # Each person has one connection for talking.
                    await people[number % 16].send(rooms[number % len(rooms)], body)

            await asyncio.gather(one())

        async def fill() -> sizes.Sizes:
            people = await crowd(subject.url, [f"person{number}" for number in range(20)])
            rooms = [await room(people) for _ in range(10)]
            bodies = filling.bodies(seed=2)
            await talk(people, rooms, bodies[:100])
            before = sizes.of_postgres(server, urlsplit(url).path[1:])
            await talk(people, rooms, bodies[:count])
            return sizes.grown(before, sizes.of_postgres(server, urlsplit(url).path[1:]))

        sizes.show("Synapse on PostgreSQL, plain messages", uvloop.run(fill()), count, least=20)


def large_rooms(what: set[str], asked: argparse.Namespace) -> None:
    """The figures of a room with very many members."""
    joined, changes = (2000, 4000) if asked.small else (50_000, 100_000)
    with stores() as found:
        for store in found:
            room_id, growth = uvloop.run(_change_members(store, joined, changes))
            if "members" in what:
                sizes.show(f"{store.name}, membership changes in a room of {joined:,}", growth, changes)
            if "state" in what:
                pairs = [("m.room.member", f"@member{number}:localhost") for number in range(0, joined, 7)]
                show({f"{store.name}, {joined:,} members": uvloop.run(_old_state(store, [room_id], pairs))})


async def _change_members(store: Store, joined: int, changes: int) -> tuple[RoomId, sizes.Sizes]:
    """A room that so many join, and that many leave and come back to."""
    async with filling.opened(store.folder, store.url) as container:
        [creator], _ = await filling.people(container, 1)
        room_id = await container.room_creation.create(creator, NewRoom(preset="public_chat"))
        members = [
            Requester(UserId(f"@member{number}:localhost"), creator.device_id, False, False, b"")
            for number in range(joined)
        ]
        chance = Chance(4)
        # Nobody twice within what is under way at once.
        order = [number for _ in range(changes // joined) for number in chance.sample(range(joined), joined)]
        inside = set(range(joined))

        async def join(number: int) -> None:
            await container.members.join(members[number], room_id)

        async def change(step: int) -> None:
            number = order[step]
            if number in inside:
                inside.remove(number)
                await container.members.leave(members[number].user_id, room_id)
            else:
                inside.add(number)
                await container.members.join(members[number], room_id)

        seconds, cpu = await filling.each(join, joined)
        print(f"{store.name}: {joined:,} joins, {cpu / joined * 1000:.3f} ms CPU, {joined / seconds:,.0f} per second")
        before = store.sizes()
        seconds, cpu = await filling.each(change, changes)
        print(f"{store.name}: {changes:,} changes, {cpu / changes * 1000:.3f} ms CPU, {changes / seconds:,.0f} per s\n")
        return room_id, sizes.grown(before, store.sizes())


async def _old_state(store: Store, room_ids: list[RoomId], pairs: list[Pair]) -> dict[str, list[float]]:
    """One entry of the state before events from all over the rooms' history."""
    chance = Chance(3)
    async with filling.opened(store.folder, store.url) as container:
        nids = [await container.sender.nid_of(room_id) for room_id in room_ids]
        latest = await container.database.read(stream_rows.current)
        wanted = [(chance.choice(nids), chance.randrange(latest // 10, latest)) for _ in range(300)]
        positions = await container.database.read(_nearest, wanted)

        async def look(trees: StateTrees, position: int) -> float:
            pair = chance.choice(pairs)
            began = time.perf_counter()
            await container.database.snapshot(_entry_before, trees, position, pair)
            return (time.perf_counter() - began) * 1000

        # The very first of a process pays for connections and for statements that are compiled, too.
        first = await look(StateTrees(), positions[0])
        cold = [await look(StateTrees(), position) for position in positions]
        trees = StateTrees()
        warm = [await look(trees, position) for position in positions * 3][len(positions) * 2 :]
    found = {"ms for one entry of old state, the first of a process": [first]}
    for kind, values in {"nothing cached": cold, "warm": warm}.items():
        found[f"ms for one entry of old state, {kind}, p50"] = [percentile(values, 0.5)]
        found[f"ms for one entry of old state, {kind}, p99"] = [percentile(values, 0.99)]
    return found


def _nearest(tx: ReadTx, wanted: list[tuple[int, int]]) -> list[int]:
    """Positions of events of these rooms at or before these positions."""
    return [
        row.position for nid, upto in wanted for row in timelines.list_backwards(tx, nid, after=0, upto=upto, limit=1)
    ]


def _entry_before(tx: ReadTx, trees: StateTrees, position: int, pair: Pair) -> int | None:
    """The position of the pair's event in the state before the event at this position."""
    before = events.find_many(tx, [position])[position].state_before
    return trees.find(tx, before, [pair]).get(pair)


_KINDS = ("sends", "pollers", "storage", "members", "state", "start")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the room engine costs.")
    parser.add_argument("what", nargs="+", choices=_KINDS)
    parser.add_argument("--synapse", type=Path, help="environment in which Synapse is installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=Path, help="py-spy, to sample this server while it is measured over HTTP")
    parser.add_argument("--profiles", type=Path, default=Path(), help="folder for what it finds")
    parser.add_argument("--small", action="store_true", help="much less of everything, to see that it works")
    asked = parser.parse_args()
    what = set(asked.what)
    if "sends" in what:
        over_http(Sends, asked)
    if "pollers" in what:
        over_http(Pollers, asked)
    if what & {"storage", "state", "start"}:
        filled_stores(what, asked)
    if what & {"members", "state"}:
        large_rooms(what, asked)


if __name__ == "__main__":
    main()
