"""Who is there (client-server API, Presence). Nothing of it is stored.

A user is online while a device syncs and says so, idle (`unavailable`) after five minutes without doing anything, and
offline half a minute after the last sync. `sweep` notices what happens by the mere passing of time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from homeserver.errors import Forbidden, NotFound
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.counter import LiveCounter
from homeserver.storage import members, users
from homeserver.storage.engine import Database
from homeserver.streams.notifier import Notifier

SWEEP_S = 10.0
_IDLE_MS = 5 * 60_000
_OFFLINE_MS = 30_000
_ACTIVE_MS = 60_000

Json = dict[str, Any]


@dataclass
class _Person:
    wish: str = "offline"  # What the user's devices say.
    shown: str = "offline"
    status: str | None = None
    active_ts: int = 0
    seen_ts: int = 0
    syncs: int = 0
    changed: int = 0
    audience: frozenset[str] = field(default_factory=frozenset)


class Presence:
    """The presence of this server's users."""

    def __init__(self, database: Database, clock: Clock, notifier: Notifier, counter: LiveCounter) -> None:
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._counter = counter
        self._people: dict[UserId, _Person] = {}

    @contextmanager
    def syncing(self, user_id: UserId, wish: str) -> Iterator[None]:
        """The user's device is here for as long as the block lasts; `offline` leaves presence alone."""
        if wish == "offline":
            yield
            return
        person = self._people.setdefault(user_id, _Person())
        person.syncs += 1
        try:
            yield
        finally:
            person.syncs -= 1
            person.seen_ts = self._clock.now()

    async def note_sync(self, user_id: UserId, wish: str) -> None:
        """A device syncs: its user is there, online or idle."""
        if wish == "offline":
            return
        now = self._clock.now()
        person = self._people.setdefault(user_id, _Person())
        person.seen_ts = now
        if person.wish != wish:
            person.wish = wish
            person.active_ts = now if wish == "online" else person.active_ts
        await self._show(user_id, person)

    async def note_activity(self, user_id: UserId) -> None:
        """The user did something, so is online if connected at all."""
        person = self._people.get(user_id)
        if person is not None:
            person.active_ts = self._clock.now()
            await self._show(user_id, person)

    async def set(self, who: Requester, user_id: UserId, state: str, status: str | None) -> None:
        """Say how one is; only of oneself."""
        if who.user_id != user_id:
            raise Forbidden("You can only set your own presence.")
        person = self._people.setdefault(user_id, _Person())
        now = self._clock.now()
        person.wish, person.seen_ts = state, now
        if state == "online":
            person.active_ts = now
        is_new = person.status != status
        person.status = status
        await self._show(user_id, person, anyway=is_new)

    async def get(self, who: Requester, user_id: UserId) -> Json:
        """How a user is. Raises `Forbidden` unless one shares a room, `NotFound` for nobody of this server."""
        if await self._database.read(users.find, user_id) is None:
            raise NotFound("There is no such user.")
        if who.user_id != user_id and who.user_id not in await self._database.read(members.list_sharing, user_id):
            raise Forbidden("You share no room with this user.")
        return self._content(self._people.get(user_id, _Person()))

    def list_since(self, user_id: UserId, after: int | None) -> list[Json]:
        """The `m.presence` events that are new to a user; with no position, of everybody who is there."""
        return [
            {"type": "m.presence", "sender": other, "content": self._content(person)}
            for other, person in self._people.items()
            if user_id in person.audience and (person.shown != "offline" if after is None else person.changed > after)
        ]

    async def sweep(self) -> None:
        """Notice who has become idle or has gone."""
        for user_id, person in list(self._people.items()):
            await self._show(user_id, person)

    async def _show(self, user_id: UserId, person: _Person, *, anyway: bool = False) -> None:
        shown = self._state(person)
        if shown == person.shown and not anyway:
            return
        person.shown = shown
        person.audience = frozenset([user_id, *await self._database.read(members.list_sharing, user_id)])
        person.changed = self._counter.advance()
        self._notifier.wake(person.audience)

    def _state(self, person: _Person) -> str:
        now = self._clock.now()
        if person.wish == "offline" or (not person.syncs and now - person.seen_ts > _OFFLINE_MS):
            return "offline"
        if person.wish == "unavailable" or now - person.active_ts > _IDLE_MS:
            return "unavailable"
        return "online"

    def _content(self, person: _Person) -> Json:
        content: Json = {"presence": person.shown}
        if person.active_ts:
            ago = max(0, self._clock.now() - person.active_ts)
            content["last_active_ago"] = ago
            if person.shown == "online":
                content["currently_active"] = ago < _ACTIVE_MS
        if person.status is not None:
            content["status_msg"] = person.status
        return content
