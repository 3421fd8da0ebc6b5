"""Resolving states of a room that branches of its history disagree about (server-server API, Room State Resolution).

Only the conflict is looked at: the pairs in which the state trees differ, the part of the auth graph that lies between
them, and the events that these name. What takes long runs in a thread without the interpreter lock. What was resolved
once is kept, in memory and in the database.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ParamSpec, TypeVar

import msgspec

from homeserver.kit.caching import Lru
from homeserver.matrix import auth_graph, state_resolution
from homeserver.matrix.auth_graph import AuthGraph
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId
from homeserver.matrix.room_versions import RoomVersion
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.placement import UNSTORED, Resolved, State
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import auth_nodes, events, resolutions
from homeserver.storage.auth_nodes import AuthNode
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair

_KNOWN = 2000
_NODES = 20_000
_EVENTS_BYTES = 16 << 20
_EVENT = 500
"""What is kept besides the event as it is sent, roughly."""
_SMALL = 200
"""So many conflicted events are resolved at once; with more of them others have their turn meanwhile."""

P = ParamSpec("P")
T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Unstored:
    """An event that is being placed: in states and in the graph it stands at `UNSTORED`."""

    event: Event
    pair_id: int
    auth: Sequence[int]


@dataclass(frozen=True)
class _Conflict:
    """What states disagree about: for each pair, by its id, the position of its event in each state."""

    values: Mapping[int, Sequence[int | None]]

    @cached_property
    def positions(self) -> set[int]:
        return {at for row in self.values.values() for at in row if at is not None}

    def sets(self) -> list[list[int]]:
        """The conflicted events of each state."""
        states = zip(*self.values.values(), strict=True)
        return [sorted({at for at in state if at is not None}) for state in states]


@dataclass(frozen=True, slots=True)
class _Known:
    """An event of a room, as resolving sees it."""

    event: Event
    pair_id: int | None
    is_rejected: bool


class _Memory:
    """What resolving has read of late: nodes of auth graphs, and events. Neither ever changes."""

    def __init__(self) -> None:
        self.rows: Lru[int, AuthNode] = Lru(_NODES)
        self.events: Lru[int, _Known] = Lru(_EVENTS_BYTES, lambda known: _EVENT + known.event.size)


class Resolver:
    """Resolves states."""

    def __init__(self, database: Database, trees: StateTrees) -> None:
        self._database = database
        self._trees = trees
        self._known: Lru[tuple[int, frozenset[int]], int] = Lru(_KNOWN)
        self._memory = _Memory()

    async def resolve(self, room: HotRoom, states: Sequence[State], unstored: Unstored | None = None) -> Resolved:
        """The state that these come to, as changes to the first of them."""
        distinct = _distinct(states)
        if len(distinct) == 1:
            return Resolved(distinct[0])
        roots = [state.root for state in distinct if not state.changes and state.root is not None]
        is_stored = len(roots) == len(distinct)
        if is_stored and (known := await self._find(room, roots)) is not None:
            return Resolved(State(known))
        conflict = await self._database.snapshot(self._conflict, distinct)
        if not conflict.values:
            return Resolved(distinct[0])
        return await _Resolving(self._database, self._trees, self._memory, room, distinct, conflict, unstored).run()

    def forget(self) -> None:
        """Forget what was kept in memory: some of it is not in the database any more."""
        self._known.clear()

    async def _find(self, room: HotRoom, roots: Collection[int]) -> int | None:
        assert room.room_nid is not None
        key = (room.room_nid, frozenset(roots))
        if (known := self._known.get(key)) is None:
            found = await self._database.read(resolutions.find, room.room_nid, roots)
            if found is None:
                return None
            known = found.root
            self._known.put(key, known)
        return known

    def _conflict(self, tx: ReadTx, states: Sequence[State]) -> _Conflict:
        first = states[0]
        pair_ids: set[int] = {pair_id for state in states for pair_id in state.changes}
        for root in {state.root for state in states if state.root != first.root}:
            pair_ids.update(self._trees.differing_ids(tx, first.root, root))
        roots = {state.root for state in states if state.root is not None}
        found = self._trees.find_ids(tx, roots, pair_ids)

        def value(state: State, pair_id: int) -> int | None:
            if pair_id in state.changes:
                return state.changes[pair_id]
            return None if state.root is None else found[state.root].get(pair_id)

        rows = {pair_id: [value(state, pair_id) for state in states] for pair_id in pair_ids}
        return _Conflict({pair_id: row for pair_id, row in rows.items() if len(set(row)) > 1})


class _Resolving:
    """One resolution."""

    def __init__(
        self,
        database: Database,
        trees: StateTrees,
        memory: _Memory,
        room: HotRoom,
        states: Sequence[State],
        conflict: _Conflict,
        unstored: Unstored | None,
    ) -> None:
        self._database = database
        self._trees = trees
        self._memory = memory
        self._room = room
        self._version: RoomVersion = room.version
        self._states = states
        self._conflict = conflict
        self._unstored = unstored
        self._graph = AuthGraph()
        self._events: dict[int, Event] = {}
        self._pair_ids: dict[int, int] = {}
        self._rejected: set[str] = set()
        if unstored is not None:
            self._graph.add_unstored(UNSTORED, unstored.pair_id, list(unstored.auth))
            self._events[UNSTORED] = unstored.event
            self._pair_ids[UNSTORED] = unstored.pair_id

    async def run(self) -> Resolved:
        conflicted = sorted(self._conflict.positions)
        difference: list[int] = []
        subgraph: list[int] = []
        if self._version.state_resolution != "1":
            difference = await self._ask(lambda: self._graph.difference(self._conflict.sets()))
        if self._version.state_resolution == "2.1":
            subgraph = await self._ask(lambda: self._graph.subgraph(conflicted))
        await self._load({*conflicted, *difference, *subgraph})
        outcome = await self._decide(conflicted, difference, subgraph)
        return await self._told(outcome)

    async def _ask(self, question: Callable[[], auth_graph.Step]) -> list[int]:
        """The answer of the graph, which is loaded as far as the question reaches."""
        assert self._room.room_nid is not None
        while True:
            kind, positions = await self._compute(question)
            match kind:
                case "done":
                    return positions
                case "rows":
                    self._add(await self._rows(positions))
                case "above":
                    self._add(await self._database.read(auth_nodes.list_above, self._room.room_nid, after=positions[0]))
                    self._graph.set_complete_above(positions[0])
                case "unknown":
                    self._graph.tell(await self._database.read(self._standing, positions))

    async def _rows(self, positions: Sequence[int]) -> list[AuthNode]:
        known = [row for at in positions if (row := self._memory.rows.get(at)) is not None]
        if len(known) == len(positions):
            return known
        have = {row.position for row in known}
        read = await self._database.read(auth_nodes.find_many, [at for at in positions if at not in have])
        for row in read:
            self._memory.rows.put(row.position, row)
        return [*known, *read]

    def _add(self, rows: Iterable[AuthNode]) -> None:
        self._graph.add([(row.position, row.pair_id, row.auth) for row in rows])

    def _standing(self, tx: ReadTx, positions: Sequence[int]) -> list[tuple[int, bool]]:
        """Which of the events are in the state that all have in common."""
        pairs = {at: pair_id for at in positions if (pair_id := self._graph.pair_of(at)) is not None}
        missing = [at for at in positions if at not in pairs]
        pairs |= {row.position: row.pair_id for row in auth_nodes.find_many(tx, missing)}
        current = self._common(tx, set(pairs.values()))
        return [(at, pairs[at] not in self._conflict.values and current.get(pairs[at]) == at) for at in positions]

    def _common(self, tx: ReadTx, pair_ids: Collection[int]) -> dict[int, int]:
        """Of pairs that are not conflicted, the positions of their events."""
        first = self._states[0]
        found = {} if first.root is None else self._trees.find_ids(tx, [first.root], pair_ids)[first.root]
        changed = {pair_id: first.changes[pair_id] for pair_id in pair_ids if pair_id in first.changes}
        found.update((pair_id, at) for pair_id, at in changed.items() if at is not None)
        return {pair_id: at for pair_id, at in found.items() if changed.get(pair_id, at) is not None}

    async def _load(self, positions: Iterable[int]) -> None:
        missing = []
        for at in positions:
            if at in self._events:
                continue
            if (known := self._memory.events.get(at)) is None:
                missing.append(at)
            else:
                self._keep(at, known)
        if missing:
            self._take((await self._database.read(events.find_many, missing)).values())

    def _take(self, rows: Iterable[events.StoredEvent]) -> None:
        for row in rows:
            event = parse(row, self._version.identifier)
            known = _Known(event, row.pair_id, row.status == events.REJECTED)
            self._memory.events.put(row.position, known)
            self._keep(row.position, known)

    def _keep(self, at: int, known: _Known) -> None:
        self._events[at] = known.event
        if known.pair_id is not None:
            self._pair_ids[at] = known.pair_id
        if known.is_rejected:
            self._rejected.add(known.event.event_id)

    async def _decide(
        self, conflicted: Sequence[int], difference: Sequence[int], subgraph: Sequence[int]
    ) -> state_resolution.Resolution:
        create = self._room.create
        assert create is not None
        full = [self._events[at] for at in {*conflicted, *difference, *subgraph}]
        needed = await self._compute(lambda: state_resolution.needed_pairs(full))
        common = await self._database.snapshot(self._needed, needed)
        await self._load(common)
        known: list[Event] = []
        while True:
            outcome = await self._compute(
                lambda: state_resolution.resolve(
                    self._version.identifier,
                    create=create,
                    unconflicted=[self._events[at] for at in common],
                    conflicted=[self._events[at] for at in conflicted],
                    auth_difference=[self._events[at] for at in difference],
                    subgraph=[self._events[at] for at in subgraph],
                    known=known,
                    rejected=self._rejected,
                )
            )
            if not outcome.missing:
                return outcome
            found = await self._database.read(events.find_many_by_id, [EventId(one) for one in outcome.missing])
            if len(found) < len(outcome.missing):
                raise LookupError(f"Auth events are missing in {self._room.room_id}; `homeserver fsck` tells more.")
            self._take(found.values())
            known.extend(self._events[row.position] for row in found.values())

    def _needed(self, tx: ReadTx, pairs: Sequence[Pair]) -> list[int]:
        ids = set(self._trees.pair_ids(tx, pairs).values()) - self._conflict.values.keys()
        return list(self._common(tx, ids).values())

    async def _told(self, outcome: state_resolution.Resolution) -> Resolved:
        """The outcome as changes to the first state, and in words."""
        positions = {event.event_id: at for at, event in self._events.items()}
        won = {self._pair_ids[positions[event_id]]: positions[event_id] for event_id in outcome.state.values()}
        first = self._states[0]
        before = {pair_id: row[0] for pair_id, row in self._conflict.values.items()}
        changes = {pair_id: won.get(pair_id) for pair_id in {*before, *won} if won.get(pair_id) != before.get(pair_id)}
        report = {
            "conflicted": len(self._conflict.positions),
            "changes": [self._change(before.get(pair_id), at) for pair_id, at in sorted(changes.items())],
            "lost": [{"event_id": event_id, "reason": reason} for event_id, reason in outcome.lost],
        }
        return Resolved(
            State(first.root, {**first.changes, **changes}),
            tuple(None if state.changes else state.root for state in self._states),
            _encode(report),
        )

    def _change(self, old: int | None, new: int | None) -> dict[str, str | None]:
        at = new if new is not None else old
        assert at is not None
        event = self._events[at]
        return {
            "type": event.type,
            "state_key": event.state_key,
            "from": None if old is None else self._events[old].event_id,
            "to": None if new is None else event.event_id,
        }

    async def _compute(self, work: Callable[[], T]) -> T:
        if len(self._conflict.positions) <= _SMALL:
            return work()
        return await asyncio.to_thread(work)


def _distinct(states: Sequence[State]) -> list[State]:
    """The states, each once, in the order given."""
    found: dict[tuple[int | None, frozenset[tuple[int, int | None]]], State] = {}
    for state in states:
        found.setdefault((state.root, frozenset(state.changes.items())), state)
    return list(found.values())
