"""Who is calling (client-server API, Client Authentication; server-server API, Request Authentication)."""

from starlette.requests import Request

from homeserver.errors import GuestForbidden, MissingToken
from homeserver.matrix.identifiers import Origin
from homeserver.matrix.request_signing import is_x_matrix
from homeserver.services.auth.servers import ServerAuth
from homeserver.services.auth.sessions import Requester, Sessions


def address_of(request: Request) -> str:
    """Where the request comes from; empty where that has no address. Behind a proxy, what the proxy says."""
    return request.client.host if request.client is not None else ""


async def requester(request: Request, sessions: Sessions, *, guests: bool) -> Requester:
    """The caller, by the token in the header or, deprecated, in the query.

    Raises `MissingToken`, `UnknownToken`, or `GuestForbidden` where guests may not call.
    """
    found = await sessions.requester(token_of(request))
    if found.is_guest and not guests:
        raise GuestForbidden("Guests may not do this. Register to go on.")
    return found


def has_token(request: Request) -> bool:
    """Whether the caller says who they are, truly or not."""
    return "authorization" in request.headers or "access_token" in request.query_params


def token_of(request: Request) -> str:
    """The access token that came with the request. Raises `MissingToken`."""
    header = request.headers.get("authorization", "")
    if header[:7].lower() == "bearer ":
        return header[7:].strip()
    token = request.query_params.get("access_token")
    if not token:
        raise MissingToken("The request needs an access token.")
    return token


async def origin(request: Request, servers: ServerAuth, body: bytes) -> Origin:
    """The server that signed the request with this body. Raises `NotSigned`, `Forbidden`, or `LimitExceeded`."""
    query = request.scope["query_string"]
    target: bytes = request.scope["path_below_mount"] + (b"?" + query if query else b"")
    return await servers.check(
        [header for header in request.headers.getlist("authorization") if is_x_matrix(header)],
        address=address_of(request),
        method=request.method,
        target=target.decode("latin-1"),
        content=body if body.strip(b" \t\r\n") else None,
    )
