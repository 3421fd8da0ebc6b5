"""A DNS and well-known files in memory, and a clock that a test moves."""

from dataclasses import dataclass, field
from ipaddress import ip_address

from homeserver.errors import Unreachable
from homeserver.kit.clock import Clock
from homeserver.outbound.addresses import Address
from homeserver.outbound.resolver import Found, Service
from homeserver.outbound.transport import Reply


class MovedClock(Clock):
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.time_s = 1_700_000_000.0

    def now(self) -> int:
        return int(self.time_s * 1000)

    def monotonic(self) -> float:
        return self.time_s


@dataclass
class Names:
    """A resolver. What is not there does not exist; what is broken cannot be looked up."""

    hosts: dict[str, list[str]] = field(default_factory=dict)
    records: dict[str, list[Service]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    lifetime_s: int = 300
    asked: list[str] = field(default_factory=list)

    async def addresses(self, host: str) -> Found[Address]:
        self._ask(host)
        return Found(tuple(ip_address(one) for one in self.hosts.get(host, [])), self.lifetime_s)

    async def services(self, name: str) -> Found[Service]:
        self._ask(name)
        return Found(tuple(self.records.get(name, [])), self.lifetime_s)

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.broken:
            raise Unreachable(f"{name} could not be looked up: the name servers failed.")


@dataclass
class WellKnowns:
    """Well-known files by host; there is no connection to hosts without one."""

    files: dict[str, Reply] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def ask(self, host: str) -> Reply:
        self.asked.append(host)
        if host not in self.files:
            raise Unreachable(f"{host} took no connection.")
        return self.files[host]

    def put(self, host: str, body: str, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Let a host answer this."""
        self.files[host] = Reply(status, headers or {}, body.encode())
