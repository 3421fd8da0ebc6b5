"""Joining, leaving, inviting and moderating (client-server API, Room membership).

Every way to a membership passes through here, also that of setting the member event as state: what the endpoints
demand beyond the authorisation rules (guests, restricted rooms, those who want no invites) holds for all of them.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from homeserver.errors import Conflict, Forbidden, GuestForbidden, InvalidParam, NotFound, RequestError, Unsupported
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import EventId, RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.power import may_act
from homeserver.services.rooms.send import Build, Sender, is_local
from homeserver.services.rooms.succession import Succession
from homeserver.storage import account_data, members, profiles, rooms, users
from homeserver.storage.account_data import GLOBAL
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent

MOST_INVITEES = 1000
_AT_ONCE = 50
_FROM_PROFILE = ("displayname", "avatar_url")
_AUTHORISED = "join_authorised_via_users_server"
_NOT_KEPT = {*_FROM_PROFILE, _AUTHORISED, "reason"}
_INVITE_PERMISSION = "m.invite_permission_config"
_RESTRICTED = ("restricted", "knock_restricted")

Json = dict[str, Any]


class Members:
    """Changes of membership."""

    def __init__(self, database: Database, sender: Sender, succession: Succession, server_name: str) -> None:
        self._database = database
        self._sender = sender
        self._succession = succession
        self._server_name = server_name

    async def join(self, who: Requester, room_id: RoomId, *, reason: str | None = None) -> None:
        """Join, if the join rule, an invite or a condition of the restricted rules lets the user in."""
        await self._join(who, room_id, await self.own_content(who.user_id, "join", reason), again=False)

    async def knock(self, who: Requester, room_id: RoomId, *, reason: str | None = None) -> None:
        """Ask to be let in; nothing happens if the user has asked already."""
        content = await self.own_content(who.user_id, "knock", reason)

        def build(drafts: Drafts) -> None:
            if drafts.room.membership_of(who.user_id) != "knock":
                drafts.add(Draft("m.room.member", who.user_id, content, state_key=who.user_id))

        await self._sender.change(room_id, build)

    async def leave(self, user_id: UserId, room_id: RoomId, *, reason: str | None = None) -> None:
        """Leave, reject an invite or take back a knock; nothing happens if the user has left already."""
        content = await self.own_content(user_id, "leave", reason)

        def build(drafts: Drafts) -> None:
            if drafts.state("m.room.member", user_id) is None:
                raise Forbidden("You are not in this room.")
            if drafts.room.membership_of(user_id) != "leave":
                drafts.add(Draft("m.room.member", user_id, content, state_key=user_id))

        await self._sender.change(room_id, build)

    async def invite(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Invite a user; nothing happens if an invite is open."""
        content = (await self.invite_contents([target], reason))[target]
        await self._set(by, room_id, target, content, lambda before: before != "invite")

    async def kick(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Put a user out, withdraw an invite or turn down a knock."""

        def wanted(before: str) -> bool:
            if before in ("leave", "ban"):
                raise Unsupported("M_BAD_STATE", "The user is not in the room.", status=403)
            return True

        await self._set(by, room_id, target, _content_of("leave", {}, reason), wanted)

    async def ban(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Ban a user, who may not be in the room at all."""
        await self._set(by, room_id, target, _content_of("ban", {}, reason), lambda before: True)

    async def unban(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Lift a ban."""

        def wanted(before: str) -> bool:
            if before != "ban":
                raise Unsupported("M_BAD_STATE", "The user is not banned.", status=403)
            return True

        await self._set(by, room_id, target, _content_of("leave", {}, reason), wanted)

    async def put(self, who: Requester, room_id: RoomId, target: str, content: Json) -> EventId:
        """Set a member event as state, with the content that the client gives it."""
        user_id = _user_id(target)
        # Who may come in by a condition is for this server to say, not for whoever comes.
        content = {key: value for key, value in content.items() if key != _AUTHORISED}
        if content.get("membership") == "join" and user_id == who.user_id:
            stored = await self._join(who, room_id, content, again=True)
        else:
            if content.get("membership") == "invite":
                await self.invite_contents([user_id])
            stored = await self._sender.change(room_id, _one(Draft("m.room.member", who.user_id, content, user_id)))
        return stored[0].event_id

    async def forget(self, who: Requester, room_id: RoomId) -> None:
        """Forget a room that the user has left. Raises `M_UNKNOWN` while the user is in it."""
        room_nid = await self._sender.nid_of(room_id)
        if not await self._database.write(members.forget, room_nid, who.user_id):
            raise Unsupported("M_UNKNOWN", "Leave the room before you forget it.")

    async def joined_rooms(self, user_id: UserId) -> list[RoomId]:
        """The rooms that the user is in."""
        return await self._database.read(_rooms_of, user_id, ["join"])

    async def own_content(self, user_id: UserId, membership: str, reason: str | None = None) -> Json:
        """The content of a member event of a user of this server."""
        profile = (await self._database.read(profiles.find_many, [user_id])).get(user_id, {})
        return _content_of(membership, profile, reason)

    async def invite_contents(
        self, targets: Iterable[str], reason: str | None = None, *, is_direct: bool = False
    ) -> dict[UserId, Json]:
        """The contents of the member events that invite these users.

        Raises `InvalidParam`, `NotFound`, `Forbidden` or `M_INVITE_BLOCKED` for those who cannot be invited.
        """
        checked = [_user_id(target) for target in dict.fromkeys(targets)]
        if len(checked) > MOST_INVITEES:
            raise InvalidParam(f"At most {MOST_INVITEES} users can be invited at once.")
        if not all(is_local(target, self._server_name) for target in checked):
            raise Forbidden("This server cannot invite users of other servers yet.")
        found = await self._database.read(_find_invitees, checked) if checked else {}
        more = {"is_direct": True} if is_direct else {}
        return {target: {**_content_of("invite", found[target], reason), **more} for target in checked}

    async def put_out_guests(self, room_id: RoomId) -> None:
        """Let all guests of this server leave the room, if guests may not be in it (any longer)."""
        contents = await self.guest_leaves(room_id)
        await self._sender.change(room_id, lambda drafts: add_guest_leaves(drafts, contents))

    async def guest_leaves(self, room_id: RoomId) -> dict[UserId, Json]:
        """The contents of the member events by which guests of this server would leave the room."""
        room = await self._sender.room(room_id)
        local = [user_id for user_id in room.joined if is_local(user_id, self._server_name)]
        guests = await self._database.read(_find_guests, local)
        return {user_id: _content_of("leave", profile, None) for user_id, profile in guests.items()}

    async def follow_account(self, user_id: UserId) -> None:
        """Take the user's name and picture into the rooms where they are out of date; who is no more, leaves them."""
        account = await self._database.read(users.find, user_id)
        if account is not None and account.is_deactivated:
            await self._leave_all(user_id)
        else:
            await self._refresh_profile(user_id)

    async def _refresh_profile(self, user_id: UserId) -> None:
        fresh = await self.own_content(user_id, "join")

        def build(drafts: Drafts) -> None:
            event = drafts.state("m.room.member", user_id)
            if event is None or event.membership != "join":
                return
            content = event.content
            kept = {name: value for name, value in content.items() if name not in _NOT_KEPT}
            if any(content.get(name) != fresh.get(name) for name in _FROM_PROFILE):
                drafts.add(Draft("m.room.member", user_id, {**kept, **fresh}, state_key=user_id))

        await self._change_all(await self.joined_rooms(user_id), build)

    async def _leave_all(self, user_id: UserId) -> None:
        content = _content_of("leave", {}, None)

        def build(drafts: Drafts) -> None:
            if drafts.room.membership_of(user_id) in ("join", "invite", "knock"):
                drafts.add(Draft("m.room.member", user_id, content, state_key=user_id))

        await self._change_all(await self._database.read(_rooms_of, user_id, ["join", "invite", "knock"]), build)

    async def _change_all(self, room_ids: Sequence[RoomId], build: Build) -> None:
        """Change several rooms, some at a time; a room that refuses stays as it is."""
        waiting = list(room_ids)

        async def work() -> None:
            while waiting:
                room_id = waiting.pop()
                try:
                    await self._sender.change(room_id, build)
                except Conflict:
                    waiting.append(room_id)  # It is busy; its turn comes again.
                except RequestError:
                    continue  # A room may forbid what all others allow.

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_AT_ONCE, len(waiting))):
                tasks.create_task(work())

    async def _join(self, who: Requester, room_id: RoomId, content: Json, *, again: bool) -> list[StoredEvent]:
        """Write a join; `again` also for somebody who is in the room."""
        user_id = who.user_id
        in_rooms = await self._conditions_met(room_id, user_id)
        room = await self._sender.room(room_id)
        inherit = await self._succession.inheritance(room, user_id)

        def build(drafts: Drafts) -> None:
            if who.is_guest and not guests_can_join(drafts):
                raise GuestForbidden("Guests may not join this room.")
            if again or drafts.room.membership_of(user_id) != "join":
                granted = self._granted(drafts, user_id, in_rooms)
                drafts.add(Draft("m.room.member", user_id, {**content, **granted}, state_key=user_id))

        return await self._sender.change(room_id, build, also=inherit)

    async def _set(
        self, by: UserId, room_id: RoomId, target: UserId, content: Json, wanted: Callable[[str], bool]
    ) -> None:
        def build(drafts: Drafts) -> None:
            if drafts.room.membership_of(by) != "join":
                raise Forbidden("You are not in this room.")
            if wanted(drafts.room.membership_of(target)):
                drafts.add(Draft("m.room.member", by, content, state_key=target))

        await self._sender.change(room_id, build)

    async def _conditions_met(self, room_id: RoomId, user_id: UserId) -> frozenset[RoomId]:
        """The rooms by which the user may meet a condition; none are looked for where there is no condition."""
        room = await self._sender.room(room_id)
        rules = room.state.get(("m.room.join_rules", ""))
        if rules is None or rules.content.get("join_rule") not in _RESTRICTED:
            return frozenset()
        return frozenset(await self.joined_rooms(user_id))

    def _granted(self, drafts: Drafts, user_id: UserId, in_rooms: frozenset[RoomId]) -> Json:
        """What a join must carry for a condition that the user meets (rooms v8, Authorization rules)."""
        rules = drafts.state("m.room.join_rules")
        content = {} if rules is None else rules.content
        if drafts.room.membership_of(user_id) in ("invite", "join") or content.get("join_rule") not in _RESTRICTED:
            return {}
        if in_rooms.isdisjoint(allowed_rooms(content)):
            raise Forbidden("You are in none of the rooms whose members may join this one.")
        return {_AUTHORISED: self._authoriser(drafts)}

    def _authoriser(self, drafts: Drafts) -> UserId:
        """A local member who could have sent an invite."""
        power_levels, create = drafts.state("m.room.power_levels"), drafts.state("m.room.create")
        assert create is not None
        for user_id in drafts.room.joined:
            if is_local(user_id, self._server_name) and may_act(user_id, "invite", power_levels, create):
                return user_id
        raise Forbidden("Nobody on this server may let new members into the room.")


