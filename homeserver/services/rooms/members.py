"""Joining, leaving, inviting and moderating (client-server API, Room membership).

Every way to a membership passes through here, also that of setting the member event as state: what the endpoints
demand beyond the authorisation rules (guests, restricted rooms, those who want no invites) holds for all of them.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from homeserver.errors import (
    Conflict,
    Forbidden,
    GuestForbidden,
    InvalidParam,
    NotFound,
    RequestError,
    Unavailable,
    Unsupported,
)
from homeserver.kit.concurrency import KeyedLocks
from homeserver.matrix import identifiers
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.conditions import (
    AUTHORISED,
    CannotAdmit,
    allowed_rooms,
    authoriser_of,
    find_whereabouts,
)
from homeserver.services.rooms.gaps import Gaps
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.partial import PartialRooms
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.remote_members import RemoteMembers
from homeserver.services.rooms.send import Build, Sender, is_local
from homeserver.services.rooms.spaces_elsewhere import SpacesElsewhere
from homeserver.services.rooms.stripped import stripped_state
from homeserver.services.rooms.succession import Succession
from homeserver.services.users.account_data import INVITE_PERMISSION
from homeserver.storage import account_data, members, out_of_room, profiles, rooms, users
from homeserver.storage.account_data import GLOBAL
from homeserver.storage.engine import Database, ReadTx

MOST_INVITEES = 1000
_AT_ONCE = 50
_FROM_PROFILE = ("displayname", "avatar_url")
_NO_GUESTS = "Guests may not join this room."
_NOT_KEPT = {*_FROM_PROFILE, AUTHORISED, "reason"}

Json = dict[str, Any]


class Members:
    """Changes of membership."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        inbox: Inbox,
        gaps: Gaps,
        succession: Succession,
        remote: RemoteMembers,
        known_in_part: PartialRooms,
        elsewhere: SpacesElsewhere,
        server_name: str,
    ) -> None:
        self._database = database
        self._sender = sender
        self._inbox = inbox
        self._gaps = gaps
        self._succession = succession
        self._remote = remote
        self._known_in_part = known_in_part
        self._elsewhere = elsewhere
        self._server_name = server_name
        self._coming: KeyedLocks[RoomId] = KeyedLocks()

    async def join(
        self, who: Requester, room_id: RoomId, *, via: Sequence[str] = (), reason: str | None = None
    ) -> None:
        """Join, if the join rule, an invite or a condition of the restricted rules lets the user in.

        `via` are servers that may be in the room, if this one is not.
        """
        await self._join(who, room_id, await self.own_content(who.user_id, "join", reason), via=via, again=False)

    async def knock(
        self, who: Requester, room_id: RoomId, *, via: Sequence[str] = (), reason: str | None = None
    ) -> None:
        """Ask to be let in; nothing happens if the user has asked already."""
        content = await self.own_content(who.user_id, "knock", reason)
        if (servers := await self._ways_into(who.user_id, room_id, via)) is not None:
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
        content = {key: value for key, value in content.items() if key != AUTHORISED}
        if content.get("membership") == "join" and user_id == who.user_id:
            joined = await self._join(who, room_id, content, via=(), again=True)
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
        local = [target for target in checked if is_local(target, self._server_name)]
        # Whether others can be invited, and what they are called, is for their servers to say.
        found = await self._database.read(_find_invitees, local) if local else {}
        more = {"is_direct": True} if is_direct else {}
        return {target: {**_content_of("invite", found.get(target, {}), reason), **more} for target in checked}

    async def have_invites_signed(self, drafts: Drafts) -> None:
        """Have the invites of a room that is being made signed by the servers of whom they are for.

        Raises what the first of them that refuses has to say.
        """
        invites = {
            index: new.event
            for index, new in enumerate(drafts.events)
            if new.event.membership == "invite" and not is_local(new.event.state_key or "", self._server_name)
        }
        about = stripped_state(drafts)
        signing = [self._remote.invite(event, _with_inviter(drafts, about, event.sender)) for event in invites.values()]
        outcomes = await asyncio.gather(*signing, return_exceptions=True)
        for index, outcome in zip(invites, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            drafts.replace(index, outcome)

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
        for held in await self._database.read(out_of_room.list_of_user, user_id, ["invite", "knock"]):
            await self._remote.leave(held, content)

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

    async def _join(
        self, who: Requester, room_id: RoomId, content: Json, *, via: Sequence[str], again: bool
    ) -> EventId | None:
        """Join here or through another server; `again` also for somebody who is in the room."""
        if await self._ways_into(who.user_id, room_id, via) is not None:
            # Whoever comes second finds this server in the room.
            async with self._coming.hold(room_id):
                if (servers := await self._ways_into(who.user_id, room_id, via)) is not None:
                    return await self._join_remote(who, room_id, content, servers)
        try:
            return await self._join_here(who, room_id, content, again=again)
        except GuestForbidden:
            raise
        except CannotAdmit as error:
            refusal = Forbidden(error.message)
            room = await self._sender.room(room_id)
        except Forbidden as error:
            refusal = error
            room = await self._sender.room(room_id)
            if room.partial is None:
                raise
        # Another server may know of an invite that is not known here yet, or of the rooms that let the user in.
        others = by_power(room, but=self._server_name)
        if room.partial is not None:
            others = [ServerName(room.partial.via), *others]
        if not others:
            raise refusal
        return await self._join_by_others(who.user_id, room_id, content, [*others, *via])

    async def _join_here(self, who: Requester, room_id: RoomId, content: Json, *, again: bool) -> EventId | None:
        user_id = who.user_id
        room = await self._sender.room(room_id)
        rules = room.state.get(("m.room.join_rules", ""))
        allowed = allowed_rooms({} if rules is None else rules.content)
        whereabouts = await self._database.read(find_whereabouts, user_id, allowed, self._server_name)
        inherit = await self._succession.inheritance(room, user_id)

        def build(drafts: Drafts) -> None:
            if who.is_guest and not guests_can_join(drafts):
                raise GuestForbidden(_NO_GUESTS)
            if again or drafts.room.membership_of(user_id) != "join":
                authoriser = authoriser_of(drafts, user_id, whereabouts, self._server_name)
                granted = {} if authoriser is None else {AUTHORISED: authoriser}
                drafts.add(Draft("m.room.member", user_id, {**content, **granted}, state_key=user_id))

        stored = await self._sender.change(room_id, build, also=inherit)
        return stored[0].event_id if stored else None

    async def _join_remote(self, who: Requester, room_id: RoomId, content: Json, servers: Sequence[str]) -> EventId:
        if who.is_guest:
            await self._check_open_to_guests(room_id, servers)
        event_id = await self._remote.join(who.user_id, room_id, servers, content)
        if who.is_guest:
            # What was said of the room before may not be so.
            await self.put_out_guests(room_id)
            if (await self._sender.room(room_id)).membership_of(who.user_id) != "join":
                raise GuestForbidden(_NO_GUESTS)
        room = await self._sender.room(room_id)
        inherit = await self._succession.inheritance(room, who.user_id, has_joined=True)
        if inherit is not None and room.room_nid is not None:
            await self._database.write(inherit, room.room_nid)
        return event_id

    async def _check_open_to_guests(self, room_id: RoomId, servers: Sequence[str]) -> None:
        """Raise `GuestForbidden` unless a server in the room says that guests may join it."""
        if not self._elsewhere.is_known(room_id):
            names = [ServerName(server) for server in dict.fromkeys(servers) if identifiers.is_server_name(server)]
            await self._elsewhere.ask({room_id: [name for name in names if name != self._server_name]})
        found = self._elsewhere.find(room_id)
        if found is None or not found.room.guest_can_join:
            raise GuestForbidden(_NO_GUESTS)

    async def _join_by_others(self, user_id: UserId, room_id: RoomId, content: Json, servers: Sequence[str]) -> EventId:
        """Have a server let the user in which is in the room, as this one is, and knows more or may do more."""
        event, stands_on = await self._remote.propose_join(user_id, room_id, servers, content)
        await self._inbox.receive_outliers(room_id, stands_on)
        return await self._receive(room_id, event)

    async def _ways_into(self, user_id: UserId, room_id: RoomId, via: Sequence[str]) -> list[str] | None:
        """The servers to ask about a room that this server is not in; None if there is nothing to ask."""
        try:
            room = await self._sender.room(room_id)
        except NotFound:
            known: list[ServerName] = []
        else:
            known = by_power(room, but=self._server_name)
            # A room that everybody has left is what it was when this server left it.
            if self._server_name in room.servers or not (known or set(via) - {self._server_name}):
                return None
        held = await self._database.read(out_of_room.find, user_id, room_id)
        others = [server for server in via if server != self._server_name]
        return [*(() if held is None else held.servers), *others, *known, domain_of(room_id)]

    async def _invite_remote(
        self, by: UserId, room_id: RoomId, target: UserId, content: Json, *, again: bool
    ) -> EventId | None:
        """Have an invite signed by the server of whom it is for, and send it; `again` also if one is open."""

        def see(drafts: Drafts) -> tuple[Event, list[bytes]] | None:
            if drafts.room.membership_of(by) != "join":
                raise Forbidden("You are not in this room.")
            if not again and drafts.room.membership_of(target) == "invite":
                return None
            event = drafts.add(Draft("m.room.member", by, content, state_key=target))
            return event, _with_inviter(drafts, stripped_state(drafts), by)

        proposed = await self._sender.look(room_id, see)
        if proposed is None:
            return None
        # Even a server that is in the room gets its invite again, as one of all events (SS-INV-05).
        signed = await self._remote.invite(*proposed)
        return await self._receive(room_id, signed, relay_to_all_but=ServerName(self._server_name))

    async def _receive(self, room_id: RoomId, event: Event, *, relay_to_all_but: ServerName | None = None) -> EventId:
        """Take an event of ours that others have signed: the room may have gone on meanwhile."""
        [receipt] = await self._inbox.receive(room_id, [event.pdu], relay_to_all_but=relay_to_all_but)
        if receipt.outcome is Outcome.WAITING:
            # Others are ahead of us; what lies between is asked for, and the event is placed on the way.
            await self._gaps.fill(room_id, [EventId(event.event_id)])
            [receipt] = await self._inbox.receive(room_id, [event.pdu])
        if receipt.outcome is Outcome.WAITING:
            raise Unavailable("The room is not up to date here. Try again.")
        if receipt.outcome in (Outcome.REJECTED, Outcome.SOFT_FAILED, Outcome.DROPPED):
            raise Forbidden(receipt.reason or "The room does not allow this any more.")
        return EventId(event.event_id)

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


def by_power(room: HotRoom, *, but: str) -> list[ServerName]:
    """The other servers in the room, those first whose users have power in it and can let others in."""
    levels = room.power_levels
    given = {} if levels is None else levels.content.get("users")
    powerful = {domain_of(user_id) for user_id in given} if isinstance(given, dict) else set()
    if room.create is not None:
        powerful.add(domain_of(room.create.sender))
    return sorted(room.servers - {but}, key=lambda server: (server not in powerful, server))


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
    for content in account_data.find_of_users(tx, targets, GLOBAL, INVITE_PERMISSION).values():
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
