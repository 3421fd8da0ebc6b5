"""Access and refresh tokens, and whom they stand for (client-server API, Client Authentication).

Tokens are random; the database holds only their hashes, so a copy of it lets nobody in.
"""

import hashlib
from dataclasses import dataclass, replace

from homeserver.errors import Unavailable, UnknownToken
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.storage import devices
from homeserver.storage import sessions as stored
from homeserver.storage.devices import Device
from homeserver.storage.engine import Database, WriteTx

_CACHED = 50_000


@dataclass(frozen=True, slots=True)
class Requester:
    """The caller of a request."""

    user_id: UserId
    device_id: DeviceId
    is_guest: bool
    is_admin: bool
    token_hash: bytes


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a client gets at login; without a refresh token the access token does not expire."""

    access_token: str
    refresh_token: str | None
    expires_in_ms: int | None


class Sessions:
    """Issues tokens, finds their owners, and ends them.

    Owners are cached by token hash; every write here drops what it ended once it is committed.
    """

    def __init__(self, database: Database, clock: Clock, randomness: Randomness, *, lifetime_ms: int | None) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._lifetime_ms = lifetime_ms
        self._seen: dict[tuple[UserId, DeviceId], tuple[int, str]] = {}
        self._cache: Lru[bytes, stored.Session] = Lru(_CACHED)
        self._ends = 0  # How often tokens have ended.

    async def requester(self, token: str) -> Requester:
        """Whose token this is. Raises `UnknownToken`, softly when it has expired and can be refreshed."""
        hashed = hash_token(token)
        session = self._cache.get(hashed)
        if session is None:
            ends = self._ends
            session = await self._find(hashed)
            # What was read while tokens ended may be one of them.
            if ends == self._ends:
                self._cache.put(hashed, session)
        if session.expires_ts is not None and session.expires_ts <= self._clock.now():
            raise UnknownToken("The access token has expired.", soft_logout=True)
        return Requester(session.user_id, session.device_id, session.is_guest, session.is_admin, hashed)

    async def _find(self, hashed: bytes) -> stored.Session:
        session = await self._database.read(stored.find, hashed)
        if session is None:
            raise UnknownToken
        if session.follows is not None:
            # The first use of what a refresh gave ends what it replaced.
            self.forget(await self._database.write(stored.confirm, hashed))
        return session

    def note_seen(self, who: Requester, address: str) -> None:
        """A device has just been used from this address. It is written down later, by `write_seen`."""
        self._seen[who.user_id, who.device_id] = (self._clock.now(), address)

    def with_last_seen(self, device: Device) -> Device:
        """The device with what is not written down yet."""
        seen = self._seen.get((device.user_id, device.device_id))
        return device if seen is None else replace(device, last_seen_ts=seen[0], last_seen_ip=seen[1])

    async def write_seen(self) -> None:
        """Write down which devices were used since the last time."""
        seen, self._seen = self._seen, {}
        if seen:
            try:
                await self._database.write(devices.note_seen, seen)
            except Unavailable:
                self._seen = seen | self._seen
                raise

    def issue(
        self, tx: WriteTx, user_id: UserId, device_id: DeviceId, *, refreshable: bool, follows: bytes | None = None
    ) -> Tokens:
        """Tokens for the device, in the transaction that logs it in."""
        now = self._clock.now()
        access = self._randomness.token()
        refresh = self._randomness.token() if refreshable else None
        lifetime = self._lifetime_ms if refreshable else None
        stored.insert(
            tx,
            hash_token(access),
            user_id=user_id,
            device_id=device_id,
            refresh_hash=hash_token(refresh) if refresh else None,
            expires_ts=now + lifetime if lifetime else None,
            follows=follows,
            now=now,
        )
        return Tokens(access, refresh, lifetime)

    async def refresh(self, refresh_token: str) -> Tokens:
        """New tokens for the same device; the old ones last until the new access token is used.

        Raises `UnknownToken` (client-server API, Refreshing access tokens).
        """
        tokens, ended = await self._database.write(self._refresh, refresh_token)
        self.forget(ended)
        return tokens

    def _refresh(self, tx: WriteTx, refresh_token: str) -> tuple[Tokens, list[bytes]]:
        found = stored.find_refresh(tx, hash_token(refresh_token))
        if found is None:
            raise UnknownToken("The refresh token is not valid.")
        follows, user_id, device_id = found
        # Using this refresh token ends what it replaced itself, as using its access token would.
        ended = stored.confirm(tx, follows)
        return self.issue(tx, user_id, device_id, refreshable=True, follows=follows), ended

    def end(
        self, tx: WriteTx, user_id: UserId, *, device_id: DeviceId | None, keep: bytes | None = None
    ) -> list[bytes]:
        """End the tokens of a device, or of all, save the one to keep. Give the result to `forget` after the commit."""
        return stored.delete_of(tx, user_id, device_id=device_id, keep=keep)

    def forget(self, ended: list[bytes]) -> None:
        """Drop ended tokens from the cache."""
        self._ends += len(ended)
        for hashed in ended:
            self._cache.drop(hashed)


def hash_token(token: str) -> bytes:
    """How a token is kept. It is random, so a plain hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
