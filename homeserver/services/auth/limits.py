"""How often somebody may do something: token buckets, by what is done and who does it.

A bucket holds so many tokens at most and is filled at a steady rate; a request takes one for each thing that it does:
who invites ten people takes ten. The defaults are far above what a person with a client needs.

Whose a bucket is must be nothing that can be varied at will: a user and not a device or a token, the network behind an
address, the host behind a server's name (see `network_of` and `host_of`).
"""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

from homeserver.errors import LimitExceeded
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import ServerName

_BUCKETS = 100_000
_ADDRESSES = 1_000
"""To take an address apart takes longer than to take a token; so many are remembered."""

_IPV6_NETWORK = 64
"""So many bits of an IPv6 address are given to a customer; the others are theirs to choose."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many tokens come in a second, and how many a bucket holds."""

    per_second: float
    burst: int

    def times(self, factor: float) -> "Rate":
        """So many times as much, though never nothing."""
        return Rate(self.per_second * factor, max(1, round(self.burst * factor)))


RATES = {
    "login": Rate(0.5, 20),
    "account": Rate(0.2, 30),  # Logging in to one account, from anywhere.
    "register": Rate(0.2, 20),
    "create": Rate(0.5, 30),
    "join": Rate(2, 60),
    "invite": Rate(1, 100),
    "moderate": Rate(5, 100),
    "send": Rate(20, 200),
    "profile": Rate(1, 30),
    "media": Rate(20, 300),
    "devices": Rate(1, 30),
    "claim": Rate(50, 5000),  # One-time keys of others' devices.
    "lookup": Rate(20, 500),
    "strangers": Rate(20, 200),  # Servers asked for their keys because a request says that it comes from them.
    "to_device": Rate(30, 300),
    "offers": Rate(1, 50),  # Of invites by an address: so many each server is asked to make good on.
    "strangers_by_user": Rate(1, 100),  # Servers without a room in common with this one that messages are sent to.
}
"""Of users and of addresses."""

RATES_OF_SERVERS = {
    # They may be large; what bounds their deliveries above all is that each server's wait in a line of their own.
    "deliver": Rate(200, 2000),
    "ask_to_join": Rate(20, 400),  # For templates of joins, knocks and leaves.
    "join_by_server": Rate(10, 200),
    "invite_by_server": Rate(10, 500),
    "read": Rate(50, 1000),
    "state": Rate(2, 100),
    # Of servers. Who asks is known by an address only; what is stored is told all the same when "vouch" is used up.
    "keys": Rate(5, 200),
    "vouch": Rate(5, 200),
    "keys_by_server": Rate(50, 1000),
    "claim_by_server": Rate(200, 20_000),
    "media_by_server": Rate(50, 1000),
}


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


class Limits:
    """The buckets. Those used longest ago are forgotten first, which is kind to whoever had used theirs up."""

    def __init__(self, clock: Clock, *, enabled: bool, of_servers: float) -> None:
        """Other servers may do `of_servers` times what they usually may."""
        self._clock = clock
        self._enabled = enabled
        self._rates = RATES | {name: rate.times(of_servers) for name, rate in RATES_OF_SERVERS.items()}
        self._buckets: Lru[tuple[str, str], _Bucket] = Lru(_BUCKETS)

    def take(self, name: str, key: str, count: int = 1) -> None:
        """Take tokens of a bucket. Raises `LimitExceeded` if there are too few; then none is taken.

        What takes more than a bucket can hold is done by who has a full one, and is to be made up for after that.
        """
        if not self._enabled:
            return
        rate = self._rates[name]
        bucket = self._filled(name, key, rate)
        needed = min(count, rate.burst)
        if bucket.tokens < needed:
            raise LimitExceeded(int((needed - bucket.tokens) / rate.per_second * 1000) + 1)
        bucket.tokens -= count

    def most(self, name: str, otherwise: int) -> int:
        """So many tokens may be asked for at once; `otherwise` where nobody counts them."""
        return min(self._rates[name].burst, otherwise) if self._enabled else otherwise

    def take_some(self, name: str, key: str, count: int) -> int:
        """Take as many tokens as there are, up to so many; how many that was."""
        if not self._enabled:
            return count
        bucket = self._filled(name, key, self._rates[name])
        taken = max(0, min(count, int(bucket.tokens)))
        bucket.tokens -= taken
        return taken

    def _filled(self, name: str, key: str, rate: Rate) -> _Bucket:
        """The bucket, as full as it is by now."""
        now = self._clock.monotonic()
        bucket = self._buckets.get((name, key))
        if bucket is None:
            bucket = _Bucket(rate.burst, now)
            self._buckets.put((name, key), bucket)
        bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.filled) * rate.per_second)
        bucket.filled = now
        return bucket


@lru_cache(_ADDRESSES)
def network_of(address: str) -> str:
    """Whose bucket somebody at an address takes from: an IPv4 address, or the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address  # There is none, or what stands before us has its own idea of one.
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _IPV6_NETWORK), strict=False))


def host_of(server: ServerName) -> str:
    """Whose bucket a server takes from: whoever has a host has all its ports, and other spellings of its name, too.

    One that is named by an address takes from that of its network.
    """
    if server.startswith("["):
        return network_of(server[1:].partition("]")[0])
    return network_of(server.partition(":")[0].lower().rstrip("."))
