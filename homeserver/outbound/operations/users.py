"""Users of other servers, their devices and their keys."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from homeserver.matrix.identifiers import DeviceId, ServerName, UserId
from homeserver.outbound.operations.asking import LARGEST_KEYS, V1, Asking, Json, part


class UserDevices(msgspec.Struct, frozen=True):
    """The devices of a user, as of a stream id."""

    user_id: str
    stream_id: int
    devices: list[Json]
    master_key: Json | None = None
    self_signing_key: Json | None = None


class QueriedKeys(msgspec.Struct, frozen=True):
    """Device and cross-signing keys, by user."""

    device_keys: dict[str, dict[str, Json]]
    master_keys: dict[str, Json] = {}
    self_signing_keys: dict[str, Json] = {}


class ClaimedKeys(msgspec.Struct, frozen=True):
    """One-time keys, by user, device and key id."""

    one_time_keys: dict[str, dict[str, dict[str, Any]]]


class Users(Asking):
    """These operations."""

    async def query_profile(self, destination: ServerName, user_id: UserId, field: str | None = None) -> Json:
        """The profile of a user, or one field of it."""
        query = [("user_id", user_id)] + ([] if field is None else [("field", field)])
        return await self._call(
            "queryProfile", destination, "GET", f"{V1}/query/profile", Json, query=query, largest=LARGEST_KEYS
        )

    async def user_devices(self, destination: ServerName, user_id: UserId) -> UserDevices:
        """All devices of a user."""
        return await self._call("getUserDevices", destination, "GET", f"{V1}/user/devices/{part(user_id)}", UserDevices)

    async def query_keys(
        self, destination: ServerName, device_keys: Mapping[UserId, Sequence[str]], *, timeout_s: float = 10.0
    ) -> QueriedKeys:
        """Keys of devices and users; an empty list of devices stands for all."""
        content = {"device_keys": device_keys}
        target = f"{V1}/user/keys/query"
        return await self._call(
            "queryUserEncryptionKeys", destination, "POST", target, QueriedKeys, content=content, timeout_s=timeout_s
        )

    async def claim_keys(
        self,
        destination: ServerName,
        one_time_keys: Mapping[UserId, Mapping[DeviceId, str]],
        *,
        timeout_s: float = 10.0,
    ) -> ClaimedKeys:
        """One-time keys, by user, device and algorithm."""
        content = {"one_time_keys": one_time_keys}
        target = f"{V1}/user/keys/claim"
        return await self._call(
            "claimUserEncryptionKeys", destination, "POST", target, ClaimedKeys, content=content, timeout_s=timeout_s
        )
