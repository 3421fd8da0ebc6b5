"""What a group of batches writes: every table that an event touches, in one transaction and from one change.

Nothing here is done again by a job: state, memberships, extremities, relations and redactions follow from the event in
the transaction that stores it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from homeserver.kit import crash
from homeserver.matrix import auth_graph
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, ServerName, UserId, domain_of
from homeserver.matrix.relations import RelatesTo, relates_to
from homeserver.services.rooms.placement import UNSTORED, Audience, Batch, NewEvent, Placement, Resolved, State
from homeserver.services.rooms.state import StateTrees, StateWriter
from homeserver.storage import (
    event_graph,
    events,
    introductions,
    members,
    originals,
    outgoing,
    places,
    relations,
    resolutions,
    room_servers,
    rooms,
    stream_rows,
    transactions,
)
from homeserver.storage.engine import WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.introductions import Introduction
from homeserver.storage.members import Member
from homeserver.storage.outgoing import OutgoingEvent
from homeserver.storage.relations import Relation
from homeserver.storage.resolutions import Resolution

_LONGEST = 255


@dataclass(slots=True)
class Line:
    """A room as the group goes through it."""

    room_nid: int
    root: int | None
    tips: list[int]
    forked_at: int = 0
    gapped_at: int = 0


@dataclass(slots=True)
class Written:
    """What a group's transaction wrote, to be taken over after the commit."""

    states: StateWriter
    lines: dict[int, Line] = field(default_factory=dict)
    nids: list[int] = field(default_factory=list)
    """By batch."""
    stored: list[list[StoredEvent]] = field(default_factory=list)
    """By batch."""


