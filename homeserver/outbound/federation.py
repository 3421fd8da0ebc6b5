"""Calls to other servers, one function for each operation of the server-server API.

What comes back is decoded as far as the specification fixes it, and nothing in it is believed: events are bytes, to
be taken in through `services/rooms`. Whoever is asked may be slow, gone or lying: each call is bounded in time and
size, and raises `Unreachable` where there is no usable answer, `Refused` where there is an error.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from homeserver.errors import Refused, Unreachable
from homeserver.matrix.identifiers import DeviceId, EventId, RoomAlias, RoomId, ServerName, UserId
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.signing import SigningKey
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.transport import Call, Reply, Transport

T = TypeVar("T")
Json = dict[str, Any]
Raw = msgspec.Raw

_TIMEOUT_S = 30.0
_LONG_TIMEOUT_S = 180.0
"""For answers that hold the state of a large room."""
_LARGEST = 10 << 20
_LARGEST_STATE = 1 << 30
_LARGEST_KEYS = 1 << 20
_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"
_KEY = "/_matrix/key/v2"
_encode = msgspec.json.encode
_SECONDS = re.compile(r"[ \t]*([0-9]{1,9})[ \t]*")
_LONGEST_MS = 1e12


class Template(msgspec.Struct, frozen=True):
    """A membership event that another server proposes (`make_join`, `make_leave`, `make_knock`)."""

    event: Raw
    room_version: str = "1"


class Joined(msgspec.Struct, frozen=True):
    """What `send_join` tells about the room."""

    state: list[Raw]
    auth_chain: list[Raw]
    event: Raw = Raw(b"null")
    """The join with the signature of the server, where it had to authorise it."""
    members_omitted: bool = False
    servers_in_room: list[str] | None = None


class Knocked(msgspec.Struct, frozen=True):
    """What `send_knock` tells about the room."""

    knock_room_state: list[Raw]


class Invited(msgspec.Struct, frozen=True):
    """An invite with the signature of the invited user's server."""

    event: Raw


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


class Resolved(msgspec.Struct, frozen=True):
    """The room of an alias, and servers that are in it."""

    room_id: str
    servers: list[str]


class UserDevices(msgspec.Struct, frozen=True):
    """The devices of a user, as of a stream id."""

    user_id: str
    stream_id: int
    devices: list[Json]
    master_key: Json | None = None
    self_signing_key: Json | None = None


class QueriedKeys(msgspec.Struct, frozen=True):
    """Device and cross-signing keys, by user."""

    device_keys: dict[str, dict[str, Json]]
    master_keys: dict[str, Json] = {}
    self_signing_keys: dict[str, Json] = {}


class ClaimedKeys(msgspec.Struct, frozen=True):
    """One-time keys, by user, device and key id."""

    one_time_keys: dict[str, dict[str, dict[str, Any]]]


class Received(msgspec.Struct, frozen=True):
    """What became of the events of a transaction, by event id: an object with `error`, or an empty one."""

    pdus: dict[str, Json] = {}


class ServerKeys(msgspec.Struct, frozen=True):
    """Key documents, as they were signed."""

    server_keys: list[Raw]


class _Error(msgspec.Struct, frozen=True):
    errcode: str = "M_UNKNOWN"
    error: str = ""


