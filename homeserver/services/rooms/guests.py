"""Guests of this server, who are in a room only while it lets guests in (client-server API, Guest Access)."""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.kit.concurrency import KeyedLocks, contained
from homeserver.kit.logs import report
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.rooms.author import Draft, Drafts
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.member_content import member_content
from homeserver.services.rooms.send import Sender, is_local
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, members, profiles, rooms, users
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair

Json = dict[str, Any]


GUEST_ACCESS: Pair = ("m.room.guest_access", "")
_AT_ONCE = 200


class Guests:
    """Has guests leave."""

    def __init__(self, database: Database, sender: Sender, trees: StateTrees, server_name: str) -> None:
        self._database = database
        self._sender = sender
        self._trees = trees
        self._server_name = server_name
        self._leaving: KeyedLocks[RoomId] = KeyedLocks()

    async def put_out_everywhere(self) -> None:
        """Let guests leave all rooms that they may not be in, whoever said so; what one room says is its own matter."""
        after = 0
        while found := await self._database.snapshot(self._find_closed, after):
            after = max(found)
            for room_id in filter(None, found.values()):
                await contained(self.put_out(room_id), report)

    def _find_closed(self, tx: ReadTx, after: int) -> dict[int, RoomId | None]:
        """Some of the rooms in which guests are, behind a number; None in the place of those that let guests in."""
        known = rooms.find_many(tx, members.list_rooms_of_guests(tx, after=after, limit=_AT_ONCE))
        roots = {nid: room.state_root for nid, room in known.items()}
        states = self._trees.find_many(tx, roots.values(), [GUEST_ACCESS])
        places = {nid: states[root][GUEST_ACCESS] for nid, root in roots.items() if GUEST_ACCESS in states[root]}
        stored = events.find_many(tx, places.values())
        open_ = {nid for nid, at in places.items() if _lets_guests_in(parse(stored[at], known[nid].version))}
        return {nid: None if nid in open_ else room.room_id for nid, room in known.items()}

    async def put_out(self, room_id: RoomId) -> None:
        """Let all guests of this server leave the room, if guests may not be in it (any longer)."""
        # Whoever comes second goes on when they have left, not when they are about to.
        async with self._leaving.hold(room_id):
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
    event = drafts.state(*GUEST_ACCESS)
    return event is not None and _lets_guests_in(event)


def _lets_guests_in(event: Event) -> bool:
    return event.content.get("guest_access") == "can_join"


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
