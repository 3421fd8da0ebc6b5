"""Aliases and the published directory (client-server API, Room aliases, Published room directory)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.errors import Conflict, Forbidden, InvalidParam, NotFound, Unsupported
from homeserver.kit.clock import Clock
from homeserver.matrix import event_auth, identifiers
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomAlias, RoomId, UserId, domain_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.send import Draft, Drafts, Sender
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import aliases, events, members, rooms
from homeserver.storage.aliases import Alias
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.rooms import Room
from homeserver.storage.state import Pair

MOST_ROOMS = 500
_CANONICAL = "m.room.canonical_alias"
_SHOWN: tuple[Pair, ...] = tuple(
    (kind, "")
    for kind in (
        "m.room.create",
        "m.room.name",
        "m.room.topic",
        "m.room.avatar",
        _CANONICAL,
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.encryption",
    )
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DirectoryPage:
    """What a client wants to see of the directory."""

    limit: int
    since: str | None
    search: str | None
    room_types: Sequence[str | None] | None


class Directory:
    """Names of rooms, and the rooms that are listed."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sender: Sender,
        reader: RoomReader,
        trees: StateTrees,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sender = sender
        self._reader = reader
        self._trees = trees
        self.server_name = server_name

    async def room_of(self, name: str) -> RoomId:
        """The room of an id or an alias. Raises `InvalidParam`, or `NotFound` for an alias that is not known."""
        try:
            if name.startswith("!"):
                return identifiers.room_id(name)
            return await self.resolve(identifiers.room_alias(name))
        except identifiers.InvalidIdentifier as error:
            raise InvalidParam(str(error)) from None

    async def resolve(self, alias: RoomAlias) -> RoomId:
        """The room that the alias points to. Raises `NotFound`."""
        room_id = await self._database.read(_resolve, alias)
        if room_id is None:
            raise NotFound("There is no room of this alias.")
        return room_id

    async def add(self, who: Requester, alias: RoomAlias, room_id: RoomId) -> None:
        """Point a new alias to a room that one is in. Raises `Conflict` if it is taken."""
        if domain_of(alias) != self.server_name:
            raise InvalidParam("This server makes aliases of its own name only.")
        room = await self._sender.room(room_id)
        if room.membership_of(who.user_id) != "join":
            raise Forbidden("You are not in this room.")
        assert room.room_nid is not None
        row = Alias(alias, room.room_nid, who.user_id, self._clock.now())
        if not await self._database.write(aliases.add, row):
            raise Conflict("The alias is taken.")

    async def remove(self, who: Requester, alias: RoomAlias) -> None:
        """Remove an alias: for whoever made it, administrators, and those who may change the room's aliases."""
        found = await self._database.read(aliases.find, alias)
        if found is None:
            raise NotFound("There is no such alias.")
        room = (await self._database.read(rooms.find_many, [found.room_nid]))[found.room_nid]
        hot = await self._sender.room(room.room_id)
        if found.creator != who.user_id and not who.is_admin and not _may_send(hot, who.user_id, _CANONICAL):
            raise Forbidden("Only who made the alias, or may name the room, can remove it.")
        await self._database.write(aliases.remove, alias)
        await self._drop_from_state(who.user_id, room.room_id, alias)

    async def list_of_room(self, who: Requester, room_id: RoomId) -> list[RoomAlias]:
        """The local aliases of a room: for members, or for all if its history is world-readable."""

        def read(tx: ReadTx) -> list[RoomAlias]:
            room = self._reader.room(tx, room_id)
            member = members.find(tx, room.room_nid, who.user_id)
            if member is None or member.membership != "join":
                rule = self._summary_events(tx, [room])[room.room_nid].get("m.room.history_visibility")
                if rule is None or rule.content.get("history_visibility") != "world_readable":
                    raise Forbidden("You are not in this room.")
            return [alias.alias for alias in aliases.list_of_rooms(tx, [room.room_nid])]

        return await self._database.snapshot(read)

    async def is_listed(self, room_id: RoomId) -> bool:
        """Whether the room is in the directory. Raises `NotFound`."""
        room = await self._database.read(rooms.find, room_id)
        if room is None:
            raise NotFound("This server does not know the room.")
        return room.is_public

    async def set_listed(self, who: Requester, room_id: RoomId, *, is_public: bool) -> None:
        """List the room or not: for those who may name it, and administrators."""
        room = await self._sender.room(room_id)
        allowed = room.membership_of(who.user_id) == "join" and _may_send(room, who.user_id, _CANONICAL)
        if not allowed and not who.is_admin:
            raise Forbidden("You have not the power to list this room.")
        assert room.room_nid is not None
        await self._database.write(rooms.set_public, room.room_nid, is_public)

    async def list_public(self, page: DirectoryPage) -> Json:
        """A page of the directory: the largest rooms first."""
        return await self._database.snapshot(self._list_public, page)

    async def summary(self, who: Requester | None, room_id: RoomId) -> Json:
        """A room in short, for those who are in it or could come in. Raises `NotFound` to all others."""
        return await self._database.snapshot(self._summary, who, room_id)

    async def check_canonical(self, room_id: RoomId, content: Any) -> None:
        """Check the aliases that a canonical alias event adds (`M_INVALID_PARAM`, `M_BAD_ALIAS`)."""
        room = await self._sender.room(room_id)
        before = room.state.get((_CANONICAL, ""))
        for name in _named(content) - _named({} if before is None else before.content):
            try:
                alias = identifiers.room_alias(name)
            except identifiers.InvalidIdentifier as error:
                raise InvalidParam(str(error)) from None
            if await self._database.read(_resolve, alias) != room_id:
                raise Unsupported("M_BAD_ALIAS", "The alias does not point to this room.")

    def _list_public(self, tx: ReadTx, page: DirectoryPage) -> Json:
        found = rooms.list_public(tx)
        shown = [self._chunk(tx, room, state) for room, state in self._with_state(tx, found)]
        wanted = [entry for entry in shown if _matches(entry, page)]
        wanted.sort(key=lambda entry: (-entry["num_joined_members"], entry["room_id"]))
        start = _start(page.since)
        limit = min(page.limit or MOST_ROOMS, MOST_ROOMS)
        answer: Json = {"chunk": wanted[start : start + limit], "total_room_count_estimate": len(wanted)}
        if start + limit < len(wanted):
            answer["next_batch"] = f"p{start + limit}"
        if start > 0:
            answer["prev_batch"] = f"p{max(0, start - limit)}"
        return answer

    def _summary(self, tx: ReadTx, who: Requester | None, room_id: RoomId) -> Json:
        room = rooms.find(tx, room_id)
        member = None
        if room is not None and who is not None:
            member = members.find(tx, room.room_nid, who.user_id)
        if room is None:
            raise NotFound("There is no such room, or you may not see it.")
        [(_, state)] = self._with_state(tx, [room])
        entry = self._chunk(tx, room, state)
        open_rules = ("public", "knock", "knock_restricted", "restricted")
        known = member is not None and member.membership in ("join", "invite", "knock")
        if not known and entry["join_rule"] not in open_rules and not entry["world_readable"]:
            raise NotFound("There is no such room, or you may not see it.")
        entry["room_version"] = room.version
        encryption = state.get("m.room.encryption")
        if encryption is not None and isinstance(encryption.content.get("algorithm"), str):
            entry["encryption"] = encryption.content["algorithm"]
        if member is not None:
            entry["membership"] = member.membership
        return entry

    def _with_state(self, tx: ReadTx, found: Sequence[Room]) -> list[tuple[Room, dict[str, Event]]]:
        state = self._summary_events(tx, found)
        return [(room, state[room.room_nid]) for room in found]

    def _summary_events(self, tx: ReadTx, found: Iterable[Room]) -> dict[int, dict[str, Event]]:
        """The state that a room is shown by, by type."""
        found = list(found)
        positions = {room.room_nid: self._trees.find(tx, room.state_root, _SHOWN) for room in found}
        stored = events.find_many(tx, {at for of_room in positions.values() for at in of_room.values()})
        return {
            room.room_nid: {kind: parse(stored[at], room.version) for (kind, _), at in positions[room.room_nid].items()}
            for room in found
        }

    def _chunk(self, tx: ReadTx, room: Room, state: dict[str, Event]) -> Json:
        def text(kind: str, name: str) -> str | None:
            value = state[kind].content.get(name) if kind in state else None
            return value if isinstance(value, str) and value else None

        optional = {
            "name": text("m.room.name", "name"),
            "topic": text("m.room.topic", "topic"),
            "avatar_url": text("m.room.avatar", "url"),
            "canonical_alias": text(_CANONICAL, "alias"),
            "room_type": text("m.room.create", "type"),
        }
        return {
            "room_id": room.room_id,
            "num_joined_members": members.count(tx, room.room_nid).get("join", 0),
            "world_readable": text("m.room.history_visibility", "history_visibility") == "world_readable",
            "guest_can_join": text("m.room.guest_access", "guest_access") == "can_join",
            "join_rule": text("m.room.join_rules", "join_rule") or "invite",
            **{name: value for name, value in optional.items() if value is not None},
        }

    async def _drop_from_state(self, user_id: UserId, room_id: RoomId, alias: RoomAlias) -> None:
        """Take a removed alias out of the room's canonical alias event, if the user may."""

        def build(drafts: Drafts) -> None:
            event = drafts.state(_CANONICAL)
            content = {} if event is None else event.content
            others = content.get("alt_aliases")
            kept = [other for other in others if other != alias] if isinstance(others, list) else None
            changed = {key: value for key, value in content.items() if key != "alias" or value != alias}
            if kept is not None:
                changed["alt_aliases"] = kept
            if changed != content:
                drafts.add(Draft(_CANONICAL, user_id, changed, state_key=""))

        try:
            await self._sender.change(room_id, build)
        except Forbidden:
            return  # The alias is gone all the same.


