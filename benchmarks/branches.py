"""What branches of a room's history cost: conflicts resolved from the database, and floods from one server.

    python -m benchmarks.branches conflicts [--members 1000 50000] [--small]
    python -m benchmarks.branches floods [--count 1000] [--small]

`conflicts` makes rooms, lets two branches disagree about more and more members, and resolves these states: with nothing
in memory, and again with what the first time has left there. `floods` lets a server elsewhere make a great many
branches, a chain of auth events as long, and a flood of joins, while people here talk in another room.
"""

import argparse
import asyncio
import json
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count as counted
from pathlib import Path
from typing import Any

from benchmarks.filling import opened, people
from homeserver.app.container import Container
from homeserver.matrix import event_auth
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.matrix.signing import SigningKey
from homeserver.services.rooms.create import NewRoom
from homeserver.services.rooms.hot import HotRooms
from homeserver.services.rooms.placement import State
from homeserver.services.rooms.resolution import Resolver
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, rooms, server_keys
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.server_keys import ServerKey
from tests.processes import postgres, server

VERSION = "12"
SERVER = "elsewhere.example"
CREATOR = f"@creator:{SERVER}"
_BATCH = 500
_ROOMS = counted()


class Room:
    """A room that a server elsewhere makes; its state is that of the branch that was built upon last."""

    def __init__(self, inbox_of: Container) -> None:
        self._inbox = inbox_of.inbox
        self._key = SigningKey.generate("1", SERVER.encode().ljust(32, b"."))
        self.state: dict[tuple[str, str], Event] = {}
        self.id = RoomId("")
        # Two rooms that begin at the same time would be one: the id is made of the create event.
        self.clock = 1_700_000_000_000 + 1_000_000 * next(_ROOMS)
        self._ready: list[bytes] = []

    @property
    def key(self) -> ServerKey:
        return ServerKey(SERVER, self._key.key_id, self._key.public_key, 2**50)

    def build(
        self, sender: str, type_: str, content: dict[str, Any], prev: list[Event], state_key: str | None = None
    ) -> Event:
        """An event behind these, cited by the state as it is."""
        raw = json.dumps(content).encode()
        keys = event_auth.auth_event_keys(VERSION, type=type_, sender=sender, state_key=state_key, content=raw)
        self.clock += 1
        return build_event(
            VERSION,
            server_name=SERVER,
            key=self._key,
            room_id=self.id or None,
            type=type_,
            sender=sender,
            state_key=state_key,
            content=raw,
            origin_server_ts=self.clock,
            depth=max((event.depth for event in prev), default=0) + 1,
            prev_events=prev,
            auth_events=[self.state[pair] for pair in keys if pair in self.state] if prev else [],
        )

    async def say(
        self, sender: str, type_: str, content: dict[str, Any], prev: list[Event], state_key: str | None = None
    ) -> Event:
        """Build an event, let it change the state, and hand it over with others."""
        event = self.build(sender, type_, content, prev, state_key)
        if not prev:
            self.id = RoomId(event.room_id)
        if state_key is not None:
            self.state[type_, state_key] = event
        self._ready.append(event.pdu)
        if len(self._ready) >= _BATCH:
            await self.flush()
        return event

    async def flush(self) -> None:
        """Hand over what has gathered."""
        ready, self._ready = self._ready, []
        for receipt in await self._inbox.receive(self.id, ready) if ready else ():
            assert receipt.outcome.value == "accepted", receipt

    async def begin(self, members: int) -> Event:
        """The first events, and so many members."""
        tip = await self.say(CREATOR, "m.room.create", {"room_version": VERSION}, [], "")
        tip = await self.say(CREATOR, "m.room.member", {"membership": "join"}, [tip], CREATOR)
        tip = await self.say(CREATOR, "m.room.power_levels", {}, [tip], "")
        tip = await self.say(CREATOR, "m.room.join_rules", {"join_rule": "public"}, [tip], "")
        for number in range(members):
            tip = await self.say(member(number), "m.room.member", {"membership": "join"}, [tip], member(number))
        await self.flush()
        return tip


def member(number: int) -> str:
    """A user of the server elsewhere."""
    return f"@member{number}:{SERVER}"


