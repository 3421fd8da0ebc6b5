"""One room in short, for somebody who may want to come in (client-server API, Room Summaries)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import NotFound
from homeserver.matrix.identifiers import RoomId, ServerName, domain_of, is_server_name
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.spaces_elsewhere import SpacesElsewhere
from homeserver.services.rooms.summaries import Summaries, Viewer
from homeserver.storage import members, out_of_room, rooms
from homeserver.storage.engine import Database, ReadTx

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Known:
    """What this server knows of a room, as far as the viewer may see it, and whether it is in the room itself."""

    viewer: Viewer
    shown: Json | None
    membership: str
    is_here: bool
    servers: Sequence[ServerName]
    """By which an invite has come."""


class Glances:
    """Shows rooms to those who are in them or could come in: also rooms that only other servers are in."""

    def __init__(self, database: Database, summaries: Summaries, elsewhere: SpacesElsewhere, server_name: str) -> None:
        self._database = database
        self._summaries = summaries
        self._elsewhere = elsewhere
        self._server_name = server_name

    async def find(self, who: Requester | None, room_id: RoomId, via: Sequence[str]) -> Json:
        """The room; `via` are servers that may be in it, if this one is not. Raises `NotFound`, to all others too."""
        known = await self._database.snapshot(self._known, who, room_id)
        shown = known.shown
        if not known.is_here:
            names = [*via, *known.servers, domain_of(room_id)]
            servers = [ServerName(one) for one in dict.fromkeys(names) if is_server_name(one)]
            shown = await self._find_elsewhere(known.viewer, room_id, servers) or shown
        if shown is None:
            raise NotFound("There is no such room, or you may not see it.")
        return shown if who is None else {**shown, "membership": known.membership}

    async def _find_elsewhere(self, viewer: Viewer, room_id: RoomId, servers: Sequence[ServerName]) -> Json | None:
        others = [server for server in servers if server != self._server_name]
        if others and not self._elsewhere.is_known(room_id, others):
            await self._elsewhere.ask({room_id: others})
        space = self._elsewhere.find(room_id)
        if space is None or not viewer.may_see_elsewhere(space.room):
            return None
        shown: Json = msgspec.to_builtins(space.room)
        return shown

    def _known(self, tx: ReadTx, who: Requester | None, room_id: RoomId) -> _Known:
        viewer = self._summaries.viewer(tx, None if who is None else who.user_id)
        held = None if who is None else out_of_room.find(tx, who.user_id, room_id)
        outside = "leave" if held is None else held.membership
        servers = () if held is None else held.servers
        room = rooms.find(tx, room_id)
        if room is None:
            return _Known(viewer, None, outside, False, servers)
        summary = self._summaries.read(tx, [room])[room.room_nid]
        shown = None
        if viewer.may_see(room, summary):
            shown = summary.full_json(room, members.count_joined(tx, [room.room_nid]).get(room.room_nid, 0))
        is_here = bool(members.find_rooms_of_server(tx, [room.room_nid], self._server_name, ["join"]))
        return _Known(viewer, shown, viewer.memberships.get(room.room_nid, outside), is_here, servers)
