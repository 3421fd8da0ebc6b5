"""Memberships of this server's users in rooms that it reaches through other servers.

What these propose is not signed as it came: of a template nothing is taken but the place in the room's graph, after
what it says of itself was held to what was asked for (server-server API, Joining Rooms). Every server that may be able
to help is asked in turn, for a bounded time.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from homeserver.errors import BadAnswer, NotFound, Refused, RemoteFailure, RequestError, TooLarge
from homeserver.kit.clock import Clock
from homeserver.matrix import signing
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event, EventTooLarge, MalformedEvent, build_event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId, domain_of, is_server_name
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.operations.membership import Joined, Template
from homeserver.services.rooms.arrival import Arrivals
from homeserver.services.rooms.author import Author
from homeserver.services.rooms.checks import MAX_AUTH_EVENTS, MAX_PREV_EVENTS
from homeserver.services.rooms.conditions import AUTHORISED
from homeserver.services.rooms.refusals import for_client, tells
from homeserver.services.rooms.signatures import Signatures
from homeserver.services.rooms.stripped import Stripper
from homeserver.storage import out_of_room, stream_rows
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.out_of_room import Outsider

Json = dict[str, Any]
T = TypeVar("T")

Sign = Callable[[Event], Awaitable[Event]]
"""Has an event signed by whoever else has to, before it is sent."""

_MOST_SERVERS = 10
_PATIENCE_S = 120.0
"""After so long no further server is asked."""

_encode = msgspec.json.encode


class _Content(msgspec.Struct, frozen=True):
    membership: str
    authoriser: str | None = msgspec.field(default=None, name=AUTHORISED)


class _Proposed(msgspec.Struct, frozen=True):
    """A template, as far as anything in it matters."""

    type: str
    room_id: str
    sender: str
    state_key: str
    content: _Content
    depth: int
    prev_events: list[Any]
    auth_events: list[Any]


_decode = msgspec.json.Decoder(_Proposed).decode


class RemoteMembers:
    """Joins, knocks, leaves and invites through other servers."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        client: FederationClient,
        author: Author,
        signatures: Signatures,
        arrivals: Arrivals,
        stripper: Stripper,
    ) -> None:
        self._database = database
        self._clock = clock
        self._client = client
        self._author = author
        self._signatures = signatures
        self._arrivals = arrivals
        self._stripper = stripper

    async def join(self, user_id: UserId, room_id: RoomId, servers: Iterable[str], content: Json) -> EventId:
        """Join through one of these servers; from then on this server is in the room."""

        async def attempt(server: ServerName) -> EventId:
            event, joined = await self._join(server, user_id, room_id, content)
            arrived = await self._arrivals.arrive(
                room_id,
                event.room_version,
                event.pdu,
                list(map(bytes, joined.state)),
                list(map(bytes, joined.auth_chain)),
                partial=_server_names(joined.servers_in_room or []) if joined.members_omitted else None,
                via=server,
            )
            await self._database.write(out_of_room.remove, user_id, room_id)
            return arrived

        with self._arrivals.expecting(room_id):
            return await self._ask(servers, attempt)

    async def propose_join(
        self, user_id: UserId, room_id: RoomId, servers: Iterable[str], content: Json, sign: Sign
    ) -> tuple[Event, list[bytes]]:
        """Join a room that this server is in, but where only others can let the user in.

        The event, signed by all, with the signature that `sign` adds, and events on which it may stand.
        """

        async def attempt(server: ServerName) -> tuple[Event, list[bytes]]:
            event, joined = await self._join(server, user_id, room_id, content, sign)
            return event, [bytes(one) for one in (*joined.auth_chain, *joined.state)]

        return await self._ask(servers, attempt)

    async def knock(self, user_id: UserId, room_id: RoomId, servers: Iterable[str], content: Json) -> None:
        """Knock through one of these servers."""

        async def attempt(server: ServerName) -> Outsider:
            template = await self._client.make_knock(server, room_id, user_id, list(ROOM_VERSIONS))
            event = self._complete(template, server, room_id, user_id, content)
            knocked = await self._client.send_knock(server, room_id, EventId(event.event_id), event.pdu)
            version = ROOM_VERSIONS[event.room_version]
            known = await self._stripper.strip(
                version, room_id, list(map(bytes, knocked.knock_room_state)), is_strict=False
            )
            return outsider_of(event, known, [server])

        await self._database.write(put_outsider, await self._ask(servers, attempt))

    async def leave(self, held: Outsider, content: Json) -> None:
        """Reject an invite or take back a knock; what the servers say to it does not keep the user."""

        async def attempt(server: ServerName) -> Event:
            template = await self._client.make_leave(server, held.room_id, held.user_id)
            event = self._complete(template, server, held.room_id, held.user_id, content)
            await self._client.send_leave(server, held.room_id, EventId(event.event_id), event.pdu)
            return event

        try:
            event = await self._ask(held.servers, attempt)
        except (RemoteFailure, RequestError):
            event = self._left_alone(held, content)
        await self._database.write(put_outsider, outsider_of(event, [], held.servers))

    async def invite(self, event: Event, state: Sequence[bytes]) -> Event:
        """The invite with the signature of the invited user's server, which is told what room it is by `state`."""
        server = ServerName(domain_of(event.state_key or ""))
        room_id, event_id = RoomId(event.room_id), EventId(event.event_id)
        try:
            try:
                answer = await self._client.send_invite(
                    server,
                    room_id,
                    event_id,
                    event.pdu,
                    room_version=event.room_version,
                    invite_room_state=state,
                )
                signed = answer.event
            except Refused as refused:
                # Older servers know the older way only, and no newer rooms.
                if refused.status not in (400, 404) or not ROOM_VERSIONS[event.room_version].event_ids_in_pdu:
                    raise
                unsigned = b',"unsigned":{"invite_room_state":[' + b",".join(state) + b"]}}"
                signed = await self._client.send_invite_v1(server, room_id, event_id, event.pdu[:-1] + unsigned)
            return await self._with_signature(event, bytes(signed), server)
        except RemoteFailure as failure:
            raise for_client(failure) from None

    async def _join(
        self, server: ServerName, user_id: UserId, room_id: RoomId, content: Json, sign: Sign | None = None
    ) -> tuple[Event, Joined]:
        """The join as it was sent, with the server's signature where it authorises it, and what the server told."""
        template = await self._client.make_join(server, room_id, user_id, list(ROOM_VERSIONS))
        event = self._complete(template, server, room_id, user_id, content)
        if sign is not None:
            event = await sign(event)
        event_id = EventId(event.event_id)
        joined = await self._client.send_join(server, room_id, event_id, event.pdu, omit_members=True)
        if AUTHORISED in event.content:
            event = await self._with_signature(event, bytes(joined.event), server)
        return event, joined

    async def _ask(self, servers: Iterable[str], attempt: Callable[[ServerName], Awaitable[T]]) -> T:
        """What the first server comes to that does what it is asked."""
        deadline = self._clock.monotonic() + _PATIENCE_S
        failure: RemoteFailure | None = None
        for server in _server_names(servers, but=self._author.server_name)[:_MOST_SERVERS]:
            try:
                return await attempt(server)
            except RemoteFailure as error:
                if failure is None or tells(error) > tells(failure):
                    failure = error
                if isinstance(error, Refused) and error.errcode == "M_INCOMPATIBLE_ROOM_VERSION":
                    break  # The room has one version, whoever is asked.
            if self._clock.monotonic() > deadline:
                break
        if failure is None:
            raise NotFound("This server does not know the room, nor a server that is in it.")
        raise for_client(failure)

    def _complete(
        self, template: Template, server: ServerName, room_id: RoomId, user_id: UserId, content: Json
    ) -> Event:
        """The event, built anew from what we want to say and the place that the template gives it."""
        version = ROOM_VERSIONS.get(template.room_version)
        if version is None:
            raise BadAnswer(f"{server} proposed an event for a room version that it was not asked for.")
        proposed = _checked(template, server, room_id, user_id, content["membership"])
        authoriser = proposed.content.authoriser
        if authoriser is not None and content["membership"] == "join" and version.restricted:
            if domain_of(authoriser) != server:
                raise BadAnswer(f"{server} proposed to have the join authorised by somebody else's user.")
            content = {**content, AUTHORISED: authoriser}
        fields: Json = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": user_id,
            "state_key": user_id,
            "content": content,
            "origin_server_ts": self._clock.now(),
            "depth": proposed.depth,
            "prev_events": proposed.prev_events,
            "auth_events": proposed.auth_events,
        }
        if version.event_ids_in_pdu:
            fields["event_id"] = self._author.new_event_id()
        try:
            return signing.sign_pdu(_encode(fields), version.identifier, self._author.server_name, self._author.key)
        except EventTooLarge as error:
            raise TooLarge(str(error)) from None
        except (CanonicalJsonError, MalformedEvent) as error:
            raise BadAnswer(f"{server} proposed what can be no event: {error}") from None

    async def _with_signature(self, event: Event, returned: bytes, server: ServerName) -> Event:
        """Our event with the signature of the server, which is all that is taken of what it returned."""
        try:
            theirs = Event.parse(returned, event.room_version).signatures.get(server)
        except (CanonicalJsonError, MalformedEvent) as error:
            raise BadAnswer(f"{server} returned what is no event: {error}") from None
        if not isinstance(theirs, dict):
            raise BadAnswer(f"{server} did not sign the event.")
        pdu = msgspec.json.decode(event.pdu)
        # It may be the policy server of the room as well, and have signed as that.
        pdu["signatures"][server] = {**theirs, **pdu["signatures"].get(server, {})}
        try:
            signed = Event.parse(_encode(pdu), event.room_version, event.event_id)
        except (CanonicalJsonError, MalformedEvent) as error:
            raise BadAnswer(f"{server} signed in a way that is not one: {error}") from None
        wrong = await self._signatures.check_one(signed, [server])
        if wrong is not None:
            raise BadAnswer(wrong)
        return signed

    def _left_alone(self, held: Outsider, content: Json) -> Event:
        """A leave that no other server knows of."""
        version = ROOM_VERSIONS[held.version]
        before = Event.parse(held.pdu, held.version)
        return build_event(
            version.identifier,
            server_name=self._author.server_name,
            key=self._author.key,
            room_id=held.room_id,
            type="m.room.member",
            sender=held.user_id,
            state_key=held.user_id,
            content=_encode(content),
            origin_server_ts=self._clock.now(),
            depth=min(before.depth + 1, version.max_depth),
            prev_events=[before],
            auth_events=[before],
            event_id=self._author.new_event_id() if version.event_ids_in_pdu else None,
        )


