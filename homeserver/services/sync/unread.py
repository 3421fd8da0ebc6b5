"""Unread counts (client-server API, Receiving notifications).

Nothing is stored for them: a user's rules are tried on what was said in a room since the user read it last, when the
user syncs. What was found is kept in memory, so each event is tried once for each user, and people who never come
cost nothing. After a restart a room is looked through again from the user's last receipt on.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, UserId
from homeserver.matrix.push_rules import Outcome, Ruleset, evaluate
from homeserver.matrix.relations import THREAD, relates_to
from homeserver.services.live.receipts import MAIN, thread_of
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.redactions import find_held_back
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.stays import joined_since
from homeserver.services.users.push_rules import PushRules
from homeserver.storage import events, members, places, receipts, timelines
from homeserver.storage.engine import ReadTx
from homeserver.storage.members import Member
from homeserver.storage.receipts import UNTHREADED
from homeserver.storage.rooms import Room

_MOST = 1000
"""Of a room, the newest so many events are looked through: who has not read more has very much to read."""

_TALLIES = 100_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """An event that notifies the user."""

    position: int
    """At which it came."""
    thread: str
    highlight: bool


@dataclass(frozen=True, slots=True)
class _Tally:
    """What notifies a user in a room, as far as it was looked through."""

    upto: int
    notices: tuple[Notice, ...]
    read: Mapping[str, int]
    """How far the user has read, by thread."""


class Unread:
    """Counts what users have not read.

    Tallies never change, they are replaced, so units of work that run side by side in threads do no harm.
    """

    def __init__(self, trees: StateTrees, push_rules: PushRules) -> None:
        self._trees = trees
        self._push_rules = push_rules
        self._changing = threading.Lock()
        self._tallies: dict[tuple[UserId, int], _Tally] = {}

    def counts(self, tx: ReadTx, user_id: UserId, room: Room, member: Member, *, upto: int, by_thread: bool) -> Json:
        """`unread_notifications` and, if wanted, `unread_thread_notifications` of a room that the user is in."""
        read = _read_positions(tx, user_id, room.room_nid)
        unthreaded = read.get(UNTHREADED, 0)
        tally = self._tally(tx, user_id, room, member, read, since=unthreaded, upto=upto)
        return _shown(tally, upto=upto, by_thread=by_thread)

    def positions(self, tx: ReadTx, user_id: UserId, room: Room, member: Member, *, upto: int) -> frozenset[int]:
        """Where the events are that are counted in a room that the user is in."""
        read = _read_positions(tx, user_id, room.room_nid)
        tally = self._tally(tx, user_id, room, member, read, since=read.get(UNTHREADED, 0), upto=upto)
        return frozenset(notice.position for notice in _unread(tally, upto=upto))

    def glance(self, user_id: UserId, room: HotRoom, ruleset: Ruleset, *, upto: int, by_thread: bool) -> Json | None:
        """The same out of memory, for somebody whose receipts are as they were the last time; None if unsure."""
        assert room.room_nid is not None
        tally = self._tallies.get((user_id, room.room_nid))
        if tally is None or room.known_since > tally.upto:
            return None
        notices = list(tally.notices)
        place: Place | None = None
        for recent in room.recent:
            if not tally.upto < recent.stored.position <= upto:
                continue
            thread = _thread_at_a_glance(recent.event)
            if thread is None or recent.event.redacts is not None:
                return None
            if recent.event.sender == user_id:
                notices = [notice for notice in notices if notice.thread != thread]
                continue
            place = place or Place.of_hot(room, user_id)
            outcome = place.outcome(ruleset, recent.event)
            if outcome.notify:
                notices.append(Notice(recent.stored.position, thread, outcome.highlight))
        before, tally = tally, _Tally(max(upto, tally.upto), tuple(notices), tally.read)
        with self._changing:
            # A closer look in another thread may have found out more in the meantime.
            if self._tallies.get((user_id, room.room_nid)) is before:
                self._tallies[user_id, room.room_nid] = tally
        return _shown(tally, upto=upto, by_thread=by_thread)

    def _tally(
        self,
        tx: ReadTx,
        user_id: UserId,
        room: Room,
        member: Member,
        read: Mapping[str, int],
        *,
        since: int,
        upto: int,
    ) -> _Tally:
        known = self._tallies.get((user_id, room.room_nid))
        if known is None:
            known = _Tally(max(since, joined_since(tx, room.version, member.event) or 0), (), read)
        notices = [notice for notice in known.notices if notice.position > since]
        notices = [notice for notice in notices if notice.position >= room.purged_before]
        if known.upto < upto:
            notices = self._scan(tx, user_id, room, notices, after=max(known.upto, since), upto=upto)
        tally = _Tally(max(upto, known.upto), tuple(notices), read)
        with self._changing:
            if len(self._tallies) > _TALLIES:
                self._tallies.clear()
            self._tallies[user_id, room.room_nid] = tally
        return tally

    def _scan(
        self, tx: ReadTx, user_id: UserId, room: Room, notices: list[Notice], *, after: int, upto: int
    ) -> list[Notice]:
        rows = timelines.list_backwards(
            tx, room.room_nid, after=places.upto(after), upto=places.upto(upto), limit=_MOST
        )
        if not rows:
            return notices
        place = Place.of_stored(tx, self._trees, room, user_id)
        ruleset = self._push_rules.ruleset(tx, user_id)
        redacted: list[EventId] = []
        parsed = [(row, parse(row, room.version)) for row in reversed(rows)]
        held_back = find_held_back(tx, room.room_nid, room.version, parsed)
        for row, event in parsed:
            if places.is_past(row.timeline_place) or row.position in held_back:
                continue
            if event.redacts is not None:
                redacted.append(EventId(event.redacts))
            thread = thread_of(tx, room, row) if b'"m.relates_to"' in row.pdu else MAIN
            if event.sender == user_id:
                # Whoever says something has read what was said before.
                notices = [notice for notice in notices if notice.thread != thread]
                continue
            outcome = place.outcome(ruleset, event)
            if outcome.notify and row.redacted_by is None:
                notices.append(Notice(row.came_at, thread, outcome.highlight))
        return _without_redacted(tx, notices, redacted) if notices and redacted else notices


class Place:
    """What push rules ask of a room, as it is now, for one of its users."""

    def __init__(
        self,
        create: Event | None,
        power_levels: Event | None,
        own: Event | None,
        user_id: UserId,
        *,
        member_count: int,
    ) -> None:
        assert create is not None
        self._create = create
        self._power_levels = power_levels
        name = own.content.get("displayname") if own is not None else None
        self._display_name = name if isinstance(name, str) else None
        self._user_id = user_id
        self._member_count = member_count

    @classmethod
    def of_stored(cls, tx: ReadTx, trees: StateTrees, room: Room, user_id: UserId) -> "Place":
        """The room as the database has it."""
        create, levels, own = ("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", user_id)
        positions = trees.find(tx, room.state_root, [create, levels, own])
        stored = events.find_many(tx, positions.values())
        found = {pair: parse(stored[position], room.version) for pair, position in positions.items()}
        count = members.count(tx, room.room_nid).get("join", 0)
        return cls(found.get(create), found.get(levels), found.get(own), user_id, member_count=count)

    @classmethod
    def of_hot(cls, room: HotRoom, user_id: UserId) -> "Place":
        """The room as it is in memory."""
        own = room.state.get(("m.room.member", user_id))
        return cls(room.create, room.power_levels, own, user_id, member_count=len(room.joined))

    def outcome(self, ruleset: Ruleset, event: Event) -> Outcome:
        """What the user's rules say of an event here."""
        [outcome] = evaluate(
            event,
            [(ruleset, self._user_id, self._display_name)],
            member_count=self._member_count,
            power_levels=self._power_levels,
            create=self._create,
        )
        return outcome


