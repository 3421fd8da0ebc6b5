"""Other servers' device lists: kept from what they tell, fetched where that is not enough (server-server API, Device
Management).

A list is kept once somebody here has asked for it. From then on its server's updates are applied as long as each
follows one that was seen. After one that does not, the list is stale: whoever needs it has the server asked, and
`resync` fetches it in any case, again and again until that succeeds. A list that was asked for before an update came
may be older than the update, so it is not taken.

It is good for as long as this server and the user have shared a room since it was fetched: nobody tells a server of
changes with whose users a user shares no room.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from homeserver.errors import BadJson, Forbidden, Refused, RemoteFailure
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import SingleFlight
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import DeviceId, ServerName, UserId, domain_of
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.operations.users import QueriedKeys, UserDevices
from homeserver.services.federation import remote_keys
from homeserver.services.federation.contents import decoded, identifier, user_of
from homeserver.services.federation.remote_keys import LARGEST_NUMBER, MOST_DEVICES, RemoteKeys
from homeserver.storage import e2e_keys, members, remote_device_lists, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.remote_device_lists import RemoteDeviceList

RESYNC = "device list resync"
"""Whoever fetches stale lists waits for this key."""

_PAUSE_MS = 5_000
"""Between two times that a list is fetched by itself."""
_FIRST_PAUSE_MS = 10_000
_LONGEST_PAUSE_MS = 60 * 60 * 1000
_BATCH = 500
_SERVERS_AT_ONCE = 20
_MOST_PREVIOUS = 20

Json = dict[str, Any]


class Update(msgspec.Struct, frozen=True):
    """The content of `m.device_list_update`."""

    user_id: str
    device_id: str
    stream_id: int
    prev_id: list[int] = []
    deleted: bool | None = None
    device_display_name: str | None = None
    keys: Json | None = None


class SigningKeyUpdate(msgspec.Struct, frozen=True):
    """The content of `m.signing_key_update`."""

    user_id: str
    master_key: Json | None = None
    self_signing_key: Json | None = None


class DeviceListUpdates:
    """Takes `m.device_list_update`."""

    def __init__(self, lists: "RemoteDeviceLists") -> None:
        self._lists = lists

    async def receive(self, origin: ServerName, content: Json) -> None:
        """Take it."""
        await self._lists.update(origin, content)


class SigningKeyUpdates:
    """Takes `m.signing_key_update`."""

    def __init__(self, lists: "RemoteDeviceLists") -> None:
        self._lists = lists

    async def receive(self, origin: ServerName, content: Json) -> None:
        """Take it."""
        await self._lists.update_signing_keys(origin, content)


@dataclass(frozen=True, slots=True)
class _Asked:
    """When a list was asked for: at which position, and what had been heard by then."""

    position: int
    touched: Mapping[UserId, int]


class RemoteDeviceLists:
    """The device lists of other servers' users."""

    def __init__(self, database: Database, clock: Clock, client: FederationClient, server_name: str) -> None:
        self._database = database
        self._clock = clock
        self._client = client
        self._server_name = server_name
        self._fetching: SingleFlight[tuple[ServerName, frozenset[UserId]], QueriedKeys] = SingleFlight()

    async def update(self, origin: ServerName, content: Json) -> None:
        """A device of another server's user has changed."""
        update = decoded(content, Update)
        user_id = user_of(origin, update.user_id)
        if not 0 <= update.stream_id < LARGEST_NUMBER:
            raise BadJson("`stream_id` is too large a number.")
        device_id = identifier(identifiers.device_id, update.device_id)
        body = None
        if update.keys is not None and not update.deleted:
            body = remote_keys.device(user_id, device_id, update.keys, update.device_display_name)
            if body is None:
                raise BadJson("`keys` are not the keys of the device.")
        await self._database.write(self._update, user_id, device_id, update, body)

    async def update_signing_keys(self, origin: ServerName, content: Json) -> None:
        """Another server's user has other cross-signing keys."""
        update = decoded(content, SigningKeyUpdate)
        user_id = user_of(origin, update.user_id)
        await self._database.write(self._update_signing_keys, user_id, update)

    async def query(self, server: ServerName, user_ids: Collection[UserId], *, timeout_s: float) -> QueriedKeys:
        """What a server says now of users with whom a room is shared; it is kept. Raises `RemoteFailure`."""
        key = (server, frozenset(user_ids))
        return await self._fetching.run(key, lambda: self._query(server, user_ids, timeout_s))

    async def resync(self) -> int | None:
        """Fetch the stale lists that are due; when the next ones are, if there are any."""
        due = await self._database.read(remote_device_lists.list_due, now=self._clock.now(), limit=_BATCH)
        wanted = await self._database.write(self._drop_strangers, due) if due else []
        by_server: dict[ServerName, list[RemoteDeviceList]] = {}
        for one in wanted:
            by_server.setdefault(one.server_name, []).append(one)
        some = asyncio.Semaphore(_SERVERS_AT_ONCE)
        await asyncio.gather(*(self._resync_server(server, lists, some) for server, lists in by_server.items()))
        return await self._database.read(remote_device_lists.next_due)

    async def tidy(self) -> None:
        """Forget the lists of those with whom no room is shared any more; put right what a wrong clock has put off."""
        now = self._clock.now()
        await self._database.write(remote_device_lists.bring_forward, latest=now + _LONGEST_PAUSE_MS, now=now)
        after = UserId("")
        while page := await self._database.read(remote_device_lists.list_page, after=after, limit=_BATCH):
            await self._database.write(self._forget_strangers, page)
            after = page[-1]

    async def _query(self, server: ServerName, user_ids: Collection[UserId], timeout_s: float) -> QueriedKeys:
        asked = await self._database.write(self._begin, user_ids)
        try:
            answer = await self._client.query_keys(server, {user_id: [] for user_id in user_ids}, timeout_s=timeout_s)
        except RemoteFailure:
            await self._put_off(server, 0)
            raise
        await self._database.write(self._fill, remote_keys.of_query(answer, user_ids), asked, None)
        return answer

    async def _resync_server(
        self, server: ServerName, lists: Iterable[RemoteDeviceList], some: asyncio.Semaphore
    ) -> None:
        async with some:
            for one in lists:
                asked = await self._database.write(self._begin, [one.user_id])
                try:
                    answer = await self._client.user_devices(server, one.user_id)
                except Refused as refusal:
                    if refusal.errcode != "M_NOT_FOUND":
                        await self._database.write(_put_off_one, one, until=self._until(one.failures))
                        continue
                    answer = UserDevices(one.user_id, one.seen[-1] if one.seen else 0, [])
                except RemoteFailure:
                    await self._put_off(server, one.failures)
                    return
                found = {one.user_id: remote_keys.of_list(answer, one.user_id)}
                await self._database.write(self._fill, found, asked, answer.stream_id)

    async def _put_off(self, server: ServerName, failures: int) -> None:
        await self._database.write(_put_off, server, failures=failures + 1, until=self._until(failures))

    def _until(self, failures: int) -> int:
        """When to try again after so many failures in a row, and one more."""
        return self._clock.now() + min(_FIRST_PAUSE_MS << min(failures, 20), _LONGEST_PAUSE_MS)

    def _update(self, tx: WriteTx, user_id: UserId, device_id: DeviceId, update: Update, body: str | None) -> None:
        known = remote_device_lists.lock_many(tx, [user_id]).get(user_id)
        if known is not None and update.stream_id in known.seen:
            return
        position = e2e_keys.note_changes(tx, [user_id], self._audience(tx, user_id))
        if known is None:
            return
        after = replace(known, touched=position, seen=(*known.seen, update.stream_id))
        if not (known.is_stale or (_follows(known, update) and _put_device(tx, user_id, device_id, body))):
            # What comes next may follow this one; what came before does not matter to the list to be fetched.
            retry_ts = min(known.retry_ts, self._clock.now() + _PAUSE_MS)
            after = replace(after, is_stale=True, seen=(update.stream_id,), retry_ts=retry_ts)
        remote_device_lists.set_many(tx, [after])
        if after.is_stale:
            tx.wake([RESYNC])

    def _update_signing_keys(self, tx: WriteTx, user_id: UserId, update: SigningKeyUpdate) -> None:
        known = remote_device_lists.lock_many(tx, [user_id]).get(user_id)
        before = e2e_keys.find_cross_signing(tx, [user_id])
        master = before.get((user_id, "master"))
        given = remote_keys.cross_signing(user_id, update.master_key, update.self_signing_key, known=master)
        wanted = sum(key is not None for key in (update.master_key, update.self_signing_key))
        if known is not None and known.filled and len(given) < wanted:
            raise BadJson("The cross-signing keys are not good.")
        position = e2e_keys.note_changes(tx, [user_id], self._audience(tx, user_id))
        if known is None:
            return
        if not known.is_stale:
            kept = {key.usage: key for (_, usage), key in before.items() if usage in ("master", "self_signing")}
            if master is not None and any(
                key.usage == "master" and key.public_key != master.public_key for key in given
            ):
                kept = {}  # What another master key has signed vouches for nothing.
            kept |= {key.usage: key for key in given}
            bodies = {device_id: body for (_, device_id), body in e2e_keys.find_devices(tx, [user_id]).items()}
            _replace(tx, {user_id: RemoteKeys(bodies, list(kept.values()))})
        remote_device_lists.set_many(tx, [replace(known, touched=position)])

    def _begin(self, tx: WriteTx, user_ids: Collection[UserId]) -> _Asked:
        known = remote_device_lists.find_many(tx, user_ids)
        new = {user_id: ServerName(domain_of(user_id)) for user_id in user_ids if user_id not in known}
        if new:
            remote_device_lists.begin_many(tx, new)
            known |= remote_device_lists.find_many(tx, new)
        return _Asked(stream_rows.current(tx), {user_id: one.touched for user_id, one in known.items()})

    def _fill(self, tx: WriteTx, found: Mapping[UserId, RemoteKeys], asked: _Asked, stream_id: int | None) -> None:
        """Keep lists that were fetched, but for those whose server was heard in the meantime: not at once again."""
        known = remote_device_lists.lock_many(tx, found)
        taken = {user_id: one for user_id, one in known.items() if one.touched == asked.touched.get(user_id)}
        changed = _replace(tx, {user_id: found[user_id] for user_id in taken})
        if news := [user_id for user_id in changed if taken[user_id].filled]:
            e2e_keys.note_changes(tx, news, members.list_sharing_of_server(tx, news, self._server_name))
        number = () if stream_id is None or not 0 <= stream_id < LARGEST_NUMBER else (stream_id,)
        retry_ts = self._clock.now() + _PAUSE_MS
        after = [
            replace(
                one,
                seen=tuple(dict.fromkeys((*one.seen, *number))),
                filled=asked.position,
                is_stale=False,
                failures=0,
                retry_ts=retry_ts,
            )
            if user_id in taken
            else replace(one, retry_ts=retry_ts)
            for user_id, one in known.items()
        ]
        if after:
            remote_device_lists.set_many(tx, after)
        if len(taken) < len(known):
            tx.wake([RESYNC])

    def _audience(self, tx: ReadTx, user_id: UserId) -> set[UserId]:
        """The local users who share a room with the user. Raises `Forbidden` if there are none."""
        audience = members.list_sharing_of_server(tx, [user_id], self._server_name)
        if not audience:
            raise Forbidden("No room is shared with the user.")
        return audience

    def _drop_strangers(self, tx: WriteTx, lists: Collection[RemoteDeviceList]) -> list[RemoteDeviceList]:
        """Forget those of the lists with whose users no room is shared; the others."""
        sharing = self._forget_strangers(tx, [one.user_id for one in lists])
        return [one for one in lists if one.user_id in sharing]

    def _forget_strangers(self, tx: WriteTx, user_ids: Collection[UserId]) -> set[UserId]:
        sharing = members.find_sharing_with_server(tx, user_ids, self._server_name)
        gone = sorted(set(user_ids) - sharing)
        if gone:
            _replace(tx, {user_id: RemoteKeys() for user_id in gone})
            remote_device_lists.remove_many(tx, gone)
        return sharing


