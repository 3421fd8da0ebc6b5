"""States of rooms as other servers know them, at events before which this one does not (server-server API, room state).

Which events a state is of, the other server is believed; the events themselves pass the checks that all others do.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from homeserver.errors import RemoteFailure
from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.inbox import Inbox, id_of
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair

log = structlog.get_logger()

_SINGLY = 20
"""Up to so many events are asked for one by one; for more, the whole state is."""
_MOST_STATE = 200_000
_MOST_CHAIN = 400_000
_MOST_IN_PART = 500
"""More is not asked for while all that is missing of a room is on its way; its states then lack members as well."""
_LARGEST_IDS = 64 << 20
_LARGEST_STATE = 512 << 20


class StatesElsewhere:
    """Asks for states, and takes in as outliers what is not known of them. Everything raises `RemoteFailure`."""

    def __init__(self, database: Database, trees: StateTrees, inbox: Inbox, client: FederationClient) -> None:
        self._database = database
        self._trees = trees
        self._inbox = inbox
        self._client = client

    async def before(
        self, room: HotRoom, server: ServerName, event_id: EventId, *, is_whole: bool = False
    ) -> dict[Pair, EventId]:
        """The state before an event, as far as it can be had; nothing if it is too large or has no create event.

        With `is_whole`, nothing as well if events of it cannot be had, or cannot be verified for want of keys.
        """
        ids = await self._client.state_ids(server, room.room_id, event_id, largest=_LARGEST_IDS)
        if len(ids.pdu_ids) > _MOST_STATE or len(ids.auth_chain_ids) > _MOST_CHAIN:
            return {}
        of_state = [EventId(one) for one in ids.pdu_ids if _is_id(one)]
        wanted = list(dict.fromkeys([*of_state, *(EventId(one) for one in ids.auth_chain_ids if _is_id(one))]))
        known = await self._database.read(events.find_standings_by_id, wanted)
        missing = [one for one in wanted if one not in known]
        if room.partial is None or len(missing) <= _MOST_IN_PART:
            await self._fetch(room, server, event_id, missing)
        if is_whole and len(await self._database.read(events.find_standings_by_id, of_state)) < len(set(of_state)):
            return {}
        state = await self._database.snapshot(self._state, room, of_state)
        return state if ("m.room.create", "") in state else {}

    async def bring_auth(self, room: HotRoom, server: ServerName, event_id: EventId) -> None:
        """Take in what an event is allowed by."""
        answer = await self._client.event_auth(server, room.room_id, event_id, largest=_LARGEST_STATE)
        await self._take(room, [bytes(pdu) for pdu in answer.auth_chain[:_MOST_CHAIN]])

    async def _fetch(self, room: HotRoom, server: ServerName, event_id: EventId, wanted: Sequence[EventId]) -> None:
        """Bring events of the state before an event, and of what that rests on."""
        if not wanted:
            return
        if len(wanted) <= _SINGLY:
            found = await asyncio.gather(*(self._event(room, server, one) for one in wanted))
            await self._take(room, [pdu for pdu in found if pdu is not None])
            return
        answer = await self._client.state(server, room.room_id, event_id, largest=_LARGEST_STATE)
        pdus = [bytes(pdu) for pdu in (*answer.auth_chain[:_MOST_CHAIN], *answer.pdus[:_MOST_STATE])]
        unknown = frozenset(wanted)
        await self._take(room, [pdu for pdu in pdus if id_of(room, pdu) in unknown])

    async def _event(self, room: HotRoom, server: ServerName, event_id: EventId) -> bytes | None:
        try:
            answer = await self._client.event(server, event_id)
        except RemoteFailure:
            return None
        pdus = [bytes(pdu) for pdu in answer.pdus[:1]]
        return pdus[0] if pdus and id_of(room, pdus[0]) == event_id else None

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


def _is_id(text: str) -> bool:
    return text.startswith("$") and len(text) <= 255 and "\0" not in text
