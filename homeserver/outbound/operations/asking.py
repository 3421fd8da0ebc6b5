"""How another server is asked something: signed, bounded, and with an answer that is what it should be."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from homeserver.errors import Refused, Unreachable
from homeserver.matrix.identifiers import ServerName
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.signing import SigningKey
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.transport import Call, Reply, Transport

T = TypeVar("T")
Json = dict[str, Any]

TIMEOUT_S = 30.0
LONG_TIMEOUT_S = 180.0
"""For answers that hold the state of a large room."""
LARGEST_STATE = 1 << 30
LARGEST_KEYS = 1 << 20
LARGEST_SPACE = 4 << 20
V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"
KEY = "/_matrix/key/v2"
_LARGEST = 10 << 20
_SECONDS = re.compile(r"[ \t]*([0-9]{1,9})[ \t]*")
_LONGEST_MS = 1e12
_encode = msgspec.json.encode


class _Error(msgspec.Struct, frozen=True):
    errcode: str = "M_UNKNOWN"
    error: str = ""


class Asking:
    """What every operation needs; all of one server share it."""

    def __init__(self, transport: Transport, destinations: Destinations, server_name: str, key: SigningKey) -> None:
        self._transport = transport
        self._destinations = destinations
        self._server_name = server_name
        self._key = key

    async def _call(
        self,
        operation: str,
        destination: ServerName,
        method: str,
        target: str,
        kind: type[T],
        *,
        query: Sequence[tuple[str, str]] = (),
        content: object = None,
        timeout_s: float = TIMEOUT_S,
        largest: int = _LARGEST,
        is_signed: bool = True,
        is_patient: bool = False,
    ) -> T:
        """The decoded answer. The operation is named as the specification does."""
        call = Call(
            operation=operation,
            destination=destination,
            method=method,
            target=with_query(target, query),
            headers={} if content is None else {"content-type": "application/json"},
            body=None if content is None else _encode(content),
            timeout_s=timeout_s,
            largest=largest,
        )
        reply = await self._ask(call, is_signed=is_signed, is_patient=is_patient)
        try:
            return msgspec.json.decode(reply.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreachable(f"{destination} answered something else than it should: {error}") from None

    async def _ask(self, call: Call, *, is_signed: bool = True, is_patient: bool = False) -> Reply:
        """The answer, if it is a good one.

        A server that is known to be down is not asked again within a moment, unless there is patience.
        """
        if not is_patient:
            self._destinations.check(call.destination)
        try:
            reply = await self._transport.exchange(self._signed(call) if is_signed else call)
        except Unreachable:
            self._destinations.silent(call.destination)
            raise
        if reply.status != 200:
            raise refusal(reply)
        if not is_patient:
            self._destinations.alive(call.destination)
        return reply

    def _signed(self, call: Call) -> Call:
        header = sign_request(
            self._key,
            origin=self._server_name,
            destination=call.destination,
            method=call.method,
            target=call.target,
            content=call.body,
        )
        return msgspec.structs.replace(call, headers={**call.headers, "authorization": str(header)})


def refusal(reply: Reply) -> Refused:
    """The error that an answer is, to be raised."""
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


def part(text: str) -> str:
    """Text as a part of a path."""
    return quote(text, safe="")


def with_query(target: str, query: Sequence[tuple[str, str]]) -> str:
    """A path with this query."""
    return f"{target}?{urlencode(query)}" if query else target
