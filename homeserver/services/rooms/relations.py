"""Reading relations and threads, and what relations a client may not make."""

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from homeserver.errors import Unsupported
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.matrix.relations import ANNOTATION, THREAD, relates_to, relation_in
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.visibility import Onlooker, Seen
from homeserver.storage import events, members, places, relations, rooms, transactions
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.relations import Child, Summary
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
    recurse: bool | None
    """Whether relations of relations are wanted too; None where the client says nothing of it."""


class Relations:
    """What relates to an event, and the threads of a room."""

    def __init__(self, database: Database, reader: RoomReader) -> None:
        self._database = database
        self._reader = reader

    async def children(self, who: Requester, room_id: RoomId, event_id: EventId, page: RelationsPage) -> Json:
        """The events that relate to one. Raises `NotFound` if that one may not be seen."""
        return await self._database.snapshot(self._children, who, room_id, event_id, page)

    async def threads(
        self, who: Requester, room_id: RoomId, *, participated: bool, start: RoomToken | None, limit: int
    ) -> Json:
        """The roots of a room's threads, the liveliest first."""
        return await self._database.snapshot(self._threads, who, room_id, participated, start, limit)

    async def check(
        self, who: Requester, room_id: RoomId, type_: str, content: bytes, *, scope: str, txn_id: str
    ) -> None:
        """Refuse a relation that says the same twice (`M_DUPLICATE_ANNOTATION`), or a thread upon a relation.

        The repetition of a request that was carried out is not refused.
        """
        if b"m.relates_to" in content:
            await self._database.snapshot(_check, who, room_id, type_, content, scope, txn_id)

    def _children(self, tx: ReadTx, who: Requester, room_id: RoomId, event_id: EventId, page: RelationsPage) -> Json:
        eye, _ = self._reader.seen_event(tx, who, room_id, event_id)
        limit = min(page.limit, MOST)
        children, depth = _find_children(tx, eye, event_id, page, limit + 1)
        heard = [one for one in children[:limit] if one.sender not in eye.ignored]
        stored = events.find_many(tx, [one.position for one in heard])
        seen = eye.seen([stored[one.position] for one in heard])
        answer: Json = {"chunk": self._reader.show(tx, eye, who, seen)}
        if len(children) > limit:
            last = children[limit - 1].place
            answer["next_batch"] = str(RoomToken.at(last if page.forwards else last - 1))
        if page.start is not None:
            answer["prev_batch"] = str(page.start)
        if page.recurse is not None:
            answer["recursion_depth"] = depth
        return answer

    def _threads(
        self, tx: ReadTx, who: Requester, room_id: RoomId, participated: bool, start: RoomToken | None, limit: int
    ) -> Json:
        eye = self._reader.onlooker(tx, who, room_id)
        known = self._reader.readable(eye).upto
        limit = min(limit, MOST)
        chosen: list[tuple[Summary, Seen]] = []
        upto = known if start is None else min(start.upto, known)
        more = True
        while more and len(chosen) <= limit:
            page = relations.list_threads(
                tx, eye.room.room_nid, user_id=eye.user_id, ignored=eye.ignored, known=known, upto=upto, limit=limit + 1
            )
            chosen += _roots(tx, eye, page, participated=participated)
            more = len(page) > limit
            upto = page[-1].latest - 1 if page else places.FIRST
        seen = [
            # A client that puts threads together by itself would not have the event either.
            one if eye.hears(one.event) else replace(one, event=one.event.redacted())
            for _, one in chosen[:limit]
        ]
        answer: Json = {"chunk": self._reader.show(tx, eye, who, seen)}
        if len(chosen) > limit:
            answer["next_batch"] = str(RoomToken.at(chosen[limit - 1][0].latest - 1))
        return answer


def _find_children(
    tx: ReadTx, eye: Onlooker, event_id: EventId, page: RelationsPage, limit: int
) -> tuple[list[Child], int]:
    """What relates to the event on a page, and how many steps from it that was looked for."""
    lowest, highest = (page.start, page.end) if page.forwards else (page.end, page.start)
    after = places.FIRST if lowest is None else lowest.after
    upto = places.LAST if highest is None else highest.upto
    if not page.recurse:
        children = relations.list_children(
            tx,
            eye.room.room_nid,
            [event_id],
            rel_type=page.rel_type,
            type_=page.type,
            after=after,
            upto=upto,
            newest_first=not page.forwards,
            limit=limit,
        )
        return children, 1
    found: dict[EventId, Child] = {}
    parents = [event_id]
    depth = 0
    while parents and depth < _DEPTH and len(found) < _MOST_RECURSIVE:
        # What is not wanted does not lead to anything that is wanted, either.
        step = relations.list_children(
            tx,
            eye.room.room_nid,
            parents,
            rel_type=page.rel_type,
            type_=page.type,
            after=places.FIRST,
            upto=upto,
            newest_first=False,
            limit=_MOST_RECURSIVE,
        )
        parents = [child.event_id for child in step if child.event_id not in found]
        found.update((child.event_id, child) for child in step)
        depth += 1
    inside = [child for child in found.values() if after < child.place <= upto]
    inside.sort(key=lambda child: child.place, reverse=not page.forwards)
    return inside[:limit], depth


def _roots(tx: ReadTx, eye: Onlooker, threads: list[Summary], *, participated: bool) -> list[tuple[Summary, Seen]]:
    """The threads whose roots the user may see, with these; if asked for, only where the user said something."""
    stored = events.find_many_by_id(tx, [thread.parent_id for thread in threads])
    rows = [row for row in stored.values() if row.room_nid == eye.room.room_nid]
    seen = {EventId(one.event.event_id): one for one in eye.seen(rows)}
    return [
        (thread, seen[thread.parent_id])
        for thread in threads
        if thread.parent_id in seen
        and (not participated or thread.has_own or seen[thread.parent_id].event.sender == eye.user_id)
    ]


def _check(tx: ReadTx, who: Requester, room_id: RoomId, type_: str, content: bytes, scope: str, txn_id: str) -> None:
    related = relation_in(msgspec.json.decode(content))
    room = rooms.find(tx, room_id)
    if related is None or room is None or transactions.find(tx, who.user_id, who.device_id, scope, txn_id) is not None:
        return
    member = members.find(tx, room.room_nid, who.user_id)
    if member is None or member.membership != "join":
        return  # Whoever is not in the room is refused later, and learns nothing here.
    parent_id = EventId(related.event_id)
    if related.rel_type == THREAD:
        root = events.find_by_id(tx, room.room_nid, parent_id)
        if root is not None and relates_to(parse(root, room.version)) is not None:
            raise Unsupported("M_UNKNOWN", "A thread cannot begin at an event that relates to another.")
    elif (
        related.rel_type == ANNOTATION
        and related.key is not None
        and relations.is_annotated(tx, room.room_nid, parent_id, type_=type_, sender=who.user_id, key=related.key)
    ):
        raise Unsupported("M_DUPLICATE_ANNOTATION", "You have said this of the event already.")
