"""Making accounts (client-server API, Account registration)."""

from typing import Any

from homeserver.api.client.v3.login import session_json
from homeserver.errors import InvalidParam
from homeserver.http.bodies import Body, Query
from homeserver.http.endpoint import NOBODY, Endpoint
from homeserver.services.auth.interactive import AuthData
from homeserver.services.users.accounts import Accounts, NewDevice
from homeserver.services.users.registration import Registration


class Register(Body, frozen=True):
    auth: AuthData | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False
    guest_access_token: str | None = None


class SharedSecret(Body, frozen=True):
    nonce: str
    username: str
    password: str
    mac: str
    admin: bool = False
    user_type: str | None = None
    displayname: str | None = None


class Kind(Query, frozen=True):
    kind: str = "user"


class Available(Query, frozen=True):
    username: str


class Token(Query, frozen=True):
    token: str


async def register(body: Register, query: Kind, registration: Registration) -> dict[str, Any]:
    if query.kind == "guest":
        return session_json(await registration.register_guest(body.initial_device_display_name))
    if query.kind != "user":
        raise InvalidParam("The kind is user or guest.")
    new = NewDevice(body.device_id, body.initial_device_display_name, body.refresh_token)
    device = None if body.inhibit_login else new
    user_id, login = await registration.register(
        body.auth, body.username, body.password, device, guest_token=body.guest_access_token
    )
    return {"user_id": user_id} if login is None else session_json(login)


async def available(query: Available, accounts: Accounts, registration: Registration) -> dict[str, bool]:
    registration.check_possible()
    await accounts.check_available(query.username)
    return {"available": True}


async def validity(query: Token, registration: Registration) -> dict[str, bool]:
    return {"valid": await registration.is_good_token(query.token)}


async def nonce(registration: Registration) -> dict[str, str]:
    return {"nonce": await registration.new_nonce()}


async def register_with_secret(body: SharedSecret, registration: Registration) -> dict[str, Any]:
    user_id, login = await registration.register_with_secret(
        body.nonce,
        body.username,
        body.password,
        body.mac,
        is_admin=body.admin,
        user_type=body.user_type,
        display_name=body.displayname,
    )
    return {**session_json(login), "home_server": user_id.partition(":")[2]}


ENDPOINTS = [
    Endpoint("POST", "/register", register, auth=NOBODY, limit="register", body=Register),
    Endpoint("GET", "/register/available", available, auth=NOBODY, limit="register", body=None),
]

ENDPOINTS_V1 = [
    Endpoint(
        "GET", "/register/m.login.registration_token/validity", validity, auth=NOBODY, limit="register", body=None
    ),
]

# The path by which scripts written for Synapse make accounts.
ENDPOINTS_ADMIN = [
    Endpoint("GET", "/register", nonce, auth=NOBODY, limit="register", body=None),
    Endpoint("POST", "/register", register_with_secret, auth=NOBODY, limit="register", body=SharedSecret),
]
