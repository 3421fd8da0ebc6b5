"""Reading relations, threads and what is aggregated from them, and checking new ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import Unsupported
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import EventId, RoomId, UserId
from homeserver.matrix.relations import ANNOTATION, THREAD, relates_to, relation_in
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.client_events import show
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import visible
from homeserver.services.users.account_data import ignored_users
from homeserver.storage import events, relations, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.rooms import Room
from homeserver.streams.positions import RoomToken

MOST = 100
_DEPTH = 3
_MOST_RECURSIVE = 1000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationsPage:
    """Which relations a client wants, and from where on."""

    rel_type: str | None
    type: str | None
    forwards: bool
    start: RoomToken | None
    end: RoomToken | None
    limit: int
    recurse: bool


class Relations:
    """What relates to an event, and the threads of a room."""

    def __init__(self, database: Database, clock: Clock, trees: StateTrees, reader: RoomReader) -> None:
        self._database = database
        self._clock = clock
        self._trees = trees
        self._reader = reader

    async def children(self, who: Requester, room_id: RoomId, event_id: EventId, page: RelationsPage) -> Json:
        """The events that relate to one. Raises `NotFound` if that one may not be seen."""
        return await self._database.snapshot(self._children, who, room_id, event_id, page)

    async def threads(
        self, who: Requester, room_id: RoomId, *, participated: bool, start: RoomToken | None, limit: int
    ) -> Json:
        """The roots of a room's threads, the liveliest first."""
        return await self._database.snapshot(self._threads, who, room_id, participated, start, limit)

    async def check(self, user_id: UserId, room_id: RoomId, type_: str, content: bytes) -> None:
        """Refuse a relation that says the same twice (`M_DUPLICATE_ANNOTATION`), or a thread upon a relation."""
        if b"m.relates_to" in content:
            await self._database.read(_check, user_id, room_id, type_, content)

    def _children(self, tx: ReadTx, who: Requester, room_id: RoomId, event_id: EventId, page: RelationsPage) -> Json:
        room = self._reader.room(tx, room_id)
        self._reader.seen_event(tx, who, room, event_id)
        limit = min(page.limit, MOST)
        rows, depth = self._rows(tx, room, event_id, page, limit + 1)
        seen = visible(tx, self._trees, room.version, who.user_id, rows[:limit])
        ignored = ignored_users(tx, who.user_id)
        chosen = [one for one in seen if one.event.sender not in ignored]
        answer: Json = {"chunk": self._show(tx, who, room, chosen)}
        if len(rows) > limit:
            last = rows[limit - 1].position
            answer["next_batch"] = str(RoomToken(last if page.forwards else last - 1))
        if page.start is not None:
            answer["prev_batch"] = str(page.start)
        if page.recurse:
            answer["recursion_depth"] = depth
        return answer

    def _rows(
        self, tx: ReadTx, room: Room, event_id: EventId, page: RelationsPage, limit: int
    ) -> tuple[list[StoredEvent], int]:
        """The rows of a page, and how many steps from the event they were looked for."""
        lowest, highest = (page.start, page.end) if page.forwards else (page.end, page.start)
        after = 0 if lowest is None else lowest.position
        upto = stream_rows.current(tx) if highest is None else highest.position
        if not page.recurse:
            rows = relations.list_children(
                tx,
                room.room_nid,
                [event_id],
                rel_type=page.rel_type,
                type_=page.type,
                after=after,
                upto=upto,
                newest_first=not page.forwards,
                limit=limit,
            )
            return rows, 1
        found: dict[EventId, StoredEvent] = {}
        parents = [event_id]
        depth = 0
        while parents and depth < _DEPTH and len(found) < _MOST_RECURSIVE:
            step = relations.list_children(
                tx,
                room.room_nid,
                parents,
                after=0,
                upto=2**62,
                newest_first=False,
                limit=_MOST_RECURSIVE,
            )
            parents = [row.event_id for row in step if row.event_id not in found]
            found.update((row.event_id, row) for row in step)
            depth += 1
        wanted = [row for row in found.values() if after < row.position <= upto and _is_wanted(room, row, page)]
        wanted.sort(key=lambda row: row.position, reverse=not page.forwards)
        return wanted[:limit], depth

    def _threads(
        self, tx: ReadTx, who: Requester, room_id: RoomId, participated: bool, start: RoomToken | None, limit: int
    ) -> Json:
        room = self._reader.room(tx, room_id)
        self._reader.readable_root(tx, room, who.user_id)
        limit = min(limit, MOST)
        upto = stream_rows.current(tx) if start is None else start.position
        ignored = ignored_users(tx, who.user_id)
        chosen: list[relations.Thread] = []
        end = None
        while len(chosen) < limit:
            page = relations.list_threads(tx, room.room_nid, who.user_id, ignored, upto=upto, limit=limit)
            for thread in page:
                if len(chosen) < limit and (thread.participated or not participated):
                    chosen.append(thread)
                    end = thread.latest - 1
            if len(page) < limit:
                break
            upto = page[-1].latest - 1
        roots = events.find_many_by_id(tx, [thread.root_id for thread in chosen])
        rows = [roots[thread.root_id] for thread in chosen if thread.root_id in roots]
        seen = visible(tx, self._trees, room.version, who.user_id, rows)
        answer: Json = {"chunk": self._show(tx, who, room, seen)}
        if len(chosen) == limit and end is not None:
            answer["next_batch"] = str(RoomToken(end))
        return answer

    def _show(self, tx: ReadTx, who: Requester, room: Room, seen: Sequence[Any]) -> list[msgspec.Raw]:
        return show(tx, self._trees, room.version, who, seen, now=self._clock.now(), bundle=True)


def _is_wanted(room: Room, row: StoredEvent, page: RelationsPage) -> bool:
    event = parse(row, room.version)
    related = relates_to(event)
    if page.rel_type is not None and (related is None or related.rel_type != page.rel_type):
        return False
    return page.type is None or event.type == page.type


def _check(tx: ReadTx, user_id: UserId, room_id: RoomId, type_: str, content: bytes) -> None:
    related = relation_in(msgspec.json.decode(content))
    if related is None:
        return
    if (
        related.rel_type == ANNOTATION
        and related.key is not None
        and relations.is_annotated(tx, EventId(related.event_id), type_, user_id, related.key)
    ):
        raise Unsupported("M_DUPLICATE_ANNOTATION", "You have said this of the event already.")
    if related.rel_type == THREAD:
        room = rooms.find(tx, room_id)
        root = None if room is None else events.find_by_id(tx, room.room_nid, EventId(related.event_id))
        if room is not None and root is not None and relates_to(parse(root, room.version)) is not None:
            raise Unsupported("M_UNKNOWN", "A thread cannot begin at an event that relates to another.")
