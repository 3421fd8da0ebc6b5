"""Guests of this server, who are in a room only while it lets guests in (client-server API, Guest Access)."""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.member_content import member_content
from homeserver.services.rooms.send import Sender, is_local
from homeserver.storage import profiles, users
from homeserver.storage.engine import Database, ReadTx

Json = dict[str, Any]


class Guests:
    """Has guests leave."""

    def __init__(self, database: Database, sender: Sender, server_name: str) -> None:
        self._database = database
        self._sender = sender
        self._server_name = server_name

    async def put_out(self, room_id: RoomId) -> None:
        """Let all guests of this server leave the room, if guests may not be in it (any longer)."""
        contents = await self.leaves(room_id)
        await self._sender.change(room_id, lambda drafts: add_guest_leaves(drafts, contents))

    async def leaves(self, room_id: RoomId) -> dict[UserId, Json]:
        """The contents of the member events by which guests of this server would leave the room."""
        room = await self._sender.room(room_id)
        local = [user_id for user_id in room.joined if is_local(user_id, self._server_name)]
        guests = await self._database.read(_find_guests, local)
        return {user_id: member_content("leave", profile) for user_id, profile in guests.items()}


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


def _find_guests(tx: ReadTx, user_ids: Sequence[UserId]) -> dict[UserId, Json]:
    guests = [user.user_id for user in users.find_many(tx, user_ids).values() if user.is_guest]
    found = profiles.find_many(tx, guests)
    return {user_id: found.get(user_id, {}) for user_id in guests}
