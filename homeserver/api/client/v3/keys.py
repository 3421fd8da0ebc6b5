"""Keys and messages for end-to-end encryption (client-server API, End-to-End Encryption, Send-to-Device messaging)."""

from typing import Any

from msgspec import field

from homeserver.errors import InvalidParam
from homeserver.http.bodies import Body, Empty, JsonObject, Query, identifier
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.services.auth.interactive import AuthData
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.sessions import Requester
from homeserver.services.federation.device_keys import DeviceKeys
from homeserver.services.users.confirmation import Confirmation
from homeserver.services.users.e2e_keys import E2eKeys, count_claims
from homeserver.services.users.to_device import ToDevice
from homeserver.streams.positions import SyncToken

Json = dict[str, Any]


class Upload(Body, frozen=True):
    device_keys: Json | None = None
    one_time_keys: Json | None = None
    fallback_keys: Json | None = None


class KeyQuery(Body, frozen=True):
    device_keys: dict[str, list[str]]
    timeout: int | None = None


class Claim(Body, frozen=True):
    one_time_keys: dict[str, dict[str, str]]
    timeout: int | None = None


class CrossSigning(Body, frozen=True):
    master_key: Json | None = None
    self_signing_key: Json | None = None
    user_signing_key: Json | None = None
    auth: AuthData | None = None


class Messages(Body, frozen=True):
    messages: dict[str, dict[str, Json]]


class Range(Query, frozen=True):
    start: str = field(name="from")
    to: str | None = None


async def upload(body: Upload, who: Requester, keys: E2eKeys) -> Json:
    counts = await keys.upload(who, body.device_keys, body.one_time_keys or {}, body.fallback_keys or {})
    return {"one_time_key_counts": counts}


async def query(body: KeyQuery, who: Requester, keys: DeviceKeys) -> Json:
    wanted = {_user(user): list(map(DeviceId, ids)) for user, ids in body.device_keys.items()}
    return await keys.query(who.user_id, wanted, body.timeout)


async def claim(body: Claim, who: Requester, keys: DeviceKeys, limits: Limits) -> Json:
    limits.take("claim", who.user_id, count_claims(body.one_time_keys))
    wanted = {
        _user(user): {DeviceId(device): algorithm for device, algorithm in of_user.items()}
        for user, of_user in body.one_time_keys.items()
    }
    return await keys.claim(wanted, body.timeout)


async def changes(query: Range, who: Requester, keys: E2eKeys) -> Json:
    after = SyncToken.parse(query.start).position
    upto = SyncToken.parse(query.to).position if query.to else 2**62
    found = await keys.changes(who, after=after, upto=upto)
    return {"changed": sorted(found.changed), "left": sorted(found.left)}


async def device_signing(body: CrossSigning, who: Requester, keys: E2eKeys, confirmation: Confirmation) -> Empty:
    given = {
        usage: key
        for usage, key in (
            ("master", body.master_key),
            ("self_signing", body.self_signing_key),
            ("user_signing", body.user_signing_key),
        )
        if key is not None
    }
    session = None
    if await keys.needs_confirmation(who.user_id, given):
        session = await confirmation.require(who, "replace the keys that vouch for your devices", body.auth)
    await keys.upload_cross_signing(who.user_id, given, confirmed=session is not None)
    if session is not None:
        await confirmation.end(session)
    return Empty()


async def signatures(body: JsonObject, who: Requester, keys: E2eKeys) -> Json:
    for of_user in body.value.values():
        if not isinstance(of_user, dict):
            raise InvalidParam("Signed keys are objects by user and key.")
    return {"failures": await keys.upload_signatures(who, body.value)}


async def send_to_device(event_type: str, txn_id: str, body: Messages, who: Requester, to_device: ToDevice) -> Empty:
    messages = {_user(user): of_user for user, of_user in body.messages.items()}
    await to_device.send(who, event_type, txn_id, messages)
    return Empty()


def _user(text: str) -> UserId:
    return identifier(identifiers.user_id, text)


ENDPOINTS = [
    Endpoint("POST", "/keys/upload", upload, auth=USER_OR_GUEST, limit=None, body=Upload),
    Endpoint("POST", "/keys/query", query, auth=USER_OR_GUEST, limit="lookup", body=KeyQuery),
    Endpoint("POST", "/keys/claim", claim, auth=USER_OR_GUEST, limit="lookup", body=Claim),
    Endpoint("GET", "/keys/changes", changes, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("POST", "/keys/device_signing/upload", device_signing, auth=USER, limit=None, body=CrossSigning),
    Endpoint("POST", "/keys/signatures/upload", signatures, auth=USER, limit=None, body=JsonObject),
    Endpoint(
        "PUT",
        "/sendToDevice/{event_type}/{txn_id}",
        send_to_device,
        auth=USER_OR_GUEST,
        limit="to_device",
        body=Messages,
    ),
]
