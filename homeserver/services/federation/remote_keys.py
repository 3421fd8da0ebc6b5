"""What other servers say of their users' keys: taken apart, and whatever is not as it must be left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from homeserver.errors import RequestError
from homeserver.matrix import identifiers
from homeserver.matrix.canonical import CanonicalJsonError, canonical_json
from homeserver.matrix.identifiers import DeviceId, InvalidIdentifier, UserId
from homeserver.outbound.operations.users import QueriedKeys, UserDevices
from homeserver.services.users import e2e_keys
from homeserver.storage.e2e_keys import CrossSigningKey

MOST_DEVICES = 10_000
LARGEST_NUMBER = 2**53
_LARGEST_KEY = 32_768
_LONGEST_NAME = 100
_LONGEST_KEY_ID = 255

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """The keys of a user, as they are kept: bodies of devices by id, and cross-signing keys."""

    devices: dict[DeviceId, str] = field(default_factory=dict)
    cross_signing: list[CrossSigningKey] = field(default_factory=list)


def of_query(answer: QueriedKeys, user_ids: Iterable[UserId]) -> dict[UserId, RemoteKeys]:
    """What an answer says of each of the users; whom else it speaks of does not matter."""
    found: dict[UserId, RemoteKeys] = {}
    for user_id in user_ids:
        devices: dict[DeviceId, str] = {}
        for device_id, keys in list(answer.device_keys.get(user_id, {}).items())[:MOST_DEVICES]:
            body = device(user_id, device_id, keys, _name_in(keys))
            if body is not None:
                devices[DeviceId(device_id)] = body
        vouching = cross_signing(user_id, answer.master_keys.get(user_id), answer.self_signing_keys.get(user_id))
        found[user_id] = RemoteKeys(devices, vouching)
    return found


def of_list(answer: UserDevices, user_id: UserId) -> RemoteKeys:
    """What a whole list of a user's devices says."""
    devices: dict[DeviceId, str] = {}
    for one in answer.devices[:MOST_DEVICES]:
        device_id, keys = one.get("device_id"), one.get("keys")
        if isinstance(device_id, str) and isinstance(keys, dict):
            body = device(user_id, device_id, keys, one.get("device_display_name"))
            if body is not None:
                devices[DeviceId(device_id)] = body
    return RemoteKeys(devices, cross_signing(user_id, answer.master_key, answer.self_signing_key))


def device(user_id: UserId, device_id: str, keys: Json, name: Any) -> str | None:
    """The keys of a device as they are kept, with the device's name; None if they are none."""
    own = {part: value for part, value in keys.items() if part != "unsigned"}
    try:
        e2e_keys.check_identity(user_id, identifiers.device_id(device_id), own)
        # Whatever its server says that others say of the device: they have to say it themselves.
        own["signatures"] = {signer: given for signer, given in own["signatures"].items() if signer == user_id}
        shown = {"device_display_name": name[:_LONGEST_NAME]} if isinstance(name, str) else {}
        body = canonical_json({**own, "unsigned": shown})
    except (RequestError, InvalidIdentifier, CanonicalJsonError):
        return None
    return body.decode() if len(body) <= _LARGEST_KEY else None


def cross_signing(
    user_id: UserId, master: Json | None, self_signing: Json | None, *, known: CrossSigningKey | None = None
) -> list[CrossSigningKey]:
    """The good ones of a user's cross-signing keys; `known` is the master key if it is not told again."""
    kept = [] if master is None else _cross_signing_key(user_id, "master", master)
    signer = kept[0] if kept else known
    if self_signing is not None and signer is not None:
        for key in _cross_signing_key(user_id, "self_signing", self_signing):
            try:
                e2e_keys.check_signature(key.body, user_id, signer.public_key)
            except RequestError:
                continue
            kept.append(key)
    return kept


def one_time_keys(given: Mapping[str, Any], algorithm: str) -> Json:
    """Those of the keys given for a device that are of the algorithm that was asked for."""
    return {
        key_id: key
        for key_id, key in given.items()
        if key_id.partition(":")[0] == algorithm
        and len(key_id) <= _LONGEST_KEY_ID
        and (isinstance(key, str) or (isinstance(key, dict) and isinstance(key.get("key"), str)))
        and len(msgspec.json.encode(key)) <= _LARGEST_KEY
    }


def _cross_signing_key(user_id: UserId, usage: str, key: Json) -> list[CrossSigningKey]:
    try:
        [found] = e2e_keys.cross_signing(user_id, {usage: key})
    except RequestError:
        return []
    is_good = "\0" not in found.public_key and len(found.public_key) <= _LONGEST_KEY_ID
    return [found] if is_good and len(found.body) <= _LARGEST_KEY else []


def _name_in(keys: Json) -> Any:
    unsigned = keys.get("unsigned")
    return unsigned.get("device_display_name") if isinstance(unsigned, dict) else None
