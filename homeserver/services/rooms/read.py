"""Reading rooms: history, single events, state and members, each as far as the requester may see it.

Whoever is in a room sees its present; whoever has left sees it as it was then; everybody sees rooms that are
`world_readable`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import Forbidden, NotFound
from homeserver.kit.clock import Clock
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.backfill import Backfill
from homeserver.services.rooms.client_events import Form, show, show_state, show_state_events
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.partial import PartialRooms, need_all_members
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import Onlooker, Seen
from homeserver.services.users.account_data import ignored_users
from homeserver.storage import event_graph, events, members, places, rooms, stream_rows, timelines
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.rooms import Room
from homeserver.streams.positions import RoomToken

DEFAULT_LIMIT = 10
_PAGE = 100
_PAGES = 10
_NO_EVENT = "There is no such event, or you may not see it."

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of history that a client asks for, from one token towards another."""

    forwards: bool
    start: RoomToken | None
    start_text: str | None
    """The token as the client gave it: it is given back."""
    end: RoomToken | None
    filter: RoomEventFilter


@dataclass(frozen=True, slots=True)
class Readable:
    """What somebody may read of a room: its state, and its history as far as a place."""

    root: int | None
    upto: int


@dataclass(frozen=True, slots=True)
class _Page:
    """An answer, how many events it has before the point that was asked for, and which gap comes next."""

    answer: Json
    count: int
    gap: int | None
    """The place of the event before which others are missing."""
    is_near: bool = False
    """The next page comes to it."""


