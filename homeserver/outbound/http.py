"""Requests over HTTP, to other servers: whose turn it is, and on which connection.

A connection belongs to one server name and to the route by which that was found, so it can carry nothing to a server
that has not proven its name.
"""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import httpcore2

from homeserver.config.model import Federation
from homeserver.errors import AnswerTooLarge, Unreachable
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.addresses import find_literal
from homeserver.outbound.connecting import Connector, load_authorities
from homeserver.outbound.connections import Connection, Stale
from homeserver.outbound.discovery import Discovery, Route, is_host
from homeserver.outbound.partners import Partners
from homeserver.outbound.resolver import CachingResolver, DnsResolver, Resolver, Service
from homeserver.outbound.transport import Call, Reply

_IDLE_S = 55.0
"""Less than what most servers and proxies wait before they hang up."""
_WELL_KNOWN_S = 10.0
_WELL_KNOWN_BYTES = 51_200
_MOST_REDIRECTS = 5


@dataclass(slots=True)
class _Peer:
    """A server, while there are connections to it or requests under way."""

    turns: asyncio.Semaphore
    connections: list[Connection] = field(default_factory=list)
    users: int = 0


class HttpTransport:
    """The way to other servers.

    A request waits for its turn at its server first, then for one of all: whoever waits for a slow server is in nobody
    else's way. All waiting is bounded by the request's own time limit, and cancelling it ends its connection.
    """

    def __init__(
        self,
        settings: Federation,
        clock: Clock,
        randomness: Randomness,
        metrics: Metrics,
        resolver: Resolver | None = None,
        *,
        idle_s: float = _IDLE_S,
    ) -> None:
        """`idle_s` is how long a connection that nobody uses is kept. Raises `ConfigError`."""
        self._idle_s = idle_s
        found = resolver or CachingResolver(DnsResolver(), clock)
        self.discovery = Discovery(found, self._ask_well_known, clock, settings.addresses)
        self.connector = Connector(settings, found, randomness, new_context(settings), new_proxy_context(settings))
        self._partners = Partners(settings)
        self._turns = asyncio.Semaphore(settings.connections)
        # Requests wait for well-known files while it is their turn, so these need turns of their own.
        self._fetching = asyncio.Semaphore(settings.connections)
        self._turns_each = settings.connections_per_server
        self._most_idle = settings.idle_connections
        self._peers: dict[str, _Peer] = {}
        self._idle: OrderedDict[Connection, str] = OrderedDict()
        self._sweep: asyncio.TimerHandle | None = None
        self._metrics = metrics
        metrics.requests_under_way.set_function(lambda: sum(peer.users for peer in self._peers.values()))
        metrics.connections.labels("idle").set_function(lambda: len(self._idle))
        metrics.connections.labels("in use").set_function(
            lambda: sum(len(peer.connections) for peer in self._peers.values()) - len(self._idle)
        )

    async def exchange(self, call: Call) -> Reply:
        """The answer of a server to a request. Raises `Unreachable`, whose message says which step failed."""
        outcome = "given up"
        try:
            reply = await self._exchange(call)
            outcome = "good" if reply.status < 300 else "refused"
            return reply
        except AnswerTooLarge:
            outcome = "too large"
            raise
        except Unreachable:
            outcome = "unreachable"
            raise
        finally:
            self._metrics.requests_sent.labels(call.operation, outcome).inc()

    async def _exchange(self, call: Call) -> Reply:
        destination = call.destination
        refusal = self._partners.refusal(destination)
        if refusal is not None:
            raise Unreachable(f"{destination} is not asked: {refusal}")
        doing = "waiting for a turn"
        peer = self._peers.setdefault(destination, _Peer(asyncio.Semaphore(self._turns_each)))
        peer.users += 1
        try:
            async with asyncio.timeout(call.timeout_s), peer.turns, self._turns:
                doing = "finding out where it is"
                route = await self.discovery.find(destination)
                while True:
                    doing = "connecting to it"
                    connection = self._take(peer, route) or await self._open(destination, peer, route)
                    doing = "waiting for its answer"
                    try:
                        return await connection.exchange(call)
                    except Stale:
                        # Requests between servers may be repeated, and this one was most likely never read.
                        continue
                    finally:
                        self._release(destination, peer, connection)
        except TimeoutError:
            raise Unreachable(f"{destination} was given up after {call.timeout_s:g} s, while {doing}.") from None
        except AnswerTooLarge as error:
            raise AnswerTooLarge(f"{destination} says too much. {error}") from None
        except Unreachable as error:
            raise Unreachable(f"{destination} cannot be reached. {error}") from None
        finally:
            peer.users -= 1
            self._forget(destination, peer)

    async def fetch(
        self, url: str, *, timeout_s: float, largest: int, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """What is at an `https:` address, redirects followed, each to an address that may be connected to.

        Raises `Unreachable`.
        """
        try:
            # To wait for a turn is no fault of whoever is asked.
            async with self._fetching, asyncio.timeout(timeout_s):
                for _ in range(_MOST_REDIRECTS + 1):
                    reply = await self._get(url, headers or {}, timeout_s=timeout_s, largest=largest)
                    if reply.status not in (301, 302, 303, 307, 308) or "location" not in reply.headers:
                        return reply
                    url = urljoin(url, reply.headers["location"])
        except TimeoutError:
            raise Unreachable(f"It took longer than {timeout_s:g} s.") from None
        except ValueError:
            raise Unreachable("It redirects to something that is no address.") from None
        raise Unreachable("It redirects again and again.")

    async def close(self) -> None:
        """End all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        for peer in self._peers.values():
            for connection in peer.connections:
                connection.wire.abort()
        # The event loop ends them when it comes round.
        await asyncio.sleep(0)

    async def _ask_well_known(self, host: str) -> Reply:
        url = f"https://{host}/.well-known/matrix/server"
        return await self.fetch(url, timeout_s=_WELL_KNOWN_S, largest=_WELL_KNOWN_BYTES)

    async def _get(self, url: str, headers: Mapping[str, str], *, timeout_s: float, largest: int) -> Reply:
        """What is at an address. Raises `Unreachable`, `ValueError`."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        literal = f"[{host}]" if ":" in host else host
        if parts.scheme != "https" or "@" in parts.netloc or (find_literal(literal) is None and not is_host(host)):
            raise Unreachable(f"{url[:300]} is no address of a page that is safe to get.")
        authority = literal if port == 443 else f"{literal}:{port}"
        route = Route(authority, host.removesuffix("."), (Service(host, port),))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or any(character <= " " for character in target):
            raise Unreachable(f"{url[:300]} is no address of a page.")
        call = Call(
            operation="page",
            destination=ServerName(authority),
            method="GET",
            target=target,
            headers=headers,
            timeout_s=timeout_s,
            largest=largest,
        )
        connection = Connection(await self.connector.connect(route), route, self._metrics)
        try:
            return await connection.exchange(call)
        finally:
            connection.retire()

    def _take(self, peer: _Peer, route: Route) -> Connection | None:
        """An open connection to where the server is now. One may have ended without our having been told."""
        for connection in reversed(peer.connections):
            if connection.route == route and connection.is_free:
                connection.users += 1
                self._idle.pop(connection, None)
                return connection
        return None

    async def _open(self, destination: ServerName, peer: _Peer, route: Route) -> Connection:
        try:
            wire = await self.connector.connect(route)
        except Unreachable:
            self.discovery.doubt(destination)
            raise
        connection = Connection(wire, route, self._metrics)
        connection.users = 1
        peer.connections.append(connection)

        def lost() -> None:
            if connection in peer.connections:
                peer.connections.remove(connection)
            self._idle.pop(connection, None)
            self._forget(destination, peer)

        wire.on_lost = lost
        return connection

    def _release(self, destination: ServerName, peer: _Peer, connection: Connection) -> None:
        """A request has ended: keep the connection for the next, if it is good and there are not too many."""
        connection.users -= 1
        if connection.users:
            return
        if not connection.is_open or not connection.is_free:
            connection.retire()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle[connection] = destination
        while len(self._idle) > self._most_idle:
            self._idle.popitem(last=False)[0].retire()
        if self._sweep is None and self._idle:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s / 4, self._close_idle)

    def _close_idle(self) -> None:
        """End the connections that nobody has used for a while."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle and (oldest := next(iter(self._idle))).idle_since + self._idle_s < loop.time():
            del self._idle[oldest]
            oldest.retire()
        if self._idle:
            self._sweep = loop.call_later(self._idle_s / 4, self._close_idle)

    def _forget(self, destination: str, peer: _Peer) -> None:
        if not peer.users and not peer.connections and self._peers.get(destination) is peer:
            del self._peers[destination]


def new_context(settings: Federation) -> ssl.SSLContext:
    """Whom to trust, and how to speak TLS. Raises `ConfigError`."""
    return _context(settings, ["h2", "http/1.1"] if settings.http2 else ["http/1.1"])


def new_proxy_context(settings: Federation) -> ssl.SSLContext | None:
    """The same for the proxy; None where there is none that speaks TLS. Raises `ConfigError`."""
    is_tls = (settings.proxy or "").startswith("https:")
    return _context(settings, ["http/1.1"]) if is_tls else None


def _context(settings: Federation, protocols: list[str]) -> ssl.SSLContext:
    context = httpcore2.default_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A certificate is for its alternative names alone (RFC 9525). On some systems another kind of context sees to that.
    if type(context) is ssl.SSLContext:
        context.hostname_checks_common_name = False
    context.set_alpn_protocols(protocols)
    load_authorities(context, settings.ca_files)
    return context


@asynccontextmanager
async def opened(
    settings: Federation,
    clock: Clock,
    randomness: Randomness,
    metrics: Metrics,
    resolver: Resolver | None = None,
    *,
    idle_s: float = _IDLE_S,
) -> AsyncIterator[HttpTransport]:
    """The way to other servers, closed in the end. Raises `ConfigError`."""
    transport = HttpTransport(settings, clock, randomness, metrics, resolver, idle_s=idle_s)
    try:
        yield transport
    finally:
        await transport.close()
