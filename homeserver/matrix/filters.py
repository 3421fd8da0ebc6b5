"""Filters: which events a client wants to be given (client-server API, Filtering).

`event_fields` is read and not acted upon: a server may send more fields than were asked for.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from homeserver.errors import BadJson, NotJson
from homeserver.matrix.events import Event

MOST_EVENTS = 100
"""What one answer holds at most, whatever the client asks for."""

T = TypeVar("T")

Limit = Annotated[int, Meta(gt=0)]


class EventFilter(Struct, frozen=True, dict=True):
    """A filter of events that belong to no room."""

    limit: Limit | None = None
    types: tuple[str, ...] | None = None
    not_types: tuple[str, ...] = ()
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()

    def limit_or(self, default: int) -> int:
        """How many events are wanted."""
        return min(self.limit or default, MOST_EVENTS)

    def admits(self, type_: str, sender: str | None) -> bool:
        """Whether an event of this type and sender is wanted; what has no sender is only asked for its type."""
        if sender is not None:
            if sender in self.not_senders or (self.senders is not None and sender not in self.senders):
                return False
        elif self.senders is not None:
            return False
        return self._admits_type(type_)

    @cached_property
    def _admits_type(self) -> Callable[[str], bool]:
        if self.types is None and not self.not_types:
            return lambda type_: True
        refused = _matcher(self.not_types)
        if self.types is None:
            return lambda type_: not refused(type_)
        wanted = _matcher(self.types)
        return lambda type_: wanted(type_) and not refused(type_)


class RoomEventFilter(EventFilter, frozen=True, dict=True):
    """A filter of events of rooms."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False

    def admits_room(self, room_id: str) -> bool:
        """Whether anything of this room is wanted."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    def admits_event(self, event: Event) -> bool:
        """Whether the event is wanted."""
        if self.contains_url is not None and isinstance(event.content.get("url"), str) is not self.contains_url:
            return False
        return self.admits(event.type, event.sender)

    @cached_property
    def admits_all(self) -> bool:
        """Whether every event of an admitted room is wanted."""
        return (
            self.types is None
            and not self.not_types
            and self.senders is None
            and not self.not_senders
            and self.contains_url is None
        )


class RoomFilter(Struct, frozen=True):
    """What is wanted of rooms; `rooms` and `not_rooms` act before the filters below."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False
    state: RoomEventFilter = field(default_factory=RoomEventFilter)
    timeline: RoomEventFilter = field(default_factory=RoomEventFilter)
    ephemeral: RoomEventFilter = field(default_factory=RoomEventFilter)
    account_data: RoomEventFilter = field(default_factory=RoomEventFilter)

    def admits_room(self, room_id: str) -> bool:
        """Whether anything of this room is wanted."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


class Filter(Struct, frozen=True):
    """A filter of a sync."""

    event_fields: tuple[str, ...] | None = None
    event_format: Literal["client", "federation"] = "client"
    presence: EventFilter = field(default_factory=EventFilter)
    account_data: EventFilter = field(default_factory=EventFilter)
    room: RoomFilter = field(default_factory=RoomFilter)


_FILTER = msgspec.json.Decoder(Filter)
_ROOM_EVENTS = msgspec.json.Decoder(RoomEventFilter)


@lru_cache(maxsize=1000)
def parse_filter(text: str) -> Filter:
    """The filter of a sync. Raises `NotJson` or `BadJson`."""
    return _decode(text, _FILTER)


@lru_cache(maxsize=1000)
def parse_room_event_filter(text: str) -> RoomEventFilter:
    """The filter of a room's history. Raises `NotJson` or `BadJson`."""
    return _decode(text, _ROOM_EVENTS)


def _decode(text: str, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise BadJson(f"The filter is not well formed: {error}") from None
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise NotJson("The filter is not JSON.") from None
    except RecursionError:
        raise BadJson("The filter is nested too deeply.") from None


def _matcher(globs: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a text matches one of the globs; `*` is any run of characters.

    Without regular expressions, which take for ever on some globs that a client could send.
    """
    exact = frozenset(glob for glob in globs if "*" not in glob)
    split = [glob.split("*") for glob in globs if "*" in glob]
    return lambda text: text in exact or any(_matches(text, parts) for parts in split)


def _matches(text: str, parts: list[str]) -> bool:
    """Whether the text consists of the parts with anything between them."""
    first, *middle, last = parts
    if not text.startswith(first):
        return False
    at = len(first)
    for part in middle:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(text) - at >= len(last) and text.endswith(last)
