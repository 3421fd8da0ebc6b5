"""Reading rooms: history, single events, state and members, each as far as the requester may see it.

Whoever is in a room sees its present; whoever has left sees it as it was then; everybody sees rooms that are
`world_readable`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import msgspec

from homeserver.errors import Forbidden, NotFound
from homeserver.kit.clock import Clock
from homeserver.matrix.events import Event
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.identifiers import EventId, RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.client_events import show, show_state
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.stays import last_join
from homeserver.services.rooms.visibility import Seen, visible
from homeserver.storage import events, members, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.rooms import Room
from homeserver.streams.positions import RoomToken

DEFAULT_LIMIT = 10
_PAGE = 100
_PAGES = 10

Json = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of history that a client asks for, from one token towards another."""

    forwards: bool
    start: RoomToken | None
    end: RoomToken | None
    filter: RoomEventFilter


class RoomReader:
    """Reads rooms for a requester. Everything raises `Forbidden` or `NotFound` where the requester may not look."""

    def __init__(self, database: Database, clock: Clock, trees: StateTrees) -> None:
        self._database = database
        self._clock = clock
        self._trees = trees

    async def event(self, who: Requester, room_id: RoomId, event_id: EventId) -> msgspec.Raw:
        """One event (`GET /rooms/{roomId}/event/{eventId}`)."""
        return await self._database.snapshot(self._event, who, room_id, event_id)

    async def messages(self, who: Requester, room_id: RoomId, window: Window) -> Json:
        """A page of history (`GET /rooms/{roomId}/messages`)."""
        return await self._database.snapshot(self._messages, who, room_id, window)

    async def context(
        self, who: Requester, room_id: RoomId, event_id: EventId, limit: int, wanted: RoomEventFilter
    ) -> Json:
        """What was said around an event (`GET /rooms/{roomId}/context/{eventId}`)."""
        return await self._database.snapshot(self._context, who, room_id, event_id, limit, wanted)

    async def state(self, who: Requester, room_id: RoomId) -> list[msgspec.Raw]:
        """The whole state."""
        return await self._database.snapshot(self._state, who, room_id)

    async def state_event(self, who: Requester, room_id: RoomId, type_: str, state_key: str) -> Event:
        """One piece of state. Raises `NotFound` if there is none."""
        return await self._database.snapshot(self._state_event, who, room_id, type_, state_key)

    async def members(
        self, who: Requester, room_id: RoomId, at: RoomToken | None, wanted: Callable[[str], bool]
    ) -> list[msgspec.Raw]:
        """The member events of a room, now or at a token, of the memberships that are wanted."""
        return await self._database.snapshot(self._members, who, room_id, at, wanted)

    async def joined_members(self, who: Requester, room_id: RoomId) -> Json:
        """Names and avatars of those who are in the room; for those who are in it too."""
        return await self._database.snapshot(self._joined_members, who, room_id)

    async def at_time(self, who: Requester, room_id: RoomId, ts: int, *, forwards: bool) -> Event:
        """The event nearest to a time, on one side of it."""
        return await self._database.snapshot(self._at_time, who, room_id, ts, forwards)

    def room(self, tx: ReadTx, room_id: RoomId) -> Room:
        """The room. An unknown one is answered like one that the requester may not read."""
        room = rooms.find(tx, room_id)
        if room is None:
            raise Forbidden("You are not in this room.")
        return room

    def seen_event(self, tx: ReadTx, who: Requester, room: Room, event_id: EventId) -> Seen:
        """The event. Raises `NotFound` whether it is not there or may not be seen."""
        row = events.find_by_id(tx, room.room_nid, event_id)
        seen = visible(tx, self._trees, room.version, who.user_id, [row]) if row is not None else []
        if not seen:
            raise NotFound("There is no such event, or you may not see it.")
        return seen[0]

    def readable_root(self, tx: ReadTx, room: Room, user_id: UserId) -> int | None:
        """The state that the user may read: the present one, or that of when the user left."""
        member = members.find(tx, room.room_nid, user_id)
        if member is not None and member.membership == "join":
            return room.state_root
        rule = self._trees.find(tx, room.state_root, [_VISIBILITY]).get(_VISIBILITY)
        if rule is not None:
            stored = events.find_many(tx, [rule])[rule]
            if parse(stored, room.version).content.get("history_visibility") == "world_readable":
                return room.state_root
        if member is not None and member.membership in ("leave", "ban") and not member.forgotten:
            row = events.find_many(tx, [member.position])[member.position]
            if last_join(tx, room.version, row.replaces):
                return row.state_after
        raise Forbidden("You are not in this room.")

    def _event(self, tx: ReadTx, who: Requester, room_id: RoomId, event_id: EventId) -> msgspec.Raw:
        room = rooms.find(tx, room_id)
        if room is None:
            raise NotFound("There is no such event, or you may not see it.")
        seen = self.seen_event(tx, who, room, event_id)
        return self._show(tx, room, who, [seen])[0]

    def _messages(self, tx: ReadTx, who: Requester, room_id: RoomId, window: Window) -> Json:
        room = self.room(tx, room_id)
        self._check_may_look(tx, room, who.user_id)
        current = stream_rows.current(tx)
        start = window.start.position if window.start is not None else (0 if window.forwards else current)
        bound = window.end.position if window.end is not None else (current if window.forwards else 0)
        seen, end = self._page(tx, who, room, window, start, bound)
        answer: Json = {"start": str(RoomToken(start)), "chunk": self._show(tx, room, who, seen)}
        if end is not None:
            answer["end"] = str(RoomToken(end))
        if window.filter.lazy_load_members and seen:
            answer["state"] = self._senders(tx, room, seen)
        return answer

    def _page(
        self, tx: ReadTx, who: Requester, room: Room, window: Window, start: int, bound: int
    ) -> tuple[list[Seen], int | None]:
        """The events of a page, and where the next one begins, if there may be one."""
        wanted = window.filter
        limit = wanted.limit_or(DEFAULT_LIMIT)
        seen: list[Seen] = []
        if not wanted.admits_room(room.room_id):
            return seen, None
        at = start
        for _ in range(_PAGES):
            rows = _rows(tx, room, forwards=window.forwards, start=at, bound=bound, limit=_PAGE)
            for one in visible(tx, self._trees, room.version, who.user_id, rows):
                if not wanted.admits_event(one.event):
                    continue
                seen.append(one)
                if len(seen) == limit:
                    last = one.stored.position
                    at_end = len(rows) < _PAGE and rows[-1].position == last
                    return seen, None if at_end else (last if window.forwards else last - 1)
            if len(rows) < _PAGE:
                return seen, None
            at = rows[-1].position if window.forwards else rows[-1].position - 1
        return seen, at

    def _context(
        self, tx: ReadTx, who: Requester, room_id: RoomId, event_id: EventId, limit: int, wanted: RoomEventFilter
    ) -> Json:
        room = self.room(tx, room_id)
        seen = self.seen_event(tx, who, room, event_id)
        position = seen.stored.position
        current = stream_rows.current(tx)
        before = self._around(tx, who, room, wanted, limit // 2, forwards=False, start=position - 1, bound=0)
        after = self._around(tx, who, room, wanted, limit - limit // 2, forwards=True, start=position, bound=current)
        last = after[-1] if after else seen
        first = before[-1] if before else seen
        root = last.stored.state_after
        if wanted.lazy_load_members:
            state = self._senders(tx, room, [*before, seen, *after], root)
        else:
            positions = self._trees.items(tx, root).values()
            state = show_state(tx, room.version, positions, now=self._clock.now())
        return {
            "start": str(RoomToken(first.stored.position - 1)),
            "end": str(RoomToken(last.stored.position)),
            "events_before": self._show(tx, room, who, before),
            "event": self._show(tx, room, who, [seen])[0],
            "events_after": self._show(tx, room, who, after),
            "state": state,
        }

    def _around(
        self,
        tx: ReadTx,
        who: Requester,
        room: Room,
        wanted: RoomEventFilter,
        limit: int,
        *,
        forwards: bool,
        start: int,
        bound: int,
    ) -> list[Seen]:
        if limit <= 0:
            return []
        rows = _rows(tx, room, forwards=forwards, start=start, bound=bound, limit=max(limit, _PAGE))
        seen = visible(tx, self._trees, room.version, who.user_id, rows)
        return [one for one in seen if wanted.admits_event(one.event)][:limit]

    def _show(self, tx: ReadTx, room: Room, who: Requester, seen: Sequence[Seen]) -> list[msgspec.Raw]:
        return show(tx, self._trees, room.version, who, seen, now=self._clock.now(), bundle=True)

    def _senders(self, tx: ReadTx, room: Room, seen: Sequence[Seen], root: int | None = None) -> list[msgspec.Raw]:
        """The member events of those who speak."""
        users = sorted({one.event.sender for one in seen})
        newest = max(seen, key=lambda one: one.stored.position)
        found = self._trees.find(
            tx, root or newest.stored.state_after, [("m.room.member", user_id) for user_id in users]
        )
        return show_state(tx, room.version, found.values(), now=self._clock.now())

    def _state(self, tx: ReadTx, who: Requester, room_id: RoomId) -> list[msgspec.Raw]:
        room = self.room(tx, room_id)
        positions = self._trees.items(tx, self.readable_root(tx, room, who.user_id)).values()
        return show_state(tx, room.version, positions, now=self._clock.now())

    def _state_event(self, tx: ReadTx, who: Requester, room_id: RoomId, type_: str, state_key: str) -> Event:
        room = self.room(tx, room_id)
        root = self.readable_root(tx, room, who.user_id)
        position = self._trees.find(tx, root, [(type_, state_key)]).get((type_, state_key))
        if position is None:
            raise NotFound("The room has no such state.")
        return parse(events.find_many(tx, [position])[position], room.version)

    def _members(
        self,
        tx: ReadTx,
        who: Requester,
        room_id: RoomId,
        at: RoomToken | None,
        wanted: Callable[[str], bool],
    ) -> list[msgspec.Raw]:
        room = self.room(tx, room_id)
        root = self.readable_root(tx, room, who.user_id)
        if at is not None:
            rows = events.list_backwards(tx, room.room_nid, after=0, upto=at.position, limit=1)
            if rows and rows[0].position <= self._last_readable(tx, room, who.user_id):
                root = rows[0].state_after
        positions = [at for (kind, _), at in self._trees.items(tx, root).items() if kind == "m.room.member"]
        stored = events.find_many(tx, positions)
        chosen = [at for at, row in stored.items() if wanted(parse(row, room.version).membership or "leave")]
        return show_state(tx, room.version, chosen, now=self._clock.now())

    def _last_readable(self, tx: ReadTx, room: Room, user_id: UserId) -> int:
        member = members.find(tx, room.room_nid, user_id)
        return member.position if member is not None and member.membership != "join" else stream_rows.current(tx)

    def _joined_members(self, tx: ReadTx, who: Requester, room_id: RoomId) -> Json:
        room = self.room(tx, room_id)
        joined = {member.user_id: member.position for member in _joined(tx, room)}
        if who.user_id not in joined:
            raise Forbidden("You are not in this room.")
        stored = events.find_many(tx, joined.values())
        shown: Json = {}
        for user_id, position in joined.items():
            content = parse(stored[position], room.version).content
            profile = {"display_name": content.get("displayname"), "avatar_url": content.get("avatar_url")}
            shown[user_id] = {key: value for key, value in profile.items() if isinstance(value, str)}
        return shown

    def _at_time(self, tx: ReadTx, who: Requester, room_id: RoomId, ts: int, forwards: bool) -> Event:
        room = self.room(tx, room_id)
        self._check_may_look(tx, room, who.user_id)
        rows = events.list_by_time(tx, room.room_nid, ts=ts, forwards=forwards, limit=_PAGE)
        seen = visible(tx, self._trees, room.version, who.user_id, rows)
        if not seen:
            raise NotFound("There is no event on that side of the time.")
        return seen[0].event

    def _check_may_look(self, tx: ReadTx, room: Room, user_id: UserId) -> None:
        self.readable_root(tx, room, user_id)


_VISIBILITY = ("m.room.history_visibility", "")


def _rows(tx: ReadTx, room: Room, *, forwards: bool, start: int, bound: int, limit: int) -> list[StoredEvent]:
    if forwards:
        return events.list_forwards(tx, room.room_nid, after=start, upto=bound, limit=limit)
    return events.list_backwards(tx, room.room_nid, after=bound, upto=start, limit=limit)


def _joined(tx: ReadTx, room: Room) -> Collection[members.Member]:
    return [member for member in members.list_in_room(tx, room.room_nid) if member.membership == "join"]
