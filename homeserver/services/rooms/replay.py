"""What happened in a room while it was known in part, judged again upon the whole state.

The events since this server came are gone through in the order in which they happened here, in a shadow of the room
that nobody else sees. States are written on the way, which concerns nobody; what became of each event, the state of
the room, its members and its servers become what they are then in one transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from homeserver.errors import BadAnswer
from homeserver.kit import crash
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, UserId, domain_of
from homeserver.services.rooms.graph import Graph, Placed
from homeserver.services.rooms.hot import HotRoom, HotRooms, parse
from homeserver.services.rooms.landing import Membership, servers_by
from homeserver.services.rooms.partial import COMPLETED
from homeserver.services.rooms.placement import UNSTORED, NewEvent, Placement, Resolved
from homeserver.services.rooms.record import relation_of
from homeserver.services.rooms.resolution import Resolver
from homeserver.services.rooms.room_state import NotLoaded, RoomState
from homeserver.services.rooms.state import StateTrees, StateWriter
from homeserver.services.rooms.verdicts import auth_keys, refusal
from homeserver.storage import (
    coming_members,
    event_graph,
    events,
    members,
    originals,
    outgoing,
    partial_rooms,
    places,
    relations,
    resolutions,
    room_servers,
    rooms,
    stream_rows,
    timelines,
)
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.members import Member
from homeserver.storage.partial_rooms import PartialRoom
from homeserver.storage.resolutions import Resolution
from homeserver.storage.state import Pair
from homeserver.storage.tables import chunks

_PAGE = 500
_STEP = 1000
_MEMBER = "m.room.member"


@dataclass(slots=True)
class _Roots:
    """The states that an event has to do with, as they were written."""

    before: int | None
    after: int | None
    current: int | None
    replaces: int | None
    resolutions: list[Resolution] = field(default_factory=list)


@dataclass(slots=True)
class _Shadow:
    """The room as it would be, had everything been known from the beginning."""

    room: HotRoom
    members: dict[UserId, Membership]
    prepared: Mapping[UserId, Membership]
    """The members that were written down beforehand."""
    anew: dict[int, StoredEvent]
    """The events as they will be, by position."""
    gapped: set[int]
    """Positions of events before which others are missing."""
    place: int
    """How far the replay has come."""
    told: int | None
    """The state that those who read along were told last."""
    changed: list[tuple[StoredEvent, StoredEvent, Event]] = field(default_factory=list)
    """What is stored of events, what is to be stored, and the events."""
    redactions: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """By event that is redacted: its redacted form, by redaction."""
    redacting: dict[int, bool] = field(default_factory=dict)
    """The redactions that were judged, and whether they say what they redact."""
    resolutions: list[Resolution] = field(default_factory=list)


class Replay:
    """Makes rooms whole. Whoever calls sees to it that nothing comes into the room from elsewhere meanwhile."""

    def __init__(
        self, database: Database, trees: StateTrees, hot: HotRooms, resolver: Resolver, server_name: str
    ) -> None:
        self._database = database
        self._trees = trees
        self._hot = hot
        self._resolver = resolver
        self._server_name = server_name

    async def prepare(self, room_nid: int, members: Mapping[UserId, Membership]) -> None:
        """Write the members down, some at a time, so that little is left to be written when the room becomes whole."""
        await self.unprepare(room_nid)
        for part in chunks(members.items(), _STEP):
            coming = [Member(room_nid, user_id, one.membership, one.sender, 0, one.event) for user_id, one in part]
            await self._database.write(coming_members.add_many, coming)

    async def unprepare(self, room_nid: int) -> None:
        """Remove what was written down, some at a time."""
        while await self._database.write(coming_members.remove_some, room_nid, limit=_STEP):
            pass

    async def run(
        self, partial: PartialRoom, whole: int, members: Mapping[UserId, Membership], others: Collection[Pair]
    ) -> int:
        """Make a room whole: `whole` is the state before the join event, with these members. How much was replayed.

        It was prepared for these members; `others` are what is in that state besides members, and was not in what was
        given with the join.
        Raises `BadAnswer` where that state does not let this server's user join.
        """
        shadow = await self._begin(partial, whole, members, others)
        graph = Graph(self._database, self._trees, self._hot, self._resolver, shadow.anew)
        await self._follow(shadow, graph)
        while True:
            room = await self._hot.get(partial.room_nid)
            async with room.alone():
                if room.is_stale or self._hot.peek(partial.room_nid) is not room:
                    continue
                if room.partial is None or room.partial.position != partial.position:
                    raise BadAnswer("This server has left the room, and come again.")
                await self._follow(shadow, graph)
                try:
                    await self._database.write(self._settle, room, shadow)
                except BaseException:
                    self._hot.drop(room)
                    raise
            return len(shadow.anew)

    async def _begin(
        self, partial: PartialRoom, whole: int, members: Mapping[UserId, Membership], others: Collection[Pair]
    ) -> _Shadow:
        room = await self._hot.get(partial.room_nid)
        row, event, gapped = await self._database.snapshot(_find_join, room, partial)
        state = await self._database.snapshot(self._read_state, room, whole, [*auth_keys(event), *others])
        kept = {member: one.membership for member, one in members.items()}
        shadow = HotRoom(
            room.room_id,
            room.version,
            room_nid=partial.room_nid,
            root=whole,
            state=RoomState({pair: one for pair, one in state.items() if pair[0] != _MEMBER}, kept),
            arrived_at=partial.position,
        )
        cited = await self._database.snapshot(_cited, room, event)
        rejected = {one.event_id for one, is_rejected in cited if is_rejected}
        needed = [state[pair] for pair in auth_keys(event) if pair in state]
        if reason := refusal(event, [one for one, _ in cited], needed, shadow.create, rejected):
            raise BadAnswer(f"Upon this state nobody of this server could have joined: {reason}")
        roots = await self._database.write(self._write_roots, shadow, row, event, None, events.OK)
        begun = _Shadow(shadow, dict(members), members, {}, gapped, row.timeline_place, row.room_root)
        self._take_over(begun, row, event, None, roots, events.OK)
        return begun

    def _read_state(self, tx: ReadTx, room: HotRoom, whole: int, more: Collection[Pair]) -> dict[Pair, Event]:
        """The state as it was given, without members, and what of the whole one is wanted besides."""
        positions = self._trees.items(tx, room.partial.given_root if room.partial else whole)
        wanted = {pair: at for pair, at in positions.items() if pair[0] != _MEMBER}
        wanted |= self._trees.find(tx, whole, more)
        stored = events.find_many(tx, wanted.values())
        return {pair: parse(stored[at], room.version.identifier) for pair, at in wanted.items()}

    async def _follow(self, shadow: _Shadow, graph: Graph) -> None:
        """Go through what was not gone through yet."""
        nid = shadow.room.room_nid
        assert nid is not None
        while rows := await self._database.read(timelines.list_placed, nid, after=shadow.place, limit=_PAGE):
            for row in rows:
                if row.state_before is not None and not places.is_past(row.timeline_place):
                    await self._judge(shadow, graph, row)
                shadow.place = row.timeline_place
            shadow.room.state.forget()

    async def _judge(self, shadow: _Shadow, graph: Graph, row: StoredEvent) -> None:
        room = shadow.room
        event = parse(row, room.version.identifier)
        placed = None
        while placed is None:
            try:
                placed = None if row.status == events.SOFT_FAILED else graph.follow(room, event)
            except NotLoaded as missing:
                await self._hot.load(room, missing.pairs)
                continue
            placed = placed or await self._place(shadow, graph, row, event)
        new = placed.new
        if new is None:
            return  # It was placed before, so what it follows is known; if not, it stays as it is.
        if new.placement is None and event.state_key is None:
            root = room.root
            roots = _Roots(root, root, root, None)
        else:
            roots = await self._database.write(self._write_roots, room, row, event, new.placement, new.status)
        if event.type == "m.room.redaction":
            self._note_redaction(shadow, row, event, new)
        self._take_over(shadow, row, event, new.placement, roots, new.status)

    @staticmethod
    def _note_redaction(shadow: _Shadow, row: StoredEvent, event: Event, new: NewEvent) -> None:
        shadow.redacting[row.position] = bool(event.redacts)
        if new.redaction is not None:
            by = shadow.redactions.setdefault(new.redaction.target, {})
            by[row.position] = new.redaction.redacted.pdu

    async def _place(self, shadow: _Shadow, graph: Graph, row: StoredEvent, event: Event) -> Placed:
        # What was soft-failed may have been so by the word of a policy server, and stays as it is.
        is_recommended = row.status != events.SOFT_FAILED
        placed = await graph.place(shadow.room, event, is_recommended=is_recommended)
        if placed.new is None and row.position in shadow.gapped:
            # What was before it is known from elsewhere.
            given = await self._database.snapshot(self._trees.items, row.state_before)
            placed = await graph.place(shadow.room, event, given=given, is_recommended=is_recommended)
        return placed

    def _write_roots(
        self, tx: WriteTx, room: HotRoom, row: StoredEvent, event: Event, placement: Placement | None, status: int
    ) -> _Roots:
        """Write the states before and after an event, and that of the room then."""
        pair = None if event.state_key is None else (event.type, event.state_key)
        states = self._trees.begin(tx, set() if pair is None else {pair})
        taken = stream_rows.advance(tx, 3)
        found: list[Resolution] = []
        assert room.room_nid is not None
        before = after = room.root
        replaces = None
        if placement is not None:
            before = after = _write_resolved(states, placement.before, row, None, room.room_nid, taken - 2, found)
        if pair is not None:
            replaces = states.current(before, pair)
            if status in (events.OK, events.SOFT_FAILED):
                after = states.change(before, {states.ids[pair]: row.position}, taken - 1)
        current = after
        if placement is not None and placement.current is not None:
            current = _write_resolved(states, placement.current, row, after, room.room_nid, taken, found)
        states.store(tx)
        tx.on_commit(lambda: self._trees.keep(states))
        return _Roots(before, after, current, replaces, found)

    def _take_over(
        self,
        shadow: _Shadow,
        row: StoredEvent,
        event: Event,
        placement: Placement | None,
        roots: _Roots,
        status: int,
    ) -> None:
        """Let the shadow be what it is with the event."""
        room = shadow.room
        is_ok = status == events.OK
        if row.status == events.OK:
            shadow.told = row.room_root
        now = replace(
            row,
            status=status,
            state_before=roots.before,
            state_after=roots.after,
            replaces=roots.replaces,
            # What readers were told of the state then, they are told the rest of it later.
            room_state=shadow.told if is_ok and shadow.told != roots.after else None,
        )
        shadow.anew[row.position] = now
        shadow.changed.append((row, now, event))
        shadow.resolutions.extend(roots.resolutions)
        if not is_ok:
            return
        room.root = roots.current
        if placement is None:
            room.build_on(event)
            room.tips = [row.position]
            changes: list[tuple[Pair, Event | None, int]] = []
            if event.state_key is not None:
                changes.append(((event.type, event.state_key), event, row.position))
        else:
            kept = {tip: one for tip, one in zip(room.tips, room.latest, strict=True) if tip in placement.tips}
            room.latest = [*kept.values(), event] if placement.is_end else list(kept.values())
            room.tips = [*kept, row.position] if placement.is_end else list(kept)
            changes = []
            for change in placement.changes:
                room.state.set(change.pair, change.event)
                at = row.position if change.position == UNSTORED else change.position
                changes.append((change.pair, change.event, at))
        for pair, changed, at in changes:
            if pair[0] == _MEMBER and changed is not None:
                shadow.members[UserId(pair[1])] = Membership(changed.membership or "leave", UserId(changed.sender), at)
            elif pair[0] == _MEMBER:
                shadow.members.pop(UserId(pair[1]), None)

    def _settle(self, tx: WriteTx, room: HotRoom, shadow: _Shadow) -> None:
        """Let everything be as the shadow has it."""
        nid, root = room.room_nid, shadow.room.root
        assert nid is not None
        assert root is not None
        position = stream_rows.advance(tx)
        # Nobody knows the states any more with which the room was known in part, but those who were told of them.
        events.set_standings(tx, [now for _, now, _ in shadow.changed])
        gone = [row.position for row, now, _ in shadow.changed if row.status == events.OK and now.status != events.OK]
        if gone:
            relations.remove_many(tx, gone)
        come = [
            relation
            for row, now, event in shadow.changed
            if row.status != events.OK
            and now.status == events.OK
            and now.redacted_by is None
            and (relation := relation_of(event, now)) is not None
        ]
        if come:
            relations.insert_many(tx, come)
        self._settle_redactions(tx, nid, shadow, position)
        for resolution in shadow.resolutions:
            resolutions.insert_one(tx, resolution)
        rooms.set_state_roots(tx, [(nid, root)])
        old, new = set(room.tips), set(shadow.room.tips)
        rooms.replace_extremities(tx, [(nid, tip) for tip in old - new], [(nid, tip) for tip in new - old])
        rooms.set_forked(tx, [(nid, position)])
        rooms.set_completed(tx, nid, position, root)
        changed = _write_members(tx, nid, shadow, position)
        room_servers.replace(tx, nid, servers_by(shadow.members, self._server_name), position)
        partial_rooms.remove(tx, nid)
        local = [user_id for user_id in changed if domain_of(user_id) == self._server_name]
        tx.wake([room.room_id, COMPLETED, members.GUESTS, *local])

        def settle() -> None:
            crash.point("K4")
            self._hot.drop(room)
            crash.point("K5")

        tx.on_commit(settle)
        crash.point("K3")

    def _settle_redactions(self, tx: WriteTx, nid: int, shadow: _Shadow, position: int) -> None:
        """Redact what is redacted by what counts now, and let the rest be what it was."""
        before = dict(events.list_redacted(tx, shadow.redacting))
        known = events.find_many(tx, {*before, *shadow.redactions})
        redacted = [
            (target, *next(iter(by.items())))
            for target, by in shadow.redactions.items()
            if known[target].redacted_by is None or (target in before and before[target] not in by)
        ]
        # What a redaction redacted that does not say so any more stays redacted.
        lifted = [
            target
            for target, by in before.items()
            if target not in shadow.redactions and (shadow.redacting[by] or shadow.anew[by].status != events.OK)
        ]
        kept = originals.find_pdus(tx, [target for target in lifted if shadow.redacting[before[target]]])
        if redacted:
            events.redact_many(tx, redacted)
            relations.remove_many(tx, [target for target, _, _ in redacted])
        if lifted:
            events.restore_many(tx, [(target, kept.get(target, known[target].pdu)) for target in lifted])
            self._relate_again(tx, shadow, [(known[target], pdu) for target, pdu in kept.items()])
        if redacted or lifted:
            rooms.set_redacted(tx, [(nid, position)])
            # Clients have to read again what they have read already.
            rooms.set_gapped(tx, [(nid, position)])
            tx.wake([outgoing.FEDERATION])
        originals.remove_of_room(tx, nid)

    def _relate_again(self, tx: WriteTx, shadow: _Shadow, restored: Sequence[tuple[StoredEvent, bytes]]) -> None:
        version = shadow.room.version.identifier
        found = [
            relation
            for row, pdu in restored
            if (now := shadow.anew.get(row.position, row)).status == events.OK
            and (relation := relation_of(Event.parse(pdu, version, row.event_id), now)) is not None
        ]
        if found:
            relations.insert_many(tx, found)


def _write_members(tx: WriteTx, room_nid: int, shadow: _Shadow, position: int) -> set[UserId]:
    """Let the members be those of the shadow; who is another than before. Most of them were written beforehand."""
    old = {member.user_id: member for member in members.list_in_room(tx, room_nid)}
    now, prepared = shadow.members, shadow.prepared
    coming_members.take_in(tx, room_nid, position)
    others = [(user_id, one) for user_id, one in now.items() if user_id in old or prepared.get(user_id) is not one]
    changed = [
        Member(room_nid, user_id, one.membership, one.sender, position, one.event)
        for user_id, one in others
        if (was := old.get(user_id)) is None
        or (was.membership, was.sender, was.event) != (one.membership, one.sender, one.event)
    ]
    if changed:
        members.set_many(tx, changed)
    gone = (old.keys() | prepared.keys()) - now.keys()
    if gone:
        members.remove_many(tx, [(room_nid, user_id) for user_id in gone])
    return {member.user_id for member in changed} | gone | (now.keys() - old.keys())


def _write_resolved(
    states: StateWriter,
    resolved: Resolved | None,
    row: StoredEvent,
    after: int | None,
    room_nid: int,
    page: int,
    found: list[Resolution],
) -> int | None:
    """The root of a state that was resolved, written if it is none of those that there were."""
    if resolved is None:
        return None
    changes = {pair: row.position if at == UNSTORED else at for pair, at in resolved.state.changes.items()}
    root = states.change(resolved.state.root, changes, page) if changes else resolved.state.root
    if resolved.roots and root is not None:
        roots = tuple(one for one in (after if one is None else one for one in resolved.roots) if one is not None)
        found.append(Resolution(page, room_nid, roots, root, resolved.report))
    return root


def _find_join(tx: ReadTx, room: HotRoom, partial: PartialRoom) -> tuple[StoredEvent, Event, set[int]]:
    """The join event, and the positions of events before which others are missing."""
    row = events.find_many(tx, [partial.position])[partial.position]
    gapped = {position for _, position in event_graph.list_backward_extremities(tx, partial.room_nid)}
    return row, parse(row, room.version.identifier), gapped


def _cited(tx: ReadTx, room: HotRoom, event: Event) -> list[tuple[Event, bool]]:
    """The auth events of an event, and which of them were rejected."""
    found = events.find_many_by_id(tx, [EventId(one) for one in event.auth_events])
    return [(parse(row, room.version.identifier), row.status == events.REJECTED) for row in found.values()]
