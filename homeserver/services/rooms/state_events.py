"""Setting state: what the server looks at before, or does along with, for the types that it acts upon."""

from typing import Any

from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.directory import Directory
from homeserver.services.rooms.guests import Guests, add_guest_leaves
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.send import Sender

Json = dict[str, Any]


class StateEvents:
    """Sets state for local users (client-server API, Sending events to a room)."""

    def __init__(self, sender: Sender, members: Members, guests: Guests, directory: Directory) -> None:
        self._sender = sender
        self._members = members
        self._guests = guests
        self._directory = directory

    async def put(
        self, who: Requester, room_id: RoomId, type_: str, state_key: str, raw: bytes, content: Json
    ) -> EventId:
        """Set a piece of state; `content` is the value of `raw`."""
        match (type_, state_key):
            case ("m.room.member", target):
                return await self._members.put(who, room_id, target, content)
            case ("m.room.guest_access", ""):
                return await self._put_guest_access(who, room_id, raw)
            case ("m.room.canonical_alias", ""):
                await self._directory.check_canonical(room_id, content)
        return await self._sender.set_state(who, room_id, type_, state_key, raw)

    async def _put_guest_access(self, who: Requester, room_id: RoomId, raw: bytes) -> EventId:
        """Set who may come in, and let guests leave at once if they may not (client-server API, Guest Access)."""
        leaves = await self._guests.leaves(room_id)

        def build(drafts: Drafts) -> None:
            drafts.add(Draft("m.room.guest_access", who.user_id, raw, state_key=""))
            add_guest_leaves(drafts, leaves)

        stored = await self._sender.change(room_id, build)
        # For those who came in while the others were looked up; nobody can any longer.
        await self._guests.put_out(room_id)
        return stored[0].event_id