def _named(content: Any) -> set[str]:
    """The aliases in the content of a canonical alias event."""
    if not isinstance(content, dict):
        return set()
    others = content.get("alt_aliases")
    found = [content.get("alias"), *(others if isinstance(others, list) else [])]
    return {name for name in found if isinstance(name, str) and name}


def _resolve(tx: ReadTx, alias: RoomAlias) -> RoomId | None:
    found = aliases.find(tx, alias)
    return None if found is None else rooms.find_many(tx, [found.room_nid])[found.room_nid].room_id


def _may_send(room: HotRoom, user_id: UserId, type_: str) -> bool:
    create = room.create
    assert create is not None
    have = event_auth.power_level_of(user_id, room.power_levels, create)
    return have is None or have >= event_auth.level_for_event(type_, True, room.power_levels)


def _matches(entry: Json, page: DirectoryPage) -> bool:
    if page.room_types is not None and entry.get("room_type") not in page.room_types:
        return False
    if not page.search:
        return True
    term = page.search.casefold()
    return any(term in str(entry.get(name, "")).casefold() for name in ("name", "topic", "canonical_alias"))


def _start(since: str | None) -> int:
    if since is None:
        return 0
    if not (since.startswith("p") and since[1:].isascii() and since[1:].isdigit() and len(since) < 12):
        raise InvalidParam("This is no token of the directory.")
    return int(since[1:])
