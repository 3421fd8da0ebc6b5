"""States of rooms as other servers know them, at events before which this one does not (server-server API, room state).

Which events a state is of, the other server is believed; the events themselves pass the checks that all others do.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from homeserver.errors import AnswerTooLarge
from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.state_requests import LARGEST_IDS, LARGEST_STATE, StateRequests
from homeserver.storage import events
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair

log = structlog.get_logger()

_USUAL = 4 << 20
_LARGE_AT_ONCE = 2
"""So many answers that are larger are asked for at a time."""
_LARGEST_CHAIN = 64 << 20
_PER_MEMBER = 4096
_OTHERS = 10_000
"""A state has the members that we know of, and at most so many events besides, or members that we do not know."""
_IDS_ARE_SMALLER = 16
_MOST_IN_PART = 500
"""More is not asked for while all that is missing of a room is on its way; its states then lack members as well."""

T = TypeVar("T")


class StatesElsewhere:
    """Asks for states, and takes in as outliers what is not known of them. Everything raises `RemoteFailure`."""

    def __init__(self, database: Database, trees: StateTrees, inbox: Inbox, requests: StateRequests) -> None:
        self._database = database
        self._trees = trees
        self._inbox = inbox
        self._requests = requests
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def before(
        self, room: HotRoom, server: ServerName, event_id: EventId, *, is_whole: bool = False
    ) -> dict[Pair, EventId]:
        """The state before an event, as far as it can be had; nothing if it is too large or has no create event.

        With `is_whole`, nothing as well if events of it cannot be had, or cannot be verified for want of keys.
        """
        plausible = _plausible(room)
        ids = await self._ask(
            lambda largest: self._requests.ids(room, server, event_id, largest=largest),
            min(plausible // _IDS_ARE_SMALLER, LARGEST_IDS),
        )
        if ids.is_cut:
            return {}
        wanted = ids.all()
        known = await self._database.read(events.find_standings_by_id, wanted)
        missing = [one for one in wanted if one not in known]
        if missing and (room.partial is None or len(missing) <= _MOST_IN_PART):
            given = await self._ask(
                lambda largest: self._requests.these(room, server, event_id, missing, largest=largest),
                min(plausible, LARGEST_STATE),
            )
            await self._take(room, list(given.values()))
        if is_whole and len(await self._database.read(events.find_standings_by_id, ids.state)) < len(set(ids.state)):
            return {}
        state = await self._database.snapshot(self._state, room, ids.state)
        return state if ("m.room.create", "") in state else {}

    async def bring_auth(self, room: HotRoom, server: ServerName, event_id: EventId) -> None:
        """Take in what an event is allowed by."""
        chain = await self._ask(
            lambda largest: self._requests.auth_chain(room, server, event_id, largest=largest), _LARGEST_CHAIN
        )
        await self._take(room, chain)

    async def _ask(self, ask: Callable[[int], Awaitable[T]], largest: int) -> T:
        """Ask for something that is usually small; where it is not, again, with few others at the same time.

        Nobody here has asked for it: an event that somebody delivered makes this server do so.
        """
        try:
            return await ask(min(_USUAL, largest))
        except AnswerTooLarge:
            if largest <= _USUAL:
                raise
            async with self._large:
                return await ask(largest)

    async def _take(self, room: HotRoom, pdus: Sequence[bytes]) -> None:
        receipts = await self._inbox.receive_outliers(room.room_id, pdus) if pdus else []
        dropped = Counter(receipt.reason for receipt in receipts if receipt.outcome == Outcome.DROPPED)
        if dropped:
            log.info("events that others cite were dropped", room_id=room.room_id, **dict(dropped.most_common(3)))

    def _state(self, tx: ReadTx, room: HotRoom, event_ids: Sequence[EventId]) -> dict[Pair, EventId]:
        """The state that these events are, without what is not known, is not of this room, or not allowed."""
        found = [
            row
            for row in events.find_standings_by_id(tx, event_ids).values()
            if row.room_nid == room.room_nid and row.pair_id is not None and row.status != events.REJECTED
        ]
        pairs = self._trees.pairs(tx, {row.pair_id for row in found if row.pair_id is not None})
        return {pairs[row.pair_id]: row.event_id for row in found if row.pair_id is not None}


def _plausible(room: HotRoom) -> int:
    """How many bytes a state of the room may have, as far as can be told."""
    if room.partial is not None:
        return LARGEST_STATE  # Nobody knows how many members are missing.
    return _PER_MEMBER * (len(room.joined) + _OTHERS)
