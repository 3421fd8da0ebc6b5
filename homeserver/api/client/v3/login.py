"""Logging in and out, refreshing tokens, whoami (client-server API, Client Authentication)."""

from typing import Any

from msgspec import Struct

from homeserver.errors import BadJson, Forbidden, Unsupported
from homeserver.http.bodies import Body, Empty
from homeserver.http.endpoint import NOBODY, USER_OR_GUEST, Endpoint
from homeserver.services.auth.sessions import Requester, Sessions, Tokens
from homeserver.services.users.accounts import Accounts, NewDevice, NewSession


class Identifier(Struct, frozen=True):
    type: str
    user: str | None = None


class Login(Body, frozen=True):
    type: str
    identifier: Identifier | None = None
    user: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool = False


class Refresh(Body, frozen=True):
    refresh_token: str


async def flows() -> dict[str, Any]:
    return {"flows": [{"type": "m.login.password"}]}


async def login(body: Login, accounts: Accounts) -> dict[str, Any]:
    if body.type != "m.login.password":
        raise Unsupported("M_UNKNOWN", "Only m.login.password is offered here.")
    if body.identifier is not None and body.identifier.type != "m.id.user":
        # The server knows nobody's address, and an unknown one is 403.
        raise Forbidden("Only identifiers of the type m.id.user are known here.")
    user = body.identifier.user if body.identifier else body.user
    if user is None or body.password is None:
        raise BadJson("The login needs a user and a password.")
    device = NewDevice(body.device_id, body.initial_device_display_name, body.refresh_token)
    return session_json(await accounts.login(user, body.password, device))


async def refresh(body: Refresh, sessions: Sessions) -> dict[str, Any]:
    return tokens_json(await sessions.refresh(body.refresh_token))


async def logout(who: Requester, accounts: Accounts) -> Empty:
    await accounts.logout(who)
    return Empty()


async def logout_all(who: Requester, accounts: Accounts) -> Empty:
    await accounts.logout_all(who)
    return Empty()


async def whoami(who: Requester) -> dict[str, Any]:
    return {"user_id": who.user_id, "device_id": who.device_id, "is_guest": who.is_guest}


def session_json(session: NewSession) -> dict[str, Any]:
    """What a client is told after a login or a registration."""
    return {"user_id": session.user_id, "device_id": session.device_id, **tokens_json(session.tokens)}


def tokens_json(tokens: Tokens) -> dict[str, Any]:
    """The tokens, without what there is none of."""
    shown: dict[str, Any] = {"access_token": tokens.access_token}
    if tokens.refresh_token is not None:
        shown["refresh_token"] = tokens.refresh_token
    if tokens.expires_in_ms is not None:
        shown["expires_in_ms"] = tokens.expires_in_ms
    return shown


ENDPOINTS = [
    Endpoint("GET", "/login", flows, auth=NOBODY, limit=None, body=None),
    Endpoint("POST", "/login", login, auth=NOBODY, limit="login", body=Login),
    Endpoint("POST", "/refresh", refresh, auth=NOBODY, limit="lookup", body=Refresh),
    Endpoint("POST", "/logout", logout, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("POST", "/logout/all", logout_all, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/account/whoami", whoami, auth=USER_OR_GUEST, limit=None, body=None),
]
