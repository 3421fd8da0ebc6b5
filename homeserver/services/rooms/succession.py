"""What a user takes along from a room to the one that replaces it (client-server API, Room Upgrades)."""

from collections.abc import Callable
from typing import Any

import msgspec

from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.users import account_data as user_data
from homeserver.services.users import push_rules
from homeserver.storage import account_data, events, members, rooms
from homeserver.storage.account_data import GLOBAL
from homeserver.storage.engine import Database, ReadTx, WriteTx

_DIRECT = "m.direct"
_TAGS = "m.tag"
_TOMBSTONE = ("m.room.tombstone", "")

Inherit = Callable[[WriteTx, int], None]
"""Takes the settings along, in the transaction of the join."""


class Succession:
    """Which rooms follow which, and what their members keep."""

    def __init__(self, database: Database, trees: StateTrees) -> None:
        self._database = database
        self._trees = trees

    async def inheritance(self, room: HotRoom, user_id: UserId, *, has_joined: bool = False) -> Inherit | None:
        """What to do when the user joins, or has joined; None unless the room replaces one that they have been in.

        Both rooms must name each other, lest anybody's room should claim to follow any other.
        """
        old_id = predecessor_of(room)
        if old_id is None or (room.membership_of(user_id) == "join" and not has_joined):
            return None
        if not await self._database.snapshot(self._is_replaced, old_id, room.room_id, user_id):
            return None
        return lambda tx, room_nid: inherit(tx, user_id, old_id, room.room_id)

    def _is_replaced(self, tx: ReadTx, old_id: RoomId, new_id: RoomId, user_id: UserId) -> bool:
        old = rooms.find(tx, old_id)
        member = None if old is None else members.find(tx, old.room_nid, user_id)
        if old is None or member is None or member.membership not in ("join", "leave"):
            return False
        position = self._trees.find(tx, old.state_root, [_TOMBSTONE]).get(_TOMBSTONE)
        if position is None:
            return False
        tombstone = parse(events.find_many(tx, [position])[position], old.version)
        return bool(tombstone.content.get("replacement_room") == new_id)


def predecessor_of(room: HotRoom) -> RoomId | None:
    """The room that this one says it replaces."""
    predecessor = room.create.content.get("predecessor") if room.create is not None else None
    old_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    return RoomId(old_id) if isinstance(old_id, str) and "\0" not in old_id else None


def inherit(tx: WriteTx, user_id: UserId, old_id: RoomId, new_id: RoomId) -> None:
    """Take along tags, the mark of a direct chat and the push rule of the room; what the new room has stays."""
    tags = account_data.find(tx, user_id, old_id, _TAGS)
    if tags is not None and account_data.find(tx, user_id, new_id, _TAGS) is None:
        user_data.put(tx, user_id, new_id, _TAGS, tags)
    direct = account_data.find(tx, user_id, GLOBAL, _DIRECT)
    if direct is not None:
        before = msgspec.json.decode(direct)
        after = {partner: _with_successor(listed, old_id, new_id) for partner, listed in before.items()}
        if after != before:
            user_data.put(tx, user_id, GLOBAL, _DIRECT, msgspec.json.encode(after).decode())
    push_rules.copy_room_rule(tx, user_id, old_id, new_id)


def _with_successor(listed: Any, old_id: RoomId, new_id: RoomId) -> Any:
    if not isinstance(listed, list) or old_id not in listed or new_id in listed:
        return listed
    return [*listed, new_id]
