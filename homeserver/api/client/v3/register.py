"""Making accounts (client-server API, Account registration)."""

from typing import Any

from homeserver.api.client.v3.login import session_json
from homeserver.config.model import Config
from homeserver.errors import BadJson, Forbidden, InvalidParam, Unsupported
from homeserver.http.bodies import Body, Query
from homeserver.http.endpoint import NOBODY, Endpoint
from homeserver.services.auth.interactive import AuthData, InteractiveAuth, dummy
from homeserver.services.users.accounts import Accounts, NewDevice

_FLOWS = [("m.login.dummy",)]


class Register(Body, frozen=True):
    auth: AuthData | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False


class Kind(Query, frozen=True):
    kind: str = "user"


class Available(Query, frozen=True):
    username: str


async def register(
    body: Register, query: Kind, accounts: Accounts, interactive: InteractiveAuth, config: Config
) -> dict[str, Any]:
    if query.kind not in ("user", "guest"):
        raise InvalidParam("The kind is user or guest.")
    _check_open(config, query.kind)
    if body.username is not None:
        await accounts.check_available(body.username)
    session = await interactive.require("register", body.auth, _FLOWS, {"m.login.dummy": dummy})
    if not body.password:
        raise BadJson("The registration needs a password.")
    if len(body.password) < config.passwords.minimum_length:
        raise Unsupported("M_WEAK_PASSWORD", f"A password has at least {config.passwords.minimum_length} characters.")
    device = NewDevice(body.device_id, body.initial_device_display_name, body.refresh_token)
    username = body.username if body.username is not None else accounts.invent_name()
    user_id, login = await accounts.register(username, body.password, None if body.inhibit_login else device)
    await interactive.end(session)
    return {"user_id": user_id} if login is None else session_json(login)


async def available(query: Available, accounts: Accounts, config: Config) -> dict[str, bool]:
    _check_open(config, "user")
    await accounts.check_available(query.username)
    return {"available": True}


def _check_open(config: Config, kind: str) -> None:
    if kind == "guest" or not config.registration_is_open or config.registration.token_required:
        raise Forbidden("Registration is not open here.")


ENDPOINTS = [
    Endpoint("POST", "/register", register, auth=NOBODY, limit=None, body=Register),
    Endpoint("GET", "/register/available", available, auth=NOBODY, limit=None, body=None),
]
