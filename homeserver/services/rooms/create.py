"""Making rooms (client-server API, Creation)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.errors import BadJson, Forbidden, InvalidParam, Unsupported
from homeserver.kit.clock import Clock
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import RoomAlias, RoomId, UserId
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Author, Draft, Drafts
from homeserver.services.rooms.directory import check_new_alias, named_aliases, parse_aliases
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.send import Sender
from homeserver.storage import aliases, rooms
from homeserver.storage.aliases import Alias
from homeserver.storage.engine import WriteTx

Json = dict[str, Any]

_MOST_STATE = 1000

_PRESETS: dict[str, dict[str, Json]] = {
    "private_chat": {
        "m.room.join_rules": {"join_rule": "invite"},
        "m.room.history_visibility": {"history_visibility": "shared"},
        "m.room.guest_access": {"guest_access": "can_join"},
    },
    "public_chat": {
        "m.room.join_rules": {"join_rule": "public"},
        "m.room.history_visibility": {"history_visibility": "shared"},
        "m.room.guest_access": {"guest_access": "forbidden"},
    },
}
_PRESETS["trusted_private_chat"] = _PRESETS["private_chat"]


@dataclass(frozen=True, slots=True)
class InitialState:
    """A piece of state that a client wants in its new room."""

    type: str
    content: Json
    state_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRoom:
    """What a client wants its new room to be. None is for what it did not say."""

    preset: str
    is_public: bool = False
    version: str | None = None
    alias_localpart: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[str] = ()
    is_direct: bool = False
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    initial_state: Sequence[InitialState] = ()
    power_levels: Mapping[str, Any] = field(default_factory=dict)


class RoomCreation:
    """Makes rooms, each in one transaction."""

    def __init__(self, clock: Clock, sender: Sender, members: Members, author: Author, *, default_version: str) -> None:
        self._clock = clock
        self._sender = sender
        self._members = members
        self._author = author
        self._default_version = default_version

    def version(self, name: str | None) -> RoomVersion:
        """The room version of this name, or the default. Raises `M_UNSUPPORTED_ROOM_VERSION`."""
        version = ROOM_VERSIONS.get(self._default_version if name is None else name)
        if version is None:
            raise Unsupported("M_UNSUPPORTED_ROOM_VERSION", "This server does not support the room version.")
        return version

    async def create(self, who: Requester, wish: NewRoom) -> RoomId:
        """Make the room. All of its first events are written together, or none."""
        version = self.version(wish.version)
        if len(wish.initial_state) > _MOST_STATE:
            raise InvalidParam(f"A room begins with at most {_MOST_STATE} pieces of state of one's own.")
        alias = None if wish.alias_localpart is None else self._alias(wish.alias_localpart)
        _check_canonical(wish.initial_state, alias)
        content = await self._members.own_content(who.user_id, "join")
        invites = await self._members.invite_contents(wish.invite, is_direct=wish.is_direct)
        await self._members.invite_contents(_invited_by_state(wish.initial_state))
        drafts = self.begin(version)
        self._create(drafts, who.user_id, wish, list(invites))
        try:
            drafts.add(Draft("m.room.member", who.user_id, content, state_key=who.user_id))
            self._add_state(drafts, who.user_id, wish, alias, list(invites))
            for user_id, invited in invites.items():
                drafts.add(Draft("m.room.member", who.user_id, invited, state_key=user_id))
        except Forbidden as error:
            raise Unsupported("M_INVALID_ROOM_STATE", f"The room cannot begin like this: {error.message}") from None

        def also(tx: WriteTx, room_nid: int) -> None:
            if alias is not None and not aliases.add(tx, Alias(alias, room_nid, who.user_id, self._clock.now())):
                raise Unsupported("M_ROOM_IN_USE", "The room alias is taken.")
            if wish.is_public:
                rooms.set_public(tx, room_nid, True)

        await self._members.have_invites_signed(drafts)
        await self._sender.write(drafts, also=also)
        return drafts.room.room_id

    def begin(self, version: RoomVersion, room_id: RoomId | None = None) -> Drafts:
        """Drafts for a new room, whose id, in the versions in which it is the server's choice, may be given."""
        if version.room_ids_are_hashes:
            room_id = RoomId("")
        return self._sender.begin(HotRoom(room_id or self._author.new_room_id(), version))

    @staticmethod
    def add_create(drafts: Drafts, creator: UserId, content: Mapping[str, Any]) -> None:
        """Add the create event; from then on the room has its id. Raises `BadJson` for a content that cannot be."""
        version = drafts.room.version
        # What the server says itself cannot be said by a client.
        content = {key: value for key, value in content.items() if key not in ("creator", "room_version")}
        content["room_version"] = version.identifier
        if version.creator_in_content:
            content["creator"] = creator
        try:
            event = drafts.add(Draft("m.room.create", creator, content, state_key=""))
        except Forbidden as error:
            raise BadJson(f"The creation content is not allowed: {error.message}") from None
        drafts.room.room_id = RoomId(event.room_id)

    def _create(self, drafts: Drafts, creator: UserId, wish: NewRoom, invitees: Sequence[UserId]) -> None:
        content = dict(wish.creation_content)
        if drafts.room.version.creators_have_infinite_power and wish.preset == "trusted_private_chat":
            given = content.get("additional_creators", [])
            if not isinstance(given, list) or not all(isinstance(user_id, str) for user_id in given):
                raise BadJson("`additional_creators` is a list of user ids.")
            content["additional_creators"] = list(dict.fromkeys([*given, *invitees]))
        self.add_create(drafts, creator, content)

    def _add_state(
        self, drafts: Drafts, creator: UserId, wish: NewRoom, alias: RoomAlias | None, invitees: Sequence[UserId]
    ) -> None:
        def add(type_: str, content: Json, state_key: str = "") -> None:
            drafts.add(Draft(type_, creator, content, state_key=state_key))

        given = {(state.type, state.state_key) for state in wish.initial_state}
        add("m.room.power_levels", _power_levels(drafts.room.version, creator, wish, invitees))
        if alias is not None:
            add("m.room.canonical_alias", {"alias": alias})
        for type_, content in _PRESETS[wish.preset].items():
            if (type_, "") not in given:
                add(type_, content)
        for state in wish.initial_state:
            add(state.type, state.content, state.state_key)
        if wish.name is not None:
            add("m.room.name", {"name": wish.name})
        if wish.topic is not None:
            text = [{"body": wish.topic, "mimetype": "text/plain"}]
            add("m.room.topic", {"topic": wish.topic, "m.topic": {"m.text": text}})

    def _alias(self, localpart: str) -> RoomAlias:
        if ":" in localpart:
            raise InvalidParam("The local part of a room alias has no colon.")
        try:
            alias = identifiers.room_alias(f"#{localpart}:{self._author.server_name}")
        except identifiers.InvalidIdentifier as error:
            raise InvalidParam(str(error)) from None
        check_new_alias(alias)
        return alias