def find_good(tx: ReadTx, user_ids: Collection[UserId], requester: UserId) -> tuple[set[UserId], set[UserId]]:
    """Of other servers' users: those whose lists are in step, and those with whom a local user shares a room."""
    lists = remote_device_lists.find_many(tx, user_ids)
    joins = members.list_joins(tx, [*user_ids, requester])
    since = dict(joins.get(requester, {}))
    good, sharing = _split(lists, joins, since, user_ids)
    doubtful = {
        nid
        for user_id in user_ids
        if user_id not in good and (user_id not in sharing or _is_in_step(lists.get(user_id)))
        for nid in joins.get(user_id, ())
    }
    if doubtful:
        # Somebody else may have been in a room with them for longer than the requester, or at all.
        since |= members.first_joins_of_server(tx, doubtful, domain_of(requester))
        good, sharing = _split(lists, joins, since, user_ids)
    return good, sharing


def _split(
    lists: Mapping[UserId, RemoteDeviceList],
    joins: Mapping[UserId, Mapping[int, int]],
    since: Mapping[int, int],
    user_ids: Collection[UserId],
) -> tuple[set[UserId], set[UserId]]:
    good: set[UserId] = set()
    sharing: set[UserId] = set()
    for user_id in user_ids:
        shared = [max(position, since[nid]) for nid, position in joins.get(user_id, {}).items() if nid in since]
        if shared:
            sharing.add(user_id)
            known = lists.get(user_id)
            if known is not None and _is_in_step(known) and min(shared) <= known.filled:
                good.add(user_id)
    return good, sharing


