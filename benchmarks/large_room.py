"""What a room costs that is as large as anybody might make one: members, state, and ends of its graph.

    python -m benchmarks.large_room [--members 100000] [--keys 200000] [--ends 5000] [--folder FOLDER]

One process makes the room, of another server's members and state, on SQLite (minutes; with `--folder` it is kept, and
found there the next time). Then another one, whose time and memory are told, starts with it: somebody of this server
joins, syncs for the first time, reads the state and the members, and talks; two branches that disagree about a
thousand members are resolved; and the other server makes so many branches at once, each a message that follows the
same event, while somebody talks in another room.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.branches import CREATOR, VERSION, Room, _percentiles, _tip, member, resolved, talk
from benchmarks.filling import opened, people
from homeserver.app.container import Container
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.filters import Filter
from homeserver.matrix.identifiers import RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.sync.v2 import SyncRequest
from homeserver.storage import rooms, server_keys
from tests.processes import server

_STEP = 20_000
_CONTENT = b'{"msgtype":"m.text","body":"hello"}'


async def make(folder: Path, members: int, keys: int) -> None:
    """Make the room."""
    async with opened(folder, server.sqlite_url(folder / "homeserver.db")) as container:
        room = Room(container)
        await container.database.write(server_keys.put_many, [room.key])
        began = time.monotonic()
        tip = await room.begin(members)
        tip = await _enter(container, room, tip)
        for number in range(keys):
            tip = await room.say(CREATOR, "org.example.key", {"number": number}, [tip], f"key{number}")
            # Neither are they cited, nor is anything else made of them here.
            del room.state["org.example.key", f"key{number}"]
            if number % _STEP == 0:
                print(f"{members + number:,} events after {time.monotonic() - began:.0f} s", file=sys.stderr)
        await room.flush()
        (folder / "room").write_text(f"{room.id} {room.clock}")


async def _enter(container: Container, room: Room, tip: Event) -> Event:
    """Somebody of this server is there, as in every room that it gets events of; so others need ask nobody."""
    author = container.author
    user_id = f"@first:{author.server_name}"
    cited = [("m.room.power_levels", ""), ("m.room.join_rules", "")]
    event = build_event(
        VERSION,
        server_name=author.server_name,
        key=author.key,
        room_id=room.id,
        type="m.room.member",
        sender=user_id,
        state_key=user_id,
        content=b'{"membership":"join"}',
        origin_server_ts=room.clock,
        depth=tip.depth + 1,
        prev_events=[tip],
        auth_events=[room.state[pair] for pair in cited],
    )
    [receipt] = await container.inbox.receive(room.id, [event.pdu])
    assert receipt.outcome.value == "accepted", receipt
    return event


T = TypeVar("T")


class Told:
    """Tells how long things took, and how much memory there was."""

    async def __call__(self, what: str, work: Awaitable[T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = await work
        took, spent = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{what:50} {took:8.2f} s, CPU {spent:7.2f} s, peak {_peak():5} MiB", flush=True)
        return result


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


async def measure(folder: Path, ends: int) -> None:
    """Use the room."""
    room_id, clock = (folder / "room").read_text().split()
    told = Told()
    print(f"{'the process':50} {'':10}  {'':13}  peak {_peak():5} MiB")
    async with opened(folder, server.sqlite_url(folder / "homeserver.db")) as container:
        room = Room(container)
        room.id, room.clock = RoomId(room_id), int(clock) + time.time_ns() // 1_000_000 - 1_700_000_000_000
        [someone], _ = await people(container, 1, prefix=f"someone{time.monotonic_ns()}")
        await told("join, of somebody here, nothing in memory", container.members.join(someone, room.id))
        first = await told("first sync", container.sync.sync(someone, _request(None)))
        size = sum(len(part) for part in _parts(first))
        print(f"{'':50} {size:8} events in it")
        await told("a thousand messages", _say(container, someone, room.id))
        await told("all members", container.room_reader.members(someone, room.id, None, lambda _: True))
        await told("all state", container.room_reader.state(someone, room.id))
        await _disagree(container, someone, room, told)
        await _branches(container, someone, room, told, ends)
        await told("a message that follows what is left", _tied(container, someone, room))


def _request(since: Any) -> SyncRequest:
    return SyncRequest(
        since=since, filter=Filter(), timeout_ms=0, full_state=False, use_state_after=False, set_presence="online"
    )


def _parts(answer: Any) -> list[list[Any]]:
    return [
        room[part]["events"]
        for room in answer.get("rooms", {}).get("join", {}).values()
        for part in ("state", "timeline")
    ]


async def _say(container: Container, who: Requester, room_id: RoomId) -> None:
    took = []
    for number in range(1000):
        began = time.perf_counter()
        await container.sender.send(
            who,
            room_id,
            "m.room.message",
            _CONTENT,
            scope="benchmark",
            txn_id=f"m{time.monotonic_ns()}{number}",
        )
        took.append((time.perf_counter() - began) * 1000)
    print(f"{'':50} each {_percentiles(took)}")


async def _tied(container: Container, who: Requester, room: Room) -> Event:
    """A message that follows all there is."""
    await container.sender.send(
        who, room.id, "m.room.message", _CONTENT, scope="benchmark", txn_id=f"tie{time.monotonic_ns()}"
    )
    return await _tip(container.database, room.id)


async def _disagree(container: Container, who: Requester, room: Room, told: Told) -> None:
    tip = await _tied(container, who, room)
    base = await _few(container, room)
    room.state = dict(base)
    right = tip

    async def change(end: Event) -> Event:
        for number in range(1000):
            content = {"membership": "join", "displayname": "left"}
            end = await room.say(member(number), "m.room.member", content, [end], member(number))
        await room.flush()
        return end

    left = await told("a thousand members change their names", change(tip))
    room.state = base
    right = await room.say(CREATOR, "m.room.message", {"body": "right"}, [right])
    await told("a branch from before", room.flush())
    found, changes = await resolved(container.database, room.id, [left, right])
    (cold_cpu, cold), (_, warm) = found[0], found[-1]
    times = f"{cold / 1000:8.2f} s, CPU {cold_cpu / 1000:7.2f} s; again {warm / 1000:.2f} s"
    print(f"{'resolving both, nothing in memory':50} {times}; {changes} changes")


async def _few(container: Container, room: Room) -> dict[tuple[str, str], Any]:
    hot = await container.hot.find(room.id)
    wanted = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", CREATOR)]
    wanted += [("m.room.member", member(number)) for number in range(1000)]
    await container.hot.load(hot, wanted)
    return {pair: event for pair in wanted if (event := hot.state.get(pair)) is not None}


async def _branches(container: Container, who: Requester, room: Room, told: Told, ends: int) -> None:
    tip = await _tied(container, who, room)
    room.state = await _few(container, room)
    made = [room.build(CREATOR, "m.room.message", {"body": f"{number}"}, [tip]).pdu for number in range(ends)]

    async def deliver() -> None:
        for first in range(0, ends, 50):
            await container.inbox.receive(room.id, made[first : first + 50])

    stop = asyncio.Event()
    talking = asyncio.create_task(talk(container, stop))
    await told(f"{ends} branches, fifty in a delivery", deliver())
    stop.set()
    print(f"{'':50} sends in another room meanwhile {_percentiles(await talking)}")
    stored = await container.database.read(rooms.find, room.id)
    assert stored is not None
    left = await container.database.read(rooms.list_extremities, stored.room_nid)
    print(f"{'':50} {len(left)} ends are left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--ends", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=["make", "measure"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.only == "make":
            asyncio.run(make(folder, arguments.members, arguments.keys))
        elif arguments.only == "measure":
            asyncio.run(measure(folder, arguments.ends))
        else:
            more = [f"--{name}={getattr(arguments, name)}" for name in ("members", "keys", "ends")]
            for part in ("make", "measure"):
                if part == "make" and (folder / "room").exists():
                    continue
                if part == "make":
                    server.migrate(server.sqlite_url(folder / "homeserver.db"), folder)
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.large_room",
                    "--only",
                    part,
                    "--folder",
                    str(folder),
                    *more,
                ]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
