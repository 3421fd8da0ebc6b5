"""A few servers with their databases, a network that does what networks do, and one server that lies.

Every request between servers takes a while; it, or its answer, may be lost, or be delivered twice. Servers are killed
and start again from what was committed. In the end all faults heal, and honest servers must come to the same.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from homeserver.app.application import Application
from homeserver.app.container import Container
from homeserver.errors import AnswerTooLarge, Unreachable
from homeserver.outbound.transport import Call, Reply
from homeserver.services.users.accounts import NewDevice
from tests.processes import server as process
from tests.simulation.loop import LIFE, Life, SeededRandomness, SimulatedClock, SimulationLoop
from tests.world import settings

PATIENCE_S = 40.0
"""How long a user waits for an answer."""


class Gone(Exception):
    """The server died, or did not answer in time; nobody knows what became of the request."""


@dataclass
class House:
    """A server: its name, its database, and, while it runs, its application."""

    name: str
    url: str
    folder: Path
    clock: SimulatedClock
    randomness: SeededRandomness
    life: Life | None = None
    application: Application | None = None
    container: Container | None = None
    tokens: dict[str, str] = field(default_factory=dict)


class Weather:
    """What the network does to requests."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.loss = chance.choice([0.0, 0.02, 0.1])
        self.again = chance.choice([0.0, 0.05])
        self.slowest_s = chance.choice([0.05, 0.5, 3.0])
        self.apart: dict[str, int] = {}
        """The side on which each server is; those on different sides do not reach each other."""

    def clear(self) -> None:
        """From now on the network works."""
        self.loss, self.again, self.slowest_s, self.apart = 0.0, 0.0, 0.02, {}

    def delay(self) -> float:
        """How long a request or an answer is on its way."""
        return self._chance.uniform(0.001, self.slowest_s)

    def loses(self) -> bool:
        """Whether it is lost."""
        return self._chance.random() < self.loss

    def repeats(self) -> bool:
        """Whether it comes twice."""
        return self._chance.random() < self.again

    def separates(self, one: str, other: str) -> bool:
        """Whether the servers are on different sides."""
        return self.apart.get(one, 0) != self.apart.get(other, 0)


