"""The rooms of a space, and the spaces below it (client-server API, Spaces)."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from homeserver.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix import identifiers
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import Origin, RoomId, ServerName, domain_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.spaces_elsewhere import Child, RoomElsewhere, SpacesElsewhere, child_of
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.summaries import Summaries, Summary, Viewer
from homeserver.storage import events, members, rooms
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.rooms import Room

DEFAULT_LIMIT = 50
MOST_ROOMS = 100
DEEPEST = 20
_MOST_IN_ALL = 2000
_ASKED_AT_ONCE = 10
_PATIENCE_S = 20.0
"""So long others are asked for the rooms of one page. What was found is kept, so the next time one sees further."""
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
    """A room that the viewer may see, and the children that it names, in their order."""

    shown: Json
    children: Sequence[Child]
    room_nid: int | None = None
    """Of a room that this server is in."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """What is known of a tree, and the rooms of which others may know, with the servers to ask."""

    found: Mapping[RoomId, _Found]
    unknown: Mapping[RoomId, Sequence[ServerName]]
    order: Sequence[RoomId]
    """Of both, depth first."""
    joined: Mapping[int, int]


class Hierarchy:
    """Walks through spaces: as this server knows their rooms, and where it does not, as others do."""

    def __init__(
        self, database: Database, trees: StateTrees, summaries: Summaries, elsewhere: SpacesElsewhere, server_name: str
    ) -> None:
        self._database = database
        self._trees = trees
        self._summaries = summaries
        self._elsewhere = elsewhere
        self._server_name = ServerName(server_name)

    async def page(self, who: Requester, room_id: RoomId, view: View, start: str | None) -> Json:
        """A page of the tree, depth first. Raises `Forbidden` where the user may not see the room at its root."""
        offset = 0 if start is None else _offset(start, view)
        tree = await self._database.snapshot(self._tree, who, room_id, view)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                # Only what stands on the page has to be known, and what stands before it.
                while missing := [one for one in tree.order[: offset + view.limit] if one in tree.unknown]:
                    await self._elsewhere.ask({one: tree.unknown[one] for one in missing[:_ASKED_AT_ONCE]})
                    tree = await self._database.snapshot(self._tree, who, room_id, view)
        if room_id not in tree.found:
            raise Forbidden("You may not see this room.")
        order = [one for one in tree.order if one in tree.found]
        shown = order[offset : offset + view.limit]
        answer: Json = {"rooms": [_entry(tree.found[one], tree.joined) for one in shown]}
        if offset + view.limit < len(order):
            answer["next_batch"] = _token(offset + view.limit, view)
        return answer

    async def for_server(self, origin: Origin, room_id: RoomId, *, suggested_only: bool) -> Json:
        """A room and its children, as this server knows them, as far as another server could get into them.

        Raises `NotFound`, too, where it could not get into the room itself.
        """
        return await self._database.snapshot(self._for_server, origin, room_id, suggested_only)

    def _for_server(self, tx: ReadTx, origin: Origin, room_id: RoomId, suggested_only: bool) -> Json:
        view = View(suggested_only, MOST_ROOMS, 1)
        known = self._here(tx, [room_id])
        if room_id not in known:
            raise NotFound("There is no such room, or your server could not get into it.")
        room = known[room_id]
        summary = self._summaries.read(tx, [room])[room.room_nid]
        children = self._children(tx, [room], view)[room_id] if _is_space(summary) else []
        below = self._here(tx, [child.room_id for child in islice(children, _MOST_IN_ALL)])
        everything = [room, *below.values()]
        summaries = self._summaries.read(tx, everything)
        viewer = self._summaries.viewing_server(tx, origin, everything)
        if not viewer.may_see(room, summary):
            raise NotFound("There is no such room, or your server could not get into it.")
        joined = members.count_joined(tx, [one.room_nid for one in everything])

        def shown(one: Room) -> Json:
            return summaries[one.room_nid].full_json(one, joined.get(one.room_nid, 0))

        seen = {one.room_id for one in below.values() if viewer.may_see(one, summaries[one.room_nid])}
        return {
            "room": {**shown(room), "children_state": [child.shown for child in children]},
            "children": [shown(one) for one_id, one in below.items() if one_id in seen],
            "inaccessible_children": [one_id for one_id in below if one_id not in seen],
        }

    def _tree(self, tx: ReadTx, who: Requester, root: RoomId, view: View) -> _Tree:
        """What may be seen of the tree, read level by level."""
        viewer = self._summaries.viewer(tx, who.user_id)
        found: dict[RoomId, _Found] = {}
        unknown: dict[RoomId, Sequence[ServerName]] = {}
        # What spaces elsewhere tell of the rooms in them, and the servers by which rooms can be reached.
        told: dict[RoomId, RoomElsewhere | None] = {}
        via: dict[RoomId, list[ServerName]] = {root: _server_of(root)}
        level = [root]
        for _ in range(view.max_depth + 1):
            here = self._here(tx, level)
            found |= self._found_here(tx, viewer, list(here.values()), view)
            for room_id in level:
                if room_id not in here:
                    servers = [one for one in via.get(room_id, ()) if one != self._server_name]
                    self._look_elsewhere(viewer, room_id, servers, view, found, unknown, told)
            below: dict[RoomId, None] = {}
            for room_id in level:
                for child in found[room_id].children if room_id in found else ():
                    via.setdefault(child.room_id, []).extend(child.via)
                    if child.room_id not in found and child.room_id not in unknown:
                        below[child.room_id] = None
            level = list(islice(below, _MOST_IN_ALL - len(found)))
            if not level:
                break
        order = _depth_first(found, unknown, root, view.max_depth)
        nids = [one.room_nid for one in found.values() if one.room_nid is not None]
        return _Tree(found, unknown, order, members.count_joined(tx, nids))

    def _here(self, tx: ReadTx, room_ids: Sequence[RoomId]) -> dict[RoomId, Room]:
        """Those of the rooms which users of this server are in: of others it may have heard once."""
        known = rooms.find_many_by_id(tx, room_ids)
        nids = [room.room_nid for room in known.values()]
        here = members.find_rooms_of_server(tx, nids, self._server_name, ["join"]) if nids else set()
        return {room_id: known[room_id] for room_id in room_ids if room_id in known and known[room_id].room_nid in here}

    def _found_here(self, tx: ReadTx, viewer: Viewer, here: Sequence[Room], view: View) -> dict[RoomId, _Found]:
        summaries = self._summaries.read(tx, here)
        seen = [room for room in here if viewer.may_see(room, summaries[room.room_nid])]
        children = self._children(tx, [room for room in seen if _is_space(summaries[room.room_nid])], view)
        return {
            room.room_id: _Found(
                summaries[room.room_nid].full_json(room, 0), children.get(room.room_id, []), room.room_nid
            )
            for room in seen
        }

    def _look_elsewhere(
        self,
        viewer: Viewer,
        room_id: RoomId,
        servers: Sequence[ServerName],
        view: View,
        found: dict[RoomId, _Found],
        unknown: dict[RoomId, Sequence[ServerName]],
        told: dict[RoomId, RoomElsewhere | None],
    ) -> None:
        """Find a room that this server is not in among what others told, or note that they are to be asked."""
        is_known = self._elsewhere.is_known(room_id, servers)
        space = self._elsewhere.find(room_id) if is_known else None
        room = space.room if space is not None else told.get(room_id)
        # The space that a room is in tells enough of it, unless that is a space itself.
        is_told = room_id in told and (room is None or room.room_type != "m.space")
        if not is_known and not is_told and servers:
            unknown[room_id] = servers
            return
        if room is None or not viewer.may_see_elsewhere(room):
            return
        children = [] if space is None else [child for child in space.children if _is_wanted(child, view)]
        found[room_id] = _Found(msgspec.to_builtins(room), children)
        if space is not None:
            for one in space.inaccessible:
                told.setdefault(RoomId(one), None)
            for one_id, one_room in space.rooms.items():
                told[one_id] = one_room

    def _children(self, tx: ReadTx, spaces: Sequence[Room], view: View) -> dict[RoomId, list[Child]]:
        positions = self._trees.items_of_type(tx, [space.state_root for space in spaces], _CHILD)
        stored = events.find_many(tx, {at for of_root in positions.values() for at in of_root.values()})
        children = {}
        for space in spaces:
            named = [_child_of(parse(stored[at], space.version)) for at in positions[space.state_root].values()]
            wanted = [child for child in named if child is not None and _is_wanted(child, view)]
            children[space.room_id] = sorted(wanted, key=lambda child: child.order)
        return children


def _server_of(room_id: RoomId) -> list[ServerName]:
    domain = domain_of(room_id)
    return [ServerName(domain)] if identifiers.is_server_name(domain) else []


def _is_space(summary: Summary) -> bool:
    return summary.room_type == "m.space"


def _is_wanted(child: Child, view: View) -> bool:
    return child.is_suggested or not view.suggested_only


def _child_of(event: Event) -> Child | None:
    return child_of(
        event.content,
        state_key=event.state_key or "",
        origin_server_ts=event.origin_server_ts,
        shown=event.stripped_json()[:-1] + b',"origin_server_ts":%d}' % event.origin_server_ts,
    )


def _depth_first(
    found: Mapping[RoomId, _Found], unknown: Mapping[RoomId, Sequence[ServerName]], root: RoomId, max_depth: int
) -> list[RoomId]:
    order: dict[RoomId, None] = {}
    waiting = [(root, 0)]
    while waiting:
        room_id, depth = waiting.pop()
        if room_id in order or (room_id not in found and room_id not in unknown):
            continue
        order[room_id] = None
        if depth < max_depth and room_id in found:
            waiting.extend((child.room_id, depth + 1) for child in reversed(found[room_id].children))
    return list(order)


def _entry(found: _Found, joined: Mapping[int, int]) -> Json:
    own = {} if found.room_nid is None else {"num_joined_members": joined.get(found.room_nid, 0)}
    return {**found.shown, **own, "children_state": [child.shown for child in found.children]}


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
