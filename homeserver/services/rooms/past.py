"""Events of the past: they are put before what is known of a room already (docs/decisions/0012-places.md).

They pass the same checks as all others, but that of the present: whoever may not speak any more could speak then. And
nothing that the room is now is another for them: neither its state nor its members nor its forward extremities.

Most of history is long runs of events that stand on each other: those are judged in one look and written in one
transaction (`services/rooms/past_runs.py`). What does not fit is taken by itself.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice, takewhile

from homeserver.kit.clock import Clock
from homeserver.kit.logs import report
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms.graph import Graph
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.loose_ends import settle
from homeserver.services.rooms.outliers import Outliers, by_auth
from homeserver.services.rooms.past_plan import Planned, plan_places
from homeserver.services.rooms.past_runs import judge
from homeserver.services.rooms.persist import EventWriter, Superseded
from homeserver.services.rooms.placement import Batch, NewEvent, State
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair

_AT_ONCE = 50
"""So many events are written in one transaction: nobody else can write meanwhile."""

States = Mapping[EventId, Mapping[Pair, EventId]]
"""The states before events whose predecessors are not all known."""


class Past:
    """Takes events of the past in.

    Meanwhile nothing that comes from elsewhere is taken into the room; its own people go on talking.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        trees: StateTrees,
        hot: HotRooms,
        writer: EventWriter,
        graph: Graph,
        inbox: Inbox,
        outliers: Outliers,
    ) -> None:
        self._database = database
        self._clock = clock
        self._trees = trees
        self._hot = hot
        self._writer = writer
        self._graph = graph
        self._inbox = inbox
        self._outliers = outliers

    async def take(self, room_id: RoomId, found: Mapping[EventId, Event], states: States) -> int:
        """Take events that passed the first checks, and say how many could be placed.

        Only what is known to be missing in the room can be, and what comes before that. `states` are those before
        events whose predecessors are not all known, nor here.
        """
        taken = 0
        async with self._inbox.turn(room_id):
            room = await self._settled(room_id)
            plan = await self._database.snapshot(plan_places, room, found)
            await self._store_state_events(room, [one.event for one in plan])
            coming = deque(reversed(plan))  # What follows another event is placed behind it.
            while coming:
                taken += await self._take_some(room, coming, states)
        return taken

    async def _settled(self, room_id: RoomId) -> HotRoom:
        """The room when what was handed over in earlier turns is written.

        Whoever had a turn may have been cancelled in it. From here on no redaction comes of what is not known, so none
        is missed that waits for an event of the past.
        """
        async with (await self._hot.find(room_id)).alone():
            pass
        return await self._hot.find(room_id)

    async def _store_state_events(self, room: HotRoom, planned: Sequence[Event]) -> None:
        """Give events of state a position: what stands on one can be written together with it then."""
        of_state = {EventId(event.event_id): event for event in planned if event.state_key is not None}
        known = await self._database.read(events.find_positions, of_state)
        new = by_auth({event_id: event for event_id, event in of_state.items() if event_id not in known})
        await self._outliers.take(room, new)

    async def _take_some(self, room: HotRoom, coming: deque[Planned], states: States) -> int:
        """Take a run of events, or one that is in none; how many could be placed."""
        if room.partial is None:
            part = list(takewhile(lambda one: one.event.event_id not in states, islice(coming, _AT_ONCE)))
            run = await self._database.snapshot(judge, self._trees, room, part) if len(part) > 1 else None
            if run is not None and run.length > 1:
                if run.new and not await self._write_together(room.room_id, run.new):
                    # It is the fault of one of them, or of none.
                    return sum([await self._take_alone(room, coming.popleft(), states) for _ in range(run.length)])
                for _ in range(run.length):
                    coming.popleft()
                return len(run.new)
        return await self._take_alone(room, coming.popleft(), states)

    async def _take_alone(self, room: HotRoom, one: Planned, states: States) -> int:
        state = states.get(EventId(one.event.event_id))
        given = None if state is None else await self._database.snapshot(self._as_changes, room, state)
        placed = await self._graph.place_past(room, one.event, one.place, given=given)
        if placed.new is None:
            return 0
        await self._write(room.room_id, [placed.new])
        return 1

    async def _write_together(self, room_id: RoomId, new: Sequence[NewEvent]) -> bool:
        [outcome] = await asyncio.gather(self._write(room_id, new), return_exceptions=True)
        if outcome is not None:
            report(outcome)
        return outcome is None

    async def _write(self, room_id: RoomId, new: Sequence[NewEvent]) -> None:
        while True:
            batch = Batch(await self._hot.find(room_id), list(new), also=settle(new), now=self._clock.now())
            try:
                await self._writer.write(batch)
            except Superseded:
                continue  # What is past does not stand on what was not written.
            return

    def _as_changes(self, tx: ReadTx, room: HotRoom, state: Mapping[Pair, EventId]) -> State:
        """The state as what is different in it from that of now, which is most alike of those that are stored."""
        rows = events.find_standings_by_id(tx, state.values()).values()
        then = {row.pair_id: row.position for row in rows if row.pair_id is not None and row.room_nid == room.room_nid}
        now = {pair_id: at for pair_id, (_, at) in self._trees.differing_ids(tx, None, room.root).items()}
        changes: dict[int, int | None] = {pair_id: at for pair_id, at in then.items() if now.get(pair_id) != at}
        changes.update((pair_id, None) for pair_id in now.keys() - then.keys())
        return State(room.root, changes)