def _follows(known: RemoteDeviceList, update: Update) -> bool:
    """Whether nothing can have been missed between what was seen and this update."""
    return 0 < len(update.prev_id) <= _MOST_PREVIOUS and set(update.prev_id) <= set(known.seen)


def _is_in_step(known: RemoteDeviceList | None) -> bool:
    return known is not None and not known.is_stale and known.filled > 0


def _put_off(tx: WriteTx, server: ServerName, *, failures: int, until: int) -> None:
    remote_device_lists.put_off(tx, server, failures=failures, until=until)
    tx.wake([RESYNC])


def _put_off_one(tx: WriteTx, refused: RemoteDeviceList, *, until: int) -> None:
    for known in remote_device_lists.lock_many(tx, [refused.user_id]).values():
        remote_device_lists.set_many(tx, [replace(known, failures=refused.failures + 1, retry_ts=until)])


def _put_device(tx: WriteTx, user_id: UserId, device_id: DeviceId, body: str | None) -> bool:
    """Put keys in the place of those that a device had; False if the user has too many devices."""
    device = (user_id, device_id)
    if body is None:
        e2e_keys.remove_keys_of(tx, [device])
        return True
    if e2e_keys.find_device(tx, device) is None and e2e_keys.count_devices(tx, user_id) >= MOST_DEVICES:
        return False
    e2e_keys.put_devices(tx, {device: body})
    return True


