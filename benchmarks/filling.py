"""Large databases, written through the engine's own way of writing, without HTTP."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random as Chance

import orjson

from homeserver.app.container import Container, build
from homeserver.config.model import Config, Limits, Log, Passwords
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.create import NewRoom
from homeserver.services.users.accounts import NewDevice

_AT_ONCE = 200
_TEXT = "ka lo mi ra ten sho vu pel dri an ges tor ni wab zek ol fra hin ys mu qua bel ost chi rem"
_SYLLABLES = _TEXT.split()


@dataclass
class Filled:
    """What was put into a database."""

    requesters: list[Requester]
    tokens: list[str]
    rooms: list[RoomId]
    seconds: float
    cpu_seconds: float
    position: int = 0


@asynccontextmanager
async def opened(folder: Path, database_url: str | None) -> AsyncIterator[Container]:
    """The parts of a server upon this database, without its process."""
    config = Config(
        data_dir=str(folder),
        database_url=database_url,
        passwords=Passwords(time_cost=1, memory_kib=8),
        limits=Limits(rate_limits=False),
        log=Log(level="warning"),
    )
    async with build(config, clock=Clock(), randomness=Randomness(), metrics=Metrics()) as container:
        yield container


async def people(container: Container, count: int, prefix: str = "person") -> tuple[list[Requester], list[str]]:
    """Accounts, and their access tokens."""
    requesters: list[Requester] = []
    tokens: list[str] = []
    for number in range(count):
        device = NewDevice("BENCHMARK", None, refreshable=False)
        _, session = await container.accounts.register(f"{prefix}{number}", "benchmark-password", device)
        assert session is not None
        tokens.append(session.tokens.access_token)
        requesters.append(await container.sessions.requester(tokens[-1]))
    return requesters, tokens


def bodies(seed: int) -> list[str]:
    """What people say: sentences of a made-up language, most of them short."""
    chance = Chance(seed)
    vocabulary = ["".join(chance.choices(_SYLLABLES, k=chance.choice((1, 1, 2, 2, 2, 3, 4)))) for _ in range(5000)]
    # A word's frequency falls with its rank, as in any language.
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
    return [
        " ".join(chance.choices(vocabulary, weights, k=max(1, int(chance.lognormvariate(2.2, 0.8))))).capitalize()
        for _ in range(20_000)
    ]


async def messages(
    container: Container, speakers: list[Requester], rooms: list[RoomId], count: int, *, seed: int = 1
) -> tuple[float, float]:
    """Send that many plain messages into rooms that all the speakers are in; seconds that passed and CPU seconds."""
    said = bodies(seed)

    async def one(number: int) -> None:
        room_id = rooms[number % len(rooms)]
        content = orjson.dumps({"msgtype": "m.text", "body": said[number * 7919 % len(said)]})
        await container.sender.send(
            speakers[number * 31 % len(speakers)],
            room_id,
            "m.room.message",
            content,
            scope=f"send/{room_id}/m.room.message",
            txn_id=f"m{1_700_000_000_000 + number}.{number % 97}",
        )

    return await each(one, count)


async def each(work: Callable[[int], Awaitable[None]], count: int) -> tuple[float, float]:
    """Do it for every number below `count`, many at once; seconds that passed and CPU seconds."""
    numbers = iter(range(count))
    began, cpu = time.perf_counter(), time.process_time()
    shown = began

    async def worker() -> None:
        nonlocal shown
        for number in numbers:
            await work(number)
            if time.perf_counter() - shown > 20:
                shown = time.perf_counter()
                print(f"{number:,} of {count:,} after {shown - began:.0f} s", file=sys.stderr)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    return time.perf_counter() - began, time.process_time() - cpu


async def talked_in(container: Container, count: int, *, rooms: int, members: int) -> Filled:
    """Rooms with members who have said that much in all."""
    requesters, tokens = await people(container, members)
    room_ids = [
        await container.room_creation.create(requesters[0], NewRoom(preset="public_chat")) for _ in range(rooms)
    ]
    for room_id in room_ids:
        for who in requesters[1:]:
            await container.members.join(who, room_id)
    seconds, cpu = await messages(container, requesters, room_ids, count)
    return Filled(requesters, tokens, room_ids, seconds, cpu)
