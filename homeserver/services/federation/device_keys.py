"""Keys for end-to-end encryption of users wherever they are (client-server API, End-to-End Encryption).

This server's users' come from its tables; so do others', as long as their lists are in step. Their servers are asked
for the rest, all at once, and those that do not answer in time are named as failures.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from homeserver.errors import InvalidParam, RemoteFailure
from homeserver.matrix.identifiers import DeviceId, ServerName, UserId, domain_of
from homeserver.outbound.federation import FederationClient
from homeserver.services.federation import remote_keys
from homeserver.services.federation.device_lists import RemoteDeviceLists, find_good
from homeserver.services.federation.remote_keys import RemoteKeys
from homeserver.services.users import shown_keys
from homeserver.services.users.e2e_keys import E2eKeys
from homeserver.services.users.shown_keys import ShownKeys, leave_out_strangers, with_signatures
from homeserver.storage import e2e_keys
from homeserver.storage.e2e_keys import Signature
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.tables import chunks

_MOST_USERS = 10_000
_USERS_AT_ONCE = 500
_CLAIMS_AT_ONCE = 1000
_SERVERS_AT_ONCE = 100
_DEFAULT_TIMEOUT_MS = 10_000
_LONGEST_TIMEOUT_MS = 30_000

Json = dict[str, Any]
T = TypeVar("T")
Devices = Sequence[DeviceId]


class DeviceKeys:
    """Finds keys, and claims one-time keys."""

    def __init__(
        self,
        database: Database,
        local: E2eKeys,
        lists: RemoteDeviceLists,
        client: FederationClient,
        server_name: str,
    ) -> None:
        self._database = database
        self._local = local
        self._lists = lists
        self._client = client
        self._server_name = server_name

    async def query(self, requester: UserId, wanted: Mapping[UserId, Devices], timeout_ms: int | None) -> Json:
        """The keys of users and their devices, as the answer of `/keys/query`; an empty list stands for all devices."""
        if len(wanted) > _MOST_USERS:
            raise InvalidParam(f"The keys of at most {_MOST_USERS} users can be asked for at once.")
        answer = await self._local.query(requester, wanted)
        failures: Json = {}
        by_server = self._by_server(wanted)
        remote = {user_id: devices for of_server in by_server.values() for user_id, devices in of_server.items()}
        if remote:
            kept, good, sharing = await self._database.snapshot(_look, requester, list(remote))
            _add(answer, kept, remote)
            asked = {
                server: {user_id: devices for user_id, devices in of_server.items() if user_id not in good}
                for server, of_server in by_server.items()
            }
            some = asyncio.Semaphore(_SERVERS_AT_ONCE)
            timeout_s = _timeout_s(timeout_ms)
            answers = await asyncio.gather(
                *(
                    self._ask(server, of_server, sharing, timeout_s, some, failures)
                    for server, of_server in asked.items()
                    if of_server
                )
            )
            found = {user_id: keys for one in answers for user_id, keys in one.items()}
            if found:
                _add(answer, await self._database.read(_show, found, requester), remote)
        return {**answer, "failures": failures}

    async def claim(self, wanted: Mapping[UserId, Mapping[DeviceId, str]], timeout_ms: int | None) -> Json:
        """Take a one-time key for each device and algorithm, or its fallback key; the answer of `/keys/claim`."""
        failures: Json = {}
        some = asyncio.Semaphore(_SERVERS_AT_ONCE)
        claims = [
            self._claim(server, part, _timeout_s(timeout_ms), some, failures)
            for server, of_server in self._by_server(wanted).items()
            for part in _parts(of_server)
        ]
        found = await self._local.claim(wanted)
        for claimed in await asyncio.gather(*claims):
            for user_id, of_user in claimed.items():
                found.setdefault(user_id, {}).update(of_user)
        return {"one_time_keys": found, "failures": failures}

    def _by_server(self, wanted: Mapping[UserId, T]) -> dict[ServerName, dict[UserId, T]]:
        """What is wanted of other servers' users."""
        found: dict[ServerName, dict[UserId, T]] = {}
        for user_id, value in wanted.items():
            if (server := ServerName(domain_of(user_id))) != self._server_name:
                found.setdefault(server, {})[user_id] = value
        return found

    async def _ask(
        self,
        server: ServerName,
        wanted: Mapping[UserId, Devices],
        sharing: set[UserId],
        timeout_s: float,
        some: asyncio.Semaphore,
        failures: Json,
    ) -> dict[UserId, RemoteKeys]:
        """What a server says now; the lists of those with whom a room is shared are kept."""
        found: dict[UserId, RemoteKeys] = {}
        async with some:
            try:
                for part in chunks(sorted(sharing & wanted.keys()), _USERS_AT_ONCE):
                    answer = await self._lists.query(server, part, timeout_s=timeout_s)
                    found |= remote_keys.of_query(answer, part)
                for part in chunks(sorted(wanted.keys() - sharing), _USERS_AT_ONCE):
                    of_part = {user_id: wanted[user_id] for user_id in part}
                    answer = await self._client.query_keys(server, of_part, timeout_s=timeout_s)
                    found |= remote_keys.of_query(answer, part)
            except RemoteFailure:
                failures[server] = _FAILED
        return found

    async def _claim(
        self,
        server: ServerName,
        wanted: Mapping[UserId, Mapping[DeviceId, str]],
        timeout_s: float,
        some: asyncio.Semaphore,
        failures: Json,
    ) -> dict[str, dict[str, Json]]:
        async with some:
            try:
                answer = await self._client.claim_keys(server, wanted, timeout_s=timeout_s)
            except RemoteFailure:
                failures[server] = _FAILED
                return {}
        claimed: dict[str, dict[str, Json]] = {}
        for user_id, of_user in wanted.items():
            for device_id, algorithm in of_user.items():
                given = answer.one_time_keys.get(user_id, {}).get(device_id, {})
                if keys := remote_keys.one_time_keys(given, algorithm):
                    claimed.setdefault(user_id, {})[device_id] = keys
        return claimed


