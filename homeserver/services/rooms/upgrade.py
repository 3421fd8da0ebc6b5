"""Replacing a room by one of another version (client-server API, Room Upgrades)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.errors import BadJson, Conflict, Forbidden, InvalidParam, RequestError, TooLarge
from homeserver.matrix import identifiers
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomAlias, RoomId, UserId
from homeserver.matrix.room_versions import RoomVersion
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Author, Draft, Drafts
from homeserver.services.rooms.create import RoomCreation, with_tombstone_level
from homeserver.services.rooms.directory import named_aliases, without_aliases
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.persist import ATTEMPTS, Superseded
from homeserver.services.rooms.room_state import NotLoaded
from homeserver.services.rooms.send import Sender
from homeserver.services.rooms.succession import inherit
from homeserver.storage import aliases, rooms
from homeserver.storage.engine import Database, ReadTx, WriteTx

_ADMINISTRATOR = 100
_MOST = 2**53 - 1
_CANONICAL = "m.room.canonical_alias"
_POWER = "m.room.power_levels"
_TOMBSTONE = "m.room.tombstone"

_COPIED = (
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
)
"""State under an empty key that the new room takes over; those of a space's children come to it."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Given:
    """What was read before anything is built. `moving` are the local aliases of the old room."""

    version: RoomVersion
    creators: Sequence[UserId]
    member: Json
    moving: Sequence[RoomAlias]
    is_public: bool


class RoomUpgrade:
    """Replaces rooms. What happens in the old room and in the new one is committed together."""

    def __init__(
        self, database: Database, sender: Sender, members: Members, creation: RoomCreation, author: Author
    ) -> None:
        self._database = database
        self._sender = sender
        self._members = members
        self._creation = creation
        self._author = author

    async def upgrade(
        self, who: Requester, room_id: RoomId, version_name: str, additional_creators: Sequence[str]
    ) -> RoomId:
        """Make the new room and end the old one. Raises `Forbidden` without the power to send the tombstone."""
        version = self._creation.version(version_name)
        creators = _parse_creators(additional_creators) if version.creators_have_infinite_power else []
        member = await self._members.own_content(who.user_id, "join")
        room_nid = await self._sender.nid_of(room_id)
        for _ in range(ATTEMPTS):
            moving, is_public = await self._database.snapshot(_read_names, room_nid)
            given = _Given(version, creators, member, moving, is_public)
            room = await self._sender.free(room_nid)
            try:
                return await self._replace(who.user_id, room, given)
            except NotLoaded as missing:
                await self._sender.load(room, missing)
            except Superseded:
                continue
        raise Conflict("The room changes too quickly. Try again.")

    async def _replace(self, user_id: UserId, room: HotRoom, given: _Given) -> RoomId:
        if room.membership_of(user_id) != "join":
            raise Forbidden("You are not in this room.")
        old = self._sender.begin(room)
        if given.version.room_ids_are_hashes:
            # The id of the new room is made of its create event, which then cannot name the tombstone.
            new = self._creation.begin(given.version)
            self._add_create(new, user_id, room, given, None)
            self._add_tombstone(old, user_id, new.room.room_id)
        else:
            new_id = self._author.new_room_id()
            tombstone = self._add_tombstone(old, user_id, new_id)
            new = self._creation.begin(given.version, new_id)
            self._add_create(new, user_id, room, given, tombstone)
        _add_state(new, user_id, room, given)
        _restrict(old, user_id, given)
        old_nid, old_id, new_id = room.room_nid, room.room_id, new.room.room_id
        assert old_nid is not None

        def also(tx: WriteTx, new_nid: int) -> None:
            aliases.move(tx, old_nid, new_nid)
            if given.is_public:
                rooms.set_public(tx, old_nid, False)
                rooms.set_public(tx, new_nid, True)
            inherit(tx, user_id, old_id, new_id)

        await self._sender.have_signed(old)
        await self._sender.write_both(old, new, also=also)
        return new_id

    @staticmethod
    def _add_tombstone(old: Drafts, user_id: UserId, new_id: RoomId) -> Event:
        content = {"body": "This room has been replaced.", "replacement_room": new_id}
        return old.add(Draft(_TOMBSTONE, user_id, content, state_key=""))

    def _add_create(self, new: Drafts, user_id: UserId, room: HotRoom, given: _Given, tombstone: Event | None) -> None:
        assert room.create is not None
        before = room.create.content
        # The type makes the room what it is; a room that was closed to other servers stays so.
        content: Json = {key: value for key, value in before.items() if key in ("type", "m.federate")}
        content["predecessor"] = {"room_id": room.room_id}
        if tombstone is not None:
            content["predecessor"]["event_id"] = tombstone.event_id
        if given.creators:
            content["additional_creators"] = list(given.creators)
        self._creation.add_create(new, user_id, content)