def _without_redacted(tx: ReadTx, notices: list[Notice], redacted: Iterable[EventId]) -> list[Notice]:
    """The notices without those of events that were redacted: nothing is left in them to be read."""
    gone = {row.came_at for row in events.find_many_by_id(tx, redacted).values() if row.redacted_by is not None}
    return [notice for notice in notices if notice.position not in gone]


def _shown(tally: _Tally, *, upto: int, by_thread: bool) -> Json:
    unread = _unread(tally, upto=upto)
    if not by_thread:
        return {"unread_notifications": _count(unread)}
    answer: Json = {"unread_notifications": _count([one for one in unread if one.thread == MAIN])}
    threads = {notice.thread for notice in unread} - {MAIN}
    if threads:
        answer["unread_thread_notifications"] = {
            thread: _count([one for one in unread if one.thread == thread]) for thread in sorted(threads)
        }
    return answer


def _unread(tally: _Tally, *, upto: int) -> list[Notice]:
    everywhere = tally.read.get(UNTHREADED, 0)
    return [
        notice
        for notice in tally.notices
        if max(everywhere, tally.read.get(notice.thread, 0)) < notice.position <= upto
    ]


def _thread_at_a_glance(event: Event) -> str | None:
    """The thread of an event, if it can be told from the event alone."""
    related = relates_to(event)
    if related is None:
        return MAIN
    return related.event_id if related.rel_type == THREAD else None


def _read_positions(tx: ReadTx, user_id: UserId, room_nid: int) -> Mapping[str, int]:
    """How far the user has read, by thread: public and private receipts alike, the further one counts."""
    read: dict[str, int] = {}
    for receipt in receipts.list_of_user(tx, user_id, [room_nid]):
        read[receipt.thread_id] = max(read.get(receipt.thread_id, 0), receipt.event_position)
    return read


def _count(notices: Iterable[Notice]) -> Json:
    notices = list(notices)
    return {
        "notification_count": len(notices),
        "highlight_count": sum(notice.highlight for notice in notices),
    }
