"""The one place where everybody who reads a room learns which of its events a user, or another server, may see."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Protocol, TypeVar

from homeserver.matrix import visibility
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import ServerName, UserId, domain_of
from homeserver.matrix.visibility import Moment
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.redactions import find_held_back
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.stays import last_end
from homeserver.storage import events, members, partial_rooms, places, room_servers, users
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.members import Member
from homeserver.storage.rooms import Room
from homeserver.storage.state import Pair

_VISIBILITY = ("m.room.history_visibility", "")
_NOTHING = Moment(visibility.SHARED, "leave")
_FIRST_LOOK = 20
"""So many users of a server are looked for at once, and ten times as many where none of them was there."""


class Placed(Protocol):
    """What is known of an event without reading it."""

    @property
    def place(self) -> int: ...

    @property
    def state_after(self) -> int | None: ...


P = TypeVar("P", bound=Placed)


@dataclass(frozen=True, slots=True)
class Seen:
    """An event that the user may see, and the user's membership with it (its own effect included)."""

    stored: StoredEvent
    event: Event
    membership: str


class Onlooker:
    """A user who looks at a room, within one unit of work; what was looked up once is not looked up again."""

    def __init__(
        self,
        tx: ReadTx,
        trees: StateTrees,
        room: Room,
        user_id: UserId,
        member: Member | None,
        ignored: frozenset[UserId],
    ) -> None:
        """`member` is the user's membership, `ignored` are those whom the user does not want to hear."""
        self.room = room
        self.user_id = user_id
        self.member = member
        self.ignored = ignored
        self._tx = tx
        self._trees = trees
        self._own = ("m.room.member", user_id)
        self._moments: dict[int, Moment] = {}
        if self.is_joined and room.state_root is not None:
            # Whoever is in a room sees what happens in its present state, whatever the rule is.
            self._moments[room.state_root] = Moment(visibility.SHARED, "join")
        self._erased: dict[UserId, bool] = {}

    @property
    def is_joined(self) -> bool:
        """Whether the user is in the room."""
        return self.member is not None and self.member.membership == "join"

    def sees_all_from(self, position: int) -> bool:
        """Whether nearly all that follows that position is the user's to see, who is in the room and was then.

        Good for counting. Events of a fork that did not know of the user yet are told apart by `seen` only.
        """
        return self.member is not None and self.is_joined and self.member.position <= position

    def hears(self, event: Event) -> bool:
        """Whether the user wants to hear this: state, or what is said by somebody who is not ignored."""
        return event.is_state or event.sender not in self.ignored

    def seen(self, stored: Sequence[StoredEvent]) -> list[Seen]:
        """Those of the room's events that the user may see, in the order given."""
        parsed = [(row, parse(row, self.room.version)) for row in stored if row.status == events.OK]
        held_back = find_held_back(self._tx, self.room.room_nid, self.room.version, parsed)
        if held_back:
            parsed = [(row, event) for row, event in parsed if row.position not in held_back]
        turning = {row.position for row, event in parsed if (event.type, event.state_key) in (self._own, _VISIBILITY)}
        before = (row.state_before for row, _ in parsed if row.position in turning)
        self._learn([*(row.state_after for row, _ in parsed), *before])
        seen = []
        for row, event in parsed:
            after = self._moment(row.state_after)
            # An event that changes what may be seen is seen by whomever the moment before it or after it allows.
            considered = [after, self._moment(row.state_before)] if row.position in turning else [after]
            if any(
                visibility.may_see(moment, joined_later=self._in_room_until > row.timeline_place)
                for moment in considered
            ):
                seen.append(Seen(row, event, after.membership))
        return self._without_erased(seen)

    def seen_messages(self, placed: Sequence[P]) -> list[P]:
        """Those of the room's events, none of them state, that the user may see."""
        self._learn([one.state_after for one in placed])
        return [
            one
            for one in placed
            if visibility.may_see(self._moment(one.state_after), joined_later=self._in_room_until > one.place)
        ]

    def may_read_present(self) -> bool:
        """Whether the user may read the room as it is now."""
        if self.is_joined:
            return True
        self._learn([self.room.state_root])
        return self._moment(self.room.state_root).visibility == visibility.WORLD_READABLE

    @cached_property
    def end(self) -> StoredEvent | None:
        """The event by which the user last ceased to be in the room; None for those who are in it or never were."""
        if self.member is None or self.is_joined:
            return None
        return last_end(self._tx, self.room.version, self.member.event)

    @property
    def end_place(self) -> int:
        """Where the user last ceased to be in the room; below all places for those who are in it or never were."""
        if self.member is None or self.end is None:
            return places.FIRST
        if self.end.position == self.member.event or self.end.place is None:
            return places.at(self.member.position if self.end.position == self.member.event else self.end.position)
        return self.end.place

    @property
    def _in_room_until(self) -> float:
        """The place up to which whatever came was sent before some moment at which the user was in the room."""
        return inf if self.is_joined else self.end_place

    def _moment(self, root: int | None) -> Moment:
        return _NOTHING if root is None else self._moments[root]

    def _learn(self, roots: Iterable[int | None]) -> None:
        """Look up the moments of these states, as far as they are not known."""
        new = {root for root in roots if root is not None and root not in self._moments}
        if not new:
            return
        found = self._trees.find_many(self._tx, new, (self._own, _VISIBILITY))
        stored = events.find_many(self._tx, {position for of_root in found.values() for position in of_root.values()})
        parsed = {position: parse(row, self.room.version) for position, row in stored.items()}

        def moment(positions: dict[Pair, int]) -> Moment:
            member, rule = positions.get(self._own), positions.get(_VISIBILITY)
            return Moment(
                visibility.history_visibility(None if rule is None else parsed[rule].content.get("history_visibility")),
                "leave" if member is None else parsed[member].membership or "leave",
            )

        self._moments |= {root: moment(positions) for root, positions in found.items()}

    def _without_erased(self, seen: list[Seen]) -> list[Seen]:
        """The events as they are for somebody who was not there: those of users who are erased are redacted."""
        senders = {UserId(one.event.sender) for one in seen if one.membership != "join"} - self._erased.keys()
        if senders:
            erased = users.find_erased(self._tx, senders)
            self._erased |= {sender: sender in erased for sender in senders}
        return [
            replace(one, event=one.event.redacted())
            if one.membership != "join" and self._erased[UserId(one.event.sender)]
            else one
            for one in seen
        ]


