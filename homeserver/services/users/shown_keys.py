"""Users' keys as others are shown them: what was uploaded, with the signatures that may be seen."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.storage import devices, e2e_keys
from homeserver.storage.e2e_keys import Device, Signature
from homeserver.storage.engine import ReadTx

Json = dict[str, Any]

NOBODY = UserId("")
"""Asks for what anybody may see."""


@dataclass(frozen=True, slots=True)
class ShownKeys:
    """Keys of some users."""

    devices: dict[Device, Json]
    cross_signing: dict[tuple[UserId, str], Json]
    """By user and usage; `user_signing` keys are for their owners only."""
    names: dict[Device, str | None]
    """What local users call their devices, those without keys included."""

    def of_user(self, user_id: UserId) -> dict[DeviceId, Json]:
        """The keys of one user's devices."""
        return {device_id: keys for (owner, device_id), keys in self.devices.items() if owner == user_id}


def read(tx: ReadTx, user_ids: Collection[UserId], *, requester: UserId) -> ShownKeys:
    """The keys of these users' devices, and those that vouch for them, as the requester may see them."""
    names = {(one.user_id, one.device_id): one.display_name for one in devices.list_of_users(tx, user_ids)}
    signatures: dict[tuple[str, str], list[Signature]] = {}
    for signature in e2e_keys.list_signatures(tx, user_ids, requester=requester):
        signatures.setdefault((signature.user_id, signature.target), []).append(signature)
    found: dict[Device, Json] = {}
    for (user_id, device_id), body in e2e_keys.find_devices(tx, user_ids).items():
        keys = with_signatures(body, signatures.get((user_id, device_id), ()))
        name = names.get((user_id, device_id))
        # What another server says of a device comes with the device's name.
        keys.setdefault("unsigned", {} if name is None else {"device_display_name": name})
        found[user_id, device_id] = keys
    cross: dict[tuple[UserId, str], Json] = {}
    for (user_id, usage), key in e2e_keys.find_cross_signing(tx, user_ids).items():
        if usage != "user_signing" or user_id == requester:
            keys = with_signatures(key.body, signatures.get((user_id, key.public_key), ()))
            leave_out_strangers(keys, user_id, requester)
            cross[user_id, usage] = keys
    return ShownKeys(found, cross, names)


def with_signatures(body: str, signatures: Iterable[Signature]) -> Json:
    """The key with these signatures added."""
    keys: Json = msgspec.json.decode(body)
    for signature in signatures:
        known = keys.setdefault("signatures", {})
        known.setdefault(signature.signer_id, {})[signature.signer_key] = signature.signature
    return keys


def leave_out_strangers(keys: Json, *known: UserId) -> None:
    """Whatever the owner has uploaded, nobody is shown what others say of the key (social graphs)."""
    if "signatures" in keys:
        keys["signatures"] = {
            signer: signatures for signer, signatures in keys["signatures"].items() if signer in known
        }
