"""What other servers tell of spaces and their rooms (server-server API, Spaces)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from homeserver.errors import RemoteFailure
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import SingleFlight
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import InvalidIdentifier, RoomId, ServerName
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.directories_elsewhere import PublicRoom

_KEPT_BYTES = 64 << 20
_WEIGHT = 500
"""What is kept besides the answer itself, roughly."""
_GOOD_FOR_S = 300
_FAILURE_FOR_S = 60
_MOST_CHILDREN = 2000
_MOST_SERVERS = 3
_TIMEOUT_S = 10.0
_CHILD = "m.space.child"
_LONGEST_ORDER = 50

Json = dict[str, Any]
Id = Annotated[str, Meta(max_length=255)]


class RoomElsewhere(PublicRoom, frozen=True, omit_defaults=True):
    """A room in short, as another server knows it."""

    room_version: str | None = None
    encryption: str | None = None
    allowed_room_ids: list[Id] | None = None


class _ChildEvent(msgspec.Struct, frozen=True):
    type: Id
    state_key: Id
    sender: Id
    content: Json
    origin_server_ts: Annotated[int, Meta(ge=0, le=2**53)]


class _Answer(msgspec.Struct, frozen=True):
    room: Json
    children: list[Json] = []
    inaccessible_children: list[Id] = []


@dataclass(frozen=True, slots=True)
class Child:
    """A room that a space names: where to ask for it, its place among others, and the event as it is shown."""

    room_id: RoomId
    via: Sequence[ServerName]
    is_suggested: bool
    order: tuple[bool, str, int, str]
    shown: msgspec.Raw


@dataclass(frozen=True, slots=True)
class SpaceElsewhere:
    """A room as another server tells of it, and what it tells of the rooms in it."""

    room: RoomElsewhere
    children: Sequence[Child]
    rooms: Mapping[RoomId, RoomElsewhere]
    inaccessible: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    space: SpaceElsewhere | None
    asked: frozenset[ServerName] = frozenset()
    """The servers that had nothing to tell."""


class SpacesElsewhere:
    """Asks for rooms that this server does not know, and remembers the answers, or that there were none."""

    def __init__(self, federation: FederationClient, clock: Clock) -> None:
        self._federation = federation
        self._clock = clock
        self._kept: Lru[RoomId, _Kept] = Lru(_KEPT_BYTES, _weigh)
        self._asking: SingleFlight[tuple[RoomId, tuple[ServerName, ...]], SpaceElsewhere | None] = SingleFlight()

    def is_known(self, room_id: RoomId, servers: Sequence[ServerName]) -> bool:
        """Whether it was found out of late what others tell of the room, or that these servers tell nothing."""
        kept = self._recent(room_id)
        return kept is not None and (kept.space is not None or kept.asked.issuperset(servers[:_MOST_SERVERS]))

    def _recent(self, room_id: RoomId) -> _Kept | None:
        kept = self._kept.get(room_id)
        return None if kept is None or kept.until <= self._clock.monotonic() else kept

    def find(self, room_id: RoomId) -> SpaceElsewhere | None:
        """The room, if it was found of late."""
        kept = self._kept.get(room_id)
        return None if kept is None else kept.space

    async def ask(self, wanted: Mapping[RoomId, Sequence[ServerName]]) -> None:
        """Ask for rooms, each at the servers by which it can be reached."""
        await asyncio.gather(*(self._find(room_id, servers) for room_id, servers in wanted.items()))

    async def _find(self, room_id: RoomId, servers: Sequence[ServerName]) -> None:
        asked = tuple(servers[:_MOST_SERVERS])
        space = await self._asking.run((room_id, asked), lambda: self._ask(room_id, asked))
        if space is not None:
            self._kept.put(room_id, _Kept(self._clock.monotonic() + _GOOD_FOR_S, space))
            return
        known = self._recent(room_id) or _Kept(self._clock.monotonic() + _FAILURE_FOR_S, None)
        # Whoever names the wrong servers keeps nobody from being told by others, nor takes away what was told.
        self._kept.put(room_id, replace(known, asked=known.asked | set(asked)))

    async def _ask(self, room_id: RoomId, servers: Sequence[ServerName]) -> SpaceElsewhere | None:
        for server in servers:
            try:
                answer = await self._federation.hierarchy(server, room_id, suggested_only=False, timeout_s=_TIMEOUT_S)
            except RemoteFailure:
                continue
            space = _checked(answer, room_id)
            if space is not None:
                return space
        return None


def _weigh(kept: _Kept) -> int:
    return _WEIGHT + (0 if kept.space is None else len(msgspec.json.encode(kept.space)))


def child_of(content: Mapping[str, Any], *, state_key: str, origin_server_ts: int, shown: bytes) -> Child | None:
    """What an `m.space.child` event says, if it makes its state key a child: it must say by which servers to reach it.

    Those with a valid `order` come first, by it; the others by age, then by id.
    """
    via = content.get("via")
    if not isinstance(via, list) or not via or not all(isinstance(server, str) for server in via):
        return None
    try:
        room_id = identifiers.room_id(state_key)
    except InvalidIdentifier:
        return None
    order = content.get("order")
    if not isinstance(order, str) or len(order) > _LONGEST_ORDER or not all(" " <= char <= "~" for char in order):
        order = ""
    return Child(
        room_id,
        [ServerName(server) for server in via[:_MOST_SERVERS] if identifiers.is_server_name(server)],
        content.get("suggested") is True,
        (not order, order, origin_server_ts, state_key),
        msgspec.Raw(shown),
    )


def _checked(answer: Json, room_id: RoomId) -> SpaceElsewhere | None:
    try:
        shaped = msgspec.convert(answer, _Answer)
        room = msgspec.convert(shaped.room, RoomElsewhere)
    except msgspec.ValidationError:
        return None
    if room.room_id != room_id:
        return None
    state = shaped.room.get("children_state") if room.room_type == "m.space" else []
    children = [_child(event) for event in state[:_MOST_CHILDREN]] if isinstance(state, list) else []
    named = {child.room_id: child for child in children if child is not None}
    rooms: dict[RoomId, RoomElsewhere] = {}
    for entry in shaped.children[:_MOST_CHILDREN]:
        try:
            found = msgspec.convert(entry, RoomElsewhere)
        except msgspec.ValidationError:
            continue
        if found.room_id in named:
            rooms[RoomId(found.room_id)] = found
    ordered = sorted(named.values(), key=lambda child: child.order)
    return SpaceElsewhere(room, ordered, rooms, frozenset(shaped.inaccessible_children[:_MOST_CHILDREN]))


def _child(event: object) -> Child | None:
    try:
        shaped = msgspec.convert(event, _ChildEvent)
    except msgspec.ValidationError:
        return None
    if shaped.type != _CHILD:
        return None
    return child_of(
        shaped.content,
        state_key=shaped.state_key,
        origin_server_ts=shaped.origin_server_ts,
        shown=msgspec.json.encode(shaped),
    )
