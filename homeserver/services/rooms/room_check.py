"""Whether one room's rows fit together; a few hundred events at a time, and the current state, are in memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from homeserver.matrix import auth_graph
from homeserver.matrix.events import Event, MalformedEvent, event_id_of
from homeserver.matrix.identifiers import EventId, UserId, domain_of
from homeserver.matrix.state_tree import StateTreeError
from homeserver.services.rooms import findings
from homeserver.services.rooms.ends import Ends
from homeserver.services.rooms.findings import Report
from homeserver.services.rooms.record import relation_of
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import (
    consistency,
    event_graph,
    event_log,
    events,
    members,
    originals,
    partial_rooms,
    places,
    relations,
    resolutions,
    room_servers,
    rooms,
    state,
)
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import Standing, StoredEvent
from homeserver.storage.members import Member
from homeserver.storage.relations import Relation
from homeserver.storage.rooms import Room
from homeserver.storage.state import Pair
from homeserver.storage.tables import chunks

_BATCH = 500
_MOST = 20
_STATUSES = {
    events.OK: "accepted",
    events.SOFT_FAILED: "soft-failed",
    events.REJECTED: "rejected",
    events.OUTLIER: "outlier",
}


@dataclass(frozen=True, slots=True)
class _Page:
    """Some events, and what is needed to judge them."""

    events: Sequence[tuple[StoredEvent, Event]]
    cited: Mapping[EventId, Standing]
    pairs: Mapping[int, Pair]
    relations: Mapping[int, Relation]
    redactions: Mapping[int, Standing]
    parents: Mapping[EventId, Standing]


class RoomCheck:
    """Judges a room, in one snapshot of the database."""

    def __init__(self, tx: ReadTx, trees: StateTrees, room: Room, tell: Callable[[int], None]) -> None:
        """`tell` is told how many events were looked at since the last time."""
        self._tx = tx
        self._trees = trees
        self._room = room
        self._tell = tell
        self._report = Report(room.room_id)
        self._ends = Ends(self._cited_by)
        self._base: int | None = None
        self._gaps = {event_id for event_id, _ in event_graph.list_backward_extremities(tx, room.room_nid)}

    def run(self) -> list[findings.Finding]:
        """All that is wrong."""
        after = 0
        while rows := event_log.list_from(self._tx, self._room.room_nid, after=after, limit=_BATCH):
            page = self._page(rows)
            for row, event in page.events:
                self._check_row(page, row, event)
                self._check_citations(page, row, event)
                self._check_effects(page, row, event)
            self._check_states(page)
            after = rows[-1].position
            self._tell(len(rows))
        for position in consistency.list_lost_relations(self._tx, self._room.room_nid, limit=_MOST):
            self._report.add(findings.FALSE_RELATION, f"The relation at position {position} is of no event.")
        self._check_ends()
        self._check_partial()
        current = self._current_state()
        if current is not None:
            self._check_current_state(current)
            self._check_members({pair[1]: at for pair, at in current.items() if pair[0] == "m.room.member"})
        return self._report.close()

    def _page(self, rows: Sequence[StoredEvent]) -> _Page:
        parsed = [(row, event) for row in rows if (event := self._parse(row)) is not None]
        cited = {EventId(one) for _, event in parsed for one in (*event.prev_events, *event.auth_events)}
        related = {relation.parent_id for row, event in parsed if (relation := _relation(row, event)) is not None}
        return _Page(
            parsed,
            events.find_standings_by_id(self._tx, cited),
            state.list_pairs(self._tx, {row.pair_id for row in rows if row.pair_id is not None}),
            relations.find_many(self._tx, [row.position for row in rows]),
            events.find_standings(self._tx, {row.redacted_by for row in rows if row.redacted_by is not None}),
            events.find_standings_by_id(self._tx, related),
        )

    def _parse(self, row: StoredEvent) -> Event | None:
        version = self._room.version
        try:
            event = Event.parse(row.pdu, version, row.event_id)
            event_id = event_id_of(row.pdu, version)
        except MalformedEvent as error:
            self._report.add(findings.UNREADABLE, f"{_name(row)} cannot be read: {error}.")
            return None
        if event_id != row.event_id:
            self._report.add(findings.FALSE_ID, f"{_name(row)} has content of another id, {event_id}.")
            return None
        return event

    def _check_row(self, page: _Page, row: StoredEvent, event: Event) -> None:
        """The columns say the same as the event."""
        pair = None if event.state_key is None else (event.type, event.state_key)
        stored_pair = None if row.pair_id is None else page.pairs.get(row.pair_id, ("", "an unknown pair"))
        told = {
            "its room": (event.room_id, self._room.room_id),
            "its depth": (event.depth, row.depth),
            "its time": (event.origin_server_ts, row.origin_server_ts),
            "its type and state key": (pair, stored_pair),
        }
        for what, (said, stored) in told.items():
            if said != stored:
                self._report.add(findings.FALSE_ROW, f"{_name(row)} is stored with {stored!r} as {what}, not {said!r}.")
        must_stand = row.status in (events.OK, events.SOFT_FAILED)
        if (row.place is None and must_stand) or (row.place is not None and row.status == events.OUTLIER):
            self._report.add(findings.FALSE_ROW, f"{_name(row)} has the place {row.place}, which it cannot have.")
        if row.status not in _STATUSES:
            self._report.add(findings.FALSE_ROW, f"{_name(row)} has the status {row.status}, which there is not.")

    def _check_citations(self, page: _Page, row: StoredEvent, event: Event) -> None:
        """What the event cites is of this room, is there, and was allowed; the stored auth edges are the same."""
        before = [EventId(one) for one in event.prev_events]
        auth = [EventId(one) for one in event.auth_events]
        if row.status != events.REJECTED:
            for one in dict.fromkeys([*before, *auth]):
                standing = page.cited.get(one)
                if standing is not None and standing.room_nid != self._room.room_nid:
                    self._report.add(findings.OTHER_ROOM, f"{_name(row)} cites {one}, which is of another room.")
        if row.status == events.OK:
            for one in before:
                if one not in page.cited and one not in self._gaps:
                    self._report.add(
                        findings.MISSING, f"{_name(row)} follows {one}, which is neither there nor known to be missing."
                    )
            is_past = places.is_past(row.timeline_place)
            self._ends.follow(row.event_id, row.position, before, page.cited, came_at=row.came_at, is_past=is_past)
        if row.status in (events.OK, events.SOFT_FAILED):
            for one in auth:
                standing = page.cited.get(one)
                if standing is None:
                    self._report.add(findings.MISSING, f"{_name(row)} is allowed by {one}, which is not there.")
                elif standing.status == events.REJECTED:
                    self._report.add(findings.NOT_ALLOWED, f"{_name(row)} is allowed by {one}, which was rejected.")
        self._check_auth(row, [page.cited[one].position for one in auth if one in page.cited])

    def _check_auth(self, row: StoredEvent, auth: Iterable[int]) -> None:
        if row.pair_id is None:
            if row.auth is not None:
                self._report.add(findings.FALSE_AUTH, f"{_name(row)} has auth edges, and is no state event.")
            return
        try:
            stored = set(auth_graph.unpack(row.position, row.auth or b""))
        except ValueError:
            self._report.add(findings.FALSE_AUTH, f"The auth edges of {_name(row)} cannot be read.")
            return
        # What came later than the event could not be cited by its place.
        if stored != {position for position in auth if position < row.position}:
            self._report.add(findings.FALSE_AUTH, f"The auth edges of {_name(row)} are not its auth events.")

    def _check_effects(self, page: _Page, row: StoredEvent, event: Event) -> None:
        """Relations and redactions are what the events say."""
        expected = _relation(row, event)
        found = page.relations.get(row.position)
        if found is not None and expected is None:
            standing = "redacted" if row.redacted_by is not None else _STATUSES.get(row.status, "of no status")
            why = f"is {standing}" if row.status != events.OK or row.redacted_by is not None else "relates to nothing"
            self._report.add(findings.FALSE_RELATION, f"{_name(row)} {why}, but a relation of it is kept.")
        elif found is None and expected is not None and self._room.purged_before:
            # What was purged takes with it that others relate to it.
            if expected.parent_id in page.parents:
                self._report.add(findings.FALSE_RELATION, f"The relation of {_name(row)} to another event is not kept.")
        elif found != expected:
            self._report.add(findings.FALSE_RELATION, f"The relation of {_name(row)} to another event is not kept.")
        if row.redacted_by is None:
            return
        if event.redacted().pdu != event.pdu:
            self._report.add(findings.NOT_REDACTED, f"{_name(row)} was redacted, but its content is still there.")
        redaction = page.redactions.get(row.redacted_by)
        # A redaction from before the point of a purge is kept for the sake of what it redacted.
        was_ok = redaction is not None and (
            redaction.status == events.OK or (redaction.status == events.OUTLIER and self._room.purged_before > 0)
        )
        if redaction is None or redaction.room_nid != self._room.room_nid or not was_ok:
            self._report.add(
                findings.NOT_REDACTED, f"{_name(row)} was redacted by something that is no accepted event of the room."
            )

    def _check_states(self, page: _Page) -> None:
        """The states before and after each event are there, and differ by the event alone."""
        entries: list[tuple[str, Pair, int]] = []
        for row, event in page.events:
            is_first = event.type == "m.room.create" and not event.prev_events
            if row.status in (events.OK, events.SOFT_FAILED):
                if row.state_before is None and not is_first:
                    self._report.add(findings.NO_STATE, f"{_name(row)} has no state before it.")
                if row.state_after is None:
                    self._report.add(findings.NO_STATE, f"{_name(row)} has no state after it.")
            self._read(entries, f"the state before {_name(row)}", row.state_before)
            changes = self._read(entries, f"the state after {_name(row)}", row.state_after, since=row.state_before)
            if changes is not None and row.state_after is not None and row.status != events.OUTLIER:
                self._check_change(row, event, changes)
            if row.room_state is not None:
                self._read(entries, f"the state of the room when {_name(row)} came", row.room_state)
        self._check_entries(entries)

    def _check_change(
        self, row: StoredEvent, event: Event, changes: Mapping[Pair, tuple[int | None, int | None]]
    ) -> None:
        expected: dict[Pair, tuple[int | None, int | None]] = {}
        if event.state_key is not None and row.status in (events.OK, events.SOFT_FAILED):
            expected[event.type, event.state_key] = (row.replaces, row.position)
        if changes != expected:
            self._report.add(
                findings.FALSE_STATE, f"The states before and after {_name(row)} do not differ by this event alone."
            )

    def _read(
        self, entries: list[tuple[str, Pair, int]], what: str, root: int | None, *, since: int | None = None
    ) -> Mapping[Pair, tuple[int | None, int | None]] | None:
        """What the state has that another has not; by default the one that was read last. None: it cannot be read."""
        if root is None:
            return None
        since = self._base if since is None else since
        try:
            changes = self._trees.difference(self._tx, since, root)
        except StateTreeError:
            self._report.add(findings.UNREADABLE, f"{what[0].upper()}{what[1:]} cannot be read.")
            return None
        self._base = root
        entries.extend((what, pair, position) for pair, (_, position) in changes.items() if position is not None)
        return changes

    def _check_entries(self, entries: Sequence[tuple[str, Pair, int]], *, is_current: bool = False) -> None:
        """What stands in a state are events of the room, each under its type and state key, and none is rejected."""
        for part in chunks(entries):
            standings = events.find_standings(self._tx, {position for _, _, position in part})
            pairs = state.list_pairs(self._tx, {one.pair_id for one in standings.values() if one.pair_id is not None})
            for what, pair, position in part:
                standing = standings.get(position)
                if standing is None or standing.room_nid != self._room.room_nid:
                    self._report.add(
                        findings.FALSE_STATE, f"In {what}, {_pair(pair)} is position {position}, no event of the room."
                    )
                elif standing.pair_id is None or pairs.get(standing.pair_id) != pair:
                    self._report.add(
                        findings.FALSE_STATE,
                        f"In {what}, {_pair(pair)} is {standing.event_id}, no such event.",
                    )
                elif standing.status == events.REJECTED:
                    self._report.add(
                        findings.NOT_ALLOWED, f"In {what}, {_pair(pair)} is {standing.event_id}, which was rejected."
                    )
                elif is_current and standing.status == events.SOFT_FAILED and not self._room.forked_at:
                    # Resolution may bring a soft-failed event in; where nothing forked, nothing was resolved.
                    self._report.add(
                        findings.NOT_ALLOWED, f"In {what}, {_pair(pair)} is {standing.event_id}, which soft-failed."
                    )

    def _cited_by(
        self, event_ids: Iterable[EventId]
    ) -> dict[EventId, tuple[list[EventId], Mapping[EventId, Standing]]]:
        """For :class:`Ends`: what is before events that are not accepted."""
        found = events.find_many_by_id(self._tx, event_ids)
        before: dict[EventId, list[EventId]] = {}
        for event_id, row in found.items():
            try:
                event = Event.parse(row.pdu, self._room.version, row.event_id)
            except MalformedEvent:  # It was named where its turn came.
                before[event_id] = []
            else:
                before[event_id] = [EventId(one) for one in event.prev_events]
        standings = events.find_standings_by_id(self._tx, {one for ids in before.values() for one in ids})
        return {event_id: (ids, standings) for event_id, ids in before.items()}

    def _check_ends(self) -> None:
        stored = set(rooms.list_extremities(self._tx, self._room.room_nid))
        # When this server came (back) into the room, what it knew of it before ended.
        must_be = {position for position in self._ends.must_be() if position >= self._room.arrived_at}
        wrong = (must_be - stored) | (stored - self._ends.may_be())
        named = events.find_standings(self._tx, wrong)
        for position in sorted(wrong):
            name = named[position].event_id if position in named else f"position {position}"
            if position not in stored:
                what = f"No accepted event follows {name}, but it is not among the forward extremities."
            elif position not in named:
                what = f"Among the forward extremities is {name}, where there is no event."
            elif named[position].room_nid != self._room.room_nid:
                what = f"Among the forward extremities is {name}, which is of another room."
            elif named[position].status != events.OK:
                what = f"Among the forward extremities is {name}, which is {_STATUSES.get(named[position].status)}."
            else:
                what = f"Among the forward extremities is {name}, which accepted events follow."
            self._report.add(findings.FALSE_ENDS, what)

    def _check_partial(self) -> None:
        """A room that is known in part is so since an event of it, before which something of its state was known."""
        partial = partial_rooms.find_many(self._tx, [self._room.room_nid]).get(self._room.room_nid)
        if partial is None:
            if count := originals.count_in_room(self._tx, self._room.room_nid):
                self._report.add(
                    findings.NOT_REDACTED, f"Of {count} redacted events the originals are kept, which nobody needs."
                )
            return
        standing = events.find_standings(self._tx, [partial.position]).get(partial.position)
        if standing is None or standing.room_nid != self._room.room_nid or standing.status != events.OK:
            self._report.add(
                findings.FALSE_STATE,
                f"The room is said to be known in part since position {partial.position}, where it has no such event.",
            )
        self._read([], "the state with which the room was joined", partial.given_root)

    def _current_state(self) -> dict[Pair, int] | None:
        root = self._room.state_root
        try:
            current = self._trees.items(self._tx, root)
        except StateTreeError:
            self._report.add(findings.UNREADABLE, "The current state cannot be read.")
            return None
        allowed = self._allowed_roots()
        if allowed and root not in allowed and not any(self._is_same(root, one) for one in allowed):
            self._report.add(
                findings.FALSE_CURRENT, "The current state is not what comes of the forward extremities' states."
            )
        return current

    def _allowed_roots(self) -> set[int]:
        """What the current state can be: the state after the only extremity, or what several were resolved to."""
        positions = rooms.list_extremities(self._tx, self._room.room_nid)
        ends = [row for row in events.find_many(self._tx, positions).values() if row.state_after is not None]
        after = {row.state_after for row in ends if row.state_after is not None}
        if all(self._is_same(next(iter(after)), one) for one in after):
            return after
        allowed = {row.room_root for row in ends if row.room_root is not None}
        resolved = resolutions.find(self._tx, self._room.room_nid, after)
        return allowed if resolved is None else {*allowed, resolved.root}

    def _is_same(self, root: int, other: int) -> bool:
        try:
            return not self._trees.difference(self._tx, root, other)
        except StateTreeError:  # It was named where its turn came.
            return False

    def _check_current_state(self, current: Mapping[Pair, int]) -> None:
        entries = [("the current state", pair, position) for pair, position in current.items()]
        self._check_entries(entries, is_current=True)

    def _check_members(self, current: Mapping[str, int]) -> None:
        """The table of memberships says what the current state says."""
        stored = {member.user_id: member for member in members.list_in_room(self._tx, self._room.room_nid)}
        joined = {domain_of(user_id) for user_id, member in stored.items() if member.membership == "join"}
        for part in _parts(current):
            rows = events.find_many(self._tx, [position for _, position in part])
            for user_id, position in part:
                member = stored.pop(UserId(user_id), None)
                row = rows.get(position)
                if row is not None:  # Else it was named as an entry of the state.
                    self._check_member(user_id, member, row)
        self._check_servers(joined)
        for user_id in sorted(stored):
            self._report.add(
                findings.FALSE_MEMBER, f"{user_id} has a membership, but there is none in the current state."
            )

    def _check_servers(self, joined: set[str]) -> None:
        """The table of servers says what the memberships say; this server itself is not in it."""
        stored = set(map(str, room_servers.list_open(self._tx, self._room.room_nid)))
        lacking = joined - stored
        if len(lacking) > 1:
            names = ", ".join(sorted(lacking)[:_MOST])
            self._report.add(findings.FALSE_SERVER, f"Of these servers all but one should be in the room: {names}.")
        is_partial = bool(partial_rooms.find_many(self._tx, [self._room.room_nid]))
        for server in sorted(stored - joined) if not is_partial else ():
            self._report.add(findings.FALSE_SERVER, f"{server} is said to be in the room, and none of its users is.")

    def _check_member(self, user_id: str, member: Member | None, row: StoredEvent) -> None:
        try:
            event = Event.parse(row.pdu, self._room.version, row.event_id)
        except MalformedEvent:  # It was named where its turn came.
            return
        membership = event.membership or "leave"
        if member is None:
            self._report.add(findings.FALSE_MEMBER, f"{user_id} has no membership, but is {membership!r} by the state.")
        elif (member.membership, member.sender, member.event) != (membership, event.sender, row.position):
            self._report.add(
                findings.FALSE_MEMBER,
                f"{user_id} is {member.membership!r} through {member.sender} by position {member.event}, but "
                f"{membership!r} through {event.sender} by position {row.position} in the current state.",
            )


def _relation(row: StoredEvent, event: Event) -> Relation | None:
    """The relation that has to be kept."""
    return relation_of(event, row) if row.status == events.OK and row.redacted_by is None else None


def _parts(current: Mapping[str, int]) -> Iterable[list[tuple[str, int]]]:
    found = list(current.items())
    return (found[first : first + _BATCH] for first in range(0, len(found), _BATCH))


def _name(row: StoredEvent) -> str:
    return f"event {row.event_id} (position {row.position})"


def _pair(pair: Pair) -> str:
    return f"{pair[0]} {pair[1]!r}"
