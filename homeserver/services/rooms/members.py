"""Joining, leaving, inviting and moderating (client-server API, Room membership)."""

from collections.abc import Callable, Sequence
from typing import Any

from homeserver.errors import Forbidden, GuestForbidden, InvalidParam, Unsupported
from homeserver.matrix import event_auth, identifiers
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.send import Draft, Drafts, Sender, is_local
from homeserver.storage import members, profiles, rooms, users
from homeserver.storage.engine import Database, ReadTx

Json = dict[str, Any]

_FROM_PROFILE = ("displayname", "avatar_url")


class Members:
    """Changes of membership."""

    def __init__(self, database: Database, sender: Sender, server_name: str) -> None:
        self._database = database
        self._sender = sender
        self._server_name = server_name

    async def join(self, who: Requester, room_id: RoomId, *, reason: str | None = None) -> None:
        """Join, if the join rule, an invite or a condition of the restricted rules lets the user in."""
        user_id = who.user_id
        room = await self._sender.room(room_id)
        content = await self.own_content(user_id, "join", reason)
        meets_condition = await self._meets_condition(room, user_id)

        def build(drafts: Drafts) -> None:
            room = drafts.room
            before = room.membership_of(user_id)
            if who.is_guest and _content(drafts, "m.room.guest_access").get("guest_access") != "can_join":
                raise GuestForbidden("Guests may not join this room.")
            if before == "join":
                return
            added = {}
            if before != "invite" and _join_rule(drafts) in ("restricted", "knock_restricted"):
                if not meets_condition:
                    raise Forbidden("You are in none of the rooms whose members may join this one.")
                added = {"join_authorised_via_users_server": self._authoriser(drafts)}
            drafts.add(Draft("m.room.member", user_id, {**content, **added}, state_key=user_id))

        await self._sender.change(room_id, build)

    async def knock(self, who: Requester, room_id: RoomId, *, reason: str | None = None) -> None:
        """Ask to be let in."""
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
        self.check_invitees([target])
        profile = (await self._database.read(profiles.find_many, [target])).get(target, {})
        await self._set(by, room_id, target, "invite", reason, lambda before: before != "invite", profile)

    async def kick(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Put a user out, or withdraw an invite."""

        def wanted(before: str) -> bool:
            if before in ("leave", "ban"):
                raise Unsupported("M_BAD_STATE", "The user is not in the room.", status=403)
            return True

        await self._set(by, room_id, target, "leave", reason, wanted)

    async def ban(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Ban a user, who may not be in the room at all."""
        await self._set(by, room_id, target, "ban", reason, lambda before: True)

    async def unban(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Lift a ban."""

        def wanted(before: str) -> bool:
            if before != "ban":
                raise Unsupported("M_BAD_STATE", "The user is not banned.", status=403)
            return True

        await self._set(by, room_id, target, "leave", reason, wanted)

    async def forget(self, who: Requester, room_id: RoomId) -> None:
        """Forget a room that the user has left. Raises `M_UNKNOWN` while the user is in it."""
        room_nid = await self._sender.nid_of(room_id)
        if not await self._database.write(members.forget, room_nid, who.user_id):
            raise Unsupported("M_UNKNOWN", "Leave the room before you forget it.")

    async def follow_account(self, user_id: UserId) -> None:
        """Take the user's name and picture into the rooms where they are out of date; who is no more, leaves them."""
        account = await self._database.read(users.find, user_id)
        if account is not None and account.is_deactivated:
            for room_id in await self._rooms_of(user_id, ["join", "invite", "knock"]):
                await self.leave(user_id, room_id)
            return
        fresh = await self.own_content(user_id, "join")

        def build(drafts: Drafts) -> None:
            event = drafts.state("m.room.member", user_id)
            if event is None or event.membership != "join":
                return
            kept = {
                key: value
                for key, value in event.content.items()
                if key not in (*_FROM_PROFILE, "join_authorised_via_users_server", "reason")
            }
            if any(event.content.get(name) != fresh.get(name) for name in _FROM_PROFILE):
                drafts.add(Draft("m.room.member", user_id, {**kept, **fresh}, state_key=user_id))

        for room_id in await self.joined_rooms(user_id):
            try:
                await self._sender.change(room_id, build)
            except Forbidden:
                continue  # A room may forbid what the profile allows.

    async def joined_rooms(self, user_id: UserId) -> list[RoomId]:
        """The rooms that the user is in."""
        return await self._rooms_of(user_id, ["join"])

    async def _rooms_of(self, user_id: UserId, kinds: list[str]) -> list[RoomId]:
        def read(tx: ReadTx) -> list[RoomId]:
            nids = [member.room_nid for member in members.list_of_user(tx, user_id, kinds)]
            return [room.room_id for room in rooms.find_many(tx, nids).values()]

        return await self._database.read(read)

    async def own_content(self, user_id: UserId, membership: str, reason: str | None = None) -> Json:
        """The content of a member event of a user of this server."""
        profile = (await self._database.read(profiles.find_many, [user_id])).get(user_id, {})
        return _member_content(membership, profile, reason)

    async def invite_contents(self, targets: Sequence[UserId], **more: Any) -> dict[UserId, Json]:
        """The contents of the member events that invite these users."""
        found = await self._database.read(profiles.find_many, targets)
        return {target: {**_member_content("invite", found.get(target, {}), None), **more} for target in targets}

    def check_invitees(self, targets: Sequence[str]) -> list[UserId]:
        """The users, each once. Raises `InvalidParam` for what is no user id."""
        checked: list[UserId] = []
        for target in dict.fromkeys(targets):
            try:
                checked.append(identifiers.user_id(target))
            except identifiers.InvalidIdentifier as error:
                raise InvalidParam(str(error)) from None
            if not is_local(target, self._server_name):
                raise Forbidden("This server cannot invite users of other servers yet.")
        return checked

    async def _set(
        self,
        by: UserId,
        room_id: RoomId,
        target: UserId,
        membership: str,
        reason: str | None,
        wanted: Callable[[str], bool],
        profile: Json | None = None,
    ) -> None:
        content = _member_content(membership, profile or {}, reason)

        def build(drafts: Drafts) -> None:
            before = drafts.room.membership_of(target)
            if drafts.room.membership_of(by) != "join":
                raise Forbidden("You are not in this room.")
            if wanted(before):
                drafts.add(Draft("m.room.member", by, content, state_key=target))

        await self._sender.change(room_id, build)

    async def _meets_condition(self, room: HotRoom, user_id: UserId) -> bool:
        """Whether the user is in one of the rooms that a restricted join rule names (rooms v8, Restricted rooms)."""
        rules = room.state.get(("m.room.join_rules", ""))
        content = rules.content if rules is not None else {}
        if content.get("join_rule") not in ("restricted", "knock_restricted"):
            return False
        allow = content.get("allow")
        named = [
            entry["room_id"]
            for entry in (allow if isinstance(allow, list) else [])
            if isinstance(entry, dict)
            and entry.get("type") == "m.room_membership"
            and isinstance(entry.get("room_id"), str)
        ]
        return bool(named) and not set(named).isdisjoint(await self.joined_rooms(user_id))

    def _authoriser(self, drafts: Drafts) -> UserId:
        """A local member who could have sent the invite."""
        power_levels, create = drafts.state("m.room.power_levels"), drafts.state("m.room.create")
        assert create is not None
        needed = event_auth.level_for_action("invite", power_levels)
        for user_id in drafts.room.joined:
            if is_local(user_id, self._server_name):
                have = event_auth.power_level_of(user_id, power_levels, create)
                if have is None or have >= needed:
                    return user_id
        raise Unsupported(
            "M_UNABLE_TO_GRANT_JOIN", "Nobody on this server may let new members into the room.", status=400
        )


def _member_content(membership: str, profile: Json, reason: str | None) -> Json:
    content: Json = {"membership": membership}
    content.update((name, profile[name]) for name in _FROM_PROFILE if profile.get(name) is not None)
    if reason is not None:
        content["reason"] = reason
    return content


def _content(drafts: Drafts, type_: str) -> Json:
    event = drafts.state(type_)
    return event.content if event is not None else {}


def _join_rule(drafts: Drafts) -> object:
    return _content(drafts, "m.room.join_rules").get("join_rule")