@dataclass(frozen=True, slots=True)
class Shown:
    """An event as another server is given it: whole, or redacted where none of its users may see it."""

    stored: StoredEvent
    pdu: bytes
    is_whole: bool


class OnlookingServer:
    """Another server that looks at a room, within one unit of work (server-server API; room history visibility).

    A server that nobody of is in the room is shown nothing. To one that is in it, an event is whole if the history
    visibility where it was sent lets any of its users see it; and so is the present state, which it has anyway, and
    state of which nothing is known but that others cite it.

    Of a room whose members are not all known yet, an event of which it is not known whether they may see it is not
    shown at all: a redacted copy would be kept.
    """

    def __init__(self, tx: ReadTx, trees: StateTrees, room: Room, server_name: ServerName) -> None:
        self.room = room
        self.server_name = server_name
        self._tx = tx
        self._trees = trees
        self._rules: dict[int, str] = {}
        self._memberships: dict[int, frozenset[str]] = {}

    @cached_property
    def is_in_room(self) -> bool:
        """Whether a user of the server is in the room now."""
        return bool(room_servers.find_rooms(self._tx, self.server_name, [self.room.room_nid]))

    @cached_property
    def _is_partial(self) -> bool:
        return bool(partial_rooms.find_many(self._tx, [self.room.room_nid]))

    def shown(self, stored: Sequence[StoredEvent]) -> list[Shown]:
        """Those of the room's events that were not rejected, as the server may have them, in the order given."""
        if not self.is_in_room:
            return []
        parsed = [(row, parse(row, self.room.version)) for row in stored if row.status != events.REJECTED]
        considered = {row.position: self._considered(row, event) for row, event in parsed}
        self._learn({root for roots in considered.values() for root in roots})
        erased = users.find_erased(self._tx, {UserId(event.sender) for _, event in parsed})
        self._look_for_users(
            {
                root
                for row, event in parsed
                for root in considered[row.position]
                if self._rules[root] in visibility.MEMBERS_ONLY or event.sender in erased
            }
        )
        present = self._in_present_state(row for row, _ in parsed if row.pair_id is not None)
        shown = []
        for row, event in parsed:
            roots = considered[row.position]
            is_whole = row.position in present or any(self._may_see(root) for root in roots)
            if not roots:
                is_whole = event.is_state
            if event.sender in erased and row.position not in present:
                # What was said by somebody who is erased is for those servers that heard it.
                is_whole = is_whole and any("join" in self._memberships[root] for root in roots)
            if is_whole or not self._is_partial:
                shown.append(Shown(row, row.pdu if is_whole else event.redacted().pdu, is_whole))
        return shown

    def _considered(self, row: StoredEvent, event: Event) -> list[int]:
        """The states that say whether the event may be seen; an event that changes that is seen by either."""
        is_own = event.type == "m.room.member" and domain_of(event.state_key or "") == self.server_name
        is_turning = is_own or (event.type, event.state_key) == _VISIBILITY
        roots = [row.state_after, row.state_before] if is_turning else [row.state_after]
        return [root for root in roots if root is not None]

    def _may_see(self, root: int) -> bool:
        found = self._memberships.get(root, frozenset())
        return any(
            # The server has users in the room now, which is after whatever was sent.
            visibility.may_see(Moment(self._rules[root], membership), joined_later=True)
            for membership in found | {"leave"}
        )

    def _in_present_state(self, rows: Iterable[StoredEvent]) -> set[int]:
        """Those of the state events, by position, that are in the room's present state."""
        asked = {row.position: row.pair_id for row in rows if row.pair_id is not None}
        if not asked:
            return set()
        root = self.room.state_root
        found = self._trees.find_ids(self._tx, [root], set(asked.values()))[root]
        return {position for position, pair_id in asked.items() if found.get(pair_id) == position}

    def _learn(self, roots: Collection[int]) -> None:
        """Look up the history visibility in these states."""
        new = [root for root in roots if root not in self._rules]
        if not new:
            return
        found = self._trees.find_many(self._tx, new, [_VISIBILITY])
        parsed = self._parsed(position for of_root in found.values() for position in of_root.values())
        for root, positions in found.items():
            at = positions.get(_VISIBILITY)
            content = {} if at is None else parsed[at].content
            self._rules[root] = visibility.history_visibility(content.get("history_visibility"))

    def _look_for_users(self, roots: Collection[int]) -> None:
        """Look up which memberships users of the server have in these states, up to one of somebody who is joined."""
        open_ = {root for root in roots if "join" not in self._memberships.get(root, frozenset())}
        if not open_:
            return
        found: dict[int, set[str]] = {root: set() for root in open_}
        known = members.list_of_server(self._tx, self.room.room_nid, self.server_name)
        # Who came first was there most of the time.
        waiting = sorted(known, key=lambda member: (member.membership != "join", member.position))
        size = _FIRST_LOOK
        while waiting and open_:
            part, waiting = waiting[:size], waiting[size:]
            for root, memberships in self._memberships_in(open_, part).items():
                found[root] |= memberships
            open_ = {root for root in open_ if "join" not in found[root]}
            size *= 10
        self._memberships |= {root: frozenset(kinds) for root, kinds in found.items()}

    def _memberships_in(self, roots: Collection[int], asked: Sequence[Member]) -> Mapping[int, set[str]]:
        pairs = [("m.room.member", member.user_id) for member in asked]
        positions = self._trees.find_many(self._tx, roots, pairs)
        # Most are what they are by the event by which they were it then.
        kinds = {member.event: member.membership for member in asked}
        other = {at for of_root in positions.values() for at in of_root.values()} - kinds.keys()
        kinds |= {at: event.membership or "leave" for at, event in self._parsed(other).items()}
        return {root: {kinds[at] for at in of_root.values()} for root, of_root in positions.items()}

    def _parsed(self, positions: Iterable[int]) -> dict[int, Event]:
        rows = events.find_many(self._tx, set(positions))
        return {position: parse(row, self.room.version) for position, row in rows.items()}
