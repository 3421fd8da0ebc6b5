"""Asking servers by the transport that the server itself uses."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from homeserver.config.model import Federation
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.http import HttpTransport, opened
from homeserver.outbound.transport import Call, Reply
from tests.outbound.names import Names
from tests.processes.certificates import Authority
from tests.processes.tls_peers import TlsPeer

BODY = b'{"secret": "what only the right server may read"}'
LOCAL = ("127.0.0.0/8",)


@asynccontextmanager
async def transport_to(
    authority: Authority,
    *peers: tuple[str, TlsPeer],
    names: Names | None = None,
    metrics: Metrics | None = None,
    idle_s: float = 60,
    **more: Any,
) -> AsyncIterator[HttpTransport]:
    """The transport under test, which is told where the peers are."""
    settings = Federation(
        addresses={name: peer.address for name, peer in peers}, ca_files=(str(authority.file),), **more
    )
    async with opened(
        settings, Clock(), Randomness(), metrics or Metrics(), names or Names(), idle_s=idle_s
    ) as transport:
        yield transport


async def ask(
    transport: HttpTransport,
    name: str,
    *,
    method: str = "PUT",
    target: str = "/",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = BODY,
    timeout_s: float = 5,
    largest: int = 100_000,
) -> Reply:
    call = Call(
        operation="test",
        destination=ServerName(name),
        method=method,
        target=target,
        headers=headers or {},
        body=body,
        timeout_s=timeout_s,
        largest=largest,
    )
    return await transport.exchange(call)
