"""Unread counts (client-server API, Receiving notifications).

Nothing is stored for them: a user's rules are tried on what was said in a room since the user read it last, when the
user syncs. What was found is kept in memory, so each event is tried once for each user, and people who never come
cost nothing. After a restart a room is looked through again from the user's last receipt on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix import event_auth
from homeserver.matrix.event_auth import AuthError
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import UserId
from homeserver.matrix.push_rules import Circumstances
from homeserver.services.live.receipts import MAIN, thread_of
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.users.push_rules import PushRules
from homeserver.storage import events, members, receipts
from homeserver.storage.engine import ReadTx
from homeserver.storage.members import Member
from homeserver.storage.receipts import UNTHREADED
from homeserver.storage.rooms import Room

_PAGE = 500
_MOST_PAGES = 20
_TALLIES = 100_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """An event that notifies the user."""

    position: int
    thread: str
    highlight: bool


@dataclass(frozen=True, slots=True)
class _Tally:
    """What notifies a user in a room, as far as it was looked through."""

    upto: int
    notices: tuple[Notice, ...]


class Unread:
    """Counts what users have not read.

    Tallies never change, they are replaced, so units of work that run side by side in threads do no harm.
    """

    def __init__(self, trees: StateTrees, push_rules: PushRules) -> None:
        self._trees = trees
        self._push_rules = push_rules
        self._tallies: dict[tuple[UserId, int], _Tally] = {}

    def counts(self, tx: ReadTx, user_id: UserId, room: Room, member: Member, *, upto: int, by_thread: bool) -> Json:
        """`unread_notifications` and, if wanted, `unread_thread_notifications` of a room that the user is in."""
        read = _read_positions(tx, user_id, room.room_nid)
        unthreaded = read.get(UNTHREADED, 0)
        tally = self._tally(tx, user_id, room, member, since=unthreaded, upto=upto)
        unread = [
            notice
            for notice in tally.notices
            if notice.position > max(unthreaded, read.get(notice.thread, 0)) and notice.position <= upto
        ]
        if not by_thread:
            return {"unread_notifications": _count(unread)}
        answer: Json = {"unread_notifications": _count([one for one in unread if one.thread == MAIN])}
        threads = {notice.thread for notice in unread} - {MAIN}
        if threads:
            answer["unread_thread_notifications"] = {
                thread: _count([one for one in unread if one.thread == thread]) for thread in sorted(threads)
            }
        return answer

    def _tally(self, tx: ReadTx, user_id: UserId, room: Room, member: Member, *, since: int, upto: int) -> _Tally:
        known = self._tallies.get((user_id, room.room_nid))
        if known is None:
            known = _Tally(max(since, _joined_at(tx, room, member)), ())
        if known.upto >= upto:
            return known
        notices = [notice for notice in known.notices if notice.position > since]
        notices = self._scan(tx, user_id, room, notices, after=max(known.upto, since), upto=upto)
        tally = _Tally(upto, tuple(notices))
        if len(self._tallies) > _TALLIES:
            self._tallies.clear()
        self._tallies[user_id, room.room_nid] = tally
        return tally

    def _scan(
        self, tx: ReadTx, user_id: UserId, room: Room, notices: list[Notice], *, after: int, upto: int
    ) -> list[Notice]:
        circumstances: _RoomNow | None = None
        ruleset = None
        for _ in range(_MOST_PAGES):
            rows = events.list_forwards(tx, room.room_nid, after=after, upto=upto, limit=_PAGE)
            if rows and (circumstances is None or ruleset is None):
                circumstances = _RoomNow(tx, self._trees, room, user_id)
                ruleset = self._push_rules.ruleset(tx, user_id)
            for row in rows:
                assert circumstances is not None
                assert ruleset is not None
                event = parse(row, room.version)
                thread = thread_of(tx, room, row) if b'"m.relates_to"' in row.pdu else MAIN
                if event.sender == user_id:
                    # Whoever says something has read what was said before.
                    notices = [notice for notice in notices if notice.thread != thread]
                    continue
                outcome = ruleset.evaluate(_as_client(event), circumstances.of(event.sender))
                if outcome.notify:
                    notices.append(Notice(row.position, thread, outcome.highlight))
            if len(rows) < _PAGE:
                break
            after = rows[-1].position
        return notices


class _RoomNow:
    """What push rules ask of a room, as it is now."""

    def __init__(self, tx: ReadTx, trees: StateTrees, room: Room, user_id: UserId) -> None:
        pairs = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", user_id)]
        positions = trees.find(tx, room.state_root, pairs)
        stored = events.find_many(tx, positions.values())
        found = {pair: parse(stored[position], room.version) for pair, position in positions.items()}
        self._create = found[pairs[0]]
        self._power_levels = found.get(pairs[1])
        own = found.get(pairs[2])
        name = own.content.get("displayname") if own is not None else None
        self._display_name = name if isinstance(name, str) else None
        self._member_count = members.count(tx, room.room_nid).get("join", 0)

    def of(self, sender: str) -> Circumstances:
        """The circumstances of an event of this sender."""
        return Circumstances(self._member_count, self._level(sender), self._needed, self._display_name)

    def _level(self, sender: str) -> float:
        try:
            level = event_auth.power_level_of(sender, self._power_levels, self._create)
        except AuthError:
            return 0
        return float("inf") if level is None else level

    def _needed(self, key: str) -> int:
        try:
            return event_auth.notification_level(key, self._power_levels)
        except AuthError:
            return 50


def _as_client(event: Event) -> Json:
    shown: Json = {
        "type": event.type,
        "sender": event.sender,
        "room_id": event.room_id,
        "event_id": event.event_id,
        "content": event.content,
    }
    if event.state_key is not None:
        shown["state_key"] = event.state_key
    return shown


def _read_positions(tx: ReadTx, user_id: UserId, room_nid: int) -> Mapping[str, int]:
    """How far the user has read, by thread: public and private receipts alike, the further one counts."""
    read: dict[str, int] = {}
    for receipt in receipts.list_of_user(tx, user_id, [room_nid]):
        read[receipt.thread_id] = max(read.get(receipt.thread_id, 0), receipt.event_position)
    return read


def _joined_at(tx: ReadTx, room: Room, member: Member) -> int:
    """Where the user came into the room; changes of name since then do not count."""
    position, joined = member.position, member.position
    while True:
        row = events.find_many(tx, [position])[position]
        if parse(row, room.version).membership != "join":
            return joined
        joined = position
        if row.replaces is None:
            return joined
        position = row.replaces


def _count(notices: Iterable[Notice]) -> Json:
    notices = list(notices)
    return {
        "notification_count": len(notices),
        "highlight_count": sum(notice.highlight for notice in notices),
    }
