"""Where an event stands in the graph of its room: the state before it, the verdict on it, and what the room is then.

An event that follows all that is known of a room, and is checked against the current state, costs nothing but the
check (`follow`). All others are placed (`place`): the states after the events before it are resolved, and so are the
states after the forward extremities, with the room held alone meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId
from homeserver.services.rooms.hot import HotRoom, HotRooms, parse
from homeserver.services.rooms.placement import UNSTORED, Change, NewEvent, Placement, Resolved, State
from homeserver.services.rooms.redactions import Redactions, find_pending
from homeserver.services.rooms.resolution import Resolver, Unstored
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.states import find_in_state
from homeserver.services.rooms.verdicts import auth_keys, refusal, state_refusal
from homeserver.storage import event_graph, events
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.partial_rooms import PartialRoom
from homeserver.storage.state import Pair, ensure_pairs

_BEHIND = 1000
"""How many events that were not accepted are gone through, at most, to find which extremities an event follows."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An event as it can be written, or what it waits for."""

    new: NewEvent | None
    reason: str = ""
    """Why it is rejected or soft-failed."""
    missing: frozenset[EventId] = frozenset()


@dataclass(frozen=True, slots=True)
class _Around:
    """What is stored of the events that an event names."""

    own: StoredEvent | None
    prev: Sequence[StoredEvent]
    auth: Sequence[StoredEvent]
    target: StoredEvent | None
    redactions: Sequence[StoredEvent]
    missing_prev: frozenset[EventId]
    """Those before it whose state is not known."""
    missing_auth: frozenset[EventId]
    is_followed: bool
    """An event that was accepted before follows it."""
    arrival_root: int | None
    """The state before it, if it follows what the event did by which this server came into the room."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What an event's auth events tell of members whom a room that is known in part does not know."""

    before: Resolved
    """The state before the event, with these members."""
    current: Mapping[Pair, Event]
    """Those whom the current state does not know either."""


