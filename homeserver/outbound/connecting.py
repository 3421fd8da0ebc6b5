"""Connections to other servers: which address is dialed, through which proxy, and that TLS proves who is there."""

import asyncio
import base64
import errno
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import unquote, urlsplit

from homeserver.config.model import Federation
from homeserver.errors import ConfigError, Unreachable
from homeserver.kit.randomness import Randomness
from homeserver.outbound.addresses import Address, AddressGuard, find_literal
from homeserver.outbound.discovery import Route
from homeserver.outbound.partners import globs
from homeserver.outbound.resolver import Resolver, Service
from homeserver.outbound.wire import Wire

_STAGGER_S = 0.25
_MOST_ADDRESSES = 8
_MOST_SERVICES = 4
_PROXY_PORTS = {"http": 3128, "https": 443}
_LONGEST_HEAD = 16_384
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")


@dataclass(frozen=True, slots=True)
class _Dialed:
    """A connection, or why there is none."""

    wire: Wire | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class _Proxy:
    host: str
    port: int
    authorization: str | None

    @property
    def place(self) -> str:
        return f"proxy {self.host} port {self.port}"


class Connector:
    """Makes connections whose other side has proven its name."""

    def __init__(
        self,
        settings: Federation,
        resolver: Resolver,
        randomness: Randomness,
        context: ssl.SSLContext,
        proxy_context: ssl.SSLContext | None,
    ) -> None:
        """The contexts say whom to trust to be the other server, and to be the proxy, if that speaks TLS."""
        self._resolver = resolver
        self._randomness = randomness
        self._guard = AddressGuard(settings.allowed_ranges)
        self._context = context
        self._proxy_context = proxy_context
        self._timeout_s = settings.connect_timeout_s
        self._proxy = None if settings.proxy is None else _read_proxy(settings.proxy)
        self._no_proxy = globs(settings.no_proxy)
        self._no_proxy_ranges = _ranges(settings.no_proxy)

    async def connect(self, route: Route) -> Wire:
        """A connection to the server of the route. Raises `Unreachable`, which says of each place what was wrong."""
        failures = []
        for service in in_order(route.services, self._randomness)[:_MOST_SERVICES]:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._to(service, route)
            except TimeoutError:
                failures.append(f"{service.host} port {service.port} took longer than {self._timeout_s} s.")
            except Unreachable as error:
                failures.append(str(error))
        raise Unreachable(" ".join(failures))

    def is_direct(self, host: str) -> bool:
        """Whether the host is reached without the proxy, if there is one."""
        if self._proxy is None:
            return True
        literal = _literal(host)
        if literal is not None:
            return any(literal in one for one in self._no_proxy_ranges)
        return self._no_proxy.fullmatch(host) is not None

    async def judge(self, service: Service, *, is_given: bool) -> dict[Address, str | None]:
        """The addresses of a service, each with why it must not be connected to, or None.

        Raises `Unreachable` where there is none.
        """
        literal = _literal(service.host)
        found = (literal,) if literal is not None else (await self._resolver.addresses(service.host)).records
        if not found:
            raise Unreachable(f"{service.host} has no address.")
        return {one: None if is_given else self._guard.refusal(one) for one in found}

    async def _addresses(self, service: Service, *, is_given: bool) -> list[Address]:
        """The addresses of a service that may be connected to. Raises `Unreachable` where there is none."""
        refusals = await self.judge(service, is_given=is_given)
        open_ones = [one for one, refusal in refusals.items() if refusal is None]
        if not open_ones:
            reasons = ", ".join(f"{address} {refusal}" for address, refusal in refusals.items())
            raise Unreachable(f"{service.host} is not to be connected to: {reasons} (federation.allowed_ranges).")
        return open_ones[:_MOST_ADDRESSES]

    async def _to(self, service: Service, route: Route) -> Wire:
        if self._proxy is not None and not self.is_direct(service.host):
            wire = await self._through(self._proxy, service, is_given=route.is_given)
            return await self._prove(wire, self._context, route.tls_name, f"{service.host} port {service.port}")
        left = await self._addresses(service, is_given=route.is_given)
        failures: list[str] = []
        while left:
            wire, address = await self._first(left, service.port, failures, is_given=route.is_given)
            try:
                return await self._prove(wire, self._context, route.tls_name, f"{address} port {service.port}")
            except Unreachable as error:
                failures.append(str(error))
        raise Unreachable(" ".join(failures))

    async def _prove(self, wire: Wire, context: ssl.SSLContext, name: str, place: str) -> Wire:
        is_proven = False
        try:
            await wire.start_tls(context, name)
            is_proven = True
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(
                f"The certificate of {place} does not prove {name}: {_sentence(error.verify_message)}"
            ) from None
        except ssl.SSLError as error:
            raise Unreachable(f"{place} does not speak TLS as it should: {_words(error)}.") from None
        except (OSError, ValueError) as error:
            raise Unreachable(f"{place} broke off while TLS was begun: {_words(error)}.") from None
        finally:
            if not is_proven:
                wire.abort()
        return wire

    async def _first(
        self, left: list[Address], port: int, failures: list[str], *, is_given: bool
    ) -> tuple[Wire, Address]:
        """A connection to one of the addresses; those that were tried are taken off the list.

        Each gets a start before the next is tried beside it (RFC 8305). Raises `Unreachable` where there is none.
        """
        trying: dict[asyncio.Task[_Dialed], Address] = {}
        winner: asyncio.Task[_Dialed] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                pending: set[asyncio.Task[_Dialed]] = set()
                while (left or pending) and winner is None:
                    if left:
                        address = left.pop(0)
                        task = tasks.create_task(self._dial(address, port, is_given=is_given))
                        trying[task] = address
                        pending.add(task)
                    done, pending = await asyncio.wait(
                        pending, timeout=_STAGGER_S if left else None, return_when=asyncio.FIRST_COMPLETED
                    )
                    failures += [one.result().failure for one in done if one.result().wire is None]
                    winner = next((one for one in done if one.result().wire is not None), None)
                for one in pending:
                    one.cancel()
        except BaseException:
            winner = None  # The time is up while the losers are waited for: nobody gets it.
            raise
        finally:
            for one in trying:
                is_late = one is not winner and one.done() and not one.cancelled() and one.exception() is None
                if is_late and (late := one.result().wire) is not None:
                    late.abort()
        wire = None if winner is None else winner.result().wire
        if winner is None or wire is None:
            raise Unreachable(" ".join(failures))
        # Those that only lost the race may be tried again, should the winner prove to be a bad one.
        left += [address for one, address in trying.items() if one.cancelled()]
        return wire, trying[winner]

    async def _dial(self, address: Address, port: int, *, is_given: bool) -> _Dialed:
        try:
            _, wire = await asyncio.get_running_loop().create_connection(Wire, str(address), port)
        except OSError as error:
            return _Dialed(failure=f"{address} port {port} took no connection: {_words(error)}.")
        reached = wire.peer
        refusal = None if is_given or reached is None else self._guard.refusal(reached)
        if refusal is not None:
            wire.abort()
            fault = f"{reached} {refusal}, and is not to be connected to (federation.allowed_ranges)."
            return _Dialed(failure=fault)
        return _Dialed(wire)

    async def _through(self, proxy: _Proxy, service: Service, *, is_given: bool) -> Wire:
        """A connection through the proxy, which finds the address by itself.

        What would be refused here is refused all the same, if it is known here; only the proxy can judge the rest.
        """
        if not is_given and _is_near(service.host):
            raise Unreachable(f"{service.host} is not to be connected to: it is another host for each who asks.")
        if _literal(service.host) is not None or (await self._find(service.host)):
            await self._addresses(service, is_given=is_given)
        host = f"[{service.host}]" if ":" in service.host else service.host
        request = f"CONNECT {host}:{service.port} HTTP/1.1\r\nHost: {host}:{service.port}\r\n"
        if proxy.authorization is not None:
            request += f"Proxy-Authorization: {proxy.authorization}\r\n"
        wire = await self._to_proxy(proxy)
        place = f"The {proxy.place}"
        try:
            await wire.write(request.encode("ascii") + b"\r\n")
            head = await _read_head(wire)
        except OSError as error:
            wire.abort()
            raise Unreachable(f"{place} broke off: {_words(error)}.") from None
        except BaseException:
            wire.abort()
            raise
        status = _STATUS.match(head)
        if status is None or not head.endswith(b"\r\n\r\n"):
            wire.abort()
            raise Unreachable(f"{place} does not answer as a proxy should.")
        if not status[1].startswith(b"2"):
            wire.abort()
            words = b" ".join(filter(None, status.groups())).decode("ascii", "replace")[:200]
            raise Unreachable(f"{place} does not connect to {host} port {service.port}: it answered {words}.")
        return wire

    async def _to_proxy(self, proxy: _Proxy) -> Wire:
        """A connection to the proxy. The settings name it, so it may be anywhere."""
        literal = _literal(proxy.host)
        try:
            left = [literal] if literal is not None else list((await self._resolver.addresses(proxy.host)).records)
            if not left:
                raise Unreachable(f"{proxy.host} has no address.")
            wire, _ = await self._first(left, proxy.port, [], is_given=True)
        except Unreachable as error:
            raise Unreachable(f"The {proxy.place} is not reached: {error}") from None
        if self._proxy_context is None:
            return wire
        # The TLS of the other server goes within that of the proxy.
        return await self._prove(wire, self._proxy_context, proxy.host, f"the {proxy.place}")

    async def _find(self, host: str) -> bool:
        """Whether the DNS of this side knows the host."""
        try:
            return bool((await self._resolver.addresses(host)).records)
        except Unreachable:
            return False


