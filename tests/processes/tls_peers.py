"""Servers on 127.0.0.x that speak TLS, and answer as a test wants, good or bad."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Heard:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


Answer = Callable[[Heard, asyncio.StreamWriter], Awaitable[bool | None]]
"""Writes an answer; the connection is closed if it returns False."""


@dataclass
class TlsPeer:
    """What a server has seen."""

    host: str
    port: int = 0
    heard: list[Heard] = field(default_factory=list)
    bytes_read: int = 0
    connections: int = 0
    open_now: int = 0
    names: list[str | None] = field(default_factory=list)
    """The server names (SNI) that connections were begun with."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def until(self, condition: Callable[["TlsPeer"], bool]) -> None:
        """Wait until it is so."""
        async with self.changed:
            await self.changed.wait_for(lambda: condition(self))

    async def note(self) -> None:
        """Tell those who wait."""
        async with self.changed:
            self.changed.notify_all()


def ok(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> Answer:
    """A good answer."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return answer


def raw(data: bytes, *, is_last: bool = True) -> Answer:
    """These bytes, whatever they mean."""

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        return not is_last

    return answer


async def never(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """No answer at all, until the other side hangs up."""
    await writer.wait_closed()


def dripping(beginning: bytes, every_s: float = 0.05) -> Answer:
    """After this, a byte each 50 ms, or so, for ever."""

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(every_s)

    return answer


def endless(beginning: bytes, again: bytes) -> Answer:
    """After this, the same for ever, as fast as it is taken."""

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while True:
            writer.write(again)
            await writer.drain()

    return answer


@asynccontextmanager
async def tls_peer(
    context: ssl.SSLContext | None, answer: Answer, host: str = "127.0.0.2", port: int = 0
) -> AsyncIterator[TlsPeer]:
    """A server while the block runs; without a context, it does not speak TLS."""
    peer = TlsPeer(host)
    tasks: set[asyncio.Task[None]] = set()
    if context is not None:
        context.sni_callback = lambda connection, name, _: peer.names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        peer.open_now += 1
        number = peer.connections
        try:
            while (heard := await _read(peer, reader, number)) is not None:
                peer.heard.append(heard)
                await peer.note()
                if await answer(heard, writer) is False:
                    break
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            peer.open_now -= 1
            writer.close()
            await peer.note()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().set_exception_handler(lambda loop, details: None)  # Handshakes that fail are the point.
    server = await asyncio.start_server(accept, host, port, ssl=context)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _read(peer: TlsPeer, reader: asyncio.StreamReader, connection: int) -> Heard | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await reader.read(1)
        peer.bytes_read += len(data)
        if not data:
            return None
        head += data
    line, *rest = head.decode("latin-1").strip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    peer.bytes_read += len(body)
    return Heard(line, headers, body, connection)
