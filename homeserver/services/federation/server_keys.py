"""What this server says of its own keys, and, as a notary, of those of others (server-server API, Server keys)."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import is_server_name
from homeserver.matrix.server_keys import PublishedKey, publish
from homeserver.matrix.signing import SigningKey, sign_json
from homeserver.outbound.keyring import KeyRing
from homeserver.services.auth.limits import Limits
from homeserver.storage import server_keys
from homeserver.storage.engine import Database
from homeserver.storage.server_keys import DocumentHead

_VALID_MS = 2 * 24 * 60 * 60 * 1000
"""So that who is a day ahead of this server still has a day."""
_MOST_SERVERS = 1000
"""So many servers are told of at once."""
_MOST_ASKED = 100
"""And so many of them are asked anew."""
_LARGEST_ANSWER = 1 << 20
"""So many bytes of documents are told at once; anybody may ask, and all of them are signed anew."""
_PATIENCE_S = 8.0


class PublishedKeys:
    """Key documents for whoever asks."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        keys: KeyRing,
        limits: Limits,
        server_name: str,
        key: SigningKey,
        old: Mapping[str, PublishedKey],
    ) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._limits = limits
        self._server_name = server_name
        self._key = key
        self._old = dict(old)

    def own(self) -> bytes:
        """The keys of this server."""
        return publish(self._server_name, self._key, self._old, valid_until_ts=self._clock.now() + _VALID_MS)

    async def vouch(self, wanted: Mapping[str, int], asker: str) -> list[bytes]:
        """What is known of the keys of servers, signed by this one too.

        `wanted` tells, by server, the time at which the keys should be good. Servers are asked anew where half of the
        lifetime is over, or it is too short; of those that do not answer, the last thing they said is told. So it is
        of those who are too many for the asker, who is known by a network. What is too much for one answer is left out.
        """
        others = [server for server in wanted if server != self._server_name and is_server_name(server)]
        others = others[:_MOST_SERVERS]
        heads = await self._database.read(server_keys.find_heads, others)
        old = [server for server in others if not self._is_fresh(heads.get(server), wanted[server])]
        due = [server for server in old if self._keys.may_ask(server)][:_MOST_ASKED]
        if due := due[: self._limits.take_some("vouch", asker, len(due))]:
            # Who asks us does not wait for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await self._keys.refresh({server: {} for server in due}, is_for_others=True)
            heads = await self._database.read(server_keys.find_heads, others)
        fitting = _fitting([heads[server] for server in others if server in heads])
        documents = await self._database.read(server_keys.find_documents, fitting)
        signed = await asyncio.to_thread(self._sign, documents.values())
        return [self.own(), *signed] if self._server_name in wanted else signed

    def _sign(self, documents: Iterable[bytes]) -> list[bytes]:
        return [sign_json(document, self._server_name, self._key) for document in documents]

    def _is_fresh(self, document: DocumentHead | None, wanted_ts: int) -> bool:
        if document is None or document.valid_until_ts < wanted_ts:
            return False
        # What was fetched at a date that is still to come was fetched by a wrong clock.
        return document.fetched_ts <= self._clock.now() < (document.fetched_ts + document.valid_until_ts) // 2


def _fitting(heads: Iterable[DocumentHead]) -> list[str]:
    """The servers whose documents make one answer."""
    found = []
    left = _LARGEST_ANSWER
    for head in heads:
        if head.size <= left:
            left -= head.size
            found.append(head.server_name)
    return found
