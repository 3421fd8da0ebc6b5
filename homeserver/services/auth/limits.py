"""How often somebody may do something: token buckets, by what is done and who does it.

A bucket holds so many tokens at most and is filled at a steady rate; each request takes one. The defaults are far
above what a person with a client needs.
"""

from dataclasses import dataclass

from homeserver.errors import LimitExceeded
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock

_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Rate:
    """How many tokens come in a second, and how many a bucket holds."""

    per_second: float
    burst: int


RATES = {
    "login": Rate(0.5, 20),
    "account": Rate(0.2, 30),  # Logging in to one account, from anywhere.
    "register": Rate(0.2, 20),
    "create": Rate(0.5, 30),
    "join": Rate(2, 60),
    "invite": Rate(1, 60),
    "moderate": Rate(5, 100),
    "send": Rate(20, 200),
    "profile": Rate(1, 30),
    "media": Rate(20, 300),
    "devices": Rate(1, 30),
    "join_by_server": Rate(10, 200),  # Of another server, which may be large.
    "invite_by_server": Rate(10, 500),
    "keys": Rate(5, 200),
    "lookup": Rate(20, 500),
    # Of other servers.
    "read": Rate(50, 1000),
    "state": Rate(2, 100),
}


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


class Limits:
    """The buckets. Those used longest ago are forgotten first, which is kind to whoever had used theirs up."""

    def __init__(self, clock: Clock, *, enabled: bool) -> None:
        self._clock = clock
        self._enabled = enabled
        self._buckets: Lru[tuple[str, str], _Bucket] = Lru(_BUCKETS)

    def take(self, name: str, key: str) -> None:
        """Take a token of a user's or an address's bucket. Raises `LimitExceeded` if there is none."""
        if not self._enabled:
            return
        rate = RATES[name]
        now = self._clock.monotonic()
        bucket = self._buckets.get((name, key))
        if bucket is None:
            bucket = _Bucket(rate.burst, now)
            self._buckets.put((name, key), bucket)
        bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.filled) * rate.per_second)
        bucket.filled = now
        if bucket.tokens < 1:
            raise LimitExceeded(int((1 - bucket.tokens) / rate.per_second * 1000) + 1)
        bucket.tokens -= 1
