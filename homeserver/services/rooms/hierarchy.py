"""The rooms of a space, and the spaces below it (client-server API, Spaces)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import Forbidden, InvalidParam
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.summaries import Summaries, Summary, Viewer
from homeserver.storage import events, members, rooms
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.rooms import Room

DEFAULT_LIMIT = 50
MOST_ROOMS = 100
DEEPEST = 20
_MOST_IN_ALL = 2000
_LONGEST_ORDER = 50
_LONGEST_TOKEN = 30
_CHILD = "m.space.child"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """How much of the tree a client wants to see."""

    suggested_only: bool
    limit: int
    max_depth: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A room that the viewer may see, and the events that name its children, in their order."""

    room: Room
    summary: Summary
    children: list[Event]


class Hierarchy:
    """Walks through spaces, as far as this server knows their rooms."""

    def __init__(self, database: Database, trees: StateTrees, summaries: Summaries) -> None:
        self._database = database
        self._trees = trees
        self._summaries = summaries

    async def page(self, who: Requester, room_id: RoomId, view: View, start: str | None) -> Json:
        """A page of the tree, depth first. Raises `Forbidden` where the user may not see the room at its root."""
        offset = 0 if start is None else _offset(start, view)
        return await self._database.snapshot(self._page, who, room_id, view, offset)

    def _page(self, tx: ReadTx, who: Requester, room_id: RoomId, view: View, offset: int) -> Json:
        viewer = self._summaries.viewer(tx, who.user_id)
        found = self._gather(tx, viewer, room_id, view)
        if room_id not in found:
            raise Forbidden("You may not see this room.")
        order = _depth_first(found, room_id, view.max_depth)
        shown = order[offset : offset + view.limit]
        joined = members.count_joined(tx, [found[child].room.room_nid for child in shown])
        answer: Json = {"rooms": [_entry(found[child], joined) for child in shown]}
        if offset + view.limit < len(order):
            answer["next_batch"] = _token(offset + view.limit, view)
        return answer

    def _gather(self, tx: ReadTx, viewer: Viewer, room_id: RoomId, view: View) -> dict[RoomId, _Found]:
        """What may be seen of the tree, read level by level."""
        found: dict[RoomId, _Found] = {}
        level = [room_id]
        for _ in range(view.max_depth + 1):
            known = rooms.find_many_by_id(tx, level)
            summaries = self._summaries.read(tx, known.values())
            seen = [room for room in known.values() if viewer.may_see(room, summaries[room.room_nid])]
            children = self._children(tx, [room for room in seen if _is_space(summaries[room.room_nid])], view)
            for room in seen:
                found[room.room_id] = _Found(room, summaries[room.room_nid], children.get(room.room_id, []))
            below = [RoomId(child.state_key or "") for named in children.values() for child in named]
            level = [child for child in dict.fromkeys(below) if child not in found][: _MOST_IN_ALL - len(found)]
            if not level:
                break
        return found

    def _children(self, tx: ReadTx, spaces: list[Room], view: View) -> dict[RoomId, list[Event]]:
        positions = self._trees.items_of_type(tx, [space.state_root for space in spaces], _CHILD)
        stored = events.find_many(tx, {at for of_root in positions.values() for at in of_root.values()})
        children = {}
        for space in spaces:
            named = [parse(stored[at], space.version) for at in positions[space.state_root].values()]
            children[space.room_id] = sorted((child for child in named if _is_child(child, view)), key=_order)
        return children


def _is_space(summary: Summary) -> bool:
    return summary.room_type == "m.space"


def _is_child(event: Event, view: View) -> bool:
    """Whether the event makes its state key a child: it must say by which servers to reach it."""
    content = event.content
    via = content.get("via")
    if not isinstance(via, list) or not via or not all(isinstance(server, str) for server in via):
        return False
    room_id = event.state_key or ""
    if not room_id.startswith("!") or "\0" in room_id:
        return False
    return not view.suggested_only or content.get("suggested") is True


def _order(event: Event) -> tuple[bool, str, int, str]:
    """Those with a valid `order` first, by it; the others by age, then by id."""
    order = event.content.get("order")
    if not isinstance(order, str) or len(order) > _LONGEST_ORDER or not all(" " <= char <= "~" for char in order):
        order = ""
    return not order, order, event.origin_server_ts, event.state_key or ""


def _depth_first(found: dict[RoomId, _Found], root: RoomId, max_depth: int) -> list[RoomId]:
    order: dict[RoomId, None] = {}
    waiting = [(root, 0)]
    while waiting:
        room_id, depth = waiting.pop()
        if room_id in order or room_id not in found:
            continue
        order[room_id] = None
        if depth < max_depth:
            children: Iterable[Event] = reversed(found[room_id].children)
            waiting.extend((RoomId(child.state_key or ""), depth + 1) for child in children)
    return list(order)


def _entry(found: _Found, joined: dict[int, int]) -> Json:
    return {
        **found.summary.full_json(found.room, joined.get(found.room.room_nid, 0)),
        "children_state": [
            msgspec.Raw(child.stripped_json()[:-1] + b',"origin_server_ts":%d}' % child.origin_server_ts)
            for child in found.children
        ],
    }


def _token(offset: int, view: View) -> str:
    return f"h{offset}_{view.max_depth}_{int(view.suggested_only)}"


def _offset(token: str, view: View) -> int:
    """Where the page begins. The token holds what must not change from page to page."""
    offset, _, rest = token[1:].partition("_")
    if len(token) > _LONGEST_TOKEN or not (offset.isascii() and offset.isdigit()):
        raise InvalidParam("This is no token of a space.")
    if token != _token(int(offset), view) or not rest:
        raise InvalidParam("`suggested_only` and `max_depth` cannot change from page to page.")
    return int(offset)
