"""Aliases and the published directory (client-server API, Room aliases, Published room directory, Room Summaries)."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.errors import Conflict, Forbidden, InvalidParam, NotFound, RemoteFailure, RequestError, Unsupported
from homeserver.kit.clock import Clock
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import RoomAlias, RoomId, ServerName, UserId, domain_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.directories_elsewhere import MOST_SERVERS, DirectoriesElsewhere
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.power import may_set
from homeserver.services.rooms.send import Sender
from homeserver.services.rooms.summaries import Summaries
from homeserver.storage import aliases, members, room_servers, rooms
from homeserver.storage.aliases import Alias
from homeserver.storage.engine import Database, ReadTx

MOST_ROOMS = 500
_CANONICAL = "m.room.canonical_alias"
_LONGEST_TOKEN = 40
_MOST_ALIASES = 100
"""So many aliases can be added to a room's canonical alias event at once."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DirectoryPage:
    """What a client wants to see of the directory."""

    limit: int | None
    since: str | None
    search: str | None = None
    room_types: Sequence[str | None] | None = None
    network: str | None = None
    """A network that is bridged, instead of Matrix."""
    all_networks: bool = False

    @property
    def search_json(self) -> Json:
        """The body of the search for it on another server."""
        wanted: Json = {"limit": self.limit, "since": self.since, "third_party_instance_id": self.network}
        if self.all_networks:
            wanted["include_all_networks"] = True
        found: Json = {name: value for name, value in wanted.items() if value is not None}
        terms = {"generic_search_term": self.search, "room_types": self.room_types}
        if any(value is not None for value in terms.values()):
            found["filter"] = {name: value for name, value in terms.items() if value is not None}
        return found


class Directory:
    """Names of rooms, and the rooms that are listed."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sender: Sender,
        summaries: Summaries,
        elsewhere: DirectoriesElsewhere,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sender = sender
        self._summaries = summaries
        self._elsewhere = elsewhere
        self.server_name = server_name

    async def room_of(self, name: str) -> RoomId:
        """The room of an id or an alias. Raises `InvalidParam`, or `NotFound` for an alias that is not known."""
        room_id, _ = await self.locate(name)
        return room_id

    async def locate(self, name: str) -> tuple[RoomId, list[ServerName]]:
        """The room of an id or an alias, and servers that are in it, as far as the alias tells. Raises as `room_of`."""
        try:
            if name.startswith("!"):
                return identifiers.room_id(name), []
            return await self.resolve(identifiers.room_alias(name))
        except identifiers.InvalidIdentifier as error:
            raise InvalidParam(str(error)) from None

    async def resolve(self, alias: RoomAlias) -> tuple[RoomId, list[ServerName]]:
        """The room that an alias points to, wherever it is, and servers that are in the room.

        Raises `NotFound`, or `RemoteFailure` where another server must be asked.
        """
        if domain_of(alias) != self.server_name:
            return await self._elsewhere.resolve(alias)
        return await self.resolve_own(alias)

    async def resolve_own(self, alias: RoomAlias) -> tuple[RoomId, list[ServerName]]:
        """The same of this server's aliases only."""
        room_id, others = await self._database.snapshot(_resolve, alias)
        return room_id, [ServerName(self.server_name), *others]

    async def add(self, who: Requester, alias: RoomAlias, room_id: RoomId) -> None:
        """Point a new alias to a room that one is in. Raises `Conflict` if it is taken."""
        if domain_of(alias) != self.server_name:
            raise InvalidParam("This server makes aliases of its own name only.")
        check_new_alias(alias)
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
        if found.creator != who.user_id and not who.is_admin and not _may_name(hot, who.user_id):
            raise Forbidden("Only who made the alias, or may name the room, can remove it.")
        await self._database.write(aliases.remove, alias)
        await self._drop_from_state(who.user_id, room.room_id, alias)

    async def list_of_room(self, who: Requester, room_id: RoomId) -> list[RoomAlias]:
        """The local aliases of a room: for members, or for all if its history is world-readable."""
        return await self._database.snapshot(self._list_of_room, who.user_id, room_id)

    async def is_listed(self, room_id: RoomId) -> bool:
        """Whether the room is in the directory. Raises `NotFound`."""
        room = await self._database.read(rooms.find, room_id)
        if room is None:
            raise NotFound("This server does not know the room.")
        return room.is_public

    async def set_listed(self, who: Requester, room_id: RoomId, *, is_public: bool) -> None:
        """List the room or not: for those in it who may name it, and administrators."""
        room = await self._sender.room(room_id)
        if not who.is_admin and not _may_name(room, who.user_id):
            raise Forbidden("You have not the power to list this room.")
        assert room.room_nid is not None
        await self._database.write(rooms.set_public, room.room_nid, is_public)

    async def list_public(self, page: DirectoryPage, server: ServerName | None = None) -> Json:
        """A page of this server's directory, the largest rooms first, or of that of another one."""
        if server is not None and server != self.server_name:
            return await self._elsewhere.list_public(server, page.search_json)
        if page.network is not None:
            return {"chunk": [], "total_room_count_estimate": 0}  # No other network is bridged here.
        return await self._database.snapshot(self._list_public, page)

    async def check_canonical(self, room_id: RoomId, content: Json) -> None:
        """Check the aliases that a canonical alias event adds (`M_INVALID_PARAM`, `M_BAD_ALIAS`)."""
        before = (await self._sender.room(room_id)).state.get((_CANONICAL, ""))
        new = parse_aliases(named_aliases(content) - named_aliases({} if before is None else before.content))
        if len(new) > _MOST_ALIASES:
            raise InvalidParam(f"A room can be given {_MOST_ALIASES} aliases at once.")
        for alias in new:
            try:
                points_to, _ = await self.resolve(alias)
            except (NotFound, RemoteFailure):
                raise Unsupported("M_BAD_ALIAS", f"Nothing shows that the alias {alias} points to this room.") from None
            if points_to != room_id:
                raise Unsupported("M_BAD_ALIAS", f"The alias {alias} does not point to this room.")

    def _list_of_room(self, tx: ReadTx, user_id: UserId, room_id: RoomId) -> list[RoomAlias]:
        room = rooms.find(tx, room_id)
        if room is None:
            raise Forbidden("You are not in this room.")
        member = members.find(tx, room.room_nid, user_id)
        is_in = member is not None and member.membership == "join"
        if not is_in and not self._summaries.read(tx, [room])[room.room_nid].world_readable:
            raise Forbidden("You are not in this room.")
        return [alias.alias for alias in aliases.list_of_rooms(tx, [room.room_nid])]

    def _list_public(self, tx: ReadTx, page: DirectoryPage) -> Json:
        listed = rooms.list_public(tx)
        summaries = self._summaries.read(tx, listed)
        joined = members.count_joined(tx, [room.room_nid for room in listed])
        shown = {
            (-joined.get(room.room_nid, 0), room.room_nid): summaries[room.room_nid].public_json(
                room, joined.get(room.room_nid, 0)
            )
            for room in listed
        }
        keys = sorted(key for key, entry in shown.items() if _matches(entry, page))
        start, end = _bounds(keys, page.since, min(page.limit or MOST_ROOMS, MOST_ROOMS))
        answer: Json = {"chunk": [shown[key] for key in keys[start:end]], "total_room_count_estimate": len(keys)}
        if start < end < len(keys):
            answer["next_batch"] = _token("n", keys[end - 1])
        if 0 < start < end:
            answer["prev_batch"] = _token("p", keys[start])
        return answer

    async def _drop_from_state(self, user_id: UserId, room_id: RoomId, alias: RoomAlias) -> None:
        """Take a removed alias out of the room's canonical alias event, if the user may."""

        def build(drafts: Drafts) -> None:
            event = drafts.state(_CANONICAL)
            content = {} if event is None else event.content
            changed = without_aliases(content, [alias])
            if changed != content:
                drafts.add(Draft(_CANONICAL, user_id, changed, state_key=""))

        try:
            await self._sender.change(room_id, build)
        except RequestError:
            return  # The alias is gone all the same.


