"""Managing one's account (client-server API, Account management)."""

from typing import Any

from homeserver.errors import Forbidden
from homeserver.http.bodies import Body, Empty, JsonObject
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import UserId
from homeserver.services.auth.interactive import AuthData
from homeserver.services.auth.sessions import Requester
from homeserver.services.users.accounts import Accounts
from homeserver.services.users.confirmation import Confirmation
from homeserver.services.users.devices import Devices


class NewPassword(Body, frozen=True):
    new_password: str
    logout_devices: bool = True
    auth: AuthData | None = None


class Deactivate(Body, frozen=True):
    auth: AuthData | None = None
    erase: bool = False
    id_server: str | None = None


async def change_password(body: NewPassword, who: Requester, accounts: Accounts, confirmation: Confirmation) -> Empty:
    session = await confirmation.require(who, "change the password", body.auth)
    await accounts.change_password(who, body.new_password, logout_devices=body.logout_devices)
    await confirmation.end(session)
    return Empty()


async def deactivate(
    body: Deactivate, who: Requester, accounts: Accounts, confirmation: Confirmation
) -> dict[str, Any]:
    session = await confirmation.require(who, "end the account for good", body.auth)
    await accounts.deactivate(who.user_id, erase=body.erase)
    await confirmation.end(session)
    return {"id_server_unbind_result": "no-support"}


async def openid(user_id: UserId, body: JsonObject, who: Requester, accounts: Accounts) -> dict[str, Any]:
    if user_id != who.user_id:
        raise Forbidden("You can only prove who you are yourself.")
    token, lifetime_s = await accounts.openid_token(user_id)
    return {
        "access_token": token,
        "token_type": "Bearer",
        "matrix_server_name": user_id.partition(":")[2],
        "expires_in": lifetime_s,
    }


async def whois(user_id: UserId, who: Requester, devices: Devices) -> dict[str, Any]:
    if user_id != who.user_id and not who.is_admin:
        raise Forbidden("Only administrators may ask about others.")
    seen = {
        device.device_id: {
            "sessions": [{"connections": [{"ip": device.last_seen_ip, "last_seen": device.last_seen_ts}]}]
        }
        for device in await devices.list(user_id)
        if device.last_seen_ts is not None
    }
    return {"user_id": user_id, "devices": seen}


ENDPOINTS = [
    Endpoint("POST", "/account/password", change_password, auth=USER, limit="login", body=NewPassword),
    Endpoint("POST", "/account/deactivate", deactivate, auth=USER, limit="login", body=Deactivate),
    Endpoint("POST", "/user/{user_id}/openid/request_token", openid, auth=USER_OR_GUEST, limit=None, body=JsonObject),
    Endpoint("GET", "/admin/whois/{user_id}", whois, auth=USER, limit=None, body=None),
]
