"""Joining, leaving, inviting and moderating (client-server API, Room membership).

Every way to a membership passes through here, also that of setting the member event as state: what the endpoints
demand beyond the authorisation rules (guests, restricted rooms, those who want no invites) holds for all of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from homeserver.errors import (
    Conflict,
    Forbidden,
    HomeserverError,
    InvalidParam,
    LimitExceeded,
    NotFound,
    RequestError,
    Unsupported,
)
from homeserver.kit.concurrency import contained
from homeserver.kit.logs import report
from homeserver.matrix import identifiers
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.conditions import AUTHORISED
from homeserver.services.rooms.joining import Joining
from homeserver.services.rooms.member_content import FROM_PROFILE, member_content
from homeserver.services.rooms.partial import PartialRooms
from homeserver.services.rooms.remote_members import RemoteMembers
from homeserver.services.rooms.send import Build, Sender, is_local
from homeserver.services.rooms.signed_elsewhere import SignedElsewhere
from homeserver.services.rooms.stripped import stripped_state
from homeserver.services.users.account_data import INVITE_PERMISSION
from homeserver.storage import account_data, members, out_of_room, profiles, rooms, users
from homeserver.storage.account_data import GLOBAL
from homeserver.storage.engine import Database, ReadTx

MOST_INVITEES = 1000
_AT_ONCE = 50
_TRIES = 5
"""So often a room that is busy is tried again, when many are changed."""
_NOT_KEPT = {*FROM_PROFILE, AUTHORISED, "reason"}

Json = dict[str, Any]


class Members:
    """Changes of membership."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        joining: Joining,
        remote: RemoteMembers,
        signed: SignedElsewhere,
        known_in_part: PartialRooms,
        server_name: str,
    ) -> None:
        self._database = database
        self._sender = sender
        self._joining = joining
        self._remote = remote
        self._signed = signed
        self._known_in_part = known_in_part
        self._server_name = server_name

    async def join(
        self, who: Requester, room_id: RoomId, *, via: Sequence[str] = (), reason: str | None = None
    ) -> None:
        """Join, if the join rule, an invite or a condition of the restricted rules lets the user in.

        `via` are servers that may be in the room, if this one is not.
        """
        content = await self.own_content(who.user_id, "join", reason)
        await self._joining.join(who, room_id, content, via=via)

    async def knock(
        self, who: Requester, room_id: RoomId, *, via: Sequence[str] = (), reason: str | None = None
    ) -> None:
        """Ask to be let in; nothing happens if the user has asked already."""
        content = await self.own_content(who.user_id, "knock", reason)
        if (servers := await self._joining.ways_into(who.user_id, room_id, via)) is not None:
            held = await self._database.read(out_of_room.find, who.user_id, room_id)
            if held is None or held.membership != "knock":
                await self._remote.knock(who.user_id, room_id, servers, content)
            return

        def build(drafts: Drafts) -> None:
            if drafts.room.membership_of(who.user_id) != "knock":
                drafts.add(Draft("m.room.member", who.user_id, content, state_key=who.user_id))

        await self._sender.change(room_id, build)

    async def leave(self, user_id: UserId, room_id: RoomId, *, reason: str | None = None) -> None:
        """Leave, reject an invite or take back a knock; nothing happens if the user has left already."""
        content = await self.own_content(user_id, "leave", reason)
        held = await self._database.read(out_of_room.find, user_id, room_id)
        if held is not None:
            if held.membership in ("invite", "knock"):
                await self._remote.leave(held, content)
            return

        def build(drafts: Drafts) -> None:
            if drafts.state("m.room.member", user_id) is None:
                raise Forbidden("You are not in this room.")
            if drafts.room.membership_of(user_id) != "leave":
                drafts.add(Draft("m.room.member", user_id, content, state_key=user_id))

        await self._sender.change(room_id, build)

    async def invite(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Invite a user; nothing happens if an invite is open."""
        content = (await self.invite_contents([target], reason))[target]
        await self.issue(by, room_id, target, content)

    async def issue(self, by: UserId, room_id: RoomId, target: UserId, content: Json) -> None:
        """Invite, somebody who may be invited, with this content; nothing happens if an invite is open."""
        if is_local(target, self._server_name):
            await self._set(by, room_id, target, content, lambda before: before != "invite")
        else:
            await self._invite_remote(by, room_id, target, content, again=False)

    async def kick(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Put a user out, withdraw an invite or turn down a knock."""

        def wanted(before: str) -> bool:
            if before in ("leave", "ban"):
                raise Unsupported("M_BAD_STATE", "The user is not in the room.", status=403)
            return True

        await self._set(by, room_id, target, member_content("leave", {}, reason), wanted)

    async def ban(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Ban a user, who may not be in the room at all."""
        await self._set(by, room_id, target, member_content("ban", {}, reason), lambda before: True)

    async def unban(self, by: UserId, room_id: RoomId, target: UserId, *, reason: str | None = None) -> None:
        """Lift a ban."""

        def wanted(before: str) -> bool:
            if before != "ban":
                raise Unsupported("M_BAD_STATE", "The user is not banned.", status=403)
            return True

        await self._set(by, room_id, target, member_content("leave", {}, reason), wanted)

    async def put(self, who: Requester, room_id: RoomId, target: str, content: Json) -> EventId:
        """Set a member event as state, with the content that the client gives it."""
        user_id = _user_id(target)
        # Who may come in by a condition is for this server to say, not for whoever comes.
        content = {key: value for key, value in content.items() if key != AUTHORISED}
        if content.get("membership") == "join" and user_id == who.user_id:
            joined = await self._joining.join(who, room_id, content, again=True)
            assert joined is not None
            return joined
        if content.get("membership") == "invite":
            await self.invite_contents([user_id])
            if not is_local(user_id, self._server_name):
                invited = await self._invite_remote(who.user_id, room_id, user_id, content, again=True)
                assert invited is not None
                return invited
        stored = await self._sender.change(room_id, _one(Draft("m.room.member", who.user_id, content, user_id)))
        return stored[0].event_id

    async def forget(self, who: Requester, room_id: RoomId) -> None:
        """Forget a room that the user has left. Raises `M_UNKNOWN` while the user is in it."""
        if await self._database.read(out_of_room.find, who.user_id, room_id) is not None:
            if not await self._database.write(out_of_room.forget, who.user_id, room_id):
                raise Unsupported("M_UNKNOWN", "Leave the room before you forget it.")
            return
        room_nid = await self._sender.nid_of(room_id)
        if not await self._database.write(members.forget, room_nid, who.user_id):
            raise Unsupported("M_UNKNOWN", "Leave the room before you forget it.")

    async def joined_rooms(self, user_id: UserId) -> list[RoomId]:
        """The rooms that the user is in."""
        return await self._database.read(_rooms_of, user_id, ["join"])

    async def own_content(self, user_id: UserId, membership: str, reason: str | None = None) -> Json:
        """The content of a member event of a user of this server."""
        profile = (await self._database.read(profiles.find_many, [user_id])).get(user_id, {})
        return member_content(membership, profile, reason)

    async def invite_contents(
        self, targets: Iterable[str], reason: str | None = None, *, is_direct: bool = False
    ) -> dict[UserId, Json]:
        """The contents of the member events that invite these users.

        Raises `InvalidParam`, `NotFound`, `Forbidden` or `M_INVITE_BLOCKED` for those who cannot be invited.
        """
        checked = [_user_id(target) for target in dict.fromkeys(targets)]
        if len(checked) > MOST_INVITEES:
            raise InvalidParam(f"At most {MOST_INVITEES} users can be invited at once.")
        local = [target for target in checked if is_local(target, self._server_name)]
        # Whether others can be invited, and what they are called, is for their servers to say.
        found = await self._database.read(_find_invitees, local) if local else {}
        more = {"is_direct": True} if is_direct else {}
        return {target: {**member_content("invite", found.get(target, {}), reason), **more} for target in checked}

    async def have_invites_signed(self, drafts: Drafts) -> None:
        """Have the invites of a room that is being made signed by the servers of whom they are for, some at a time.

        Raises what the first of them that refuses has to say; there will be no room, so nobody is asked any more then.
        """
        invites = {
            index: new.event
            for index, new in enumerate(drafts.events)
            if new.event.membership == "invite" and not is_local(new.event.state_key or "", self._server_name)
        }
        about = stripped_state(drafts)
        waiting = deque(invites.items())
        signed: dict[int, Event] = {}
        refusals: list[HomeserverError] = []

        async def work() -> None:
            while waiting:
                index, event = waiting.popleft()
                try:
                    signed[index] = await self._remote.invite(event, _with_inviter(drafts, about, event.sender))
                except HomeserverError as error:
                    refusals.append(error)
                    waiting.clear()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_AT_ONCE, len(waiting))):
                tasks.create_task(work())
        if refusals:
            raise refusals[0]
        for index, event in signed.items():
            drafts.replace(index, event)

    async def follow_account(self, user_id: UserId) -> bool:
        """Take the user's name and picture into the rooms where they are out of date; who is no more, leaves them.

        False if some of the rooms could not be told, and may be some other time.
        """
        account = await self._database.read(users.find, user_id)
        if account is not None and account.is_deactivated:
            return await self._leave_all(user_id)
        return await self._refresh_profile(user_id)

    async def _refresh_profile(self, user_id: UserId) -> bool:
        fresh = await self.own_content(user_id, "join")

        def build(drafts: Drafts) -> None:
            event = drafts.state("m.room.member", user_id)
            if event is None or event.membership != "join":
                return
            content = event.content
            kept = {name: value for name, value in content.items() if name not in _NOT_KEPT}
            if any(content.get(name) != fresh.get(name) for name in FROM_PROFILE):
                drafts.add(Draft("m.room.member", user_id, {**kept, **fresh}, state_key=user_id))

        return await self._change_all(await self.joined_rooms(user_id), build)

    async def _leave_all(self, user_id: UserId) -> bool:
        content = member_content("leave", {})

        def build(drafts: Drafts) -> None:
            if drafts.room.membership_of(user_id) in ("join", "invite", "knock"):
                drafts.add(Draft("m.room.member", user_id, content, state_key=user_id))

        here = await self._database.read(_rooms_of, user_id, ["join", "invite", "knock"])
        have_all_heard = await self._change_all(here, build)
        for held in await self._database.read(out_of_room.list_of_user, user_id, ["invite", "knock"]):
            have_all_heard &= await contained(self._remote.leave(held, content), report)
        return have_all_heard

    async def _change_all(self, room_ids: Sequence[RoomId], build: Build) -> bool:
        """Change several rooms, some at a time; a room that refuses stays as it is.

        False if some could not be changed for another reason, such as a policy server that does not answer.
        """
        waiting = deque((room_id, _TRIES) for room_id in room_ids)
        have_all_heard = True

        def note(room_id: RoomId, tries: int, error: BaseException) -> None:
            nonlocal have_all_heard
            if isinstance(error, Conflict) and tries > 1:
                waiting.append((room_id, tries - 1))  # It is busy; its turn comes again.
            elif isinstance(error, RequestError) and not isinstance(error, (Conflict, LimitExceeded)):
                return  # A room may forbid what all others allow.
            else:
                have_all_heard = False
                if not isinstance(error, HomeserverError):
                    report(error)

        async def work() -> None:
            while waiting:
                room_id, tries = waiting.popleft()
                await contained(self._sender.change(room_id, build), partial(note, room_id, tries))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_AT_ONCE, len(waiting))):
                tasks.create_task(work())
        return have_all_heard

    async def _invite_remote(
        self, by: UserId, room_id: RoomId, target: UserId, content: Json, *, again: bool
    ) -> EventId | None:
        """Have an invite signed by the server of whom it is for, and send it; `again` also if one is open."""

        def build(drafts: Drafts) -> list[bytes]:
            if drafts.room.membership_of(by) != "join":
                raise Forbidden("You are not in this room.")
            if not again and drafts.room.membership_of(target) == "invite":
                return []
            drafts.add(Draft("m.room.member", by, content, state_key=target))
            return _with_inviter(drafts, stripped_state(drafts), by)

        proposed, about = await self._sender.propose(room_id, build)
        if not proposed:
            return None
        # Even a server that is in the room gets its invite again, as one of all events (SS-INV-05).
        signed = await self._remote.invite(proposed[0], about)
        return await self._signed.take(room_id, signed, relay_to_all_but=ServerName(self._server_name))

    async def _set(
        self, by: UserId, room_id: RoomId, target: UserId, content: Json, wanted: Callable[[str], bool]
    ) -> None:
        def build(drafts: Drafts) -> None:
            if drafts.room.membership_of(by) != "join":
                raise Forbidden("You are not in this room.")
            if wanted(drafts.room.membership_of(target)):
                drafts.add(Draft("m.room.member", by, content, state_key=target))

        await self._known_in_part.until_known(await self._sender.room(room_id), target)
        await self._sender.change(room_id, build)


def _with_inviter(drafts: Drafts, about: Sequence[bytes], user_id: str) -> list[bytes]:
    """What an invited user is told of a room, and of whoever invites them."""
    inviter = drafts.state("m.room.member", user_id)
    return [*about, *([] if inviter is None else [inviter.pdu])]


def _one(draft: Draft) -> Build:
    def build(drafts: Drafts) -> None:
        drafts.add(draft)

    return build


def _user_id(text: str) -> UserId:
    try:
        return identifiers.user_id(text)
    except identifiers.InvalidIdentifier as error:
        raise InvalidParam(str(error)) from None


def _find_invitees(tx: ReadTx, targets: Sequence[UserId]) -> dict[UserId, Json]:
    """The profiles of users who can be invited."""
    accounts = users.find_many(tx, targets)
    if any(target not in accounts or accounts[target].is_deactivated for target in targets):
        raise NotFound("There is no such user on this server.")
    for content in account_data.find_of_users(tx, targets, GLOBAL, INVITE_PERMISSION).values():
        if msgspec.json.decode(content).get("default_action") == "block":
            raise Unsupported("M_INVITE_BLOCKED", "The user accepts no invites.", status=403)
    found = profiles.find_many(tx, targets)
    return {target: found.get(target, {}) for target in targets}


def _rooms_of(tx: ReadTx, user_id: UserId, kinds: Sequence[str]) -> list[RoomId]:
    nids = [member.room_nid for member in members.list_of_user(tx, user_id, kinds)]
    return [room.room_id for room in rooms.find_many(tx, nids).values()]
