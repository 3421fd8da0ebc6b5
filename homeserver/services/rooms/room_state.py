"""The current state of a room in memory, with who is in it, and the servers of these."""

from collections import Counter
from collections.abc import Iterable, Mapping

from homeserver.errors import HomeserverError
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import ServerName, UserId, domain_of
from homeserver.storage.state import Pair

FEW = 500
"""Up to so many members, their events are in memory with the room; of larger rooms those that were needed.

The same goes for other state that has keys.
"""
_MEMBER_BYTES = 250
"""What a user id and its membership cost in memory, or a type and a state key."""


class NotLoaded(HomeserverError):
    """Member events of a large room, or others with keys, are not in memory; `HotRooms.load` brings them."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        super().__init__()
        self.pairs = frozenset(pairs)


class RoomState:
    """The current state of a room: all of it, but for most events with keys of large rooms, which come when needed."""

    def __init__(
        self,
        loaded: Mapping[Pair, Event],
        memberships: Mapping[UserId, str],
        unseen: Iterable[ServerName] = (),
        elsewhere: Iterable[Pair] = (),
    ) -> None:
        """`memberships` are those of everybody who has a member event.

        `unseen` are servers which are known to be in the room, although it is not known by which users. `elsewhere` is
        other state that only the database has.
        """
        self._loaded = dict(loaded)
        self._elsewhere = set(elsewhere)
        """State with keys that the database has, members aside; some of it is in memory as well."""
        self._memberships = dict(memberships)
        self.joined: set[UserId] = {user_id for user_id, kind in memberships.items() if kind == "join"}
        self._by_server = Counter(domain_of(user_id) for user_id in self.joined)
        self._by_server.update(unseen)  # As one user each, who is never seen to leave.
        self._servers: frozenset[ServerName] | None = None
        self._redacted: dict[str, Event] = {}
        """Redacted forms, by event id, of what was not in memory: they may not be in the database yet."""
        self.times_forgotten = 0
        others = len(memberships) + len(self._elsewhere)
        self.size = sum(_weight(event) for event in loaded.values()) + _MEMBER_BYTES * others
        """In bytes, about."""

    @property
    def servers(self) -> frozenset[ServerName]:
        """The servers whose users are in the room, this one included; the same object as long as they are the same."""
        if self._servers is None:
            self._servers = frozenset(map(ServerName, self._by_server))
        return self._servers

    def get(self, pair: Pair) -> Event | None:
        """The event, or None if the state has none. Raises `NotLoaded`."""
        event = self._loaded.get(pair)
        if event is None and self._is_elsewhere(pair):
            raise NotLoaded([pair])
        return event

    def list_of(self, type_: str) -> dict[str, Event]:
        """All events of a type that is not that of members, by state key. Raises `NotLoaded`."""
        pairs = [pair for pair in {*self._loaded, *self._elsewhere} if pair[0] == type_]
        if missing := self.not_loaded(pairs):
            raise NotLoaded(missing)
        return {key: self._loaded[kind, key] for kind, key in sorted(pairs)}

    def membership_of(self, user_id: str) -> str:
        """The user's membership; `leave` for somebody who was never here."""
        return self._memberships.get(UserId(user_id), "leave")

    def knows(self, user_id: str) -> bool:
        """Whether the user ever had to do with the room, as far as is known."""
        return user_id in self._memberships

    def not_loaded(self, pairs: Iterable[Pair]) -> set[Pair]:
        """Those of the pairs whose events are in the state and not in memory."""
        return {pair for pair in pairs if pair not in self._loaded and self._is_elsewhere(pair)}

    def add(self, found: Mapping[Pair, Event]) -> None:
        """Events that were read from the database; what the room has itself is newer."""
        for pair, event in found.items():
            if self.not_loaded([pair]):
                self._keep(pair, self._redacted.get(event.event_id, event))

    def set(self, pair: Pair, event: Event | None) -> None:
        """Put an event in the place of what was there, or nothing."""
        old = self._loaded.pop(pair, None)
        if old is not None:
            self.size -= _weight(old)
        if event is not None:
            self._keep(pair, event)
        elif pair in self._elsewhere:
            self._elsewhere.remove(pair)
            self.size -= _MEMBER_BYTES
        if pair[0] == "m.room.member":
            self._set_member(UserId(pair[1]), event)

    def forget(self) -> None:
        """Keep of a large room no events but those that are needed again; nothing may be under way for it."""
        self.times_forgotten += 1
        self._redacted.clear()
        has_many = len(self._memberships) > FEW
        for pair in list(self._loaded):
            if pair in self._elsewhere or (has_many and pair[0] == "m.room.member"):
                self.size -= _weight(self._loaded.pop(pair))

    def replace(self, redacted: Mapping[str, Event]) -> None:
        """Put the redacted form, by event id, in the place of events, be they in memory or still to come."""
        for pair, event in list(self._loaded.items()):
            if event.event_id in redacted:
                self._loaded[pair] = redacted[event.event_id]
        for event in redacted.values():
            if event.state_key is not None and self.not_loaded([(event.type, event.state_key)]):
                self._redacted[event.event_id] = event

    def _is_elsewhere(self, pair: Pair) -> bool:
        return pair in self._elsewhere or (pair[0] == "m.room.member" and pair[1] in self._memberships)

    def _keep(self, pair: Pair, event: Event) -> None:
        self._loaded[pair] = event
        self.size += _weight(event)

    def _set_member(self, user_id: UserId, event: Event | None) -> None:
        self.size -= _MEMBER_BYTES * len(self._memberships)
        if event is None:
            self._memberships.pop(user_id, None)
        else:
            self._memberships[user_id] = event.membership or "leave"
        self.size += _MEMBER_BYTES * len(self._memberships)
        is_joined = event is not None and event.membership == "join"
        if is_joined and user_id not in self.joined:
            self.joined.add(user_id)
            self._count(domain_of(user_id), 1)
        elif not is_joined and user_id in self.joined:
            self.joined.remove(user_id)
            self._count(domain_of(user_id), -1)

    def _count(self, server: str, change: int) -> None:
        """So many more users of a server are in the room. What all of its users are is never gone through again."""
        before = self._by_server[server]
        self._by_server[server] = before + change
        if before + change == 0:
            del self._by_server[server]
        if before == 0 or before + change == 0:
            self._servers = None


def _weight(event: Event) -> int:
    """What a parsed event costs in memory, about: its bytes, and the same again as a tree of values."""
    return 3 * event.size + 500
