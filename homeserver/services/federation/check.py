"""Whether and how another server is reached: each step in words, for an operator."""

import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from homeserver.config.model import Config
from homeserver.errors import Refused, RemoteFailure, Unreachable
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.matrix.server_keys import BadKeys, KeyDocument
from homeserver.matrix.signing import SigningKey
from homeserver.outbound.addresses import Address
from homeserver.outbound.connecting import Connector
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.discovery import Route
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.http import HttpTransport, new_context, new_proxy_context
from homeserver.outbound.partners import Partners
from homeserver.outbound.resolver import CachingResolver, DnsResolver, Resolver, Service

_SOON_S = 14 * 24 * 3600
_HOUR_MS = 3_600_000

Outcome = Literal["ok", "note", "FAILED"]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to, in sentences; where it failed, what to do about it."""

    outcome: Outcome
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        """As it is shown. Some of the words are the other server's, so nothing in them moves the cursor."""
        shown = f"{self.outcome:>6}  {_printable(self.what)}"
        return f"{shown}\n        What to do: {_printable(self.remedy)}" if self.remedy else shown


class FederationCheck:
    """Goes the way to another server step by step, on connections of its own."""

    def __init__(
        self,
        config: Config,
        key: SigningKey | None,
        clock: Clock,
        randomness: Randomness,
        resolver: Resolver | None = None,
    ) -> None:
        """`key` is the signing key of this server, if it has one yet. Raises `ConfigError`."""
        resolver = resolver or CachingResolver(DnsResolver(), clock)
        unnamed = new_context(config.federation)
        unnamed.check_hostname = False
        self._config = config
        self._key = key
        self._clock = clock
        self._destinations = Destinations(clock, randomness)
        self._transport = HttpTransport(config.federation, clock, randomness, Metrics(), resolver)
        self._partners = Partners(config.federation)
        self._unnamed = Connector(
            config.federation, resolver, randomness, unnamed, new_proxy_context(config.federation)
        )
        """Connects to whoever has a good certificate, for whatever name."""

    async def close(self) -> None:
        """End all connections."""
        await self._transport.close()

    async def steps(self, name: ServerName) -> AsyncIterator[Step]:
        """What each step comes to; after one that leads no further, there are no more."""
        refusal = self._partners.refusal(name)
        if refusal is not None:
            yield Step("FAILED", refusal, "Change the setting, if you do want to speak to this server.")
            return
        try:
            route = await self._transport.discovery.find(name)
        except Unreachable as error:
            yield Step("FAILED", str(error), "Check the spelling of the name, and the records that it mentions.")
            return
        for sentence in route.steps:
            yield Step("note", sentence)
        yield Step("note", f"Requests are for the host {route.authority}; the certificate must prove {route.tls_name}.")
        is_reached = False
        for service in route.services:
            async for step in self._connections(route, service):
                is_reached = is_reached or step.outcome == "ok"
                yield step
        if not is_reached:
            yield Step("FAILED", f"{name} is not reached at any address.", "See what is said of each of them above.")
            return
        async for step in self._answers(name):
            yield step

    async def _connections(self, route: Route, service: Service) -> AsyncIterator[Step]:
        """What connecting to each address of a service comes to."""
        place = f"{service.host} port {service.port}"
        if not self._transport.connector.is_direct(service.host):
            yield await self._connect(route, service, f"{place}, through the proxy")
            return
        try:
            judged = await self._transport.connector.judge(service, is_given=route.is_given)
        except Unreachable as error:
            yield Step(
                "note", str(error), f"Give {service.host} an A or AAAA record; if it has one, check your name servers."
            )
            return
        for address, refusal in judged.items():
            if refusal is not None:
                leads = "" if service.host == str(address) else f"{service.host} leads to "
                fault = f"{leads}{address}, which {refusal}: it is not connected to."
                yield Step("note", fault, "If it is in your own network, allow its range in federation.allowed_ranges.")
            else:
                yield await self._connect(route, Service(str(address), service.port), _place(address, service.port))

    async def _connect(self, route: Route, service: Service, place: str) -> Step:
        one = Route(route.authority, route.tls_name, (service,), route.is_given)
        try:
            wire = await self._transport.connector.connect(one)
        except Unreachable as error:
            return await self._explain(one, str(error))
        tls = wire.ssl_object
        assert tls is not None
        certificate = tls.getpeercert() or {}
        protocol = "HTTP/2" if tls.selected_alpn_protocol() == "h2" else "HTTP/1.1"
        wire.abort()
        what = f"{place} is reached by {tls.version()} and {protocol}; its certificate {_describe(certificate)}."
        if _expiry_s(certificate) - self._clock.now() / 1000 < _SOON_S:
            return Step("ok", f"{what} That is soon: see that it is renewed.")
        return Step("ok", what)

    async def _explain(self, route: Route, fault: str) -> Step:
        """Why a connection failed, and what to do, as far as that can be known from here."""
        if fault.startswith(("The proxy", "The certificate of the proxy")):
            remedy = (
                "See federation.proxy. It begins with https:// if the proxy speaks TLS, which must have a certificate "
                "then for the host that is named there, by an authority that is known to all or to federation.ca_files."
            )
            if "does not connect" in fault:
                remedy = "Let the proxy connect to that place, or name the host in federation.no_proxy."
            return Step("note", fault, remedy)
        if "does not prove" not in fault:
            remedy = "See that the server runs and listens there with TLS, and that no firewall is in the way."
            return Step("note", fault, remedy)
        try:
            wire = await self._unnamed.connect(route)
        except Unreachable:
            remedy = (
                "The server needs a certificate that is in date and of an authority that is known to all, sent with "
                "its whole chain; in a closed network, name your authority in federation.ca_files."
            )
            return Step("note", fault, remedy)
        certificate = wire.ssl_object.getpeercert() if wire.ssl_object is not None else None
        wire.abort()
        fault = f"{fault} It {_describe(certificate or {})}."
        return Step(
            "note", fault, f"The server needs a certificate for {route.tls_name}, whatever name it is found by."
        )

    async def _answers(self, name: ServerName) -> AsyncIterator[Step]:
        """What the server answers to requests."""
        client = FederationClient(self._transport, self._destinations, self._config.server_name, self._key or _NO_KEY)
        try:
            version = (await client.version(name)).get("server")
            described = [version.get(part) for part in ("name", "version")] if isinstance(version, dict) else []
            words = " ".join(str(one)[:100] for one in described if one)
            yield Step("ok", f"It says that it is {words or 'something without a name'}.")
        except RemoteFailure as error:
            yield _failed(error, "It does not say its version (/_matrix/federation/v1/version).")
        document: KeyDocument | None = None
        try:
            document = KeyDocument.parse(await client.keys(name), name, now=self._clock.now())
        except RemoteFailure as error:
            yield _failed(error, "It does not give its keys (/_matrix/key/v2/server).")
        except BadKeys as error:
            remedy = (
                f"If another server answers there, the name leads to the wrong place: see above how it led there. If "
                f"it is the right one, its own settings must name it {name}, just so, and its key file must be the one "
                f"that it signs with."
            )
            yield Step("FAILED", f"Its keys (/_matrix/key/v2/server) are not good: {error}", remedy)
            return  # Whoever that is would not understand what is asked of another.
        if document is not None:
            yield self._judge_keys(name, document)
        if name == self._config.server_name:
            yield Step("note", "That is this server itself: it takes no requests from itself. Check from another too.")
        elif self._key is None:
            yield Step("note", "This server has no signing key yet, so nothing was asked in its name. Start it once.")
        else:
            yield await self._ask_signed(client, name)

    def _judge_keys(self, name: str, document: KeyDocument) -> Step:
        valid_ms = document.valid_until_ts - self._clock.now()
        until = datetime.fromtimestamp(document.valid_until_ts / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if valid_ms < _HOUR_MS:
            remedy = "The clocks of both servers must be right, and its server must renew what it says of its keys."
            return Step("FAILED", f"Its keys are signed as they should be, but good until {until} only.", remedy)
        own = self._key
        if name == self._config.server_name and own is not None:
            published = document.keys.get(own.key_id)
            if published is None or published.public_key != own.public_key:
                remedy = "The name leads to another server, or to one with another key file. Both must be yours."
                return Step("FAILED", f"The key of this server, {own.key_id}, is not among those published.", remedy)
        ids = ", ".join(sorted(document.keys)[:10])
        return Step("ok", f"Its keys are signed as they should be and good until {until}: {ids}.")

    async def _ask_signed(self, client: FederationClient, name: ServerName) -> Step:
        """Ask for something that need not be there: what counts is that the signature is taken for good."""
        try:
            await client.query_profile(name, UserId(f"@federation-check:{name}"))
        except Refused as error:
            if error.status == 401:
                remedy = (
                    f"It must be able to get this server's keys. Run `homeserver federation check "
                    f"{self._config.server_name}` here, and see that the clocks are right."
                )
                return Step("FAILED", f"It does not believe this server's signature: {error.message[:300]}", remedy)
            if error.status == 403:
                return Step(
                    "note", f"It believes this server's signature, but may not speak to it: {error.message[:300]}"
                )
            if error.status >= 500 or error.status == 429:
                return _failed(error, "It did not answer a signed request.")
        except Unreachable as error:
            return _failed(error, "It did not answer a signed request.")
        return Step("ok", "It answers a request that is signed by this server.")


_NO_KEY = SigningKey.from_seed("none", "A" * 43)
"""For requests that are not signed."""


def _failed(error: Exception, what: str) -> Step:
    if isinstance(error, Refused) and error.status == 404:
        remedy = "Requests below /_matrix must reach the server: see what its proxy does with them."
    else:
        remedy = "See the log of that server, and of the proxy before it."
    return Step("FAILED", f"{what} {str(error)[:500]}", remedy)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _place(address: Address, port: int) -> str:
    return f"{address} port {port}"


def _describe(certificate: Mapping[str, Any]) -> str:
    """Whom the certificate is for, by whom and until when, as a part of a sentence."""
    names = [str(value) for _, value in certificate.get("subjectAltName", ())][:10]
    issuer = [value for part in certificate.get("issuer", ()) for key, value in part if key == "organizationName"]
    issuer += [value for part in certificate.get("issuer", ()) for key, value in part if key == "commonName"]
    until = datetime.fromtimestamp(_expiry_s(certificate), UTC).strftime("%Y-%m-%d")
    return f"is for {', '.join(names) or 'no name'}, by {' '.join(issuer[:2]) or 'an unnamed issuer'}, until {until}"


def _expiry_s(certificate: Mapping[str, Any]) -> float:
    return ssl.cert_time_to_seconds(certificate["notAfter"]) if "notAfter" in certificate else 0
