"""Who is there (client-server API, Presence). Nothing of it is stored.

A user is online while one of the devices syncs and says so, idle (`unavailable`) after five minutes without doing
anything, and offline half a minute after the last sync. `sweep` notices what happens by the mere passing of time.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from homeserver.errors import Forbidden, NotFound
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import DeviceId, RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.counter import LiveCounter
from homeserver.storage import members, profiles, users
from homeserver.storage.engine import Database, ReadTx
from homeserver.streams.notifier import Notifier

SWEEP_S = 10.0
_IDLE_MS = 5 * 60_000
_OFFLINE_MS = 30_000
_ACTIVE_MS = 60_000
_MOMENT_MS = 250

_encode = msgspec.json.Encoder().encode

Json = dict[str, Any]


@dataclass
class _Device:
    wish: str = "offline"  # What the device says.
    seen_ts: int = 0
    syncs: int = 0

    def is_here(self, now: int) -> bool:
        return self.syncs > 0 or now - self.seen_ts <= _OFFLINE_MS


@dataclass
class _Person:
    devices: dict[DeviceId, _Device] = field(default_factory=dict)
    shown: str = "offline"
    is_active: bool = False  # As it was told last.
    status: str | None = None
    active_ts: int = 0
    changed: int = 0
    rooms: frozenset[RoomId] = frozenset()
    """Whoever is in one of these is shown the user."""
    names: Json = field(default_factory=dict)
    event: msgspec.Raw = field(default_factory=msgspec.Raw)
    event_of: tuple[int, int] = (0, 0)


class Presence:
    """The presence of this server's users. Not enabled, it shows nobody to anybody."""

    def __init__(
        self, database: Database, clock: Clock, notifier: Notifier, counter: LiveCounter, *, is_enabled: bool
    ) -> None:
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._counter = counter
        self._is_enabled = is_enabled
        self._people: dict[UserId, _Person] = {}
        # Those of whom something was told, whose change is the newest last: a sync looks at what is new only.
        self._told: dict[UserId, _Person] = {}
        self._untold: dict[UserId, None] = {}
        self._telling = asyncio.Lock()

    @contextmanager
    def syncing(self, who: Requester, wish: str) -> Iterator[None]:
        """The user's device is here for as long as the block lasts; `offline` leaves presence alone."""
        if wish == "offline" or not self._is_enabled:
            yield
            return
        device = self._device(who)
        device.syncs += 1
        try:
            yield
        finally:
            device.syncs -= 1
            device.seen_ts = self._clock.now()

    async def note_sync(self, who: Requester, wish: str) -> None:
        """A device syncs: its user is there, online or idle."""
        if wish != "offline" and self._is_enabled:
            self._wish(who, wish, is_doing=False)
            await self._show(who.user_id)

    async def note_activity(self, user_id: UserId) -> None:
        """The user did something, so is online if connected at all."""
        person = self._people.get(user_id)
        if person is not None:
            person.active_ts = self._clock.now()
            for device in person.devices.values():
                device.wish = "online" if device.wish == "unavailable" else device.wish
            await self._show(user_id)

    async def note_profile(self, user_id: UserId) -> None:
        """The user has a new name or picture."""
        if self._is_enabled:
            self._people.setdefault(user_id, _Person())
            await self._show(user_id, anyway=True)

    async def set(self, who: Requester, user_id: UserId, state: str, status: str | None) -> None:
        """Say how one is; only of oneself."""
        if who.user_id != user_id:
            raise Forbidden("You can only set your own presence.")
        if not self._is_enabled:
            return
        self._wish(who, state, is_doing=True)
        person = self._people[user_id]
        is_new = person.status != status
        person.status = status
        await self._show(user_id, anyway=is_new)

    async def get(self, who: Requester, user_id: UserId) -> Json:
        """How a user is. Raises `Forbidden` unless one shares a room, `NotFound` for nobody of this server."""
        if await self._database.read(users.find, user_id) is None:
            raise NotFound("There is no such user.")
        if who.user_id != user_id and who.user_id not in await self._database.read(members.list_sharing, user_id):
            raise Forbidden("You share no room with this user.")
        return self._content(self._people.get(user_id, _Person()))

    def list_since(
        self, user_id: UserId, rooms: frozenset[RoomId], after: int | None
    ) -> list[tuple[UserId, msgspec.Raw]]:
        """Whose `m.presence` event is new to a user in these rooms; with no position, of all who are there."""
        moment = self._clock.now() // _MOMENT_MS
        found: list[tuple[UserId, msgspec.Raw]] = []
        for other, person in reversed(self._told.items()):
            if after is not None and person.changed <= after:
                break
            if after is None and person.shown == "offline":
                continue
            if other == user_id or not rooms.isdisjoint(person.rooms):
                found.append((other, self._event(other, person, moment)))
        return found[::-1]

    async def sweep(self) -> None:
        """Notice who has become idle or has gone."""
        now = self._clock.now()
        await self._show(*self._people)
        for person in self._people.values():
            person.devices = {key: device for key, device in person.devices.items() if device.is_here(now)}

    def _device(self, who: Requester) -> _Device:
        return self._people.setdefault(who.user_id, _Person()).devices.setdefault(who.device_id, _Device())

    def _wish(self, who: Requester, wish: str, *, is_doing: bool) -> None:
        """A device is here and wishes to be shown so. Coming online is doing something, staying so is not."""
        now = self._clock.now()
        device = self._device(who)
        if wish == "online" and (is_doing or device.wish != "online" or not device.is_here(now)):
            self._people[who.user_id].active_ts = now
        device.wish, device.seen_ts = wish, now

    async def _show(self, *user_ids: UserId, anyway: bool = False) -> None:
        """Tell those who may see these users how they are, if that is news to them."""
        for user_id in user_ids:
            person = self._people[user_id]
            shown = self._state(person)
            is_active = shown == "online" and self._clock.now() - person.active_ts < _ACTIVE_MS
            if anyway or (shown, is_active) != (person.shown, person.is_active):
                person.shown, person.is_active = shown, is_active
                self._untold[user_id] = None
        if self._untold:
            async with self._telling:
                await self._tell()

    async def _tell(self) -> None:
        """Tell of all who are different from what was told: while one is being looked up, the next ones gather.

        In a large room everybody hears of everybody, so when all come at once they had better be told of together.
        """
        user_ids = list(self._untold)
        if not user_ids:
            return
        rooms, names = await self._database.read(_look, user_ids)
        for user_id in user_ids:
            del self._untold[user_id]
            person = self._people[user_id]
            person.rooms, person.names = rooms[user_id], names[user_id]
            person.changed = self._counter.advance()
            self._told.pop(user_id, None)
            self._told[user_id] = person
        self._notifier.wake({*user_ids, *(room_id for user_id in user_ids for room_id in rooms[user_id])})

    def _state(self, person: _Person) -> str:
        now = self._clock.now()
        wishes = {device.wish for device in person.devices.values() if device.is_here(now)}
        if "online" in wishes and now - person.active_ts <= _IDLE_MS:
            return "online"
        return "unavailable" if wishes - {"offline"} else "offline"

    def _event(self, user_id: UserId, person: _Person, moment: int) -> msgspec.Raw:
        """The user's event, the same for all who are told in a moment: in a large room, everybody."""
        if person.event_of != (person.changed, moment):
            content = self._content(person) | person.names
            person.event = msgspec.Raw(_encode({"type": "m.presence", "sender": user_id, "content": content}))
            person.event_of = (person.changed, moment)
        return person.event

    def _content(self, person: _Person) -> Json:
        content: Json = {"presence": person.shown}
        if person.active_ts:
            content["last_active_ago"] = max(0, self._clock.now() - person.active_ts)
            if person.shown == "online":
                # For as long as this is true, nothing is told of further activity.
                content["currently_active"] = person.is_active
        if person.status is not None:
            content["status_msg"] = person.status
        return content


def _look(
    tx: ReadTx, user_ids: Sequence[UserId]
) -> tuple[dict[UserId, frozenset[RoomId]], dict[UserId, dict[str, Any]]]:
    """The rooms of users, and their names and pictures."""
    rooms = members.list_joined_rooms(tx, user_ids)
    fields = profiles.find_many(tx, user_ids)
    names = {
        user_id: {name: value for name in ("displayname", "avatar_url") if (value := fields.get(user_id, {}).get(name))}
        for user_id in user_ids
    }
    return {user_id: frozenset(rooms.get(user_id, ())) for user_id in user_ids}, names
