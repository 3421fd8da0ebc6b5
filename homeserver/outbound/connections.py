"""A request and its answer on one connection: where the HTTP client begins, httpcore2.

It is what httpx2 stands on, because the signature of a request covers its target as it is sent, and the connection is
made here (`connecting`).
"""

import asyncio
import io
from contextlib import aclosing, suppress
from typing import Any

import h2.exceptions
import httpcore2

from homeserver.errors import AnswerTooLarge, Unreachable
from homeserver.kit.metrics import Metrics
from homeserver.outbound.discovery import Route
from homeserver.outbound.transport import Call, Reply
from homeserver.outbound.wire import Wire

_MOST_STREAMS = 100
_GATHERED = 65_536
_FAILURES = (
    OSError,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    h2.exceptions.H2Error,
)


class Stale(Exception):
    """A connection that had been kept ended before anything of the answer came."""


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection, as the HTTP client wants it. Time limits are set around whole requests.

    The client writes a request in pieces, and reads when it is whole: small pieces leave together. With HTTP/2, where
    one request is written while the answer to another is read, nothing is kept back.
    """

    def __init__(self, wire: Wire, *, is_gathering: bool) -> None:
        self._wire = wire
        self._is_gathering = is_gathering
        self._gathered = b""
        self.received = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._gathered:
            with suppress(OSError):  # An answer may have come before the other side had taken all.
                await self._flush(b"")
        try:
            data = await self._wire.read()
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from None
        self.received += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            if self._is_gathering and len(self._gathered) + len(buffer) <= _GATHERED:
                self._gathered += buffer
            else:
                await self._flush(buffer)
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from None

    async def _flush(self, data: bytes) -> None:
        data, self._gathered = self._gathered + data, b""
        await self._wire.write(data)

    async def aclose(self) -> None:
        self._wire.abort()

    def get_extra_info(self, info: str) -> Any:
        return self._wire.is_readable if info == "is_readable" else None


class Connection:
    """An open connection to a server. With HTTP/2 it has several users at once."""

    def __init__(self, wire: Wire, route: Route, metrics: Metrics) -> None:
        self._metrics = metrics
        self.route = route
        self.users = 0
        self.idle_since = 0.0
        self.wire = wire
        self._served = 0
        self._is_retired = False
        self._origin = httpcore2.Origin(b"https", route.tls_name.encode("ascii"), route.services[0].port)
        tls = wire.ssl_object
        self.is_shared = tls is not None and tls.selected_alpn_protocol() == "h2"
        self._stream = _Stream(wire, is_gathering=not self.is_shared)
        kind = httpcore2.AsyncHTTP2Connection if self.is_shared else httpcore2.AsyncHTTP11Connection
        self._http = kind(self._origin, self._stream)

    @property
    def is_free(self) -> bool:
        """Whether it can take one more request."""
        if self._is_retired or self._http.is_closed() or self._http.has_expired() or not self._http.is_available():
            return False
        return not self.wire.is_readable and self.users == 0 if not self.is_shared else self.users < _MOST_STREAMS

    @property
    def is_open(self) -> bool:
        return not self._is_retired and not self._http.is_closed()

    async def exchange(self, call: Call) -> Reply:
        """The answer to a request. Raises `Stale`, or `Unreachable`."""
        headers = _complete(call, self.route.authority)
        request = httpcore2.Request(
            call.method.encode("ascii"),
            httpcore2.URL(
                scheme=self._origin.scheme,
                host=self._origin.host,
                port=self._origin.port,
                target=call.target.encode("ascii"),
            ),
            headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in headers],
            content=call.body,
        )
        before = self._stream.received
        is_done = False
        try:
            began = asyncio.get_running_loop().time()
            response = await self._http.handle_async_request(request)
            waited_s = asyncio.get_running_loop().time() - began
            self._metrics.first_byte_seconds.labels(call.operation).observe(waited_s)
            reply = await self._read(response, call.largest)
            is_done = True
        except httpcore2.ConnectionNotAvailable:
            raise Stale from None
        except _FAILURES as error:
            is_unread = self._stream.received == before
            if self._served and (is_unread or (self.is_shared and isinstance(error, httpcore2.RemoteProtocolError))):
                raise Stale from None
            raise Unreachable(
                f"It broke off, or does not speak HTTP as it should: {str(error) or 'no answer'}"
            ) from None
        finally:
            if not is_done:
                # What is left of the answer is still to come: nothing else may be asked on this connection.
                self.retire()
        self._served += 1
        return reply

    def retire(self) -> None:
        """Let it end when nobody uses it any more."""
        self._is_retired = True
        if self.users <= 1 or not self.is_shared:
            self.wire.abort()

    async def _read(self, response: httpcore2.Response, largest: int) -> Reply:
        if not 200 <= response.status <= 599:
            raise Unreachable(f"Its answer has the status {response.status}, which means nothing.")
        headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        length = headers.get("content-length", "")
        # A buffer of this kind gives its bytes away without a copy, which counts with the state of a large room.
        body = io.BytesIO()
        size = int(length[:20]) if length.isascii() and length.isdigit() else 0
        try:
            async with aclosing(response.aiter_stream()) as chunks:
                while size <= largest and (chunk := await anext(chunks, None)) is not None:
                    size = max(size, body.tell() + len(chunk))
                    body.write(chunk)
        finally:
            await response.aclose()
        if size > largest:
            raise AnswerTooLarge(f"Its answer is larger than {largest} bytes.")
        if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise Unreachable("Its answer is in an encoding that was not asked for.")
        return Reply(response.status, headers, body.getvalue())


def _complete(call: Call, authority: str) -> list[tuple[str, str]]:
    """The headers of a request, with those that the transport itself must know."""
    every = [("Host", authority), ("User-Agent", "homeserver"), ("Accept-Encoding", "identity")]
    every += [(name, value) for name, value in call.headers.items() if name.lower() not in ("host", "content-length")]
    if call.body is not None or call.method in ("POST", "PUT"):
        every.append(("Content-Length", str(len(call.body or b""))))
    return every
