"""The one place where everybody who reads a room learns which of its events a user may see."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Protocol, TypeVar

from homeserver.matrix import visibility
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import UserId
from homeserver.matrix.visibility import Moment
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.stays import last_end
from homeserver.storage import events, places, users
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.members import Member
from homeserver.storage.rooms import Room
from homeserver.storage.state import Pair

_VISIBILITY = ("m.room.history_visibility", "")
_NOTHING = Moment(visibility.SHARED, "leave")


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