class Graph:
    """Places events. Nothing is written here but numbers of pairs.

    While a room is known in part, members are missing from its states. Whoever an event cites is taken into the state
    before it, unless that knows better: so nobody is refused for lack of knowledge, and whoever speaks becomes known.
    """

    def __init__(
        self,
        database: Database,
        trees: StateTrees,
        hot: HotRooms,
        resolver: Resolver,
        anew: Mapping[int, StoredEvent] | None = None,
    ) -> None:
        """`anew` are events, by position, that are to be seen otherwise than they are stored."""
        self._database = database
        self._trees = trees
        self._hot = hot
        self._resolver = resolver
        self._redactions = Redactions(database, trees)
        self._anew = {} if anew is None else anew

    def follow(self, room: HotRoom, event: Event) -> Placed | None:
        """Check an event that follows all there is, in memory; None if it is not that simple.

        Raises `NotLoaded`. No await may lie between this and handing over the event.
        """
        if room.create is None or not follows_all(room, event):
            return None
        state = {pair: found for pair in auth_keys(event) if (found := room.state.get(pair)) is not None}
        by_id = {found.event_id: found for found in state.values()}
        cited = [by_id[event_id] for event_id in event.auth_events if event_id in by_id]
        if len(cited) < len(set(event.auth_events)):
            return None
        reason = refusal(event, cited, list(state.values()), room.create, set())
        return Placed(NewEvent(event, status=events.REJECTED if reason else events.OK), reason)

    async def place(
        self, room: HotRoom, event: Event, *, given: Mapping[Pair, int] | None = None, is_recommended: bool = True
    ) -> Placed:
        """Find out all about an event, in a room that the caller has alone.

        `given` is the state before the event where it is known from elsewhere: positions by pair. What the room's
        policy server does not recommend is soft-failed, if the rules allow it.
        """
        around = await self._database.snapshot(self._look_around, room, event)
        beyond_gap = given is not None or around.arrival_root is not None
        missing = around.missing_auth if beyond_gap else around.missing_auth | around.missing_prev
        if missing:
            return Placed(None, missing=missing)
        if given is not None:
            before = await self._given(given)
        elif around.arrival_root is not None:
            before = Resolved(State(around.arrival_root))
        else:
            before = await self._resolver.resolve(room, _first(room.root, [row.state_after for row in around.prev]))
        told: Mapping[Pair, Event] = {}
        if room.partial is not None:
            filled = await self._database.snapshot(self._fill_in, room, room.partial, event, around, before)
            before, told = filled.before, filled.current
        status, reason = await self._judge(room, event, around, before, told, beyond_gap=beyond_gap)
        if status == events.OK and not is_recommended:
            status, reason = events.SOFT_FAILED, "The policy server of the room does not recommend it."
        outlier = None if around.own is None else around.own.position
        if status != events.OK:
            return Placed(NewEvent(event, status=status, placement=Placement(before, outlier=outlier)), reason)
        new = await self._redact(room, event, around, before)
        return Placed(replace(new, placement=await self._accept(room, new.event, around, before, outlier)))

    async def place_past(self, room: HotRoom, event: Event, place: int, *, given: State | None = None) -> Placed:
        """The same for an event of the past, whose place in the timeline is given: for it, the present is no judge.

        Nobody needs to have the room alone. `given` is the state before the event where it is known from elsewhere.
        """
        assert room.create is not None
        around = await self._database.snapshot(self._look_around, room, event)
        missing = around.missing_auth if given is not None else around.missing_auth | around.missing_prev
        if missing:
            return Placed(None, missing=missing)
        if given is not None:
            before = Resolved(given)
        elif around.prev:
            before = await self._resolver.resolve(room, _first(room.root, [row.state_after for row in around.prev]))
        else:
            before = Resolved(State(None))  # The room begins here.
        if room.partial is not None:
            before = (await self._database.snapshot(self._fill_in, room, room.partial, event, around, before)).before
        outlier = None if around.own is None else around.own.position
        reason = await self._refusal_before(room, event, around, before)
        if reason:
            placement = Placement(before, outlier=outlier, place=place)
            return Placed(NewEvent(event, status=events.REJECTED, placement=placement), reason)
        new = await self._redact(room, event, around, before)
        placement = Placement(before, outlier=outlier, missing=sorted(around.missing_prev), place=place)
        return Placed(replace(new, placement=placement))

    async def state_after(self, room: HotRoom, ends: Sequence[Event], pairs: Sequence[Pair]) -> dict[Pair, Event]:
        """The events of these pairs in the state that comes of all these events together."""
        ids = [EventId(event.event_id) for event in ends]
        rows = await self._database.read(events.find_many_by_id, ids)
        roots = [self._now(row).state_after for row in rows.values()]
        resolved = await self._resolver.resolve(room, _first(room.root, roots))
        return await self._database.snapshot(find_in_state, self._trees, room, resolved.state, pairs)

    def _look_around(self, tx: ReadTx, room: HotRoom, event: Event) -> _Around:
        own_id, prev_ids = EventId(event.event_id), [EventId(one) for one in dict.fromkeys(event.prev_events)]
        auth_ids = [EventId(one) for one in dict.fromkeys(event.auth_events)]
        redacts = [EventId(event.redacts)] if event.redacts else []
        found = events.find_many_by_id(tx, {own_id, *prev_ids, *auth_ids, *redacts})
        # What is of another room is as good as not known: nothing in this room can stand on it.
        found = {event_id: self._now(row) for event_id, row in found.items() if row.room_nid == room.room_nid}
        missing_prev = frozenset(one for one in prev_ids if one not in found or not found[one].has_state)
        return _Around(
            own=found.get(own_id),
            prev=[found[one] for one in prev_ids if one in found and found[one].has_state],
            auth=[found[one] for one in auth_ids if one in found],
            target=found.get(redacts[0]) if redacts else None,
            redactions=find_pending(tx, room, [own_id]).get(own_id, []),
            missing_prev=missing_prev,
            missing_auth=frozenset(one for one in auth_ids if one not in found),
            is_followed=bool(event_graph.find_backward_extremities(tx, [own_id])),
            arrival_root=self._arrival_root(tx, room, prev_ids) if missing_prev else None,
        )

    def _now(self, row: StoredEvent) -> StoredEvent:
        """The event as it is to be seen."""
        return self._anew.get(row.position, row)

    def _arrival_root(self, tx: ReadTx, room: HotRoom, prev: Collection[EventId]) -> int | None:
        """What follows the same events as the one by which this server came into the room, follows the same state.

        While somebody comes, others go on talking.
        """
        row = events.find_many(tx, [room.arrived_at]).get(room.arrived_at) if room.arrived_at else None
        if row is None or set(parse(row, room.version.identifier).prev_events) != set(prev):
            return None
        return self._now(row).state_before

    def _fill_in(
        self, tx: ReadTx, room: HotRoom, partial: PartialRoom, event: Event, around: _Around, before: Resolved
    ) -> _Told:
        cited = {row.pair_id: row for row in around.auth if row.status != events.REJECTED}
        pairs = self._trees.pair_ids(tx, [pair for pair in auth_keys(event) if pair[0] == "m.room.member"])
        pairs = {pair: pair_id for pair, pair_id in pairs.items() if pair_id in cited}
        if not pairs:
            return _Told(before, {})
        roots = [root for root in (before.state.root, room.root, partial.given_root) if root is not None]
        found = self._trees.find_ids(tx, roots, pairs.values())
        known = {**found.get(before.state.root or 0, {}), **before.state.changes}
        current, given = found.get(room.root or 0, {}), found[partial.given_root]
        at = {position for state in (known, current) for position in state.values() if position is not None}
        outliers = {position for position, one in events.find_standings(tx, at).items() if one.status == events.OUTLIER}

        def is_unknown(pair_id: int, position: int | None) -> bool:
            # What was cited by somebody before is no more certain than what is cited now.
            return position is None or (position in outliers and given.get(pair_id) != position)

        new = {
            pair_id: cited[pair_id].position
            for pair_id in pairs.values()
            if is_unknown(pair_id, known.get(pair_id)) and known.get(pair_id) != cited[pair_id].position
        }
        told = {
            pair: parse(cited[pair_id], room.version.identifier)
            for pair, pair_id in pairs.items()
            if is_unknown(pair_id, current.get(pair_id))
        }
        state = State(before.state.root, {**before.state.changes, **new}) if new else before.state
        return _Told(Resolved(state, before.roots, before.report), told)

    async def _given(self, given: Mapping[Pair, int]) -> Resolved:
        ids = await self._database.write(ensure_pairs, list(given))
        return Resolved(State(None, {ids[pair]: position for pair, position in given.items()}))

    async def _judge(
        self,
        room: HotRoom,
        event: Event,
        around: _Around,
        before: Resolved,
        told: Mapping[Pair, Event],
        *,
        beyond_gap: bool,
    ) -> tuple[int, str]:
        """The checks on the event's auth events, on the state before it, and on the current state.

        Of members that the current state does not know, `told` has what is to be believed.
        """
        reason = await self._refusal_before(room, event, around, before)
        if reason:
            return events.REJECTED, reason
        if await self._is_current(room, event):
            return events.OK, ""
        current = await self._current(room, auth_keys(event), before if beyond_gap else None)
        reason = state_refusal(event, {**current, **told}.values(), room.create)
        return (events.SOFT_FAILED, reason) if reason else (events.OK, "")

    async def _is_current(self, room: HotRoom, event: Event) -> bool:
        """Whether the current state has the event already, from before the room was known here."""
        if event.state_key is None:
            return False
        pair = (event.type, event.state_key)
        await self._hot.load(room, [pair])
        found = room.state.get(pair)
        return found is not None and found.event_id == event.event_id

    async def _refusal_before(self, room: HotRoom, event: Event, around: _Around, before: Resolved) -> str:
        """Why the event is not allowed by its auth events, or by the state before it; nothing if it is."""
        assert room.create is not None
        cited = [parse(row, room.version.identifier) for row in around.auth]
        rejected = {row.event_id for row in around.auth if row.status == events.REJECTED}
        state = await self._database.snapshot(find_in_state, self._trees, room, before.state, auth_keys(event))
        return refusal(event, cited, list(state.values()), room.create, rejected)

    async def _current(self, room: HotRoom, keys: Sequence[Pair], before: Resolved | None) -> dict[Pair, Event]:
        """The events of these pairs in the current state.

        Beyond a gap, what happened in it counts as well: somebody who came in it could not say a word otherwise.
        """
        if before is None:
            await self._hot.load(room, keys)
            return {pair: found for pair in keys if (found := room.state.get(pair)) is not None}
        tips = await self._database.read(events.find_many, room.tips)
        states = [State(self._now(row).state_after) for row in tips.values()]
        resolved = await self._resolver.resolve(room, _preferring(room.root, [*states, before.state]))
        return await self._database.snapshot(find_in_state, self._trees, room, resolved.state, keys)

    async def _redact(self, room: HotRoom, event: Event, around: _Around, before: Resolved) -> NewEvent:
        """An event that is accepted, as it is to be stored, and what it redacts."""
        redaction = await self._redactions.of(room, event, around.target, before.state)
        own = around.own
        is_redacted = own is not None and own.redacted_by is not None
        redacted_by = own.redacted_by if own is not None else None
        if redacted_by is None:
            redacted_by = await self._redactions.before(room, event, around.redactions)
        return NewEvent(
            event if redacted_by is None else event.redacted(),
            redaction,
            redacted_by=redacted_by,
            original=None if redacted_by is None or is_redacted else event,
            # Its redacted form may not say it any more.
            awaited=EventId(event.redacts) if event.redacts and around.target is None else None,
        )

    async def _accept(
        self,
        room: HotRoom,
        event: Event,
        around: _Around,
        before: Resolved,
        outlier: int | None,
    ) -> Placement:
        """Where the event stands now that it is accepted, and what the room comes to."""
        tips = await self._database.snapshot(self._tips_beside, room, around)
        # What fills a gap is no forward extremity, and the state after it says nothing new of the room.
        is_end = not (around.is_followed and tips)
        after, unstored = before.state, None
        if event.state_key is not None:
            pair_id = await self._pair_id((event.type, event.state_key))
            after = State(after.root, {**after.changes, pair_id: UNSTORED if outlier is None else outlier})
            if outlier is None:
                unstored = Unstored(event, pair_id, [row.position for row in around.auth])
        comes_to = Resolved(after)
        if tips:
            states = [State(row.state_after) for row in tips]
            if is_end:
                states.append(after)
            comes_to = await self._resolver.resolve(room, _preferring(room.root, states), unstored)
        current, changes = await self._database.snapshot(self._from_current, room, comes_to, event)
        return Placement(
            before,
            tips=tuple(row.position for row in tips),
            current=current if tips else None,
            changes=changes,
            outlier=outlier,
            missing=sorted(around.missing_prev),
            is_end=is_end,
        )

    async def _pair_id(self, pair: Pair) -> int:
        known = await self._database.read(self._trees.pair_ids, [pair])
        return known[pair] if pair in known else await self._database.write(_ensure_pair, pair)

    def _tips_beside(self, tx: ReadTx, room: HotRoom, around: _Around) -> list[StoredEvent]:
        """The forward extremities that the event does not follow.

        What was not accepted is no extremity, and what follows it follows what it follows.
        """
        covered: set[int] = set()
        rows = list(around.prev)
        for _ in range(_BEHIND):
            if not rows:
                break
            covered.update(row.position for row in rows)
            behind = {
                EventId(event_id)
                for row in rows
                if row.status != events.OK
                for event_id in parse(row, room.version.identifier).prev_events
            }
            found = events.find_many_by_id(tx, behind) if behind else {}
            rows = [self._now(row) for row in found.values() if row.position not in covered]
        kept = [tip for tip in room.tips if tip not in covered]
        stored = events.find_many(tx, kept)
        return [self._now(stored[tip]) for tip in kept]

    def _from_current(
        self, tx: ReadTx, room: HotRoom, resolved: Resolved, event: Event
    ) -> tuple[Resolved, list[Change]]:
        """The same state as changes to the current one, which are few, and these changes with their events."""
        state = resolved.state
        differing = self._trees.differing_ids(tx, room.root, state.root)
        wanted = {pair_id: new for pair_id, (_, new) in differing.items()} | dict(state.changes)
        now = {} if room.root is None else self._trees.find_ids(tx, [room.root], wanted)[room.root]
        final = {pair_id: at for pair_id, at in wanted.items() if now.get(pair_id) != at}
        changes = self._changes(tx, room, final, event)
        return Resolved(State(room.root, final), resolved.roots, resolved.report), changes

    def _changes(self, tx: ReadTx, room: HotRoom, final: Mapping[int, int | None], event: Event) -> list[Change]:
        pairs = self._trees.pairs(tx, final)
        stored = events.find_many(tx, [at for at in final.values() if at is not None and at != UNSTORED])
        found = []
        for pair_id, at in final.items():
            pair = pairs[pair_id]
            if at is None:
                found.append(Change(pair, None))
            elif at == UNSTORED or stored[at].event_id == event.event_id:
                found.append(Change(pair, event, at))
            else:
                found.append(Change(pair, parse(stored[at], room.version.identifier), at))
        return found


def follows_all(room: HotRoom, event: Event) -> bool:
    """Whether an event comes right behind all there is, and is not of those that change what was before."""
    if room.is_held or event.type == "m.room.redaction":
        return False
    return set(event.prev_events) == {tip.event_id for tip in room.latest}


def _first(root: int | None, roots: Sequence[int | None]) -> list[State]:
    return _preferring(root, [State(one) for one in roots])


def _preferring(root: int | None, states: Sequence[State]) -> list[State]:
    """The states, the one of this root first: what others come to is told as changes to the first."""
    return sorted(states, key=lambda state: state.root != root or bool(state.changes))


def _ensure_pair(tx: WriteTx, pair: Pair) -> int:
    return ensure_pairs(tx, [pair])[pair]
