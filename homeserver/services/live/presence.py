"""Who is there (client-server API, Presence). Nothing of it is stored.

A user is online while one of the devices syncs and says so, idle (`unavailable`) after five minutes without doing
anything, and offline half a minute after the last sync. `sweep` notices what happens by the mere passing of time.

Other servers that share a room with a user are told the same as the users here; what they tell of their users counts
until they tell otherwise, or nothing at all for half an hour.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from homeserver.errors import Forbidden, NotFound
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import DeviceId, RoomId, ServerName, UserId, domain_of
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.counter import LiveCounter
from homeserver.storage import members, profiles, room_servers, rooms, users
from homeserver.storage.engine import Database, ReadTx
from homeserver.streams.notifier import Notifier

SWEEP_S = 10.0
_IDLE_MS = 5 * 60_000
_OFFLINE_MS = 30_000
_ACTIVE_MS = 60_000
_MOMENT_MS = 250
_AGAIN_MS = 25 * 60_000
"""After so long other servers are told again of who is still here."""
_SILENCE_MS = 30 * 60_000
STATES = ("online", "unavailable", "offline")

_encode = msgspec.json.Encoder().encode

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Heard:
    """What another server says of a user."""

    user_id: UserId
    presence: str
    status: str | None
    last_active_ago: int
    is_active: bool


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
    heard_ts: int = 0
    """When its server told of it last, if it is a user of another one."""
    told_ts: int = 0
    """When other servers were told of it last, if it is a user of this one."""


class Presence:
    """The presence of this server's users. Not enabled, it shows nobody to anybody."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        notifier: Notifier,
        counter: LiveCounter,
        ephemeral: Ephemeral,
        server_name: str,
        *,
        is_enabled: bool,
    ) -> None:
        self._ephemeral = ephemeral
        self._server_name = server_name
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
        is_local = domain_of(user_id) == self._server_name
        if is_local and await self._database.read(users.find, user_id) is None:
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

    async def hear(self, heard: Sequence[Heard]) -> None:
        """Take what another server says of its users; of those with whom no room is shared, nothing."""
        if not self._is_enabled:
            return
        user_ids = {one.user_id for one in heard}
        sharing = await self._database.read(members.find_sharing_with_server, user_ids, self._server_name)
        now = self._clock.now()
        for one in heard:
            if one.user_id not in sharing:
                continue
            person = self._people.setdefault(one.user_id, _Person())
            person.heard_ts = now
            person.active_ts = now - one.last_active_ago
            said = (one.presence, one.is_active, one.status)
            if said != (person.shown, person.is_active, person.status):
                person.shown, person.is_active, person.status = said
                self._untold[one.user_id] = None
        await self._show()

    async def sweep(self) -> None:
        """Notice who has become idle or has gone."""
        now = self._clock.now()
        await self._show(*(user_id for user_id, person in self._people.items() if not person.heard_ts))
        for person in self._people.values():
            person.devices = {key: device for key, device in person.devices.items() if device.is_here(now)}
        await self._sweep_others(now)
        again = [
            user_id
            for user_id, person in self._people.items()
            if person.shown != "offline" and person.told_ts and now - person.told_ts >= _AGAIN_MS
        ]
        if again:
            self._tell_servers(again, (await self._database.read(_look, again, self._server_name)).servers)

    async def _sweep_others(self, now: int) -> None:
        """Notice that nothing was told of other servers' users, and forget those who have been gone for long."""
        silent = [
            (user_id, person)
            for user_id, person in self._people.items()
            if person.heard_ts and now - person.heard_ts >= _SILENCE_MS
        ]
        for user_id, person in silent:
            if person.shown == "offline":
                del self._people[user_id]
                self._told.pop(user_id, None)
            else:
                person.shown, person.is_active, person.heard_ts = "offline", False, now
                self._untold[user_id] = None
        await self._show()

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
        seen = await self._database.read(_look, user_ids, self._server_name)
        for user_id in user_ids:
            del self._untold[user_id]
            person = self._people[user_id]
            person.rooms, person.names = seen.rooms[user_id], seen.names[user_id]
            person.changed = self._counter.advance()
            self._told.pop(user_id, None)
            self._told[user_id] = person
        self._notifier.wake({*user_ids, *(room_id for user_id in user_ids for room_id in seen.rooms[user_id])})
        self._tell_servers(user_ids, seen.servers)

    def _tell_servers(self, user_ids: Sequence[UserId], servers: Mapping[UserId, Iterable[ServerName]]) -> None:
        """Tell other servers of this one's users."""
        for user_id in user_ids:
            person = self._people[user_id]
            if servers.get(user_id):
                person.told_ts = self._clock.now()
                told = {"user_id": user_id, "last_active_ago": 0, **self._content(person)}
                self._ephemeral.put(servers[user_id], "m.presence", user_id, _encode({"push": [told]}))

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


@dataclass(frozen=True, slots=True)
class _Seen:
    """By user: the rooms, the name and the picture, and, of local users, the other servers in the rooms."""

    rooms: dict[UserId, frozenset[RoomId]]
    names: dict[UserId, dict[str, Any]]
    servers: dict[UserId, set[ServerName]]


def _look(tx: ReadTx, user_ids: Sequence[UserId], server_name: str) -> _Seen:
    joins = members.list_joins(tx, user_ids)
    nids = {nid for of_user in joins.values() for nid in of_user}
    known = rooms.find_many(tx, nids)
    local = [user_id for user_id in user_ids if domain_of(user_id) == server_name]
    servers = room_servers.list_open_many(tx, {nid for user_id in local for nid in joins.get(user_id, ())})
    fields = profiles.find_many(tx, user_ids)
    return _Seen(
        {
            user_id: frozenset(known[nid].room_id for nid in joins.get(user_id, ()) if nid in known)
            for user_id in user_ids
        },
        {
            user_id: {
                name: value for name in ("displayname", "avatar_url") if (value := fields.get(user_id, {}).get(name))
            }
            for user_id in user_ids
        },
        {user_id: set().union(*(servers.get(nid, ()) for nid in joins.get(user_id, ()))) for user_id in local},
    )