def outsider_of(event: Event, stripped: Sequence[bytes], servers: Sequence[ServerName]) -> Outsider:
    """What a member event makes of a user of this server, in a room that this server is not in."""
    return Outsider(
        user_id=UserId(event.state_key or ""),
        room_id=RoomId(event.room_id),
        membership=event.membership or "leave",
        sender=UserId(event.sender),
        version=event.room_version,
        position=0,
        pdu=event.pdu,
        stripped=b"[" + b",".join([*stripped, event.stripped_json()]) + b"]",
        servers=tuple(servers),
    )


def put_outsider(tx: WriteTx, outsider: Outsider) -> None:
    """Record it as what is new for the user."""
    out_of_room.put(tx, replace(outsider, position=stream_rows.advance(tx)))
    tx.wake([outsider.user_id])


def _checked(template: Template, server: ServerName, room_id: RoomId, user_id: UserId, membership: str) -> _Proposed:
    """The template, if it is one of what was asked for."""
    try:
        proposed = _decode(template.event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"{server} proposed what is no event: {error}") from None
    said = (proposed.type, proposed.room_id, proposed.sender, proposed.state_key, proposed.content.membership)
    if said != ("m.room.member", room_id, user_id, user_id, membership):
        raise BadAnswer(f"{server} proposed another event than it was asked for.")
    if not 0 < len(proposed.prev_events) <= MAX_PREV_EVENTS or len(proposed.auth_events) > MAX_AUTH_EVENTS:
        raise BadAnswer(f"{server} proposed an event with too many events before it, or none.")
    return proposed


def _server_names(names: Iterable[str], *, but: str = "") -> list[ServerName]:
    """Those of the names that can be names of servers, each once."""
    return [ServerName(name) for name in dict.fromkeys(names) if is_server_name(name) and name != but]
