"""Coming into a room: here, if this server is in it, else through one that is (client-server API, Joining rooms)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from homeserver.errors import Forbidden, GuestForbidden, NotFound
from homeserver.kit.concurrency import KeyedLocks
from homeserver.matrix import identifiers
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
from homeserver.services.rooms.guests import Guests, guests_can_join
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.remote_members import RemoteMembers
from homeserver.services.rooms.send import Sender
from homeserver.services.rooms.signed_elsewhere import SignedElsewhere
from homeserver.services.rooms.spaces_elsewhere import SpacesElsewhere
from homeserver.services.rooms.succession import Succession
from homeserver.storage import out_of_room
from homeserver.storage.engine import Database

_NO_GUESTS = "Guests may not join this room."

Json = dict[str, Any]


class Joining:
    """Lets users of this server in."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        guests: Guests,
        succession: Succession,
        remote: RemoteMembers,
        signed: SignedElsewhere,
        elsewhere: SpacesElsewhere,
        server_name: str,
    ) -> None:
        self._database = database
        self._sender = sender
        self._guests = guests
        self._succession = succession
        self._remote = remote
        self._signed = signed
        self._elsewhere = elsewhere
        self._server_name = server_name
        self._coming: KeyedLocks[RoomId] = KeyedLocks()

    async def join(
        self, who: Requester, room_id: RoomId, content: Json, *, via: Sequence[str] = (), again: bool = False
    ) -> EventId | None:
        """Join here or through another server; `again` also for somebody who is in the room."""
        if await self.ways_into(who.user_id, room_id, via) is not None:
            # Whoever comes second finds this server in the room.
            async with self._coming.hold(room_id):
                if (servers := await self.ways_into(who.user_id, room_id, via)) is not None:
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

    async def ways_into(self, user_id: UserId, room_id: RoomId, via: Sequence[str]) -> list[str] | None:
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
            await self._guests.put_out(room_id)
            if (await self._sender.room(room_id)).membership_of(who.user_id) != "join":
                raise GuestForbidden(_NO_GUESTS)
        room = await self._sender.room(room_id)
        inherit = await self._succession.inheritance(room, who.user_id, has_joined=True)
        if inherit is not None and room.room_nid is not None:
            await self._database.write(inherit, room.room_nid)
        return event_id

    async def _check_open_to_guests(self, room_id: RoomId, servers: Sequence[str]) -> None:
        """Raise `GuestForbidden` unless a server in the room says that guests may join it."""
        names = [ServerName(server) for server in dict.fromkeys(servers) if identifiers.is_server_name(server)]
        others = [name for name in names if name != self._server_name]
        if not self._elsewhere.is_known(room_id, others):
            await self._elsewhere.ask({room_id: others})
        found = self._elsewhere.find(room_id)
        if found is None or not found.room.guest_can_join:
            raise GuestForbidden(_NO_GUESTS)

    async def _join_by_others(self, user_id: UserId, room_id: RoomId, content: Json, servers: Sequence[str]) -> EventId:
        """Have a server let the user in which is in the room, as this one is, and knows more or may do more."""
        sign = partial(self._sender.sign, room_id)
        event, stands_on = await self._remote.propose_join(user_id, room_id, servers, content, sign)
        return await self._signed.take(room_id, event, stands_on=stands_on)


def by_power(room: HotRoom, *, but: str) -> list[ServerName]:
    """The other servers in the room, those first whose users have power in it and can let others in."""
    levels = room.power_levels
    given = {} if levels is None else levels.content.get("users")
    powerful = {domain_of(user_id) for user_id in given} if isinstance(given, dict) else set()
    if room.create is not None:
        powerful.add(domain_of(room.create.sender))
    return sorted(room.servers - {but}, key=lambda server: (server not in powerful, server))
