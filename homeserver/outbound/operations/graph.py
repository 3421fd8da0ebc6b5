"""Events and states of rooms, as other servers have them."""

from collections.abc import Collection

import msgspec

from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.outbound.operations.asking import LARGEST_STATE, LONG_TIMEOUT_S, TIMEOUT_S, V1, Asking, Json, part

Raw = msgspec.Raw


class Pdus(msgspec.Struct, frozen=True):
    """Events, as `/event` and `/backfill` give them."""

    pdus: list[Raw]


class MissingEvents(msgspec.Struct, frozen=True):
    """Events between others."""

    events: list[Raw]


class RoomState(msgspec.Struct, frozen=True):
    """The state before an event, and what it rests on."""

    pdus: list[Raw]
    auth_chain: list[Raw]


class StateIds(msgspec.Struct, frozen=True):
    """The ids of the state before an event, and of what it rests on."""

    pdu_ids: list[str]
    auth_chain_ids: list[str]


class AuthChain(msgspec.Struct, frozen=True):
    """What an event rests on."""

    auth_chain: list[Raw]


class NearestEvent(msgspec.Struct, frozen=True):
    """The event nearest to a time."""

    event_id: str
    origin_server_ts: int


class Graph(Asking):
    """These operations."""

    async def event(self, destination: ServerName, event_id: EventId) -> Pdus:
        """One event."""
        return await self._call("getEvent", destination, "GET", f"{V1}/event/{part(event_id)}", Pdus)

    async def event_auth(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, *, largest: int = LARGEST_STATE
    ) -> AuthChain:
        """What an event rests on."""
        target = f"{V1}/event_auth/{part(room_id)}/{part(event_id)}"
        return await self._call(
            "getEventAuth", destination, "GET", target, AuthChain, timeout_s=LONG_TIMEOUT_S, largest=largest
        )

    async def state(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, *, largest: int = LARGEST_STATE
    ) -> RoomState:
        """The state before an event, with all that it rests on."""
        target = f"{V1}/state/{part(room_id)}"
        return await self._call(
            "getRoomState",
            destination,
            "GET",
            target,
            RoomState,
            query=[("event_id", event_id)],
            timeout_s=LONG_TIMEOUT_S,
            largest=largest,
        )

    async def state_ids(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, *, largest: int = LARGEST_STATE
    ) -> StateIds:
        """The ids of that."""
        target = f"{V1}/state_ids/{part(room_id)}"
        return await self._call(
            "getRoomStateIds",
            destination,
            "GET",
            target,
            StateIds,
            query=[("event_id", event_id)],
            timeout_s=LONG_TIMEOUT_S,
            largest=largest,
        )

    async def backfill(
        self, destination: ServerName, room_id: RoomId, event_ids: Collection[EventId], *, limit: int
    ) -> Pdus:
        """These events and what comes before them, the newest first."""
        query = [*(("v", event_id) for event_id in event_ids), ("limit", str(limit))]
        return await self._call("backfillRoom", destination, "GET", f"{V1}/backfill/{part(room_id)}", Pdus, query=query)

    async def get_missing_events(
        self,
        destination: ServerName,
        room_id: RoomId,
        *,
        earliest: Collection[EventId],
        latest: Collection[EventId],
        limit: int,
        min_depth: int = 0,
    ) -> MissingEvents:
        """What lies between events."""
        body = {
            "earliest_events": list(earliest),
            "latest_events": list(latest),
            "limit": limit,
            "min_depth": min_depth,
        }
        target = f"{V1}/get_missing_events/{part(room_id)}"
        return await self._call("getMissingPreviousEvents", destination, "POST", target, MissingEvents, content=body)

    async def timestamp_to_event(
        self, destination: ServerName, room_id: RoomId, ts: int, *, backwards: bool, timeout_s: float = TIMEOUT_S
    ) -> NearestEvent:
        """The event nearest to a time."""
        query = [("ts", str(ts)), ("dir", "b" if backwards else "f")]
        target = f"{V1}/timestamp_to_event/{part(room_id)}"
        return await self._call(
            "getEventByTimestamp", destination, "GET", target, NearestEvent, query=query, timeout_s=timeout_s
        )

    async def sign_by_policy_server(self, destination: ServerName, pdu: bytes, *, timeout_s: float) -> Json:
        """Ask a policy server for its signature; what it answers, by server and key."""
        target = "/_matrix/policy/v1/sign"
        return await self._call(
            "askPolicyServerToSign", destination, "POST", target, Json, content=Raw(pdu), timeout_s=timeout_s
        )