@asynccontextmanager
async def databases(folder: Path) -> AsyncIterator[list[tuple[str, str]]]:
    """An empty database of each kind: its name, and its URL."""
    with postgres.shared() as running:
        template = running.template("branches", lambda url: server.migrate(url, folder))
        with running.database(template) as postgres_url:
            sqlite_url = server.sqlite_url(folder / "homeserver.db")
            server.migrate(sqlite_url, folder)
            yield [("SQLite", sqlite_url), ("PostgreSQL", postgres_url)]


@contextmanager
def measured(found: list[tuple[float, float]]) -> Iterator[None]:
    """Note CPU and wall time, in ms."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    found.append(((time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000))


async def resolved(database: Database, room_id: RoomId, ends: list[Event]) -> tuple[list[tuple[float, float]], int]:
    """How long it took to resolve the states after these events, cold and then warm; how many entries changed."""
    trees = StateTrees()
    room_nid = await database.read(rooms.find_nid, room_id)
    assert room_nid is not None
    room = await HotRooms(database, trees, 1 << 30).get(room_nid)
    rows = await database.read(events.find_many_by_id, [EventId(event.event_id) for event in ends])
    states = [State(row.state_after) for row in rows.values()]
    # A change that changes nothing: what was resolved before is only known by states as they are stored.
    create = ("m.room.create", "")
    pair_id = (await database.read(trees.pair_ids, [create]))[create]
    at = (await database.snapshot(trees.find, states[0].root, [create]))[create]
    states = [State(states[0].root, {pair_id: at}), *states[1:]]
    found: list[tuple[float, float]] = []
    outcome = None
    resolver = Resolver(database, StateTrees())
    for _ in range(4):
        with measured(found):
            outcome = await resolver.resolve(room, states)
    assert outcome is not None
    return found, len(outcome.state.changes)


async def conflicts(folder: Path, sizes: list[int], counts: list[int]) -> None:
    """Resolve conflicts of growing size in rooms of several sizes."""
    async with databases(folder) as urls:
        for name, url in urls:
            print(f"\n{name}: resolving the states of two branches, read from the database")
            print(f"{'members':>8} {'conflicted':>10} {'cold, CPU ms':>13} {'wall':>8} {'again, CPU':>11} {'wall':>8}")
            async with opened(folder / name, url) as container:
                for size in sizes:
                    room = Room(container)
                    await container.database.write(server_keys.put_many, [room.key])
                    tip = await room.begin(size)
                    base = dict(room.state)
                    for count in [count for count in counts if count // 2 <= size]:
                        room.state = dict(base)
                        left, right = tip, tip
                        for number in range(count // 2):
                            content = {"membership": "join", "displayname": f"{count}"}
                            left = await room.say(member(number), "m.room.member", content, [left], member(number))
                        await room.flush()
                        room.state = dict(base)
                        right = await room.say(CREATOR, "m.room.message", {"body": f"{count}"}, [right])
                        await room.flush()
                        found, _ = await resolved(container.database, room.id, [left, right])
                        cold, warm = found[0], [statistics.median(part) for part in zip(*found[1:], strict=True)]
                        times = f"{cold[0]:>13.2f} {cold[1]:>8.2f} {warm[0]:>11.2f} {warm[1]:>8.2f}"
                        print(f"{size:>8} {count:>10} {times}", flush=True)
                        tip = await room.say(CREATOR, "m.room.message", {"body": "together"}, [left, right])
                        base = await state_of(container.database, room)


async def state_of(database: Database, room: Room) -> dict[tuple[str, str], Event]:
    """The state that a room has come to."""
    await room.flush()

    def read(tx: ReadTx) -> dict[tuple[str, str], Event]:
        stored = rooms.find(tx, room.id)
        assert stored is not None
        positions = StateTrees().items(tx, stored.state_root)
        rows = events.find_many(tx, positions.values())
        return {pair: Event.parse(rows[at].pdu, VERSION, rows[at].event_id) for pair, at in positions.items()}

    return await database.snapshot(read)


async def talk(container: Container, stop: asyncio.Event) -> list[float]:
    """Say something in a room of one's own again and again, until told to stop; how long each took, in ms."""
    [someone], _ = await people(container, 1, prefix=f"talker{time.monotonic_ns()}")
    room_id = await container.room_creation.create(someone, NewRoom(preset="private_chat"))
    found: list[float] = []
    while not stop.is_set():
        begin = time.perf_counter()
        content = b'{"msgtype":"m.text","body":"unmoved"}'
        await container.sender.send(
            someone, room_id, "m.room.message", content, scope="benchmark", txn_id=f"t{len(found)}"
        )
        found.append((time.perf_counter() - begin) * 1000)
        await asyncio.sleep(0.02)
    return found