def allowed_rooms(join_rules: Mapping[str, Any]) -> list[str]:
    """The rooms whose members a restricted join rule lets in."""
    allow = join_rules.get("allow")
    if join_rules.get("join_rule") not in _RESTRICTED or not isinstance(allow, list):
        return []
    return [
        entry["room_id"]
        for entry in allow
        if isinstance(entry, dict)
        and entry.get("type") == "m.room_membership"
        and isinstance(entry.get("room_id"), str)
    ]


def guests_can_join(drafts: Drafts) -> bool:
    """Whether the room lets guests in."""
    event = drafts.state("m.room.guest_access")
    return event is not None and event.content.get("guest_access") == "can_join"


def add_guest_leaves(drafts: Drafts, contents: Mapping[UserId, Json]) -> None:
    """Let these guests leave, unless the room lets guests in."""
    if guests_can_join(drafts):
        return
    for user_id, content in contents.items():
        if user_id in drafts.room.joined:
            drafts.add(Draft("m.room.member", user_id, content, state_key=user_id))


def _one(draft: Draft) -> Build:
    def build(drafts: Drafts) -> None:
        drafts.add(draft)

    return build


def _user_id(text: str) -> UserId:
    try:
        return identifiers.user_id(text)
    except identifiers.InvalidIdentifier as error:
        raise InvalidParam(str(error)) from None


