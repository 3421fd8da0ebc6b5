"""What servers tell besides events: typing, receipts, presence, messages to devices, keys (server-server API, EDUs).

Each type has a handler. What a handler stores is committed when it returns, so that a delivery which was answered is
not lost (K10); the sender repeats a delivery that was not, hence every handler makes nothing of what it has had before.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from homeserver.errors import RemoteFailure, RequestError
from homeserver.kit.logs import report
from homeserver.kit.metrics import Metrics
from homeserver.matrix.identifiers import ServerName
from homeserver.services.federation.faults import WRONG


class EduHandler(Protocol):
    """Takes what is told under one type."""

    async def receive(self, origin: ServerName, content: dict[str, Any]) -> None:
        """Take it, or make nothing of it. Raises `RequestError` where the content is not what it should be."""
        ...


class _Edu(msgspec.Struct, frozen=True):
    edu_type: str
    content: msgspec.Raw


class Edus:
    """Hands what was told to the handlers, one after the other, in the order in which it was told."""

    def __init__(self, handlers: Mapping[str, EduHandler], metrics: Metrics) -> None:
        """`handlers` are by type; what has none is ignored."""
        self._handlers = handlers
        self._metrics = metrics

    async def receive(self, origin: ServerName, edus: Sequence[bytes]) -> None:
        """Take what a server tells; what is wrong in one is no matter to the others.

        Raises only what has nothing to do with what is told, like a database that is gone: then it is to be told again.
        """
        counted: Counter[tuple[str, str]] = Counter()
        for raw in edus:
            counted[await self._receive(origin, raw)] += 1
        for (edu_type, outcome), count in counted.items():
            self._metrics.edus_received.labels(edu_type, outcome).inc(count)

    async def _receive(self, origin: ServerName, raw: bytes) -> tuple[str, str]:
        """The type and what became of it."""
        try:
            edu = msgspec.json.decode(raw, type=_Edu)
            handler = self._handlers.get(edu.edu_type)
            if handler is None:
                return "other", "ignored"
            content = msgspec.json.decode(edu.content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "other", "malformed"
        [problem] = await asyncio.gather(handler.receive(origin, content), return_exceptions=True)
        if problem is None:
            return edu.edu_type, "taken"
        if isinstance(problem, RequestError | RemoteFailure):
            return edu.edu_type, "refused"
        if isinstance(problem, WRONG):
            report(problem)
            return edu.edu_type, "failed"
        raise problem