class FederationClient:
    """Asks other servers, in the name of this one."""

    def __init__(self, transport: Transport, destinations: Destinations, server_name: str, key: SigningKey) -> None:
        self._transport = transport
        self._destinations = destinations
        self._server_name = server_name
        self._key = key

    async def send_transaction(
        self,
        destination: ServerName,
        txn_id: str,
        *,
        pdus: Sequence[bytes],
        edus: Sequence[bytes],
        origin_server_ts: int,
        timeout_s: float = 60.0,
    ) -> Received:
        """Deliver events and ephemeral data (`sendTransaction`), however the server has fared of late."""
        body = {
            "origin": self._server_name,
            "origin_server_ts": origin_server_ts,
            "pdus": [Raw(pdu) for pdu in pdus],
            "edus": [Raw(edu) for edu in edus],
        }
        target = f"{_V1}/send/{_part(txn_id)}"
        answer = await self._call(destination, "PUT", target, Json, content=body, timeout_s=timeout_s, is_patient=True)
        # It has taken the whole; what it says of each event is for the log alone.
        results = answer.get("pdus")
        if not isinstance(results, dict):
            return Received()
        return Received({event_id: one for event_id, one in results.items() if isinstance(one, dict)})

    async def make_join(
        self, destination: ServerName, room_id: RoomId, user_id: UserId, versions: Collection[str]
    ) -> Template:
        """A join to be completed and signed (`makeJoin`)."""
        target = f"{_V1}/make_join/{_part(room_id)}/{_part(user_id)}"
        return await self._call(destination, "GET", target, Template, query=[("ver", one) for one in versions])

    async def send_join(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes, *, omit_members: bool
    ) -> Joined:
        """Join (`sendJoinV2`)."""
        return await self._call(
            destination,
            "PUT",
            f"{_V2}/send_join/{_part(room_id)}/{_part(event_id)}",
            Joined,
            query=[("omit_members", "true")] if omit_members else [],
            content=Raw(pdu),
            timeout_s=_LONG_TIMEOUT_S,
            largest=_LARGEST_STATE,
        )

    async def make_knock(
        self, destination: ServerName, room_id: RoomId, user_id: UserId, versions: Collection[str]
    ) -> Template:
        """A knock to be completed and signed (`makeKnock`)."""
        target = f"{_V1}/make_knock/{_part(room_id)}/{_part(user_id)}"
        return await self._call(destination, "GET", target, Template, query=[("ver", one) for one in versions])

    async def send_knock(self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes) -> Knocked:
        """Knock (`sendKnock`)."""
        target = f"{_V1}/send_knock/{_part(room_id)}/{_part(event_id)}"
        return await self._call(destination, "PUT", target, Knocked, content=Raw(pdu))

    async def make_leave(self, destination: ServerName, room_id: RoomId, user_id: UserId) -> Template:
        """A leave to be completed and signed (`makeLeave`)."""
        return await self._call(destination, "GET", f"{_V1}/make_leave/{_part(room_id)}/{_part(user_id)}", Template)

    async def send_leave(self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes) -> None:
        """Leave (`sendLeaveV2`)."""
        target = f"{_V2}/send_leave/{_part(room_id)}/{_part(event_id)}"
        await self._call(destination, "PUT", target, Json, content=Raw(pdu))

    async def send_invite(
        self,
        destination: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: bytes,
        *,
        room_version: str,
        invite_room_state: Sequence[bytes],
    ) -> Invited:
        """Invite a user of that server (`sendInviteV2`)."""
        body = {
            "room_version": room_version,
            "event": Raw(pdu),
            "invite_room_state": [Raw(event) for event in invite_room_state],
        }
        target = f"{_V2}/invite/{_part(room_id)}/{_part(event_id)}"
        return await self._call(destination, "PUT", target, Invited, content=body)

    async def send_invite_v1(self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes) -> Raw:
        """Invite a user of an older server, in rooms of version 1 or 2; the event as signed there (`sendInviteV1`)."""
        target = f"{_V1}/invite/{_part(room_id)}/{_part(event_id)}"
        # The answer is a pair of a status and an object.
        pair = await self._call(destination, "PUT", target, tuple[int, Invited], content=Raw(pdu))
        return pair[1].event

    async def exchange_third_party_invite(self, destination: ServerName, room_id: RoomId, event: Json) -> None:
        """Ask a server in the room to turn a third-party invite into one (`exchangeThirdPartyInvite`)."""
        target = f"{_V1}/exchange_third_party_invite/{_part(room_id)}"
        await self._call(destination, "PUT", target, Json, content=event)

    async def event(self, destination: ServerName, event_id: EventId) -> Pdus:
        """One event (`getEvent`)."""
        return await self._call(destination, "GET", f"{_V1}/event/{_part(event_id)}", Pdus)

    async def event_auth(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, *, largest: int = _LARGEST_STATE
    ) -> AuthChain:
        """What an event rests on (`getEventAuth`)."""
        target = f"{_V1}/event_auth/{_part(room_id)}/{_part(event_id)}"
        return await self._call(destination, "GET", target, AuthChain, timeout_s=_LONG_TIMEOUT_S, largest=largest)

    async def state(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, *, largest: int = _LARGEST_STATE
    ) -> RoomState:
        """The state before an event, with all that it rests on (`getRoomState`)."""
        target = f"{_V1}/state/{_part(room_id)}"
        return await self._call(
            destination,
            "GET",
            target,
            RoomState,
            query=[("event_id", event_id)],
            timeout_s=_LONG_TIMEOUT_S,
            largest=largest,
        )

    async def state_ids(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, *, largest: int = _LARGEST_STATE
    ) -> StateIds:
        """The ids of that (`getRoomStateIds`)."""
        target = f"{_V1}/state_ids/{_part(room_id)}"
        return await self._call(
            destination,
            "GET",
            target,
            StateIds,
            query=[("event_id", event_id)],
            timeout_s=_LONG_TIMEOUT_S,
            largest=largest,
        )

    async def backfill(
        self, destination: ServerName, room_id: RoomId, event_ids: Collection[EventId], *, limit: int
    ) -> Pdus:
        """These events and what comes before them, the newest first (`backfillRoom`)."""
        query = [*(("v", event_id) for event_id in event_ids), ("limit", str(limit))]
        return await self._call(destination, "GET", f"{_V1}/backfill/{_part(room_id)}", Pdus, query=query)

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
        """What lies between events (`getMissingPreviousEvents`)."""
        body = {
            "earliest_events": list(earliest),
            "latest_events": list(latest),
            "limit": limit,
            "min_depth": min_depth,
        }
        target = f"{_V1}/get_missing_events/{_part(room_id)}"
        return await self._call(destination, "POST", target, MissingEvents, content=body)

    async def timestamp_to_event(
        self, destination: ServerName, room_id: RoomId, ts: int, *, backwards: bool, timeout_s: float = _TIMEOUT_S
    ) -> NearestEvent:
        """The event nearest to a time (`getEventByTimestamp`)."""
        query = [("ts", str(ts)), ("dir", "b" if backwards else "f")]
        target = f"{_V1}/timestamp_to_event/{_part(room_id)}"
        return await self._call(destination, "GET", target, NearestEvent, query=query, timeout_s=timeout_s)

    async def hierarchy(
        self, destination: ServerName, room_id: RoomId, *, suggested_only: bool, timeout_s: float = _TIMEOUT_S
    ) -> Json:
        """A space and its children, as that server knows them (`getSpaceHierarchy`)."""
        query = [("suggested_only", "true" if suggested_only else "false")]
        target = f"{_V1}/hierarchy/{_part(room_id)}"
        return await self._call(destination, "GET", target, Json, query=query, timeout_s=timeout_s)

    async def public_rooms(self, destination: ServerName, query: Sequence[tuple[str, str]]) -> Json:
        """That server's directory (`getPublicRooms`)."""
        return await self._call(destination, "GET", f"{_V1}/publicRooms", Json, query=query)

    async def search_public_rooms(self, destination: ServerName, body: Json) -> Json:
        """What is to be found in that server's directory (`queryPublicRooms`)."""
        return await self._call(destination, "POST", f"{_V1}/publicRooms", Json, content=body)

    async def query_directory(self, destination: ServerName, alias: RoomAlias) -> Resolved:
        """The room of an alias (`queryRoomDirectory`)."""
        return await self._call(destination, "GET", f"{_V1}/query/directory", Resolved, query=[("room_alias", alias)])

    async def query_profile(self, destination: ServerName, user_id: UserId, field: str | None = None) -> Json:
        """The profile of a user, or one field of it (`queryProfile`)."""
        query = [("user_id", user_id)] + ([] if field is None else [("field", field)])
        return await self._call(destination, "GET", f"{_V1}/query/profile", Json, query=query, largest=_LARGEST_KEYS)

    async def user_devices(self, destination: ServerName, user_id: UserId) -> UserDevices:
        """All devices of a user (`getUserDevices`)."""
        return await self._call(destination, "GET", f"{_V1}/user/devices/{_part(user_id)}", UserDevices)

    async def query_keys(
        self, destination: ServerName, device_keys: Mapping[UserId, Sequence[str]], *, timeout_s: float = 10.0
    ) -> QueriedKeys:
        """Keys of devices and users; an empty list of devices stands for all (`queryUserEncryptionKeys`)."""
        content = {"device_keys": device_keys}
        target = f"{_V1}/user/keys/query"
        return await self._call(destination, "POST", target, QueriedKeys, content=content, timeout_s=timeout_s)

    async def claim_keys(
        self,
        destination: ServerName,
        one_time_keys: Mapping[UserId, Mapping[DeviceId, str]],
        *,
        timeout_s: float = 10.0,
    ) -> ClaimedKeys:
        """One-time keys, by user, device and algorithm (`claimUserEncryptionKeys`)."""
        content = {"one_time_keys": one_time_keys}
        target = f"{_V1}/user/keys/claim"
        return await self._call(destination, "POST", target, ClaimedKeys, content=content, timeout_s=timeout_s)

    async def media(self, destination: ServerName, media_id: str, *, largest: int, wait_ms: int = 20_000) -> Reply:
        """A file, as the parts of a multipart answer; the server may wait for it to be uploaded (`getContent`)."""
        target = _with_query(f"{_V1}/media/download/{_part(media_id)}", [("timeout_ms", str(wait_ms))])
        return await self._ask(destination, "GET", target, timeout_s=60.0 + wait_ms / 1000, largest=largest)

    async def thumbnail(
        self, destination: ServerName, media_id: str, query: Sequence[tuple[str, str]], *, largest: int
    ) -> Reply:
        """A thumbnail, as the parts of a multipart answer (`getContentThumbnail`)."""
        target = _with_query(f"{_V1}/media/thumbnail/{_part(media_id)}", query)
        return await self._ask(destination, "GET", target, timeout_s=60.0, largest=largest)

    async def media_of_old(self, destination: ServerName, server: ServerName, media_id: str, *, largest: int) -> Reply:
        """A file, from a server that does not know the authenticated way (`getContent` of clients)."""
        target = f"/_matrix/media/v3/download/{_part(server)}/{_part(media_id)}?allow_remote=false"
        return await self._ask(destination, "GET", target, timeout_s=60.0, largest=largest, is_signed=False)

    async def file_at(self, url: str, *, largest: int) -> Reply:
        """A file that a server says is at this address."""
        reply = await self._transport.fetch(url, timeout_s=60.0, largest=largest)
        if reply.status != 200:
            raise _refusal(reply)
        return reply

    async def version(self, destination: ServerName) -> Json:
        """The software of a server (`getVersion`)."""
        return await self._call(destination, "GET", f"{_V1}/version", Json, is_signed=False)

    async def keys(self, destination: ServerName, *, timeout_s: float = 10.0) -> bytes:
        """The keys that a server publishes, as it signed them (`getServerKey`)."""
        # A server that was down and now makes a request is known by its keys, and only by them.
        reply = await self._ask(
            destination,
            "GET",
            f"{_KEY}/server",
            timeout_s=timeout_s,
            largest=_LARGEST_KEYS,
            is_signed=False,
            is_patient=True,
        )
        return reply.body

    async def query_server_keys(
        self, notary: ServerName, wanted: Mapping[str, Mapping[str, int]], *, timeout_s: float = 10.0
    ) -> ServerKeys:
        """Keys of servers, by server, key id, and when they must be valid (`bulkPerspectivesKeyQuery`)."""
        content = {
            "server_keys": {
                server: {key_id: {"minimum_valid_until_ts": ts} for key_id, ts in keys.items()}
                for server, keys in wanted.items()
            }
        }
        return await self._call(
            notary, "POST", f"{_KEY}/query", ServerKeys, content=content, timeout_s=timeout_s, is_signed=False
        )

    async def sign_by_policy_server(self, destination: ServerName, pdu: bytes, *, timeout_s: float) -> Json:
        """Ask a policy server for its signature; what it answers, by server and key (`askPolicyServerToSign`)."""
        target = "/_matrix/policy/v1/sign"
        return await self._call(destination, "POST", target, Json, content=Raw(pdu), timeout_s=timeout_s)

    async def _call(
        self,
        destination: ServerName,
        method: str,
        target: str,
        kind: type[T],
        *,
        query: Sequence[tuple[str, str]] = (),
        content: object = None,
        timeout_s: float = _TIMEOUT_S,
        largest: int = _LARGEST,
        is_signed: bool = True,
        is_patient: bool = False,
    ) -> T:
        """The decoded answer."""
        body = None if content is None else _encode(content)
        reply = await self._ask(
            destination,
            method,
            _with_query(target, query),
            body=body,
            timeout_s=timeout_s,
            largest=largest,
            is_signed=is_signed,
            is_patient=is_patient,
        )
        try:
            return msgspec.json.decode(reply.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreachable(f"{destination} answered something else than it should: {error}") from None

    async def _ask(
        self,
        destination: ServerName,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        timeout_s: float,
        largest: int,
        is_signed: bool = True,
        is_patient: bool = False,
    ) -> Reply:
        """The answer, if it is a good one.

        A server that is known to be down is not asked again within a moment, unless there is patience.
        """
        if not is_patient:
            self._destinations.check(destination)
        headers = {"content-type": "application/json"} if body is not None else {}
        if is_signed:
            headers["authorization"] = str(
                sign_request(
                    self._key,
                    origin=self._server_name,
                    destination=destination,
                    method=method,
                    target=target,
                    content=body,
                )
            )
        try:
            reply = await self._transport.exchange(
                Call(
                    destination=destination,
                    method=method,
                    target=target,
                    headers=headers,
                    body=body,
                    timeout_s=timeout_s,
                    largest=largest,
                )
            )
        except Unreachable:
            self._destinations.silent(destination)
            raise
        if reply.status != 200:
            raise _refusal(reply)
        if not is_patient:
            self._destinations.alive(destination)
        return reply


def _refusal(reply: Reply) -> Refused:
    try:
        body = msgspec.json.decode(reply.body, type=Json)
        error = msgspec.convert(body, _Error)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body, error = {}, _Error()
    patience_ms = _patience_ms(reply.headers.get("retry-after"), body.get("retry_after_ms"))
    return Refused(reply.status, error.errcode, error.error, body, patience_ms=patience_ms)


def _patience_ms(header: str | None, said_ms: object) -> float | None:
    """For how long the server wants to be left alone, whatever it has written there."""
    if header is not None and (found := _SECONDS.fullmatch(header)):
        return float(found[1]) * 1000
    return float(said_ms) if isinstance(said_ms, int | float) and abs(said_ms) < _LONGEST_MS else None


def _part(text: str) -> str:
    return quote(text, safe="")


def _with_query(target: str, query: Sequence[tuple[str, str]]) -> str:
    return f"{target}?{urlencode(query)}" if query else target
