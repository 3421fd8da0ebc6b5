"""Asking other servers for the states of rooms: first which events one is of, then those that are not known.

Few of them are asked for singly, for more the whole state is. Nothing of what comes is verified here, but that it is
what was asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from homeserver.errors import RemoteFailure
from homeserver.matrix.events import receive_events
from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.event_ids import id_of
from homeserver.services.rooms.hot import HotRoom
from homeserver.storage.tables import chunks

MOST_STATE = 200_000
MOST_CHAIN = 400_000
"""So many events may a state consist of, and may it rest on."""
LARGEST_STATE = 512 << 20
LARGEST_IDS = 64 << 20
_FEW = 20
"""Up to so many events are asked for singly where the state may be of any size."""
_AT_ONCE = 10
_GROUP = 500

Choose = Callable[[Collection[EventId]], Awaitable[Collection[EventId]]]


@dataclass(frozen=True, slots=True)
class StateIds:
    """The events of a state, and those that it rests on."""

    state: Sequence[EventId]
    chain: Sequence[EventId]
    is_cut: bool
    """There were too many, and the rest was left away."""

    def all(self) -> list[EventId]:
        """Each of them once."""
        return list(dict.fromkeys([*self.chain, *self.state]))


@dataclass(frozen=True, slots=True)
class GivenState:
    """A state as it was given, and the events that were chosen of it, and of what it rests on."""

    state: Sequence[EventId]
    count: int
    """How many events there were in all."""
    chosen: Mapping[EventId, bytes]


class StateRequests:
    """Asks for states. What fails as a whole raises `RemoteFailure`."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def ids(
        self, room: HotRoom, server: ServerName, event_id: EventId, *, largest: int = LARGEST_IDS
    ) -> StateIds:
        """Of which events the state before an event is."""
        answer = await self._client.state_ids(server, room.room_id, event_id, largest=largest)
        is_cut = len(answer.pdu_ids) > MOST_STATE or len(answer.auth_chain_ids) > MOST_CHAIN
        return StateIds(_ids(answer.pdu_ids[:MOST_STATE]), _ids(answer.auth_chain_ids[:MOST_CHAIN]), is_cut)

    async def singly(self, room: HotRoom, server: ServerName, event_ids: Iterable[EventId]) -> dict[EventId, bytes]:
        """These events, as far as they are given; some are asked for at a time."""
        turns = asyncio.Semaphore(_AT_ONCE)
        found: dict[EventId, bytes] = {}

        async def ask(event_id: EventId) -> None:
            async with turns:
                try:
                    answer = await self._client.event(server, event_id)
                except RemoteFailure:
                    return
                found.update((event_id, pdu) for pdu in map(bytes, answer.pdus[:1]) if id_of(room, pdu) == event_id)

        async with asyncio.TaskGroup() as tasks:
            for event_id in event_ids:
                tasks.create_task(ask(event_id))
        return found

    async def whole(
        self,
        room: HotRoom,
        server: ServerName,
        event_id: EventId,
        choose: Choose,
        *,
        largest: int = LARGEST_STATE,
    ) -> GivenState:
        """The state before an event with what it rests on; of the events, those that `choose` takes, some at a time."""
        answer = await self._client.state(server, room.room_id, event_id, largest=largest)
        chosen: dict[EventId, bytes] = {}
        chain = await _sift(room, answer.auth_chain[:MOST_CHAIN], choose, chosen)
        state = await _sift(room, answer.pdus[:MOST_STATE], choose, chosen)
        return GivenState(state, len({*chain, *state}), chosen)

    async def these(
        self, room: HotRoom, server: ServerName, event_id: EventId, wanted: Collection[EventId], *, largest: int
    ) -> Mapping[EventId, bytes]:
        """Events of the state before an event or of what it rests on, as far as they are given."""
        if len(wanted) <= _FEW:
            return await self.singly(room, server, wanted)
        unknown = frozenset(wanted)

        async def choose(event_ids: Collection[EventId]) -> Collection[EventId]:
            return unknown.intersection(event_ids)

        return (await self.whole(room, server, event_id, choose, largest=largest)).chosen

    async def auth_chain(self, room: HotRoom, server: ServerName, event_id: EventId, *, largest: int) -> list[bytes]:
        """What an event rests on."""
        answer = await self._client.event_auth(server, room.room_id, event_id, largest=largest)
        return [bytes(pdu) for pdu in answer.auth_chain[:MOST_CHAIN]]


async def _sift(room: HotRoom, raws: Sequence[object], choose: Choose, chosen: dict[EventId, bytes]) -> list[EventId]:
    """The ids of the events; those that are chosen are added."""
    ids: list[EventId] = []
    for group in chunks(raws, _GROUP):
        pdus = [bytes(raw) for raw in group]  # type: ignore[call-overload]
        received = await asyncio.to_thread(receive_events, pdus, room.version.identifier)
        here = {
            EventId(one[0].event_id): pdu for one, pdu in zip(received, pdus, strict=True) if not isinstance(one, str)
        }
        ids.extend(here)
        chosen.update((event_id, here[event_id]) for event_id in await choose(here.keys()))
    return ids


def _ids(texts: Iterable[str]) -> list[EventId]:
    return [EventId(text) for text in texts if text.startswith("$") and len(text) <= 255 and "\0" not in text]