_FAILED: Json = {"errcode": "M_UNREACHABLE", "error": "The server could not be asked, or its answer was of no use."}


def _parts(wanted: Mapping[UserId, Mapping[DeviceId, str]]) -> Iterator[dict[UserId, dict[DeviceId, str]]]:
    """What is claimed of a server, in parts that it takes."""
    claims = ((user_id, device_id) for user_id, of_user in wanted.items() for device_id in of_user)
    for some in chunks(claims, _CLAIMS_AT_ONCE):
        part: dict[UserId, dict[DeviceId, str]] = {}
        for user_id, device_id in some:
            part.setdefault(user_id, {})[device_id] = wanted[user_id][device_id]
        yield part


def _timeout_s(timeout_ms: int | None) -> float:
    return min(max(timeout_ms or _DEFAULT_TIMEOUT_MS, 1), _LONGEST_TIMEOUT_MS) / 1000


def _look(tx: ReadTx, requester: UserId, user_ids: Sequence[UserId]) -> tuple[ShownKeys, set[UserId], set[UserId]]:
    good, sharing = find_good(tx, user_ids, requester)
    return shown_keys.read(tx, sorted(good), requester=requester), good, sharing


def _show(tx: ReadTx, found: Mapping[UserId, RemoteKeys], requester: UserId) -> ShownKeys:
    """Keys as they have just come, with what the requester has said of them."""
    said: dict[tuple[str, str], list[Signature]] = {}
    for signature in e2e_keys.list_signatures(tx, found, requester=requester):
        said.setdefault((signature.user_id, signature.target), []).append(signature)
    shown = ShownKeys({}, {}, {})
    for user_id, keys in found.items():
        for device_id, body in keys.devices.items():
            shown.devices[user_id, device_id] = msgspec.json.decode(body)
        for key in keys.cross_signing:
            value = with_signatures(key.body, said.get((user_id, key.public_key), ()))
            leave_out_strangers(value, user_id, requester)
            shown.cross_signing[user_id, key.usage] = value
    return shown


def _add(answer: Json, shown: ShownKeys, wanted: Mapping[UserId, Devices]) -> None:
    for (user_id, device_id), keys in shown.devices.items():
        if not wanted[user_id] or device_id in wanted[user_id]:
            answer["device_keys"].setdefault(user_id, {})[device_id] = keys
    for (user_id, usage), keys in shown.cross_signing.items():
        answer.setdefault(f"{usage}_keys", {})[user_id] = keys
