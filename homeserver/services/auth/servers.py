"""Which server makes a request (server-server API, Request Authentication)."""

import asyncio
from collections.abc import Sequence
from functools import partial

from homeserver.errors import Forbidden, NotSigned, TooLarge
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import FairTurns
from homeserver.matrix.canonical import CanonicalJsonError, count_values
from homeserver.matrix.identifiers import Origin, ServerName, is_server_name
from homeserver.matrix.request_signing import MalformedHeader, XMatrix, verify_request
from homeserver.matrix.signing import SignatureError
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.keyring import KeyRing
from homeserver.outbound.partners import Partners
from homeserver.services.auth.limits import Limits, host_of, network_of

_MOST_HEADERS = 4
_LARGE = 1 << 20
"""So large bodies are checked in threads, a few at once: their values take many times the memory of their text."""
_LARGE_AT_ONCE = 2
_MOST_VALUES = 1_000_000
_ROUNDS = 12


class ServerAuth:
    """Checks the signatures of requests."""

    def __init__(
        self,
        keys: KeyRing,
        destinations: Destinations,
        clock: Clock,
        partners: Partners,
        limits: Limits,
        server_name: str,
    ) -> None:
        self._keys = keys
        self._destinations = destinations
        self._clock = clock
        self._partners = partners
        self._limits = limits
        self._server_name = server_name
        self._turns = FairTurns(_ROUNDS)
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def check(
        self, headers: Sequence[str], *, address: str, method: str, target: str, content: bytes | None
    ) -> Origin:
        """The server that signed the request, by its Authorization headers, one for each key that it signed with.

        One good signature is enough. `target` is the path and query as they came, `content` the body, if there is one.
        `address` is where the request comes from. Raises `NotSigned`, `Forbidden` where the operator wants nothing to
        do with the server, `LimitExceeded` where keys would have to be fetched for too many, or `TooLarge`.
        """
        if content is not None and len(content) > _LARGE and count_values(content) > _MOST_VALUES:
            raise TooLarge("The body has too many values.")
        said = self._parse(headers)
        origin = said[0].origin
        if self._partners.refusal(origin) is not None:
            raise Forbidden("This server does not speak to yours.")
        now = self._clock.now()
        wanted = {(origin, one.key_id): now for one in said}
        if not await self._keys.is_kept(wanted):
            # Anybody can write any name in a header, and have us ask that server.
            self._limits.take("strangers", network_of(address))
        keys = await self._keys.find(wanted, asker=network_of(address))
        # A large body takes a while, and anybody may send many of them at a time: in any name, but not from anywhere.
        await self._turns.take(network_of(address), host_of(ServerName(origin)))
        reason = "The key that signed the request is not known."
        for one in said:
            key = keys.get((origin, one.key_id))
            # "Old keys" sign no requests, nor do those whose server does not vouch for them any more.
            if key is None or key.valid_until_ts < now:
                continue
            verify = partial(
                verify_request,
                one,
                key.public_key,
                method=method,
                target=target,
                content=content,
                destination=self._server_name,
            )
            try:
                if content is None or len(content) <= _LARGE:
                    verify()
                else:
                    async with self._large:
                        await asyncio.to_thread(verify)
            except (SignatureError, CanonicalJsonError) as error:
                reason = f"The request is not signed as it should be: {error}"
            else:
                self._destinations.alive(ServerName(origin))
                return Origin(ServerName(origin))
        raise NotSigned(reason)

    def _parse(self, headers: Sequence[str]) -> list[XMatrix]:
        if not headers:
            raise NotSigned("The request needs an Authorization header of the scheme X-Matrix.")
        if len(headers) > _MOST_HEADERS:
            raise NotSigned("The request has too many Authorization headers.")
        try:
            said = [XMatrix.parse(header) for header in headers]
        except MalformedHeader as error:
            raise NotSigned(str(error)) from None
        if len({one.origin for one in said}) > 1 or not is_server_name(said[0].origin):
            raise NotSigned("The Authorization header names no server.")
        if said[0].origin == self._server_name:
            raise NotSigned("The request says that it comes from this server.")
        if any(one.destination not in (None, self._server_name) for one in said):
            raise NotSigned("The request was made for another server.")
        return said
