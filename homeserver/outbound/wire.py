"""Bytes to and from another server: one connection, with or without TLS upon it."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import cast

from homeserver.outbound.addresses import Address

_BUFFER = 1 << 20
"""How much may have come in that nobody has read."""


class Wire(asyncio.Protocol):
    """A connection. One may read while another writes."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._is_reading = True
        self._is_over = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._may_write = True
        self.on_lost: Callable[[], None] | None = None
        """Called once, when the connection has ended."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are transports without inheriting from anything.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._unread += len(data)
        if self._unread > _BUFFER and self._is_reading and self._transport is not None:
            self._transport.pause_reading()
            self._is_reading = False
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._is_over = True
        _wake(self._reader)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._failure = self._failure or exc
        _wake(self._reader)
        _wake(self._writer)
        lost, self.on_lost = self.on_lost, None
        if lost is not None:
            lost()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        _wake(self._writer)

    @property
    def is_readable(self) -> bool:
        """Whether something has come, or the end: on an idle connection there should be nothing."""
        return bool(self._chunks) or self._is_over

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """What TLS has agreed on."""
        found: ssl.SSLObject | None = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return found

    @property
    def peer(self) -> Address | None:
        """The address that the connection leads to."""
        name = None if self._transport is None else self._transport.get_extra_info("peername")
        return None if name is None else ip_address(name[0])

    async def read(self) -> bytes:
        """What has come; nothing at the end. Raises `OSError`."""
        while not self._chunks:
            if self._failure is not None:
                raise ConnectionResetError(str(self._failure))
            if self._is_over:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data = self._chunks.popleft()
        self._unread -= len(data)
        if not self._is_reading and not self._is_over and self._unread <= _BUFFER // 2 and self._transport is not None:
            self._transport.resume_reading()
            self._is_reading = True
        return data

    async def write(self, data: bytes) -> None:
        """Send it, waiting while the other side does not take it. Raises `OSError`."""
        if self._transport is None or self._is_over or self._transport.is_closing():
            raise ConnectionResetError("The connection has ended.")
        self._transport.write(data)
        while not self._may_write and not self._is_over:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Let the other side prove that it is the host or address of this name. Raises `OSError`, `ssl.SSLError`."""
        if self._transport is None or self._chunks or self._is_over:
            raise ConnectionResetError("The connection has ended.")
        # Python sends no SNI for an address, and compares it with the addresses of the certificate.
        try:
            transport = await asyncio.get_running_loop().start_tls(self._transport, self, context, server_hostname=name)
        except TypeError as error:
            # Before Python 3.11.8, asyncio stumbles where TLS within TLS fails, while it is about to tell why.
            reason = error.__context__
            raise reason if isinstance(reason, OSError) else ConnectionResetError("TLS failed.") from None
        assert transport is not None
        self._transport = transport

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
