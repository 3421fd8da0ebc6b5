"""Events that passed the first checks come into their room: judged, placed and written, or left to wait.

They are gone through one after the other, each behind those that it names, and what waited for one of them comes right
behind it. Whoever calls has the room's turn (`services/rooms/turns.py`).
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from homeserver.errors import Conflict, Unavailable
from homeserver.kit.clock import Clock
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, ServerName, domain_of
from homeserver.services.rooms.graph import Graph, Placed
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.intake import Intake, in_order
from homeserver.services.rooms.loose_ends import settle
from homeserver.services.rooms.merge import Merger
from homeserver.services.rooms.persist import ATTEMPTS, EventWriter, Superseded
from homeserver.services.rooms.placement import Batch
from homeserver.services.rooms.policy import PolicyServers
from homeserver.services.rooms.receipts import Outcome, Receipt, of_placed
from homeserver.services.rooms.room_state import NotLoaded
from homeserver.services.rooms.waiting import WaitingEvents
from homeserver.storage.engine import WriteTx
from homeserver.storage.event_graph import Waiting
from homeserver.storage.state import Pair

Given = Mapping[Pair, int]
"""The state before an event where it is known from elsewhere: positions by pair."""


class Admission:
    """Lets events into rooms."""

    def __init__(
        self,
        clock: Clock,
        hot: HotRooms,
        writer: EventWriter,
        graph: Graph,
        merger: Merger,
        policies: PolicyServers,
        waiting: WaitingEvents,
    ) -> None:
        self._clock = clock
        self._hot = hot
        self._writer = writer
        self._graph = graph
        self._merger = merger
        self._policies = policies
        self._waiting = waiting

    async def admit(self, room: HotRoom, intake: Intake, *, given: Given | None = None) -> None:
        """Take events in, and say in the intake what became of each; `given` is the state before these events.

        Raises `Superseded` where an event was built upon one that could not be written, or is not as it was presumed
        to be.
        """
        coming = deque(in_order({one: event for one, event in intake.checked.items() if one not in intake.receipts}))
        intake.coming.update(EventId(event.event_id) for event in coming)
        # All at once, as each may take a while; this costs nothing in a room without a policy server.
        signed = await self._policies.recommended(room, coming) if self._policies.of(room) is not None else {}
        while coming or await self._release_more(room, coming, intake):
            event = coming.popleft()
            event_id = EventId(event.event_id)
            intake.coming.discard(event_id)
            if intake.is_placed(event_id):
                continue
            if event_id not in signed and self._policies.of(room) is not None:
                signed |= await self._policies.recommended(room, [event])
            recommended = signed.get(event_id, event)
            event = recommended or event
            own = given if event_id in intake.checked else None
            if own is None and (behind := intake.waits_behind(event)):
                self._let_wait(room, event, Placed(None, missing=behind), intake)
            elif (
                await self._place(room, event, intake, given=own, is_recommended=recommended is not None)
                and event_id in intake.wanted
            ):
                coming.extendleft(reversed(await self._waiting.release(room, event_id, intake)))
            if self._merger.is_needed(room):
                await intake.settle()
                with suppress(Conflict, Superseded):  # The next event that can do it will.
                    await self._merger.merge(room)
            if room.is_stale:
                room = await self._hot.find(room.room_id)
        await intake.settle()
        await self._waiting.keep(room, intake)
        for event_id in intake.checked.keys() - intake.receipts.keys():
            # Only where servers choose the ids of events can these name each other.
            intake.receipts[event_id] = Receipt(event_id, Outcome.DROPPED, "The event comes before itself.")

    async def _release_more(self, room: HotRoom, coming: deque[Event], intake: Intake) -> bool:
        """Go on with what waits for events of which not everything could come at once; whether there was some."""
        while intake.unfinished and not coming:
            await intake.settle()
            coming.extend(await self._waiting.release_more(room, intake))
        return bool(coming)

    async def _place(
        self, room: HotRoom, event: Event, intake: Intake, *, given: Given | None, is_recommended: bool
    ) -> bool:
        """Place an event, or let it wait; whether it was placed."""
        for _ in range(ATTEMPTS):
            if given is None and is_recommended and event.event_id not in intake.outliers:
                try:
                    placed = self._graph.follow(room, event)
                except NotLoaded as missing:
                    await self._hot.load(room, missing.pairs)
                    continue
                if placed is not None:
                    try:
                        self._hand_over(room, placed, intake)
                    except Superseded:
                        room = await self._hot.find(room.room_id)
                        continue
                    return True
            if intake.is_presumed_new:
                raise Superseded
            await intake.settle()
            async with room.alone():
                if not room.is_stale and self._hot.peek(room.room_nid or 0) is room:
                    placed = await self._graph.place(room, event, given=given, is_recommended=is_recommended)
                    if placed.new is None:
                        self._let_wait(room, event, placed, intake)
                        return False
                    self._hand_over(room, placed, intake)
                    return True
            room = await self._hot.find(room.room_id)
        raise Unavailable("The room changes too quickly.")

    def _hand_over(self, room: HotRoom, placed: Placed, intake: Intake) -> None:
        new = placed.new
        assert new is not None
        event = new.event
        event_id = EventId(event.event_id)
        but = intake.relayed.get(event_id)
        is_plain = new.placement is None and not event.redacts and but is None and event_id not in intake.staged
        also = None if is_plain else settle([new], relay_to_all_but=but)
        if (first := intake.hand_over_first()) is not None:
            also = _with_first(first, also)
        batch = Batch(room, [new], also=also, now=self._clock.now(), is_presumed_new=intake.is_presumed_new)
        intake.writing.append(self._writer.write(batch))
        intake.receipts[event_id] = of_placed(event, placed)

    def _let_wait(self, room: HotRoom, event: Event, placed: Placed, intake: Intake) -> None:
        assert room.room_nid is not None
        event_id = EventId(event.event_id)
        server = ServerName(domain_of(event.sender))
        intake.let_wait(Waiting(event_id, room.room_nid, self._clock.now(), event.pdu, placed.missing, server))
        intake.receipts[event_id] = of_placed(event, placed)


def _with_first(
    first: Callable[[WriteTx], None], also: Callable[[WriteTx, int], None] | None
) -> Callable[[WriteTx, int], None]:
    def both(tx: WriteTx, room_nid: int) -> None:
        first(tx)
        if also is not None:
            also(tx, room_nid)

    return both