class Recorder:
    """Writes one group, in the transaction given."""

    def __init__(self, tx: WriteTx, trees: StateTrees, own: ServerName, group: Sequence[Batch]) -> None:
        self._tx = tx
        self._own = own
        self._group = group
        new = [one for batch in group for one in batch.events]
        pairs = {(one.event.type, one.event.state_key) for one in new if one.event.state_key is not None}
        self.written = Written(trees.begin(tx, pairs))
        count = sum(_positions_of(one) for one in new)
        self._next = stream_rows.advance(tx, count) - count + 1
        self._auth = self._find_auth(new)
        self._after: dict[tuple[int | None, frozenset[tuple[int, int | None]]], int] = {}
        self._changed: dict[tuple[int, UserId], Member | None] = {}
        self._resolutions: list[Resolution] = []
        self._come: list[tuple[ServerName, int, int]] = []
        self._gone: list[tuple[ServerName, int, int]] = []
        self._outgoing: list[OutgoingEvent] = []
        self._introductions: list[Introduction] = []

    def record(self) -> Written:
        """Write all of it."""
        old_tips = {nid: list(tips) for nid, tips in self._known().items()}
        made: dict[int, int] = {}
        for batch in self._group:
            nid = batch.room.room_nid or made.setdefault(id(batch.room), self._next)
            line = self.written.lines.setdefault(nid, Line(nid, batch.room.root, list(batch.room.tips)))
            self.written.nids.append(nid)
            self.written.stored.append(
                [
                    self._place_for(line, one, audience, batch.is_local)
                    for one, audience in zip(batch.events, batch.audiences, strict=True)
                ]
            )
        self._store_rooms(old_tips)
        self._store_events()
        self._store_members()
        self._store_rest()
        return self.written

    def _known(self) -> dict[int, Sequence[int]]:
        return {batch.room.room_nid: batch.room.tips for batch in self._group if batch.room.room_nid is not None}

    def _find_auth(self, new: Sequence[NewEvent]) -> dict[str, int]:
        """Where the auth events of the group's state events are, as far as they are stored already."""
        cited = {
            EventId(event_id) for one in new if one.event.state_key is not None for event_id in one.event.auth_events
        }
        found = events.find_positions(self._tx, cited) if cited else {}
        return {str(event_id): position for event_id, position in found.items()}

    def _take(self) -> int:
        self._next += 1
        return self._next - 1

    def _place_for(self, line: Line, new: NewEvent, audience: Audience, is_local: bool) -> StoredEvent:
        row = self._place(line, new)
        if audience.before is not audience.after:
            at = self._next - 1  # An outlier was stored before.
            come, gone = audience.after - audience.before, audience.before - audience.after
            self._come.extend((server, line.room_nid, at) for server in come if server != self._own)
            self._gone.extend((server, line.room_nid, at) for server in gone if server != self._own)
        if new.is_accepted and audience.after - {self._own} and _joins(new.event, self._own):
            assert new.event.state_key is not None
            one = Introduction(row.position, UserId(new.event.state_key), line.room_nid)
            self._introductions.append(one)
        if is_local and new.is_accepted:
            removed = audience.removed if audience.removed not in (self._own, *audience.before) else None
            if removed is not None or len(audience.before) > (self._own in audience.before):
                self._outgoing.append(OutgoingEvent(row.position, line.room_nid, also_to=removed))
        return row

    def _place(self, line: Line, new: NewEvent) -> StoredEvent:
        placement = new.placement
        before = line.root if placement is None else self._before(line, placement)
        page = self._take()
        position = page if placement is None or placement.outlier is None else placement.outlier
        self._auth[new.event.event_id] = position
        row = self._row(new, line.room_nid, position, before, page)
        self._note_state(placement, row)
        if placement is None:
            if new.is_accepted:
                line.root, line.tips = row.state_after, [position]
                self._note_change(line, row, new.event)
            return row
        if not new.is_accepted:
            if line.root is None and new.event.type == "m.room.create" and row.pair_id is not None:
                # A room that is about to be joined begins with what is known of it for certain.
                line.root = self.written.states.change(None, {row.pair_id: position}, page)
            return row
        if placement.place is not None:
            return row  # What is past changes nothing of what is now.
        line.tips = [*placement.tips, position] if placement.is_end else list(placement.tips)
        line.forked_at = page  # Which is where it happened: an outlier was stored before.
        if placement.missing:
            line.gapped_at = page
        if placement.current is None:
            line.root = row.state_after
        else:
            line.root = self._resolved(line, placement.current, row)
            row = _with_room_state(row, line.root)
        self._note_changes(line, placement, row, new.event)
        return row

    def _row(self, new: NewEvent, nid: int, position: int, before: int | None, page: int) -> StoredEvent:
        event, states = new.event, self.written.states
        after, replaces, pair_id, auth = before, None, None, None
        if event.state_key is not None:
            pair = (event.type, event.state_key)
            pair_id = states.ids[pair]
            auth = self._packed_auth(event, position)
            if new.status != events.OUTLIER:
                replaces = states.current(before, pair)
            if new.status in (events.OK, events.SOFT_FAILED):
                after = states.change(before, {pair_id: position}, page)
        past = None if new.placement is None else new.placement.place
        return StoredEvent(
            position=position,
            place=None if new.status == events.OUTLIER else places.at(page) if past is None else past,
            room_nid=nid,
            event_id=EventId(event.event_id),
            depth=event.depth,
            origin_server_ts=event.origin_server_ts,
            pair_id=pair_id,
            replaces=replaces,
            state_before=before,
            state_after=after,
            room_state=None,
            auth=auth,
            status=new.status,
            redacted_by=new.redacted_by,
            pdu=event.pdu,
        )

    def _packed_auth(self, event: Event, position: int) -> bytes:
        cited = [self._auth[event_id] for event_id in event.auth_events if event_id in self._auth]
        return auth_graph.pack(position, cited)

    def _before(self, line: Line, placement: Placement) -> int | None:
        """The root of the state before an event; that after another of the group has one already."""
        if placement.before is None:
            return None
        known = self._after.get(_key(placement.before.state))
        return self._resolved(line, placement.before, None) if known is None else known

    def _note_state(self, placement: Placement | None, row: StoredEvent) -> None:
        """Remember the state after an event under the name that it has for those which were built upon the event."""
        if placement is None or placement.before is None or placement.outlier is None:
            return  # The state after what had no position before has no name.
        if row.pair_id is not None and row.state_after is not None and row.status in (events.OK, events.SOFT_FAILED):
            state = placement.before.state
            after = State(state.root, {**state.changes, row.pair_id: row.position})
            self._after[_key(after)] = row.state_after

    def _resolved(self, line: Line, resolved: Resolved | None, row: StoredEvent | None) -> int | None:
        """The root of a state that was resolved; its nodes are new if it is none of those that there were."""
        if resolved is None:
            return None
        root, changes = _stored(resolved.state, row)
        if changes:
            page = self._take()
            root = self.written.states.change(root, changes, page)
        else:
            page = 0
        if resolved.roots and root is not None:
            roots = tuple(one if one is not None else _after(row) for one in resolved.roots)
            position = page or self._take()
            self._resolutions.append(Resolution(position, line.room_nid, roots, root, resolved.report))
        return root

    def _note_change(self, line: Line, row: StoredEvent, event: Event) -> None:
        if event.type == "m.room.member" and event.state_key is not None:
            user_id = UserId(event.state_key)
            self._changed[line.room_nid, user_id] = _member(line.room_nid, event, row.position, row.position)

    def _note_changes(self, line: Line, placement: Placement, row: StoredEvent, event: Event) -> None:
        for change in placement.changes:
            kind, state_key = change.pair
            if kind != "m.room.member":
                continue
            at = row.position if change.position == UNSTORED else change.position
            member = None if change.event is None else _member(line.room_nid, change.event, row.came_at, at)
            self._changed[line.room_nid, UserId(state_key)] = member

    def _store_rooms(self, old_tips: dict[int, list[int]]) -> None:
        made: dict[int, rooms.Room] = {}
        moved: dict[int, int] = {}
        for batch, nid in zip(self._group, self.written.nids, strict=True):
            room, root = batch.room, self.written.lines[nid].root
            if room.room_nid is None:
                assert root is not None
                made[nid] = rooms.Room(nid, room.room_id, room.version.identifier, False, root)
            elif room.root != root and root is not None:
                moved[nid] = root
        if made:
            rooms.insert_many(self._tx, list(made.values()))
        if moved:
            rooms.set_state_roots(self._tx, moved.items())
        forked = [(line.room_nid, line.forked_at) for line in self.written.lines.values() if line.forked_at]
        if forked:
            rooms.set_forked(self._tx, forked)
        gapped = [(line.room_nid, line.gapped_at) for line in self.written.lines.values() if line.gapped_at]
        if gapped:
            rooms.set_gapped(self._tx, gapped)
        removed: list[tuple[int, int]] = []
        added: list[tuple[int, int]] = []
        for nid, line in self.written.lines.items():
            old = old_tips.get(nid, [])
            removed.extend((nid, tip) for tip in old if tip not in line.tips)
            added.extend((nid, tip) for tip in line.tips if tip not in old)
        rooms.replace_extremities(self._tx, removed, added)

    def _store_events(self) -> None:
        placed = [
            (one, row)
            for batch, stored in zip(self._group, self.written.stored, strict=True)
            for one, row in zip(batch.events, stored, strict=True)
        ]
        new = [row for one, row in placed if one.placement is None or one.placement.outlier is None]
        if new:
            events.insert_many(self._tx, new)
        outliers = [row for one, row in placed if one.placement is not None and one.placement.outlier is not None]
        if outliers:
            events.set_standings(self._tx, outliers)
        for one, row in placed:
            if one.placement is not None and one.placement.missing:
                missing = [EventId(event_id) for event_id in one.placement.missing]
                event_graph.add_backward_extremities(self._tx, row.room_nid, row.position, missing)
        self._store_redactions(placed)
        accepted = [(one, row) for one, row in placed if one.is_accepted]
        related = [found for one, row in accepted if (found := relation_of(one.event, row)) is not None]
        if related:
            relations.insert_many(self._tx, related)
        self.written.states.store(self._tx)
        for resolution in self._resolutions:
            resolutions.insert_one(self._tx, resolution)

    def _store_redactions(self, placed: Sequence[tuple[NewEvent, StoredEvent]]) -> None:
        """Redact what is redacted by what came, and what came redacted and was stored whole before, as an outlier."""
        redactions = [(one.redaction, row) for one, row in placed if one.is_accepted and one.redaction is not None]
        redacted = [(one.target, row.position, one.redacted.pdu) for one, row in redactions]
        late = [
            (one.original, row)
            for one, row in placed
            if one.original is not None and one.placement is not None and one.placement.outlier is not None
        ]
        redacted += [(row.position, row.redacted_by, row.pdu) for _, row in late if row.redacted_by is not None]
        self._keep_originals(placed)
        if not redacted:
            return
        events.redact_many(self._tx, redacted)
        relations.remove_many(self._tx, [target for target, _, _ in redacted])
        self._tx.wake([outgoing.FEDERATION])  # What was said is not to be sent any more, whoever redacted it.
        of_state = [(row.room_nid, row.position) for one, row in redactions if one.redacted.is_state]
        if of_state:
            rooms.set_redacted(self._tx, of_state)

    def _keep_originals(self, placed: Sequence[tuple[NewEvent, StoredEvent]]) -> None:
        """Where it is not certain yet whether a redaction is allowed, keep what it redacts."""
        in_part = {
            nid: batch.now
            for batch, nid in zip(self._group, self.written.nids, strict=True)
            if batch.room.partial is not None
        }
        if not in_part:
            return
        new, stored = [], []
        for one, row in placed:
            if (now := in_part.get(row.room_nid)) is None:
                continue
            # A redaction of the past is not judged again.
            if one.is_accepted and one.redaction is not None and not places.is_past(row.timeline_place):
                stored.append((one.redaction.target, UserId(one.redaction.redacted.sender), now))
            if one.original is not None:
                sender = UserId(one.original.sender)
                new.append(originals.Original(row.position, row.room_nid, sender, now, one.original.pdu))
        if stored:
            originals.set_aside(self._tx, stored)
        if new:
            originals.add_many(self._tx, new)

    def _store_members(self) -> None:
        changed = [member for member in self._changed.values() if member is not None]
        if changed:
            members.set_many(self._tx, changed)
        gone = [key for key, member in self._changed.items() if member is None]
        if gone:
            members.remove_many(self._tx, gone)
        self._tx.wake(user_id for _, user_id in self._changed if domain_of(user_id) == self._own)
        if any(one.event.type == "m.room.guest_access" for batch in self._group for one in batch.events):
            self._tx.wake([members.GUESTS])
        # A server may come and go within a group: in the order of what happened.
        if self._come or self._gone:
            room_servers.change(self._tx, self._come, self._gone)

    def _store_rest(self) -> None:
        done = [
            transactions.Done(
                batch.transaction.user_id,
                batch.transaction.device_id,
                batch.transaction.scope,
                batch.transaction.txn_id,
                stored[0].position,
                batch.now,
            )
            for batch, stored in zip(self._group, self.written.stored, strict=True)
            if batch.transaction is not None
        ]
        if done:
            transactions.record_many(self._tx, done)
        if self._outgoing:
            outgoing.add_events(self._tx, self._outgoing)
        if self._introductions:
            introductions.add_many(self._tx, self._introductions)
        for batch, nid in zip(self._group, self.written.nids, strict=True):
            if batch.also is not None:
                batch.also(self._tx, nid)
        self._tx.wake(batch.room.room_id for batch in self._group)