class City:
    """All of it."""

    def __init__(self, loop: SimulationLoop, chance: random.Random, template: Path, folder: Path) -> None:
        self.loop = loop
        self.chance = chance
        self.weather = Weather(chance)
        self.houses: dict[str, House] = {}
        self.strangers: dict[str, Callable[[str, str, str, bytes | None], Reply]] = {}
        """Servers that are none: what they answer to an origin, a method, a target and a body."""
        self.story: list[str] = []
        self._template = template
        self._folder = folder
        self._transactions = count()

    def tell(self, what: str) -> None:
        """Note what happened: the same seed tells the same story."""
        self.story.append(f"{self.loop.time():10.4f} {what}")

    def build(self, name: str) -> House:
        """A server that does not run yet, on a fresh database."""
        folder = self._folder / name
        folder.mkdir()
        process.copy_sqlite(self._template, folder / "homeserver.db")
        skew = self.chance.choice([0, 0, -86_400_000, 3_600_000])
        self.houses[name] = House(
            name,
            process.sqlite_url(folder / "homeserver.db"),
            folder,
            SimulatedClock(self.loop, skew),
            SeededRandomness(random.Random(self.chance.random())),
        )
        return self.houses[name]

    async def start(self, house: House) -> None:
        """Let the server run."""
        house.life = Life(house.name)
        config = settings(house.url, str(house.folder), server_name=house.name)
        house.application = Application(
            config, clock=house.clock, randomness=house.randomness, transport=_Line(self, house.name, house.life)
        )
        house.container = await self._within(house.life, house.application.start())
        self.tell(f"{house.name} runs")

    def kill(self, house: House) -> None:
        """Nothing that the server was about to do is done any more."""
        assert house.life is not None
        house.life.is_over = True
        house.application = house.container = None
        self.tell(f"{house.name} dies")

    async def register(self, house: House, name: str) -> str:
        """A user of the server."""
        assert house.container is not None and house.life is not None
        accounts = house.container.accounts
        work = accounts.register(name, name, NewDevice(None, None, refreshable=False))
        _, session = await self._within(house.life, work)
        assert session is not None
        house.tokens[session.user_id] = session.tokens.access_token
        return session.user_id

    async def ask(self, house: House, user_id: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """What the server answers to its user. Raises `Gone`."""
        headers = {"authorization": f"Bearer {house.tokens[user_id]}"}
        raw = None if body is None else json.dumps(body).encode()
        life = house.life
        if house.application is None or life is None:
            raise Gone
        target = f"/_matrix/client/v3{path}"
        work = self.loop.create_task(self._serve(house, method, target, headers, raw))
        await asyncio.wait({work}, timeout=PATIENCE_S)
        if not work.done() or life.is_over:
            raise Gone
        reply = work.result()
        assert reply.status < 500 or reply.status in (502, 503, 504), f"{method} {path}: {reply.status} {reply.body!r}"
        return reply.status, json.loads(reply.body)

    def transaction(self) -> str:
        """A new transaction id."""
        return f"t{next(self._transactions)}"

    async def carry(
        self, origin: str, destination: str, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """Take a request to a server, and its answer back, if both arrive."""
        weather = self.weather
        await asyncio.sleep(weather.delay())
        if weather.loses() or weather.separates(origin, destination):
            await asyncio.sleep(5.0)
            raise Unreachable("There was no answer.")
        stranger = self.strangers.get(destination)
        if stranger is not None:
            reply = stranger(origin, method, target, body)
        else:
            house = self.houses.get(destination)
            if house is None or house.application is None:
                raise Unreachable("The connection was refused.")
            if weather.repeats():
                self.tell(f"{origin} {method} {_short(target)} comes to {destination} twice")
                twin = self.loop.create_task(self._serve(house, method, target, dict(headers), body))
                twin.add_done_callback(_look_at)
            life = house.life
            work = self.loop.create_task(self._serve(house, method, target, dict(headers), body))
            await asyncio.wait({work}, timeout=PATIENCE_S)
            if not work.done() or life is None or life.is_over:
                raise Unreachable("The connection was reset.")
            reply = work.result()
        self.tell(f"{origin} {method} {_short(target)} at {destination}: {reply.status}")
        await asyncio.sleep(weather.delay())
        if weather.loses() or weather.separates(origin, destination):
            await asyncio.sleep(5.0)
            raise Unreachable("There was no answer.")
        return reply

    async def _serve(
        self, house: House, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """The application's answer to a request."""
        LIFE.set(house.life)  # In the task that was made for this.
        assert house.application is not None
        path, _, query = target.partition("?")
        sent = [{"type": "http.request", "body": body or b"", "more_body": False}]
        status, heads, chunks = 0, dict[str, str](), list[bytes]()

        async def receive() -> dict[str, Any]:
            if sent:
                return sent.pop()
            return await self.loop.create_future()  # Nobody hangs up.

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                heads.update({name.decode(): value.decode() for name, value in message["headers"]})
            else:
                chunks.append(message.get("body", b""))

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "https",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": (house.name, 443),
        }
        await house.application(scope, receive, send)
        return Reply(status, heads, b"".join(chunks))

    async def _within(self, life: Life, work: Awaitable[Any]) -> Any:
        """Do something as a part of a server's life."""

        async def run() -> Any:
            LIFE.set(life)
            return await work

        return await self.loop.create_task(run())


class _Line:
    """The transport of one life of a server."""

    def __init__(self, city: City, name: str, life: Life) -> None:
        self._city = city
        self._name = name
        self._life = life

    async def exchange(self, call: Call) -> Reply:
        """The answer, if it comes in time; a dead server does not get one."""
        if self._life.is_over:
            await self._city.loop.create_future()
        way = self._city.carry(self._name, call.destination, call.method, call.target, call.headers, call.body)
        work = self._city.loop.create_task(way)
        work.add_done_callback(_look_at)
        await asyncio.wait({work}, timeout=call.timeout_s)
        if self._life.is_over:
            await self._city.loop.create_future()
        if not work.done():
            raise Unreachable("There was no answer in time.")
        reply = work.result()
        if len(reply.body) > call.largest:
            raise AnswerTooLarge("The answer is too large.")
        return reply

    async def fetch(
        self, url: str, *, timeout_s: float, largest: int, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Raise `Unreachable`: there is nothing in the city but servers."""
        raise Unreachable("There is nothing at this address.")


def _look_at(task: "asyncio.Task[Any]") -> None:
    """Somebody has seen what went wrong."""
    if not task.cancelled():
        task.exception()


def _short(target: str) -> str:
    return unquote(target.partition("?")[0].removeprefix("/_matrix/"))


def part(text: str) -> str:
    """Text as a part of a path."""
    return quote(text, safe="")