def _add_state(new: Drafts, user_id: UserId, room: HotRoom, given: _Given) -> None:
    """The state of the new room: what can be taken over from the old one."""

    def add(type_: str, content: Json, state_key: str = "") -> None:
        try:
            new.add(Draft(type_, user_id, content, state_key=state_key))
        except (BadJson, TooLarge):
            return  # What an older version let pass, and a newer one does not, stays behind.

    new.add(Draft("m.room.member", user_id, given.member, state_key=user_id))
    levels = _levels(room, user_id, given)
    # Whoever replaces the room may have less power than what is copied asks for; they have more until it is done.
    first = levels if given.version.creators_have_infinite_power else _with_most_power(levels, user_id)
    new.add(Draft(_POWER, user_id, first, state_key=""))
    for type_ in _COPIED:
        if (event := room.state.get((type_, ""))) is not None:
            add(type_, _join_rules(event.content, given.version) if type_ == "m.room.join_rules" else event.content)
    for state_key, event in room.state.list_of("m.space.child").items():
        if event.content.get("via"):
            add("m.space.child", event.content, state_key)
    canonical = _moved_names(room, given)
    if canonical:
        add(_CANONICAL, canonical)
    if first != levels:
        new.add(Draft(_POWER, user_id, levels, state_key=""))


def _restrict(old: Drafts, user_id: UserId, given: _Given) -> None:
    """Take the names from the old room, and from most of its members the word, as far as the user may."""
    event = old.state(_CANONICAL)
    if event is not None:
        content = without_aliases(event.content, given.moving)
        if content != event.content:
            _try(old, Draft(_CANONICAL, user_id, content, state_key=""))
    event = old.state(_POWER)
    if event is not None:
        levels = event.content
        least = max(50, _level(levels.get("users_default"), 0) + 1)
        raised = {name: least for name in ("events_default", "invite") if _level(levels.get(name), 0) < least}
        if raised:
            _try(old, Draft(_POWER, user_id, {**levels, **raised}, state_key=""))


def _try(drafts: Drafts, draft: Draft) -> None:
    try:
        drafts.add(draft)
    except RequestError:
        return


def _levels(room: HotRoom, user_id: UserId, given: _Given) -> Json:
    """The power levels of the new room, in the form that its version demands."""
    event = room.power_levels
    levels: Json = {}
    for name, value in (event.content if event is not None else {}).items():
        if name in ("users", "events", "notifications"):
            levels[name] = {key: _level(level, 0) for key, level in _object(value).items()}
        elif name in ("users_default", "events_default", "state_default", "ban", "kick", "redact", "invite"):
            levels[name] = _level(value, 50 if name in ("state_default", "ban", "kick", "redact") else 0)
    users = {key: level for key, level in levels.get("users", {}).items() if _is_user_id(key)}
    assert room.create is not None
    if given.version.creators_have_infinite_power:
        levels["users"] = {key: level for key, level in users.items() if key not in (user_id, *given.creators)}
        events = dict(levels.get("events", {}))
        if events.get(_TOMBSTONE, 0) <= levels.get("state_default", 50):
            events.pop(_TOMBSTONE, None)
        return with_tombstone_level({**levels, "events": events})
    if event is None or room.version.creators_have_infinite_power:
        # Who stood above all levels, or had the power of the first hour, is an administrator now.
        creators = [room.create.sender, *_texts(room.create.content.get("additional_creators"))]
        if user_id in creators or event is None:
            users[user_id] = max(_ADMINISTRATOR, users.get(user_id, 0), *levels.get("events", {}).values())
    return {**levels, "users": users}


def _with_most_power(levels: Json, user_id: UserId) -> Json:
    named = [value for value in levels.values() if isinstance(value, int)]
    for name in ("users", "events", "notifications"):
        named.extend(levels.get(name, {}).values())
    return {**levels, "users": {**levels["users"], user_id: max(_ADMINISTRATOR, *named)}}


def _join_rules(content: Json, version: RoomVersion) -> Json:
    """The join rules as the version knows them: what it does not know becomes what lets in fewer."""
    rule = content.get("join_rule")
    if rule == "knock_restricted" and not version.knock_restricted:
        return {**content, "join_rule": "restricted" if version.restricted else "invite"}
    if (rule == "restricted" and not version.restricted) or (rule == "knock" and not version.knock):
        return {**content, "join_rule": "invite"}
    return content


def _moved_names(room: HotRoom, given: _Given) -> Json:
    """The canonical alias of the old room, as far as its names move along."""
    event = room.state.get((_CANONICAL, ""))
    if event is None:
        return {}
    staying = [name for name in named_aliases(event.content) if name not in given.moving]
    content = without_aliases(event.content, [RoomAlias(name) for name in staying])
    return content if named_aliases(content) else {}


def _level(value: object, default: int) -> int:
    """A level as a number; in old rooms it may be text."""
    if isinstance(value, str):
        text = value.strip()
        digits = text[1:] if text[:1] in ("+", "-") else text
        value = int(text) if digits.isascii() and digits.isdigit() and len(digits) <= len(str(_MOST)) else default
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return max(-_MOST, min(_MOST, int(value)))


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _is_user_id(text: str) -> bool:
    try:
        identifiers.user_id(text)
    except identifiers.InvalidIdentifier:
        return False
    return True


def _parse_creators(names: Sequence[str]) -> list[UserId]:
    try:
        return [identifiers.user_id(name) for name in dict.fromkeys(names)]
    except identifiers.InvalidIdentifier as error:
        raise InvalidParam(str(error)) from None


def _read_names(tx: ReadTx, room_nid: int) -> tuple[list[RoomAlias], bool]:
    moving = [alias.alias for alias in aliases.list_of_rooms(tx, [room_nid])]
    return moving, rooms.find_many(tx, [room_nid])[room_nid].is_public