def write_group(
    tx: WriteTx, trees: StateTrees, own: ServerName, group: Sequence[Batch], commit: Callable[[Written], None]
) -> None:
    """The transaction of a group; `commit` takes over what was written, before anybody is woken."""
    written = Recorder(tx, trees, own, group).record()
    tx.on_commit(lambda: commit(written))
    crash.point("K3")


def _positions_of(new: NewEvent) -> int:
    """How many positions an event takes: its own, and one for each resolved state beside it."""
    if new.placement is None:
        return 1
    return 1 + sum(1 for one in (new.placement.before, new.placement.current) if one is not None and _has_page(one))


def _key(state: State) -> tuple[int | None, frozenset[tuple[int, int | None]]]:
    return state.root, frozenset(state.changes.items())


def _has_page(resolved: Resolved) -> bool:
    return bool(resolved.state.changes or resolved.roots)


def _stored(state: State, row: StoredEvent | None) -> tuple[int | None, dict[int, int | None]]:
    """The state with the event's position in the place of what stood for it."""
    at = None if row is None else row.position
    return state.root, {pair: at if position == UNSTORED else position for pair, position in state.changes.items()}


def _after(row: StoredEvent | None) -> int:
    assert row is not None
    assert row.state_after is not None
    return row.state_after


def _with_room_state(row: StoredEvent, root: int | None) -> StoredEvent:
    return row if root == row.state_after else replace(row, room_state=root)


def _joins(event: Event, server: ServerName) -> bool:
    """Whether by this event a user of the server is in the room."""
    return event.type == "m.room.member" and event.membership == "join" and domain_of(event.state_key or "") == server


def _member(room_nid: int, event: Event, position: int, at: int) -> Member:
    assert event.state_key is not None
    return Member(
        room_nid, UserId(event.state_key), event.membership or "leave", UserId(event.sender), position, event=at
    )


def relation_of(event: Event, row: StoredEvent) -> Relation | None:
    """How an accepted event relates to another, if it does."""
    related = None if event.is_state else relates_to(event)
    if related is None or not _is_storable(related):
        return None
    return Relation(
        row.position,
        row.timeline_place,
        row.room_nid,
        EventId(related.event_id),
        related.rel_type,
        event.type,
        UserId(event.sender),
        related.key,
    )


def _is_storable(related: RelatesTo) -> bool:
    """Whether it can be a relation at all; what is absurdly long, or no text for a database, is none."""
    texts = (related.event_id, related.rel_type, related.key or "")
    return all("\0" not in text and len(text) <= _LONGEST for text in texts)