class RoomReader:
    """Reads rooms for a requester. Everything raises `Forbidden` or `NotFound` where the requester may not look."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        trees: StateTrees,
        known_in_part: PartialRooms,
        backfill: Backfill,
    ) -> None:
        self._database = database
        self._known_in_part = known_in_part
        self._clock = clock
        self._trees = trees
        self._backfill = backfill

    async def event(self, who: Requester, room_id: RoomId, event_id: EventId) -> msgspec.Raw:
        """One event (`GET /rooms/{roomId}/event/{eventId}`)."""
        return await self._database.snapshot(self._event, who, room_id, event_id)

    async def messages(self, who: Requester, room_id: RoomId, window: Window) -> Json:
        """A page of history (`GET /rooms/{roomId}/messages`).

        A page back ends at a gap: what is missing there comes from other servers, while the page is read if it is full,
        else before it is given. Only where that cannot be had, the page goes on beyond the gap.
        """
        limit = window.filter.limit_or(DEFAULT_LIMIT)
        page = await self._database.snapshot(self._messages, who, room_id, window, True)
        if page.gap is not None and page.count < limit:
            if await self._backfill.ensure(room_id, before=page.gap, wanted=limit):
                page = await self._database.snapshot(self._messages, who, room_id, window, True)
            if page.count == 0 and page.gap is not None:
                page = await self._database.snapshot(self._messages, who, room_id, window, False)
        if page.gap is not None and page.is_near:
            self._backfill.begin(room_id, before=page.gap, wanted=limit)
        return page.answer

    async def context(
        self, who: Requester, room_id: RoomId, event_id: EventId, limit: int, wanted: RoomEventFilter
    ) -> Json:
        """What was said around an event (`GET /rooms/{roomId}/context/{eventId}`)."""
        page = await self._database.snapshot(self._context, who, room_id, event_id, limit, wanted)
        if (
            page.gap is not None
            and page.count < limit // 2
            and await self._backfill.ensure(room_id, before=page.gap, wanted=limit)
        ):
            page = await self._database.snapshot(self._context, who, room_id, event_id, limit, wanted)
        return page.answer

    async def state(self, who: Requester, room_id: RoomId) -> list[msgspec.Raw]:
        """The whole state."""
        return await self._known_in_part.read(lambda tx: self._state(tx, who, room_id))

    async def state_event(
        self, who: Requester, room_id: RoomId, type_: str, state_key: str, *, whole: bool
    ) -> msgspec.Raw:
        """One piece of state, the whole event or its content. Raises `NotFound` if there is none."""
        return await self._known_in_part.read(lambda tx: self._state_event(tx, who, room_id, type_, state_key, whole))

    async def members(
        self, who: Requester, room_id: RoomId, at: RoomToken | None, wanted: Callable[[str], bool]
    ) -> list[msgspec.Raw]:
        """The member events of a room, now or at a token, of the memberships that are wanted."""
        return await self._known_in_part.read(lambda tx: self._members(tx, who, room_id, at, wanted))

    async def joined_members(self, who: Requester, room_id: RoomId) -> Json:
        """Names and avatars of those who are in the room; for those who are in it too."""
        return await self._known_in_part.read(lambda tx: self._joined_members(tx, who, room_id))

    def onlooker(self, tx: ReadTx, who: Requester, room_id: RoomId) -> Onlooker:
        """The requester, looking at the room. An unknown room is like one that the requester may not read."""
        room = rooms.find(tx, room_id)
        if room is None:
            raise Forbidden("You are not in this room.")
        member = members.find(tx, room.room_nid, who.user_id)
        return Onlooker(tx, self._trees, room, who.user_id, member, ignored_users(tx, who.user_id))

    def seen_event(self, tx: ReadTx, who: Requester, room_id: RoomId, event_id: EventId) -> tuple[Onlooker, Seen]:
        """The event. Raises `NotFound` whether it is not there or may not be seen."""
        try:
            eye = self.onlooker(tx, who, room_id)
        except Forbidden:
            raise NotFound(_NO_EVENT) from None
        row = events.find_by_id(tx, eye.room.room_nid, event_id)
        seen = eye.seen([row]) if row is not None else []
        if not seen:
            raise NotFound(_NO_EVENT)
        return eye, seen[0]

    def readable(self, eye: Onlooker) -> Readable:
        """What the onlooker may read: the room as it is, or as it was when the onlooker left."""
        if eye.may_read_present():
            return Readable(eye.room.state_root, places.LAST)
        if eye.member is None or eye.member.forgotten or eye.end is None:
            raise Forbidden("You are not in this room.")
        return Readable(_root_when(eye.room, eye.end), eye.end_place)

    def _event(self, tx: ReadTx, who: Requester, room_id: RoomId, event_id: EventId) -> msgspec.Raw:
        eye, seen = self.seen_event(tx, who, room_id, event_id)
        return self.show(tx, eye, who, [seen])[0]

    def _messages(self, tx: ReadTx, who: Requester, room_id: RoomId, window: Window, stops: bool) -> _Page:
        """The page, which ends at the next gap if it `stops`."""
        eye = self.onlooker(tx, who, room_id)
        # Nothing is to be seen behind the end of one's own time in the room.
        last = min(self.readable(eye).upto, places.upto(stream_rows.current(tx)))
        oldest, newest = (window.start, window.end) if window.forwards else (window.end, window.start)
        after = places.FIRST if oldest is None else oldest.after
        upto = last if newest is None else min(newest.upto, last)
        start, bound = (after, upto) if window.forwards else (upto, after)
        gap = None if window.forwards else gap_below(tx, eye.room, start, bound)
        if gap is not None and stops:
            bound = min(gap - 1, start)
        seen, end = self._page(tx, eye, window, start, bound)
        if gap is not None and stops and end is None:
            end = bound
        begun = window.start_text or str(RoomToken.at(start))
        answer: Json = {"start": begun, "chunk": self.show(tx, eye, who, seen)}
        if end is not None:
            answer["end"] = str(RoomToken.at(end))
        if window.filter.lazy_load_members and seen:
            answer["state"] = self._senders(tx, eye, seen)
        is_near = False
        if gap is not None and end is not None:
            limit = window.filter.limit_or(DEFAULT_LIMIT)
            is_near = len(_rows(tx, eye.room, forwards=False, start=end, bound=gap - 1, limit=limit)) < limit
        return _Page(answer, len(seen), gap, is_near)

    def _page(self, tx: ReadTx, eye: Onlooker, window: Window, start: int, bound: int) -> tuple[list[Seen], int | None]:
        """The events of a page, and where the next one begins, if there may be one."""
        wanted = window.filter
        limit = wanted.limit_or(DEFAULT_LIMIT)
        seen: list[Seen] = []
        if not wanted.admits_room(eye.room.room_id):
            return seen, None
        at = start
        # One more than is wanted, to know whether there is more.
        size = limit + 1 if wanted.admits_all else _PAGE
        for _ in range(_PAGES):
            rows = _rows(tx, eye.room, forwards=window.forwards, start=at, bound=bound, limit=size)
            seen += (one for one in eye.seen(rows) if eye.hears(one.event) and wanted.admits_event(one.event))
            if len(seen) > limit:
                return seen[:limit], _beyond(seen[limit - 1].stored, forwards=window.forwards)
            if len(rows) < size:
                return seen, None
            at = _beyond(rows[-1], forwards=window.forwards)
            size = _PAGE
        return seen, at

    def _context(
        self, tx: ReadTx, who: Requester, room_id: RoomId, event_id: EventId, limit: int, wanted: RoomEventFilter
    ) -> _Page:
        eye, seen = self.seen_event(tx, who, room_id, event_id)
        place = seen.stored.timeline_place
        gap = gap_below(tx, eye.room, place - 1, places.FIRST)
        oldest = places.FIRST if gap is None else min(gap, place) - 1
        before = self._around(tx, eye, wanted, limit // 2, forwards=False, start=place - 1, bound=oldest)
        after = self._around(tx, eye, wanted, limit - limit // 2, forwards=True, start=place, bound=places.LAST)
        together = [*before[::-1], seen, *after]
        root = together[-1].stored.state_after
        shown = self.show(tx, eye, who, together)
        answer = {
            "start": str(RoomToken.at(together[0].stored.timeline_place - 1)),
            "end": str(RoomToken.at(together[-1].stored.timeline_place)),
            "events_before": shown[: len(before)][::-1],
            "event": shown[len(before)],
            "events_after": shown[len(before) + 1 :],
            "state": self._context_state(tx, eye, together, root, wanted),
        }
        return _Page(answer, len(before), gap)

    def _context_state(
        self, tx: ReadTx, eye: Onlooker, seen: Sequence[Seen], root: int | None, wanted: RoomEventFilter
    ) -> list[msgspec.Raw]:
        if wanted.lazy_load_members:
            senders = [("m.room.member", user_id) for user_id in sorted({one.event.sender for one in seen})]
            positions = self._trees.find(tx, root, senders).values()
        else:
            positions = self._trees.items(tx, root).values()
        stored: Iterable[StoredEvent] = events.find_many(tx, positions).values()
        if not wanted.admits_all:
            stored = [row for row in stored if wanted.admits_event(parse(row, eye.room.version))]
        return show_state_events(tx, eye.room.version, stored, self._clock.now())

    def _around(
        self,
        tx: ReadTx,
        eye: Onlooker,
        wanted: RoomEventFilter,
        limit: int,
        *,
        forwards: bool,
        start: int,
        bound: int,
    ) -> list[Seen]:
        if limit <= 0:
            return []
        size = limit if wanted.admits_all else _PAGE
        rows = _rows(tx, eye.room, forwards=forwards, start=start, bound=bound, limit=size)
        return [one for one in eye.seen(rows) if eye.hears(one.event) and wanted.admits_event(one.event)][:limit]

    def show(self, tx: ReadTx, eye: Onlooker, who: Requester, seen: Sequence[Seen]) -> list[msgspec.Raw]:
        """The events as the requester is shown them, with what was aggregated from others."""
        return show(tx, eye, who, seen, Form(now=self._clock.now(), bundle=True))

    def _senders(self, tx: ReadTx, eye: Onlooker, seen: Sequence[Seen]) -> list[msgspec.Raw]:
        """The member events of those who speak."""
        newest = max(seen, key=lambda one: one.stored.timeline_place)
        senders = [("m.room.member", user_id) for user_id in sorted({one.event.sender for one in seen})]
        found = self._trees.find(tx, newest.stored.state_after, senders)
        return show_state(tx, eye.room.version, found.values(), now=self._clock.now())

    def _state(self, tx: ReadTx, who: Requester, room_id: RoomId) -> list[msgspec.Raw]:
        eye = self.onlooker(tx, who, room_id)
        positions = self._trees.items(tx, self.readable(eye).root).values()
        _need_all_members(tx, eye)
        return show_state(tx, eye.room.version, positions, now=self._clock.now())

    def _state_event(
        self, tx: ReadTx, who: Requester, room_id: RoomId, type_: str, state_key: str, whole: bool
    ) -> msgspec.Raw:
        eye = self.onlooker(tx, who, room_id)
        position = self._trees.find(tx, self.readable(eye).root, [(type_, state_key)]).get((type_, state_key))
        if position is None:
            if type_ == "m.room.member":
                _need_all_members(tx, eye)
            raise NotFound("The room has no such state.")
        if whole:
            return show_state(tx, eye.room.version, [position], now=self._clock.now())[0]
        return msgspec.Raw(parse(events.find_many(tx, [position])[position], eye.room.version).content_json)

    def _members(
        self,
        tx: ReadTx,
        who: Requester,
        room_id: RoomId,
        at: RoomToken | None,
        wanted: Callable[[str], bool],
    ) -> list[msgspec.Raw]:
        eye = self.onlooker(tx, who, room_id)
        readable = self.readable(eye)
        root = readable.root
        if at is not None and at.upto < readable.upto:
            rows = timelines.list_backwards(tx, eye.room.room_nid, after=places.FIRST, upto=at.upto, limit=1)
            root = _root_when(eye.room, rows[0]) if rows else None
        _need_all_members(tx, eye)
        positions = [at for (kind, _), at in self._trees.items(tx, root).items() if kind == "m.room.member"]
        stored = events.find_many(tx, positions).values()
        chosen = [row for row in stored if wanted(parse(row, eye.room.version).membership or "leave")]
        return show_state_events(tx, eye.room.version, chosen, self._clock.now())

    def _joined_members(self, tx: ReadTx, who: Requester, room_id: RoomId) -> Json:
        eye = self.onlooker(tx, who, room_id)
        if not eye.is_joined:
            raise Forbidden("You are not in this room.")
        _need_all_members(tx, eye)
        joined = {member.event: member.user_id for member in members.list_joined(tx, eye.room.room_nid)}
        shown: Json = {}
        for position, row in events.find_many(tx, joined).items():
            content = parse(row, eye.room.version).content
            profile = {"display_name": content.get("displayname"), "avatar_url": content.get("avatar_url")}
            shown[joined[position]] = {key: value for key, value in profile.items() if isinstance(value, str)}
        return shown


def gap_below(tx: ReadTx, room: Room, start: int, bound: int) -> int | None:
    """The place of the first event, from this point back, before which events are missing; None if there is none."""
    stand = _gaps(tx, room)
    behind = min((place for place in stand if place > start), default=None)
    if behind is not None and not _rows(tx, room, forwards=True, start=start, bound=behind - 1, limit=1):
        return behind
    return max((place for place in stand if bound < place <= start), default=None)


def _gaps(tx: ReadTx, room: Room) -> set[int]:
    """The places of the events before which others are missing."""
    if not room.gapped_at:
        return set()
    ends = event_graph.list_backward_extremities(tx, room.room_nid)
    return set(timelines.find_places(tx, {position for _, position in ends}).values())


def _rows(tx: ReadTx, room: Room, *, forwards: bool, start: int, bound: int, limit: int) -> list[StoredEvent]:
    if forwards:
        return timelines.list_forwards(tx, room.room_nid, after=start, upto=bound, limit=limit)
    return timelines.list_backwards(tx, room.room_nid, after=bound, upto=start, limit=limit)


def _beyond(row: StoredEvent, *, forwards: bool) -> int:
    """The place from which one reads on behind an event."""
    return row.timeline_place if forwards else row.timeline_place - 1


def _root_when(room: Room, row: StoredEvent) -> int | None:
    """The state of the room when the event had come, as far as it is known by now.

    What was told then of a room that was known in part (`room_root`) is less than that.
    """
    return row.state_after if room.arrived_at <= row.came_at < room.completed_at else row.room_root


def _need_all_members(tx: ReadTx, eye: Onlooker) -> None:
    """Raise `InPart` where somebody in the room would take a part of the members for all."""
    if eye.is_joined:
        need_all_members(tx, eye.room.room_nid)