def _percentiles(found: list[float]) -> str:
    ordered = sorted(found)
    return f"p50 {ordered[len(ordered) // 2]:.1f} ms, p99 {ordered[len(ordered) * 99 // 100]:.1f} ms ({len(ordered)})"


async def floods(folder: Path, count: int) -> None:
    """Let a server elsewhere do its worst, and look how others fare."""
    async with databases(folder) as urls:
        for name, url in urls:
            async with opened(folder / name, url) as container:
                print(f"\n{name}")
                stop = asyncio.Event()
                talking = asyncio.create_task(talk(container, stop))
                await asyncio.sleep(3)
                stop.set()
                print(f"  nothing else: sends in another room {_percentiles(await talking)}")
                for what in ("branches", "joins", "chain"):
                    stop = asyncio.Event()
                    talking = asyncio.create_task(talk(container, stop))
                    found: list[tuple[float, float]] = []
                    with measured(found):
                        events_made, tips = await _flood(container, what, count)
                    stop.set()
                    cpu, wall = found[0]
                    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                    each = f"{cpu / events_made:.2f} ms CPU and {wall / events_made:.2f} ms each"
                    others = f"sends in another room {_percentiles(await talking)}"
                    print(f"  {what}: {events_made} events, {each}, {tips} ends left, {peak} MiB; {others}", flush=True)


async def _flood(container: Container, what: str, count: int) -> tuple[int, int]:
    """Branches: messages that all follow one event, tied together by twenties. Joins: the same as members who come.
    Chain: a user who changes her name again and again, and then a branch from before that.
    """
    room = Room(container)
    await container.database.write(server_keys.put_many, [room.key])
    tip = await room.begin(10)
    # Somebody of this server is there, as in every room that this server gets events of.
    [someone], _ = await people(container, 1, prefix=f"here{time.monotonic_ns()}")
    await container.members.join(someone, room.id)
    tip = await _tip(container.database, room.id)
    made = 0
    if what == "chain":
        start = tip
        for number in range(count):
            content = {"membership": "join", "displayname": f"{number}"}
            tip = await room.say(member(0), "m.room.member", content, [tip], member(0))
            made += 1
        await room.say(CREATOR, "m.room.name", {"name": "a branch"}, [start], "")
    else:
        ends = []
        for number in range(count):
            if what == "joins":
                user_id = f"@flood{number}:{SERVER}"
                event = room.build(user_id, "m.room.member", {"membership": "join"}, [tip], user_id)
            else:
                event = room.build(CREATOR, "m.room.message", {"body": f"{number}"}, [tip])
            room._ready.append(event.pdu)
            ends.append(event)
            made += 1
        if what == "branches":
            for first in range(0, count, 20):
                await room.say(CREATOR, "m.room.message", {"body": "together"}, ends[first : first + 20])
                made += 1
    for first in range(0, len(room._ready), 50):
        await container.inbox.receive(room.id, room._ready[first : first + 50])
    stored = await container.database.read(rooms.find, room.id)
    assert stored is not None
    return made, len(await container.database.read(rooms.list_extremities, stored.room_nid))


async def _tip(database: Database, room_id: RoomId) -> Event:
    def read(tx: ReadTx) -> Event:
        stored = rooms.find(tx, room_id)
        assert stored is not None
        [position] = rooms.list_extremities(tx, stored.room_nid)
        row = events.find_many(tx, [position])[position]
        return Event.parse(row.pdu, VERSION, row.event_id)

    return await database.snapshot(read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["conflicts", "floods"])
    parser.add_argument("--members", type=int, nargs="+", default=[1000, 50_000])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--small", action="store_true", help="a tenth of everything")
    arguments = parser.parse_args()
    part = 10 if arguments.small else 1
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "conflicts":
            sizes = [size // part for size in arguments.members]
            asyncio.run(conflicts(Path(folder), sizes, [10, 100, 1000, 10_000]))
        else:
            asyncio.run(floods(Path(folder), arguments.count // part))


if __name__ == "__main__":
    main()