def in_order(services: Sequence[Service], randomness: Randomness) -> list[Service]:
    """The services as they are to be tried: by priority, then by chance according to weight (RFC 2782)."""
    left = sorted(services, key=lambda one: (one.priority, one.weight))
    ordered = []
    while left:
        equals = [one for one in left if one.priority == left[0].priority]
        drawn = int.from_bytes(randomness.bytes(4), "big") % (sum(one.weight for one in equals) + 1)
        for one in equals:
            drawn -= one.weight
            if drawn <= 0:
                ordered.append(one)
                left.remove(one)
                break
    return ordered


def load_authorities(context: ssl.SSLContext, files: Sequence[str]) -> None:
    """Trust further authorities. Raises `ConfigError`."""
    for file in files:
        try:
            context.load_verify_locations(Path(file))
        except OSError as error:  # of which `ssl.SSLError` is one
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            fault = f"{file} holds no certificates of authorities that can be used: {reason}."
            raise ConfigError([("federation.ca_files", fault)]) from None


async def _read_head(wire: Wire) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
        data = await wire.read()
        if not data:
            break
        head += data
    return head


def _literal(host: str) -> Address | None:
    return find_literal(f"[{host}]" if ":" in host else host)


def _is_near(host: str) -> bool:
    """Whether a name leads to the proxy itself, or to a host beside it: what all can reach has no such name."""
    name = host.removesuffix(".").lower()
    return _literal(host) is None and ("." not in name or name.endswith(".localhost"))


def _words(error: Exception) -> str:
    """What went wrong, as a part of a sentence."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it broke off").lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        # What the event loop makes of the error in words differs, and tells programmers more than others.
        return os.strerror(error.errno).lower()
    return str(error).rstrip(".").lower() or "the other side hung up"


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."


def _read_proxy(url: str) -> _Proxy:
    parts = urlsplit(url)
    authorization = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(credentials).decode()}"
    return _Proxy(parts.hostname or "", parts.port or _PROXY_PORTS[parts.scheme], authorization)


def _ranges(patterns: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    """Those of the patterns that are ranges of addresses."""
    ranges = []
    for pattern in patterns:
        try:
            ranges.append(ip_network(pattern))
        except ValueError:
            continue
    return ranges
