"""What a user was notified of (client-server API, Listing Notifications).

Nothing is stored for this: the user's rules, as they are now, are tried on what was said, from the newest event back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import UserId
from homeserver.matrix.push_rules import Outcome, Ruleset
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.client_events import Form, show
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import Onlooker
from homeserver.services.sync.unread import Place, Unread
from homeserver.services.users.account_data import ignored_users
from homeserver.services.users.push_rules import PushRules
from homeserver.storage import members, rooms, stream_rows, timelines
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.members import Member
from homeserver.storage.rooms import Room
from homeserver.streams.positions import RoomToken

_PAGE = 200
_MOST_PAGES = 10
_MOST = 100

Json = dict[str, Any]


class Notifications:
    """Lists what users were notified of."""

    def __init__(
        self, database: Database, clock: Clock, trees: StateTrees, push_rules: PushRules, unread: Unread
    ) -> None:
        self._database = database
        self._clock = clock
        self._trees = trees
        self._push_rules = push_rules
        self._unread = unread

    async def page(self, who: Requester, start: RoomToken | None, limit: int, *, only_highlights: bool) -> Json:
        """A page, the newest first, from `start` back (`GET /notifications`)."""
        return await self._database.snapshot(self._page, who, start, min(limit, _MOST), only_highlights)

    def _page(self, tx: ReadTx, who: Requester, start: RoomToken | None, limit: int, only_highlights: bool) -> Json:
        current = stream_rows.current(tx)
        search = self._search(tx, who.user_id)
        found: list[tuple[StoredEvent, Outcome]] = []
        upto: int | None = current if start is None else min(start.position, current)
        for _ in range(_MOST_PAGES):
            assert upto is not None
            rows = timelines.list_backwards_in_rooms(tx, search.rooms, upto=upto, limit=_PAGE)
            met = self._met(tx, search, rows, only_highlights=only_highlights)
            found += met[: limit - len(found)]
            if len(found) == limit:
                upto = found[-1][0].position - 1
                break
            upto = rows[-1].position - 1 if len(rows) == _PAGE else None
            if upto is None:
                break
        answer: Json = {"notifications": self._show(tx, who, search, found, current)}
        if upto is not None:
            answer["next_token"] = str(RoomToken(upto))
        return answer

    def _search(self, tx: ReadTx, user_id: UserId) -> "_Search":
        memberships = [one for one in members.list_of_user(tx, user_id, _KINDS) if not one.forgotten]
        return _Search(
            user_id,
            {member.room_nid: member for member in memberships},
            rooms.find_many(tx, [member.room_nid for member in memberships]),
            self._push_rules.ruleset(tx, user_id),
            ignored_users(tx, user_id),
            {},
        )

    def _met(
        self, tx: ReadTx, search: "_Search", rows: Sequence[StoredEvent], *, only_highlights: bool
    ) -> list[tuple[StoredEvent, Outcome]]:
        """Those of the events that notify the user, and what the rules say of them."""
        outcomes: dict[int, Outcome] = {}
        by_room: dict[int, list[StoredEvent]] = {}
        for row in rows:
            room = search.rooms[row.room_nid]
            event = parse(row, room.version)
            if event.sender == search.user_id or event.sender in search.ignored:
                continue
            place = search.places.get(row.room_nid)
            if place is None:
                place = search.places[row.room_nid] = Place.of_stored(tx, self._trees, room, search.user_id)
            outcome = place.outcome(search.ruleset, event)
            if outcome.highlight if only_highlights else outcome.notify:
                outcomes[row.position] = outcome
                by_room.setdefault(row.room_nid, []).append(row)
        own = ("m.room.member", search.user_id)
        told = [
            one.stored
            for room_nid, matching in by_room.items()
            for one in search.onlooker(tx, self._trees, room_nid).seen(matching)
            # Of what happened before the user came only the invite was of interest.
            if one.membership == "join" or (one.membership == "invite" and (one.event.type, one.event.state_key) == own)
        ]
        return [(row, outcomes[row.position]) for row in sorted(told, key=lambda row: -row.position)]

    def _show(
        self,
        tx: ReadTx,
        who: Requester,
        search: "_Search",
        found: Sequence[tuple[StoredEvent, Outcome]],
        current: int,
    ) -> list[Json]:
        now = self._clock.now()
        by_room: dict[int, list[StoredEvent]] = {}
        for row, _ in found:
            by_room.setdefault(row.room_nid, []).append(row)
        shown: dict[int, msgspec.Raw] = {}
        unread: set[int] = set()
        for room_nid, rows in by_room.items():
            room, member = search.rooms[room_nid], search.members[room_nid]
            eye = search.onlooker(tx, self._trees, room_nid)
            seen = eye.seen(rows)
            bodies = show(tx, eye, who, seen, Form(now=now, include_room_id=False))
            shown |= {one.stored.position: body for one, body in zip(seen, bodies, strict=True)}
            if member.membership == "join":
                unread |= self._unread.positions(tx, who.user_id, room, member, upto=current)
        return [
            {
                "actions": outcome.actions,
                "event": shown[row.position],
                "read": row.came_at not in unread,
                "room_id": search.rooms[row.room_nid].room_id,
                "ts": row.origin_server_ts,
            }
            for row, outcome in found
        ]


# An invite is seen as an event only once it was followed: until then there is nothing of the room to be read.
_KINDS = ("join", "leave", "ban")


@dataclass(frozen=True, slots=True)
class _Search:
    """Whose notifications are looked for, and where."""

    user_id: UserId
    members: Mapping[int, Member]
    rooms: Mapping[int, Room]
    ruleset: Ruleset
    ignored: frozenset[UserId]
    places: dict[int, Place]

    def onlooker(self, tx: ReadTx, trees: StateTrees, room_nid: int) -> Onlooker:
        """The user, looking at a room."""
        return Onlooker(tx, trees, self.rooms[room_nid], self.user_id, self.members[room_nid], self.ignored)