def _power_levels(version: RoomVersion, creator: UserId, wish: NewRoom, invitees: Sequence[UserId]) -> Json:
    users: dict[str, int] = {}
    if not version.creators_have_infinite_power:
        users[creator] = 100
        if wish.preset == "trusted_private_chat":
            users.update((user_id, 100) for user_id in invitees)
    levels: Json = {
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.encryption": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": 150 if version.creators_have_infinite_power else 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 50 if wish.preset == "public_chat" else 0,
    }
    levels.update(wish.power_levels)
    return with_tombstone_level(levels) if version.creators_have_infinite_power else levels


def with_tombstone_level(levels: Json) -> Json:
    """The power levels with a level for tombstones above `state_default`, as version 12 asks for, if they have none.

    It is above what administrators have, so that only creators replace the room.
    """
    events, state_default = levels.get("events", {}), levels.get("state_default", 50)
    if not isinstance(events, dict) or "m.room.tombstone" in events or not isinstance(state_default, int):
        return levels
    return {**levels, "events": {**events, "m.room.tombstone": max(150, state_default + 1)}}


def _check_canonical(initial_state: Sequence[InitialState], alias: RoomAlias | None) -> None:
    """Raise `M_BAD_ALIAS` for aliases that cannot point to the room: it has one at most."""
    for state in initial_state:
        is_canonical = state.type == "m.room.canonical_alias" and not state.state_key
        if is_canonical and any(name != alias for name in parse_aliases(named_aliases(state.content))):
            raise Unsupported("M_BAD_ALIAS", "The alias does not point to this room.")


def _invited_by_state(initial_state: Sequence[InitialState]) -> list[str]:
    return [
        state.state_key
        for state in initial_state
        if state.type == "m.room.member" and state.content.get("membership") == "invite"
    ]