def _replace(tx: WriteTx, found: Mapping[UserId, RemoteKeys]) -> set[UserId]:
    """Put these keys in the place of all that the users had; who has others now."""
    changed: set[UserId] = set()
    devices = e2e_keys.find_devices(tx, found)
    wanted = {(user_id, device_id): body for user_id, one in found.items() for device_id, body in one.devices.items()}
    if put := {device: body for device, body in wanted.items() if devices.get(device) != body}:
        e2e_keys.put_devices(tx, put)
    if gone := devices.keys() - wanted.keys():
        e2e_keys.remove_keys_of(tx, sorted(gone))
    cross = e2e_keys.find_cross_signing(tx, found)
    vouching = {(key.user_id, key.usage): key for one in found.values() for key in one.cross_signing}
    if new := [key for name, key in vouching.items() if cross.get(name) != key]:
        e2e_keys.put_cross_signing(tx, new)
    if old := cross.keys() - vouching.keys():
        e2e_keys.remove_cross_signing(tx, sorted(old))
    for (user_id, usage), key in cross.items():
        after = vouching.get((user_id, usage))
        if after is None or after.public_key != key.public_key:
            e2e_keys.remove_signatures(tx, user_id, [key.public_key])
    changed.update(user_id for user_id, _ in [*put, *gone, *old])
    changed.update(key.user_id for key in new)
    return changed
