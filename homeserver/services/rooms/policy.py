"""Policy servers: rooms in which a server says of every event whether it is fit (server-server API, Policy Servers).

It says so by a signature, with a key that the room's state names. The authorisation rules know nothing of it: what it
does not sign is not sent by its author's server, and soft-failed by all others.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from homeserver.errors import Forbidden, LimitExceeded, Refused, RemoteFailure, RequestError, Unreachable
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.matrix import signing
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event, EventTooLarge, MalformedEvent
from homeserver.matrix.identifiers import EventId, ServerName, is_server_name
from homeserver.outbound.federation import FederationClient
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.refusals import for_client, words_of

KEY_ID = "ed25519:policy_server"
_POLICY = ("m.room.policy", "")
_TIMEOUT_S = 5.0
_PAUSE_S = 30.0
"""A policy server that did not answer is left alone for so long: a room must not wait for it with every event."""
_BUDGET_S = 10.0
"""So long events that came together wait for it; what has no signature then is not recommended."""
_ANSWERS = 10_000
_AT_ONCE = 10
_LONGEST_WAIT_MS = 60_000


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """Who is asked, and the public key of the answers."""

    server: ServerName
    key: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a policy server said of an event: a signature, or why there is none."""

    signature: str | None
    refusal: RequestError | RemoteFailure | None = None


class PolicyServers:
    """Asks policy servers, each about an event once."""

    def __init__(self, federation: FederationClient, clock: Clock, server_name: str) -> None:
        self._federation = federation
        self._clock = clock
        self._server_name = server_name
        self._answers: Lru[tuple[EventId, PolicyServer], _Answer] = Lru(_ANSWERS)
        self._pauses: Lru[ServerName, float] = Lru(_ANSWERS)

    def of(self, room: HotRoom) -> PolicyServer | None:
        """The room's policy server; None where it uses none, by its current state."""
        event = room.state.get(_POLICY)
        if event is None:
            return None
        via, keys = event.content.get("via"), event.content.get("public_keys")
        key = keys.get("ed25519") if isinstance(keys, dict) else None
        if not isinstance(via, str) or not isinstance(key, str) or not is_server_name(via):
            return None
        # A server becomes one by having somebody in the room: nobody is made one by others.
        return PolicyServer(ServerName(via), key) if via in room.servers else None

    async def sign(self, room: HotRoom, event: Event) -> Event:
        """An event of ours with the signature that the room wants of it.

        Raises a `RequestError` with what the policy server says where it refuses, of them `LimitExceeded`, or
        `RemoteFailure` where it does not answer.
        """
        policy = self.of(room)
        if policy is None or not _is_asked_about(event):
            return event
        answer = await self._ask(policy, event)
        if answer.refusal is not None:
            raise answer.refusal
        signed = _signed(event, policy, answer)
        if signed is None:
            raise Forbidden("The policy server of the room did not sign the event as it should.")
        return signed

    async def recommended(self, room: HotRoom, received: Sequence[Event]) -> dict[EventId, Event | None]:
        """What came from elsewhere, with the signature that the room wants of it, or None where there is none.

        What needs no signature is left out.
        """
        policy = self.of(room)
        if policy is None:
            return {}
        found: dict[EventId, Event | None] = {}
        unsigned = []
        for event in received:
            if not _is_asked_about(event):
                continue
            found[EventId(event.event_id)] = event if _is_signed(event, policy) else None
            if found[EventId(event.event_id)] is None:
                unsigned.append(event)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def ask(event: Event) -> None:
            async with turns:
                found[EventId(event.event_id)] = _signed(event, policy, await self._ask(policy, event))

        with suppress(TimeoutError):
            async with asyncio.timeout(_BUDGET_S):
                await asyncio.gather(*map(ask, unsigned))
        return found

    async def _ask(self, policy: PolicyServer, event: Event) -> _Answer:
        key = (EventId(event.event_id), policy)
        answer = self._answers.get(key)
        if answer is not None:
            return answer
        paused_until = self._pauses.get(policy.server)
        if paused_until is not None and paused_until > self._clock.monotonic():
            return _Answer(None, Unreachable(f"The policy server {policy.server} did not answer of late."))
        if policy.server == self._server_name:
            return _Answer(None, Unreachable("This server is no policy server."))
        try:
            signatures = await self._federation.sign_by_policy_server(policy.server, event.pdu, timeout_s=_TIMEOUT_S)
        except Refused as refusal:
            answer = _Answer(None, _in_own_words(refusal))
            if refusal.status >= 500 or refusal.status == 429:
                return answer  # It may think otherwise the next time.
        except Unreachable as error:
            self._pauses.put(policy.server, self._clock.monotonic() + _PAUSE_S)
            return _Answer(None, error)
        else:
            of_server = signatures.get(policy.server)
            signature = of_server.get(KEY_ID) if isinstance(of_server, dict) else None
            answer = _Answer(signature if isinstance(signature, str) else None)
        self._answers.put(key, answer)
        return answer


def _is_asked_about(event: Event) -> bool:
    """The state event that names the policy server is for the room to decide alone."""
    return (event.type, event.state_key) != _POLICY


def _is_signed(event: Event, policy: PolicyServer) -> bool:
    of_server = event.signatures.get(policy.server)
    if not isinstance(of_server, dict) or KEY_ID not in of_server:
        return False
    [wrong] = signing.verify_events([(event, policy.server, KEY_ID, policy.key)])
    return wrong is None


def _signed(event: Event, policy: PolicyServer, answer: _Answer) -> Event | None:
    """The event with the signature beside those that it has; None where that is none."""
    if answer.signature is None:
        return None
    pdu = msgspec.json.decode(event.pdu)
    signatures = pdu["signatures"]
    of_server = signatures.get(policy.server)
    signatures[policy.server] = {**(of_server if isinstance(of_server, dict) else {}), KEY_ID: answer.signature}
    try:
        signed = Event.parse(msgspec.json.encode(pdu), event.room_version, event.event_id)
    except (CanonicalJsonError, EventTooLarge, MalformedEvent):
        return None
    return signed if _is_signed(signed, policy) else None


def _in_own_words(refusal: Refused) -> RequestError | RemoteFailure:
    """What a client is told: what the policy server says, but with no code that would make the client act."""
    if refusal.status == 429:
        wait_ms = refusal.body.get("retry_after_ms")
        is_sane = isinstance(wait_ms, int) and 0 < wait_ms < _LONGEST_WAIT_MS
        return LimitExceeded(wait_ms if is_sane and isinstance(wait_ms, int) else _LONGEST_WAIT_MS)
    if refusal.status >= 500 or refusal.status == 401:
        return refusal
    told = for_client(refusal)
    return told if isinstance(told, RequestError) else Forbidden(words_of(refusal))
