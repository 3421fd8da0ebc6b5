"""`Endpoint` says in one line what is served; `bind` turns it and the services into something that can be called.

The arguments of a handler are found once, when the application is imported: by name from the path, by kind for the
body and the query, and by type for everything else. A type that nobody provides is an error at that moment.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from homeserver.errors import Forbidden
from homeserver.http.auth import address_of, has_token, origin, requester
from homeserver.http.bodies import (
    Body,
    JsonObject,
    Query,
    decode_body,
    decode_object,
    decode_query,
    identifier,
    read_capped,
)
from homeserver.kit import crash
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import Origin
from homeserver.services.auth.limits import RATES, RATES_OF_SERVERS, Limits, host_of, network_of
from homeserver.services.auth.servers import ServerAuth
from homeserver.services.auth.sessions import Requester, Sessions

Handler = Callable[..., Awaitable[Any]]
Bound = Callable[[Request, Mapping[str, str]], Awaitable[Response]]
Provider = Callable[[Request], Awaitable[Any]]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Auth:
    """Who may call. `provides` is the type of the argument that names the caller."""

    name: str


NOBODY = Auth("none")
USER = Auth("user")
USER_OR_GUEST = Auth("user or guest")
ANYBODY = Auth("none, or user or guest")
"""Somebody who may say who they are; the handler takes a `Requester | None`."""
ADMIN = Auth("administrator")
"""A user who may administrate this server."""
SERVER = Auth("server")
"""Another server; the handler takes an `Origin`."""

_CALLERS: dict[Auth, Any] = {
    USER: Requester,
    USER_OR_GUEST: Requester,
    ADMIN: Requester,
    ANYBODY: Requester | None,
    SERVER: Origin,
}


@dataclass(frozen=True)
class Endpoint:
    """One operation: method, path below the table's prefix, handler, who may call, limit, body."""

    method: str
    path: str
    handler: Handler
    auth: Auth
    limit: str | None
    body: type[Body] | type[JsonObject] | None
    largest: int | None = None
    """The most bytes that the body may have, where that is another number than the setting's."""

    def __post_init__(self) -> None:
        hints = get_type_hints(self.handler)
        rates = {SERVER: RATES_OF_SERVERS, NOBODY: RATES | RATES_OF_SERVERS}.get(self.auth, RATES)
        if self.limit is not None and self.limit not in rates:
            raise TypeError(f"{self.method} {self.path}: there is no limit {self.limit}")
        if self.body is not None and hints.get("body") is not self.body:
            raise TypeError(f"{self.method} {self.path}: the handler takes no `body: {self.body.__name__}`")
        if self.body is None and "body" in hints:
            raise TypeError(f"{self.method} {self.path}: the handler takes a body that is not declared")

    @property
    def parameters(self) -> list[str]:
        """Names in the path, in order."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


def bind(endpoint: Endpoint, services: Callable[[Request], Any], provided: Mapping[type, str], cap: int) -> Bound:
    """The callable of an endpoint.

    `provided` maps each service type to the field of what `services` returns, `cap` is how many bytes a body may have.
    Raises `TypeError` when an argument
    of the handler comes from nowhere.
    """
    hints = get_type_hints(endpoint.handler)
    from_path: list[tuple[str, Any]] = []
    from_services: list[tuple[str, str]] = []
    query: type[Query] | None = None
    wants_request = False
    largest = cap if endpoint.largest is None else endpoint.largest
    decode = _decoder(endpoint.body)
    sessions_field = provided.get(Sessions)
    servers_field = provided.get(ServerAuth)
    is_for_users = endpoint.auth not in (NOBODY, SERVER)
    if is_for_users and sessions_field is None:
        raise TypeError(f"{endpoint.method} {endpoint.path}: nothing provides {Sessions}")
    if endpoint.auth is SERVER and servers_field is None:
        raise TypeError(f"{endpoint.method} {endpoint.path}: nothing provides {ServerAuth}")
    limits_field = provided.get(Limits)
    caller: str | None = None
    for name in inspect.signature(endpoint.handler).parameters:
        kind = hints[name]
        if name in endpoint.parameters:
            from_path.append((name, _PARSERS[kind]))
        elif name == "body":
            continue
        elif isinstance(kind, type) and issubclass(kind, Query):
            query = kind
        elif kind is Request:
            wants_request = True
        elif kind is not None and kind == _CALLERS.get(endpoint.auth):
            caller = name
        elif kind in provided:
            from_services.append((name, provided[kind]))
        else:
            raise TypeError(f"{endpoint.method} {endpoint.path}: nothing provides {kind}")

    async def call(request: Request, path: Mapping[str, str]) -> Response:
        arguments: dict[str, Any] = {name: identifier(parser, path[name]) for name, parser in from_path}
        container = services(request)
        address = address_of(request)
        key = network_of(address)
        raw: bytes | None = None
        if endpoint.auth is SERVER:
            assert servers_field is not None
            raw = b"" if decode is None else await read_capped(request, largest)
            server = await origin(request, getattr(container, servers_field), raw)
            key = host_of(server)
            if caller is not None:
                arguments[caller] = server
        elif endpoint.auth is ANYBODY and not has_token(request):
            assert caller is not None
            arguments[caller] = None
        elif endpoint.auth is not NOBODY:
            assert sessions_field is not None
            sessions: Sessions = getattr(container, sessions_field)
            who = await requester(request, sessions, guests=endpoint.auth not in (USER, ADMIN))
            sessions.note_seen(who, address)
            if endpoint.auth is ADMIN and not who.is_admin:
                raise Forbidden("This is for administrators of this server.")
            key = who.user_id
            if caller is not None:
                arguments[caller] = who
        if endpoint.limit is not None and limits_field is not None:
            limits: Limits = getattr(container, limits_field)
            limits.take(endpoint.limit, key)
        if decode is not None:
            arguments["body"] = decode(await read_capped(request, largest) if raw is None else raw)
        if query is not None:
            arguments["query"] = decode_query(request.query_params.multi_items(), query)
        if wants_request:
            arguments["request"] = request
        for name, field in from_services:
            arguments[name] = getattr(container, field)
        if decode is None:
            result = await endpoint.handler(**arguments)
        else:
            crash.point("K1")
            result = await endpoint.handler(**arguments)
            crash.point("K6")
        if isinstance(result, Response):
            return result
        return Response(_encode(result), media_type="application/json")

    return call


# Identifiers in paths are checked against their grammar before a handler sees them; text is taken as it is.
_PARSERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    identifiers.UserId: identifiers.user_id,
    identifiers.RoomId: identifiers.room_id,
    identifiers.EventId: identifiers.event_id,
    identifiers.RoomAlias: identifiers.room_alias,
    identifiers.DeviceId: identifiers.device_id,
    identifiers.ServerName: identifiers.server_name,
}


def _decoder(kind: type[Body] | type[JsonObject] | None) -> Callable[[bytes], Any] | None:
    if kind is None:
        return None
    if issubclass(kind, JsonObject):
        return decode_object
    decoder = msgspec.json.Decoder(kind)
    return lambda raw: decode_body(raw, decoder)
