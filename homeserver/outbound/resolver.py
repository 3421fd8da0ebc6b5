"""Looking names up in the DNS: addresses, and the servers of a service.

What was found is kept as long as the DNS says, and a while longer if it cannot be asked; what failed is not asked for
again at once. All who want the same wait for one answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver

from homeserver.errors import Unreachable
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import SingleFlight
from homeserver.outbound.addresses import Address

T = TypeVar("T")
_HOSTS = Path("/etc/hosts")
_LIFETIME_S = 6
_AT_ONCE = 128
_REMEMBERED = 20_000
_SHORTEST_S = 5
_LONGEST_S = 86_400
_ABSENT_S = 300
_FAILED_S = 5
_MOST_PATIENT_S = 300
_STALE_S = 3_600


@dataclass(frozen=True, slots=True)
class Service:
    """A server of a service: a host and a port, to be tried by priority, then by chance according to weight."""

    host: str
    port: int
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What the DNS has under a name, nothing included, and how long that is good."""

    records: tuple[T, ...]
    lifetime_s: int


class Resolver(Protocol):
    """Asks the DNS. Both raise `Unreachable` where it gives no answer."""

    async def addresses(self, host: str) -> Found[Address]:
        """The addresses of a host."""
        ...

    async def services(self, name: str) -> Found[Service]:
        """The SRV records of a name like `_matrix-fed._tcp.example.org`. The host of none is `.`."""
        ...


class DnsResolver:
    """Asks the name servers of the system, and knows what is in `/etc/hosts`."""

    def __init__(
        self,
        resolver: dns.asyncresolver.Resolver | None = None,
        hosts: Path = _HOSTS,
        *,
        lifetime_s: float = _LIFETIME_S,
    ) -> None:
        self._resolver = resolver or _system_resolver()
        self._lifetime_s = lifetime_s
        self._hosts = _read_hosts(hosts)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def addresses(self, host: str) -> Found[Address]:
        """Those of both kinds, IPv6 and IPv4 in turn."""
        known = self._hosts.get(host.lower())
        if known is not None:
            return Found(known, _ABSENT_S)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._ask(host, kind)) for kind in ("AAAA", "A")]
        answers = [one.result() for one in asked]
        good = [one for one in answers if not isinstance(one, str)]
        # One kind that cannot be had does not hide the other.
        if not good or (len(good) == 1 and not good[0].records):
            reason = next(one for one in answers if isinstance(one, str))
            raise Unreachable(f"The addresses of {host} could not be looked up: {reason}.")
        longest = max(len(one.records) for one in good)
        mixed = [one.records[at] for at in range(longest) for one in good if at < len(one.records)]
        return Found(tuple(ip_address(one) for one in mixed), min(one.lifetime_s for one in good))

    async def services(self, name: str) -> Found[Service]:
        """Those of all priorities."""
        answer = await self._ask(name, "SRV")
        if isinstance(answer, str):
            raise Unreachable(f"The SRV records of {name} could not be looked up: {answer}.")
        records = []
        for text in answer.records:
            priority, weight, port, host = text.split(" ", 3)
            records.append(Service(host.rstrip(".") or ".", int(port), int(priority), int(weight)))
        return Found(tuple(records), answer.lifetime_s)

    async def _ask(self, name: str, kind: str) -> Found[str] | str:
        """The records, as text, or why the DNS gives none."""
        async with self._turns:
            try:
                answer = await self._resolver.resolve(
                    dns.name.from_text(name),
                    kind,
                    lifetime=self._lifetime_s,
                    search=False,
                    raise_on_no_answer=False,
                )
            except dns.resolver.NXDOMAIN:
                return Found((), _ABSENT_S)
            except dns.resolver.NoNameservers:
                return "the name servers failed"
            except dns.exception.Timeout:
                return "the name servers did not answer in time"
            except (dns.exception.DNSException, OSError, UnicodeError) as error:
                return str(error).rstrip(".") or type(error).__name__
        if answer.rrset is None:
            return Found((), _ABSENT_S)
        return Found(tuple(record.to_text() for record in answer.rrset), answer.chaining_result.minimum_ttl)


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    """What was found last, if anything ever was, and until when it need not be asked for again."""

    found: Found[T] | None
    until_s: float
    stale_until_s: float = 0.0
    failures: int = 0
    reason: str = ""


class CachingResolver:
    """Keeps what another resolver finds."""

    def __init__(self, resolver: Resolver, clock: Clock) -> None:
        self._resolver = resolver
        self._clock = clock
        self._addresses: Lru[str, _Kept[Address]] = Lru(_REMEMBERED)
        self._services: Lru[str, _Kept[Service]] = Lru(_REMEMBERED)
        self._asking_addresses: SingleFlight[str, _Kept[Address]] = SingleFlight()
        self._asking_services: SingleFlight[str, _Kept[Service]] = SingleFlight()

    async def addresses(self, host: str) -> Found[Address]:
        """The addresses of a host."""
        return await self._find(self._addresses, self._asking_addresses, self._resolver.addresses, host.lower())

    async def services(self, name: str) -> Found[Service]:
        """The SRV records of a name."""
        return await self._find(self._services, self._asking_services, self._resolver.services, name.lower())

    async def _find(
        self,
        cache: Lru[str, _Kept[T]],
        asking: SingleFlight[str, _Kept[T]],
        ask: Callable[[str], Awaitable[Found[T]]],
        name: str,
    ) -> Found[T]:
        kept = cache.get(name)
        if kept is None or kept.until_s <= self._clock.monotonic():
            kept = await asking.run(name, partial(self._renew, cache, ask, name))
        if kept.found is None:
            raise Unreachable(kept.reason)
        return kept.found

    async def _renew(self, cache: Lru[str, _Kept[T]], ask: Callable[[str], Awaitable[Found[T]]], name: str) -> _Kept[T]:
        """Ask, and keep what came of it. It raises nothing, as perhaps nobody waits for it any more."""
        kept = cache.get(name)
        try:
            found = await ask(name)
        except Unreachable as error:
            now = self._clock.monotonic()
            failures = 0 if kept is None else kept.failures
            pause = min(_FAILED_S * 2**failures, _MOST_PATIENT_S)
            new: _Kept[T] = _Kept(None, now + pause, 0.0, min(failures + 1, 10), str(error))
            if kept is not None and kept.stale_until_s > now:
                new = replace(new, found=kept.found, stale_until_s=kept.stale_until_s)
        else:
            until = self._clock.monotonic() + max(_SHORTEST_S, min(found.lifetime_s, _LONGEST_S))
            new = _Kept(found, until, until + _STALE_S)
        cache.put(name, new)
        return new


def _system_resolver() -> dns.asyncresolver.Resolver:
    try:
        return dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return dns.asyncresolver.Resolver(configure=False)


def _read_hosts(path: Path) -> dict[str, tuple[Address, ...]]:
    """Names and their addresses; what cannot be read is as if it were not there."""
    known: dict[str, tuple[Address, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return known
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        try:
            found = ip_address(address)
        except ValueError:
            continue
        for name in names:
            known[name.lower()] = (*known.get(name.lower(), ()), found)
    return known
