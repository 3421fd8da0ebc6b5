"""HTTP/1.1 as thin as it gets, so that what is measured is the server and not the one who asks.

A connection carries one request at a time and stays open. An answer has a length, or comes in chunks.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlsplit

import orjson

Json = dict[str, Any]

LONGEST_S = 180.0


class Failed(RuntimeError):
    """The server did not answer as it should."""


class Closed(Failed):
    """The connection ended before there was an answer."""


class Connection(asyncio.Protocol):
    """One connection to a server."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one in all but its class.
        self._transport = cast(asyncio.Transport, transport)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Closed(f"the connection was closed: {error}"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if (found := _parse(self._received)) is not None:
            self._received.clear()
            assert self._answer is not None
            if not self._answer.done():
                self._answer.set_result(found)

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a request; await the status and the body of its answer."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _parse(received: bytearray) -> tuple[int, bytes] | None:
    """Status and body, once they are there."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    status = int(head[9:12])
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        body = received[end + 4 :]
        return (status, bytes(body)) if len(body) >= length else None
    if b"transfer-encoding: chunked" not in head:
        return (status, b"")
    if not received.endswith(b"0\r\n\r\n"):
        return None
    body = bytearray()
    at = end + 4
    while True:
        line = received.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(received[at:line], 16)
        if size == 0:
            return (status, bytes(body))
        if len(received) < line + 2 + size + 2:
            return None
        body += received[line + 2 : line + 2 + size]
        at = line + 2 + size + 2


@dataclass
class Person:
    """A logged in user, with a connection for talking and one for listening."""

    host: str
    port: int
    user_id: str
    token: str
    _talking: Connection | None = None
    _listening: Connection | None = None
    _sent: int = field(default=0)

    @classmethod
    async def register(cls, url: str, name: str) -> "Person":
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        one = cls(parts.hostname, parts.port, "", "")
        body = {"username": name, "password": "benchmark-password", "auth": {"type": "m.login.dummy"}}
        answer = await one.call("POST", "/register", body)
        one.user_id, one.token = answer["user_id"], answer["access_token"]
        return one

    async def call(self, method: str, path: str, body: Json | None = None, *, listening: bool = False) -> Json:
        """The answer of a client-server endpoint. Raises `Failed` unless it is 200."""
        answer = await self.ask(self.request(method, path, body), listening=listening)
        value: Json = orjson.loads(answer)
        return value

    async def ask(self, request: bytes, *, listening: bool = False) -> bytes:
        try:
            return await self._ask(request, listening=listening)
        except Closed:
            # A server closes what was silent for long, be it just when somebody asks. Every request bears repeating.
            return await self._ask(request, listening=listening)

    async def _ask(self, request: bytes, *, listening: bool) -> bytes:
        connection = self._listening if listening else self._talking
        if connection is None or not connection.is_open:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, self.host, self.port)
            if listening:
                self._listening = connection
            else:
                self._talking = connection
        status, answer = await asyncio.wait_for(connection.ask(request), LONGEST_S)
        if status != 200:
            raise Failed(f"{request[:200]!r}: {status} {answer[:500]!r}")
        return answer

    def request(self, method: str, path: str, body: Json | None = None) -> bytes:
        head = f"{method} /_matrix/client/v3{path} HTTP/1.1\r\nHost: localhost\r\n"
        if self.token:
            head += f"Authorization: Bearer {self.token}\r\n"
        if body is None:
            return (head + "\r\n").encode()
        text = orjson.dumps(body)
        return (head + f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n").encode() + text

    async def send(self, room_id: str, text: str = "A message, of the usual length of one.") -> None:
        self._sent += 1
        path = f"/rooms/{quote(room_id)}/send/m.room.message/m{time.time_ns()}.{self._sent}"
        await self.ask(self.request("PUT", path, {"msgtype": "m.text", "body": text}))

    async def sync(self, since: str | None, timeout_ms: int) -> bytes:
        path = f"/sync?timeout={timeout_ms}" + (f"&since={quote(since)}" if since else "")
        return await self.ask(self.request("GET", path), listening=True)

    async def listen(self) -> str:
        """Up to date: the position from which the next sync waits."""
        since: str | None = None
        for _ in range(2):  # Once answered at once by what the first sync could not know.
            since = next_batch(await self.sync(since, 0))
        assert since is not None
        return since

    async def hear(self, since: str, sign: bytes) -> tuple[float, str]:
        """When something came that has the sign in it, and the position after it."""
        while True:
            answer = await self.sync(since, 60_000)
            heard = time.perf_counter()
            since = next_batch(answer)
            if sign in answer:
                return heard, since

    def close(self) -> None:
        for connection in (self._talking, self._listening):
            if connection is not None:
                connection.close()


def next_batch(answer: bytes) -> str:
    value: str = orjson.loads(answer)["next_batch"]
    return value


async def room(people: list[Person], at_once: int = 20) -> str:
    """A public room of these people; the first has made it."""
    answer = await people[0].call("POST", "/createRoom", {"preset": "public_chat"})
    room_id: str = answer["room_id"]
    joining = iter(people[1:])

    async def join() -> None:
        for one in joining:
            await one.call("POST", f"/rooms/{quote(room_id)}/join", {})

    await asyncio.gather(*(join() for _ in range(at_once)))
    return room_id


async def crowd(url: str, names: list[str], at_once: int = 20) -> list[Person]:
    """People of these names."""
    found: dict[str, Person] = {}
    waiting = iter(names)

    async def register() -> None:
        for name in waiting:
            found[name] = await Person.register(url, name)

    await asyncio.gather(*(register() for _ in range(at_once)))
    return [found[name] for name in names]
