"""Profiles of other servers' users (server-server API, Querying for information)."""

from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import Forbidden, HomeserverError, NotFound, Refused, RemoteFailure, Unreachable
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import SingleFlight
from homeserver.matrix.identifiers import ServerName, UserId, domain_of
from homeserver.outbound.federation import FederationClient

LARGEST = 65_535
"""In bytes, of the JSON of a profile."""
_KEPT_BYTES = 16 << 20
_WEIGHT = 500
"""What is kept besides the profile itself, roughly."""
_GOOD_FOR_S = 300
_FAILURE_FOR_S = 60
_TEXTS = ("displayname", "avatar_url", "m.tz")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    profile: Json | None
    failure: HomeserverError | None


class ProfilesElsewhere:
    """Asks the servers of users, and remembers for a short while what they said, or that they did not."""

    def __init__(self, federation: FederationClient, clock: Clock) -> None:
        self._federation = federation
        self._clock = clock
        self._kept: Lru[UserId, _Kept] = Lru(_KEPT_BYTES, _weigh)
        self._asking: SingleFlight[UserId, _Kept] = SingleFlight()

    async def get(self, user_id: UserId) -> Json:
        """The profile. Raises `NotFound`, `Forbidden` where the server does not tell, or `RemoteFailure`."""
        kept = self._kept.get(user_id)
        if kept is None or kept.until <= self._clock.monotonic():
            kept = await self._asking.run(user_id, lambda: self._ask(user_id))
        if kept.failure is not None:
            raise kept.failure
        return kept.profile or {}

    async def _ask(self, user_id: UserId) -> _Kept:
        profile, failure = None, None
        try:
            profile = _checked(await self._federation.query_profile(ServerName(domain_of(user_id)), user_id))
        except (Refused, RemoteFailure) as error:
            failure = _in_own_words(error)
        lifetime_s = _GOOD_FOR_S if failure is None else _FAILURE_FOR_S
        kept = _Kept(self._clock.monotonic() + lifetime_s, profile, failure)
        self._kept.put(user_id, kept)
        return kept


def _weigh(kept: _Kept) -> int:
    return _WEIGHT + (0 if kept.profile is None else len(msgspec.json.encode(kept.profile)))


def _in_own_words(error: RemoteFailure) -> HomeserverError:
    match error:
        case Refused(status=404):
            return NotFound("There is no such user.")
        case Refused(status=403):
            return Forbidden("The server of this user does not tell profiles.")
    return error


def _checked(profile: Json) -> Json:
    """The profile without what is not what it should be."""
    if len(msgspec.json.encode(profile)) > LARGEST:
        raise Unreachable("The profile is too large.")
    return {
        name: value
        for name, value in profile.items()
        if value is not None and (name not in _TEXTS or isinstance(value, str))
    }