def _content_of(membership: str, profile: Json, reason: str | None) -> Json:
    content: Json = {"membership": membership}
    content.update((name, profile[name]) for name in _FROM_PROFILE if profile.get(name) is not None)
    if reason is not None:
        content["reason"] = reason
    return content


def _find_invitees(tx: ReadTx, targets: Sequence[UserId]) -> dict[UserId, Json]:
    """The profiles of users who can be invited."""
    accounts = users.find_many(tx, targets)
    if any(target not in accounts or accounts[target].is_deactivated for target in targets):
        raise NotFound("There is no such user on this server.")
    for content in account_data.find_of_users(tx, targets, GLOBAL, _INVITE_PERMISSION).values():
        if msgspec.json.decode(content).get("default_action") == "block":
            raise Unsupported("M_INVITE_BLOCKED", "The user accepts no invites.", status=403)
    found = profiles.find_many(tx, targets)
    return {target: found.get(target, {}) for target in targets}


def _find_guests(tx: ReadTx, user_ids: Sequence[UserId]) -> dict[UserId, Json]:
    guests = [user.user_id for user in users.find_many(tx, user_ids).values() if user.is_guest]
    found = profiles.find_many(tx, guests)
    return {user_id: found.get(user_id, {}) for user_id in guests}


def _rooms_of(tx: ReadTx, user_id: UserId, kinds: Sequence[str]) -> list[RoomId]:
    nids = [member.room_nid for member in members.list_of_user(tx, user_id, kinds)]
    return [room.room_id for room in rooms.find_many(tx, nids).values()]