def check_new_alias(alias: RoomAlias) -> None:
    """Raise `InvalidParam` for an alias that is well formed but that nobody could type."""
    localpart = identifiers.localpart_of(alias)
    if not localpart or any(char.isspace() or not char.isprintable() for char in localpart):
        raise InvalidParam("A room alias has a local part without white space.")


def named_aliases(content: Any) -> set[str]:
    """The aliases in the content of a canonical alias event."""
    if not isinstance(content, dict):
        return set()
    others = content.get("alt_aliases")
    found = [content.get("alias"), *(others if isinstance(others, list) else [])]
    return {name for name in found if isinstance(name, str) and name}


def without_aliases(content: Json, gone: Collection[RoomAlias]) -> Json:
    """The content of a canonical alias event without these aliases."""
    changed = {key: value for key, value in content.items() if key != "alias" or value not in gone}
    others = content.get("alt_aliases")
    if isinstance(others, list):
        changed["alt_aliases"] = [other for other in others if other not in gone]
    return changed


def parse_aliases(names: set[str]) -> list[RoomAlias]:
    """The names as aliases. Raises `InvalidParam`."""
    try:
        return [identifiers.room_alias(name) for name in names]
    except identifiers.InvalidIdentifier as error:
        raise InvalidParam(str(error)) from None


def _resolve(tx: ReadTx, alias: RoomAlias) -> tuple[RoomId, list[ServerName]]:
    found = aliases.find(tx, alias)
    if found is None:
        raise NotFound("There is no room of this alias.")
    room = rooms.find_many(tx, [found.room_nid])[found.room_nid]
    return room.room_id, room_servers.list_longest(tx, room.room_nid, limit=MOST_SERVERS)


def _may_name(room: HotRoom, user_id: UserId) -> bool:
    assert room.create is not None
    return room.membership_of(user_id) == "join" and may_set(user_id, _CANONICAL, room.power_levels, room.create)


def _matches(entry: Json, page: DirectoryPage) -> bool:
    if page.room_types is not None and entry.get("room_type") not in page.room_types:
        return False
    if not page.search:
        return True
    term = page.search.casefold()
    return any(term in str(entry.get(name, "")).casefold() for name in ("name", "topic", "canonical_alias"))


Key = tuple[int, int]
"""Of a room in the order of the directory: its size, negated, and its number."""


def _token(direction: str, key: Key) -> str:
    return f"{direction}{-key[0]}_{key[1]}"


def _bounds(keys: Sequence[Key], since: str | None, limit: int) -> tuple[int, int]:
    """Where a page begins and ends: behind the room of the token, or before it."""
    if since is None:
        return 0, min(limit, len(keys))
    if len(since) > _LONGEST_TOKEN:
        raise InvalidParam("This is no token of the directory.")
    size, _, number = since[1:].partition("_")
    if since[:1] not in ("n", "p") or not all(part.isascii() and part.isdigit() for part in (size, number)):
        raise InvalidParam("This is no token of the directory.")
    key = (-int(size), int(number))
    if since[0] == "n":
        start = bisect_right(keys, key)
        return start, min(start + limit, len(keys))
    end = bisect_left(keys, key)
    return max(0, end - limit), end
