"""Several servers in one process, joined in memory, and servers that do what a test tells them.

Requests go from one application to the other as they would over the network, with their signatures and raw paths;
every answer of ours is held to the specification's data.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

import httpx2

from homeserver.errors import AnswerTooLarge, Unreachable
from homeserver.matrix.request_signing import XMatrix, sign_request
from homeserver.matrix.server_keys import publish
from homeserver.outbound.transport import Call, Reply
from tests.client import Client
from tests.room_graphs import key_of
from tests.world import StoppedClock, World, running, settings


@dataclass(frozen=True)
class Seen:
    """A request that reached a peer."""

    origin: str | None
    method: str
    target: str
    content: Any
    header: str = ""
    """How it was signed."""


Answer = Callable[[Seen], "Any | Reply"]
"""What a peer answers: the JSON of a 200, or a whole reply, at once or awaited. It may raise `Unreachable`."""


Weather = Callable[[Call, Callable[[], Awaitable[Reply]]], Awaitable[Reply]]
"""The answer to a request; what it is given takes the request there, if it is to arrive, once or again."""


@dataclass
class Peer:
    """A server that answers what it is told to, and remembers what it was asked."""

    name: str
    network: "Network"
    seen: list[Seen] = field(default_factory=list)
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    """By method and beginning of the path; the longest that fits."""
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    """While this is not set it does not answer, and does not hang up."""

    def __post_init__(self) -> None:
        self.awake.set()

    def on(self, method: str, path: str, answer: Answer) -> None:
        """From now on, answer so to requests whose path begins like this."""
        self.answers[method, path] = answer

    async def call(
        self,
        server: str,
        method: str,
        target: str,
        content: Any = None,
        *,
        header: str | None = None,
    ) -> httpx2.Response:
        """The answer of a server to a signed request; `header` stands in the place of the right signature."""
        body = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
        if header is None:
            header = str(self.sign(server, method, target, body))
        headers = {"Authorization": header, "Content-Type": "application/json"}
        return await self.network.clients[server].send(method, target, headers=headers, content=body)

    def sign(self, server: str, method: str, target: str, body: bytes | None) -> XMatrix:
        """The signature of a request to a server."""
        key = key_of(self.name)
        return sign_request(key, origin=self.name, destination=server, method=method, target=target, content=body)

    async def send(self, server: str, txn_id: str, *pdus: bytes, edus: list[Any] | None = None) -> dict[str, Any]:
        """Deliver events; what became of each."""
        body = {
            "origin": self.name,
            "origin_server_ts": self.network.clock.now(),
            "pdus": [json.loads(pdu) for pdu in pdus],
            "edus": edus or [],
        }
        answer = await self.call(server, "PUT", f"/_matrix/federation/v1/send/{txn_id}", body)
        assert answer.status_code == 200, answer.text
        results: dict[str, Any] = answer.json()["pdus"]
        return results

    async def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """What it answers to a request."""
        header = headers.get("authorization", "")
        origin = XMatrix.parse(header).origin if header else None
        seen = Seen(origin, method, target, None if body is None else json.loads(body), header)
        self.seen.append(seen)
        if target == "/_matrix/key/v2/server" and ("GET", target) not in self.answers:
            return Reply(200, {}, self.keys())
        fitting = [path for verb, path in self.answers if verb == method and target.startswith(path)]
        if not fitting:
            return Reply(404, {}, b'{"errcode": "M_UNRECOGNIZED", "error": "The peer was not told what to answer."}')
        answer = self.answers[method, max(fitting, key=len)](seen)
        if isawaitable(answer):
            answer = await answer
        return answer if isinstance(answer, Reply) else Reply(200, {}, json.dumps(answer).encode())

    def keys(self) -> bytes:
        """The keys that it publishes."""
        return publish(self.name, key_of(self.name), {}, valid_until_ts=self.network.clock.now() + 3_600_000)


class SkewedClock(StoppedClock):
    """A clock that goes as fast as another one, and is wrong by so much."""

    def __init__(self, right: StoppedClock, off_ms: int) -> None:
        super().__init__()
        self._right = right
        self._off_ms = off_ms

    def now(self) -> int:
        return self._right.now() + self._off_ms

    def monotonic(self) -> float:
        return self._right.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._right.sleep(seconds)

    def advance(self, seconds: float) -> None:
        self._right.advance(seconds)


class Network:
    """The servers and peers of a test, by name; those that are cut off are neither heard nor reached."""

    def __init__(self, new_database: Callable[[], str], folder: Path, stack: AsyncExitStack) -> None:
        self.clock = StoppedClock()
        self.clients: dict[str, Client] = {}
        self.worlds: dict[str, World] = {}
        self.peers: dict[str, Peer] = {}
        self.pages: dict[str, Reply] = {}
        """What is to be found elsewhere, by its address."""
        self.fetched: list[str] = []
        self.weather: Weather | None = None
        """What becomes of requests on their way."""
        self._new_database = new_database
        self._folder = folder
        self._stack = stack
        self._cut: set[str] = set()
        self._servers: dict[str, AsyncExitStack] = {}
        self._urls: dict[str, str] = {}

    async def server(self, name: str, *, off_ms: int = 0, **more: Any) -> World:
        """A running server of this name; one that was stopped goes on with its database; its clock may be off."""
        clock = SkewedClock(self.clock, off_ms) if off_ms else self.clock
        folder = self._folder / name.replace(":", "_")
        folder.mkdir(exist_ok=True)
        url = self._urls.setdefault(name, "") or self._new_database()
        self._urls[name] = url
        own = await self._stack.enter_async_context(AsyncExitStack())
        config = settings(url, str(folder), server_name=name, **more)
        world = await own.enter_async_context(running(config, clock=clock, transport=Link(self, name)))
        self._servers[name] = own
        self.clients[name], self.worlds[name] = world.client, world
        return world

    async def stop(self, name: str) -> None:
        """End a server; `server` starts it again."""
        await self._servers.pop(name).aclose()
        del self.clients[name], self.worlds[name]

    def peer(self, name: str) -> Peer:
        """A server that does what it is told."""
        self.peers[name] = Peer(name, self)
        return self.peers[name]

    def cut(self, *names: str) -> None:
        """Cut servers off from all others."""
        self._cut.update(names)

    def heal(self, *names: str) -> None:
        """Let servers be reached again."""
        self._cut.difference_update(names)

    async def carry(self, origin: str, call: Call) -> Reply:
        """Take a request where it should go, through the weather."""
        if self.weather is None:
            return await self._carry(origin, call)
        return await self.weather(call, lambda: self._carry(origin, call))

    async def _carry(self, origin: str, call: Call) -> Reply:
        destination = call.destination
        if origin in self._cut or destination in self._cut:
            raise Unreachable("The network is cut.")
        if (peer := self.peers.get(destination)) is not None:
            await peer.awake.wait()
            return await peer.reply(call.method, call.target, call.headers, call.body)
        if (client := self.clients.get(destination)) is None:
            raise Unreachable(f"There is no server {destination}.")
        answer = await client.send(call.method, call.target, headers=dict(call.headers), content=call.body)
        if origin in self._cut or destination in self._cut:
            raise Unreachable("The network was cut before the answer came.")
        return Reply(answer.status_code, dict(answer.headers), answer.content)

    async def fsck(self) -> None:
        """Hold the databases of all servers to their invariants."""
        for world in self.worlds.values():
            await world.fsck()


class Link:
    """The transport of one server of the network."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name

    async def exchange(self, call: Call) -> Reply:
        """The answer of the other server, within real time."""
        try:
            async with asyncio.timeout(call.timeout_s):
                reply = await self._network.carry(self._name, call)
        except TimeoutError:
            raise Unreachable("There was no answer in time.") from None
        if len(reply.body) > call.largest:
            raise AnswerTooLarge("The answer is too large.")
        return reply

    async def fetch(
        self, url: str, *, timeout_s: float, largest: int, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The page of a test."""
        self._network.fetched.append(url)
        reply = self._network.pages.get(url)
        if reply is None:
            raise Unreachable("There is nothing at this address.")
        if len(reply.body) > largest:
            raise AnswerTooLarge("The answer is too large.")
        return reply


@asynccontextmanager
async def joined(new_database: Callable[[], str], folder: Path) -> AsyncIterator[Network]:
    """A network, whose servers end with the block and must be whole then."""
    async with AsyncExitStack() as stack:
        network = Network(new_database, folder, stack)
        yield network
        await network.fsck()
