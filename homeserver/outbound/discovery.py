"""From the name of a server to where it is reached (server-server API, Resolving server names)."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial

import msgspec

from homeserver.errors import Unreachable
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import SingleFlight
from homeserver.matrix.identifiers import is_server_name
from homeserver.outbound.addresses import find_literal
from homeserver.outbound.resolver import Resolver, Service
from homeserver.outbound.transport import Reply

DEFAULT_PORT = 8448
_SERVICES = ("_matrix-fed._tcp", "_matrix._tcp")
_MOST_SERVICES = 10
_REMEMBERED = 20_000
_HOUR_S = 3_600.0
_USUAL_S = 24 * _HOUR_S
_LONGEST_S = 48 * _HOUR_S
_SHORTEST_S = 60.0
_FAILED_S = 300.0
_DOUBTFUL_S = 600.0
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?([0-9]{1,10})", re.IGNORECASE)
_NOT_KEPT = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,=])", re.IGNORECASE)

AskWellKnown = Callable[[str], Awaitable[Reply]]
"""Gets `/.well-known/matrix/server` of a host, redirects followed. Raises `Unreachable`."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a server is reached."""

    authority: str
    """What the `Host` header says."""
    tls_name: str
    """The host name or address that the certificate has to be valid for."""
    services: tuple[Service, ...]
    """Where it listens."""
    is_given: bool = False
    """Whether the settings say where it is: then no address is too private."""
    steps: tuple[str, ...] = field(default=(), compare=False)
    """How that was found out, in sentences."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """What the well-known file of a host says, or that it says nothing."""

    to: str | None
    finding: str
    asked_s: float
    until_s: float
    good_until_s: float = 0.0
    failures: int = 0


class _WellKnown(msgspec.Struct):
    server: str = msgspec.field(name="m.server")


class Discovery:
    """Finds servers. What was found is kept, as the servers that were asked wish, within bounds."""

    def __init__(
        self,
        resolver: Resolver,
        ask_well_known: AskWellKnown,
        clock: Clock,
        addresses: Mapping[str, str],
    ) -> None:
        self._resolver = resolver
        self._ask_well_known = ask_well_known
        self._clock = clock
        self._addresses = {name.lower(): address for name, address in addresses.items()}
        self._delegations: Lru[str, Delegation] = Lru(_REMEMBERED)
        self._asking: SingleFlight[str, Delegation] = SingleFlight()

    async def find(self, server_name: str) -> Route:
        """How the server is reached. Raises `Unreachable` where that cannot be found out."""
        host, port = split(server_name)
        given = self._addresses.get(server_name.lower())
        if given is not None:
            place, at = _host_and_port(given)
            service = Service(_bare(place), at or DEFAULT_PORT)
            steps = (f"The settings say that it is at {given} (federation.addresses).",)
            return Route(server_name, _bare(host), (service,), is_given=True, steps=steps)
        if find_literal(host) is not None:
            steps = ("The name is an address: nothing has to be looked up.",)
            return Route(server_name, _bare(host), (Service(_bare(host), port or DEFAULT_PORT),), steps=steps)
        if port is not None:
            steps = ("The name has a port: it is used as it is, without a look at well-known files and SRV records.",)
            return Route(server_name, _bare(host), (Service(host, port),), steps=steps)
        delegation = await self.delegation(host)
        steps = (delegation.finding,)
        if delegation.to is None:
            return await self._by_records(host, steps)
        host, port = split(delegation.to)
        if find_literal(host) is not None or port is not None:
            service = Service(_bare(host), port or DEFAULT_PORT)
            return Route(delegation.to, _bare(host), (service,), steps=steps)
        return await self._by_records(host, steps)

    async def delegation(self, host: str) -> Delegation:
        """What the well-known file of a host says."""
        kept = self._delegations.get(host.lower())
        if kept is not None and self._clock.monotonic() < kept.until_s:
            return kept
        return await self._asking.run(host.lower(), partial(self._renew, host.lower()))

    def doubt(self, server_name: str) -> None:
        """The server is not where it was found: look at its well-known file again, unless it was just looked at."""
        host, _ = split(server_name)
        kept = self._delegations.get(host.lower())
        if kept is not None and kept.to is not None and kept.asked_s + _DOUBTFUL_S < self._clock.monotonic():
            self._delegations.drop(host.lower())

    async def _by_records(self, host: str, steps: tuple[str, ...]) -> Route:
        """The route to a host without a port."""
        for prefix in _SERVICES:
            name = f"{prefix}.{host}"
            try:
                found = (await self._resolver.services(name)).records
            except Unreachable as error:
                steps += (str(error),)
                continue
            if not found:
                steps += (f"There are no SRV records {name}.",)
                continue
            services = tuple(one for one in found if one.port > 0 and is_host(one.host))[:_MOST_SERVICES]
            if not services:
                raise Unreachable(f"The SRV records {name} say that there is no such server.")
            places = ", ".join(f"{one.host} port {one.port}" for one in services)
            return Route(host, _bare(host), services, steps=(*steps, f"The SRV records {name} lead to {places}."))
        steps += (f"So it is expected at {host} port {DEFAULT_PORT}.",)
        return Route(host, _bare(host), (Service(host, DEFAULT_PORT),), steps=steps)

    async def _renew(self, host: str) -> Delegation:
        """Ask, and keep what came of it. It raises nothing, as perhaps nobody waits for it any more."""
        url = f"https://{host}/.well-known/matrix/server"
        kept = self._delegations.get(host)
        failures = 0 if kept is None else kept.failures
        pause = min(_FAILED_S * 2**failures, _HOUR_S)
        failures = min(failures + 1, 10)
        try:
            reply = await self._ask_well_known(host)
        except Unreachable as error:
            finding = f"{url} could not be had: {error}"
            new = self._failed(kept, finding, pause, failures)
        else:
            now = self._clock.monotonic()
            lifetime = lifetime_s(reply.headers, self._clock.now())
            if reply.status == 429 or reply.status >= 500:
                new = self._failed(kept, f"{url} could not be had: it answered {reply.status}.", pause, failures)
            elif reply.status != 200:
                finding = f"{url} names no other server: it answered {reply.status}."
                new = Delegation(None, finding, now, now + _patience_s(lifetime, pause), failures=failures)
            elif (server := _read(reply.body)) is None:
                finding = f"{url} is not what it should be, and counts for nothing."
                new = Delegation(None, finding, now, now + _patience_s(lifetime, pause), failures=failures)
            else:
                until = now + min(max(_USUAL_S if lifetime is None else lifetime, _SHORTEST_S), _LONGEST_S)
                new = Delegation(server, f"{url} names {server}.", now, until, now + _LONGEST_S)
        self._delegations.put(host, new)
        return new

    def _failed(self, kept: Delegation | None, finding: str, pause: float, failures: int) -> Delegation:
        """What to go by where the file cannot be had now: what it said before, for a while."""
        now = self._clock.monotonic()
        if kept is not None and kept.to is not None and now < kept.good_until_s:
            finding = f"{finding} Before, it named {kept.to}."
            return Delegation(kept.to, finding, now, now + pause, kept.good_until_s, failures)
        return Delegation(None, finding, now, now + pause, failures=failures)


def split(server_name: str) -> tuple[str, int | None]:
    """The host of a server name, an IPv6 address in brackets, and its port, if it has one. Raises `Unreachable`."""
    host, port = _host_and_port(server_name)
    is_good = is_server_name(server_name) and (port is None or 0 < port <= 65535)
    if not is_good or (find_literal(host) is None and not is_host(host)):
        raise Unreachable(f"{server_name[:300]} is no name that a server can have.")
    return host, port


def is_host(name: str) -> bool:
    """Whether the DNS could have an address for the name.

    What ends in a number is none: many, proxies among them, read it as an address (`127.1`, `0x7f.1`, `2130706433`).
    """
    labels = name.removesuffix(".").split(".")
    is_good = len(".".join(labels)) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
    return is_good and _NUMBER.fullmatch(labels[-1]) is None


def lifetime_s(headers: Mapping[str, str], now: int) -> float | None:
    """How long an answer may be kept by its headers; None if they do not say (RFC 9111)."""
    control = headers.get("cache-control", "")
    if _NOT_KEPT.search(control):
        return 0.0
    found = _MAX_AGE.search(control)
    if found is not None:
        age = headers.get("age", "")
        return max(0.0, float(found[1]) - (float(age) if age.isascii() and age.isdigit() else 0.0))
    if "expires" not in headers:
        return None
    try:
        expires = _timestamp(headers["expires"])
        sent = _timestamp(headers["date"]) if "date" in headers else now / 1000
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, expires - sent)


def _patience_s(lifetime: float | None, pause: float) -> float:
    """How long an answer that helps nobody is kept."""
    return min(max(lifetime, _SHORTEST_S), _HOUR_S) if lifetime else pause


def _timestamp(text: str) -> float:
    time = parsedate_to_datetime(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _read(body: bytes) -> str | None:
    """The server that a well-known file names; None if it is not as it should be."""
    try:
        server = msgspec.json.decode(body, type=_WellKnown).server
        split(server)
    except (msgspec.DecodeError, ValueError, RecursionError, Unreachable):
        return None
    return server


def _host_and_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon and port.isascii() and port.isdigit() else (text, None)


def _bare(host: str) -> str:
    """The host as certificates name it: an IPv6 address without brackets, a name without a dot at its end."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host.removesuffix(".")
