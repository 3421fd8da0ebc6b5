"""Messages from device to device (client-server API, Send-to-Device messaging; server-server API, the same).

What waits for a device is bounded: a message is dropped where so many of its server's wait already, few of one that no
room is shared with. Where there are too many in all, the oldest go of those servers of which there are most, and
strangers count as one. So whoever has sent little loses nothing by a flood, under however many names it comes, and a
device that never comes costs no more than that.

What waits for a server that fails is bounded, too: nothing that was taken is dropped, but no more is taken of a user
who has so much waiting there already. Of a server that has been down for so long that it is given up, the oldest go
instead (`consumers/federation/backlog`), lest somebody who sends to it and to others be stopped for ever.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from homeserver.errors import InvalidParam, LimitExceeded
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import DeviceId, ServerName, UserId, domain_of
from homeserver.outbound.destinations import Destinations
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.sessions import Requester
from homeserver.storage import devices, outgoing_edus, room_servers, stream_rows, to_device, transactions
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.outgoing_edus import TO_DEVICE, OutgoingEdu
from homeserver.storage.to_device import Device, Message
from homeserver.storage.transactions import Done, Repeated

MOST_WAITING = 20_000
MOST_OF_SERVER = 10_000
MOST_OF_STRANGER = 100
MOST_ELSEWHERE = 10_000
"""So many pieces of data with messages of a user wait for a server that fails, at most."""
_AGAIN_MS = 2_000
_AGAIN_AT_LATEST_MS = 60_000
_MOST_BYTES = 32 << 20
"""So much of one server waits for a device at most, and so much at most is left for all devices at a time."""
_MOST_MESSAGES = 10_000
_MOST_STRANGERS = 1000
_ALL = "*"
_LARGEST_EDU = 60_000
"""What is to go to one server is cut into parts of about so many bytes; a single message may be larger."""
_ID_LENGTH = 24

Json = dict[str, Any]
Addressed = tuple[UserId, str]
"""A user and a device id, or `*` for all devices of the user."""
Waiting = Mapping[ServerName | None, tuple[int, int]]
"""How many messages wait for a device, and how long they are, by the server they came from."""


class ToDevice:
    """Leaves messages for devices."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        limits: Limits,
        destinations: Destinations,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._limits = limits
        self._destinations = destinations
        self._server_name = ServerName(server_name)

    async def send(self, who: Requester, type_: str, txn_id: str, messages: Mapping[UserId, Mapping[str, Any]]) -> None:
        """Leave messages by user and device, `*` for all of a user's devices; once for each transaction id.

        All of them, or none. Raises `LimitExceeded` where too much of the user's waits for a server that fails.
        """
        if sum(map(len, messages.values())) > _MOST_MESSAGES:
            raise InvalidParam(f"At most {_MOST_MESSAGES} messages can be sent at once.")
        done = Done(who.user_id, who.device_id, f"to_device/{type_}", txn_id, None, self._clock.now())
        bodies: dict[Addressed, bytes] = {}
        elsewhere: dict[ServerName, list[tuple[UserId, str, bytes]]] = {}
        for user_id, of_user in messages.items():
            server = ServerName(domain_of(user_id))
            for device_id, content in of_user.items():
                if server == self._server_name:
                    bodies[user_id, device_id] = event_of(who.user_id, type_, content)
                else:
                    one = (user_id, device_id, msgspec.json.encode(content))
                    elsewhere.setdefault(server, []).append(one)
        if elsewhere:
            await self._count_strangers(who.user_id, elsewhere)
        edus = [edu for server, some in elsewhere.items() for edu in self._edus(server, who.user_id, type_, some)]
        try:
            await self._database.write(_send, done, self._server_name, bodies, edus, self._pauses(elsewhere))
        except Repeated:
            return

    def _pauses(self, servers: Iterable[ServerName]) -> dict[ServerName, int]:
        """Those of the servers that fail and are not given up; in how many milliseconds one might try again."""
        now = self._clock.now()
        return {
            server: min(max(health.next_retry_ts - now, _AGAIN_MS), _AGAIN_AT_LATEST_MS)
            for server in servers
            if (health := self._destinations.find(server)) is not None and not self._destinations.is_given_up(server)
        }

    async def _count_strangers(self, user_id: UserId, servers: Collection[ServerName]) -> None:
        """Each server that is perhaps none has its place among those that are tried, so nobody may name very many."""
        known = await self._database.read(room_servers.find_known, servers)
        strangers = len(servers) - len(known)
        if strangers > _MOST_STRANGERS:
            raise InvalidParam(f"Messages can be sent to at most {_MOST_STRANGERS} servers without a room in common.")
        if strangers:
            self._limits.take("strangers_by_user", user_id, strangers)

    def _edus(
        self, server: ServerName, sender: UserId, type_: str, messages: Iterable[tuple[UserId, str, bytes]]
    ) -> list[OutgoingEdu]:
        """Messages for devices of one other server, in as few parts as may be; each part is taken there once."""
        parts: list[dict[UserId, dict[str, msgspec.Raw]]] = []
        size = _LARGEST_EDU
        for user_id, device_id, content in messages:
            if size + len(content) > _LARGEST_EDU:
                parts.append({})
                size = 0
            parts[-1].setdefault(user_id, {})[device_id] = msgspec.Raw(content)
            size += len(content) + len(user_id) + len(device_id)
        return [
            OutgoingEdu(
                server,
                TO_DEVICE,
                msgspec.json.encode(
                    {
                        "sender": sender,
                        "type": type_,
                        "message_id": self._randomness.token(_ID_LENGTH),
                        "messages": part,
                    }
                ),
                sender,
            )
            for part in parts
        ]


def event_of(sender: UserId, type_: str, content: Any) -> bytes:
    """A message as the device is shown it."""
    return msgspec.json.encode({"sender": sender, "type": type_, "content": content})


def deliver(tx: WriteTx, origin: ServerName, bodies: Mapping[Addressed, bytes]) -> bool:
    """Leave messages of a server's users for those of the devices that there are, as far as there is room for them.

    Whether there was anything to leave.
    """
    known: dict[UserId, set[DeviceId]] = {}
    for device in devices.list_of_users(tx, {user_id for user_id, _ in bodies}):
        known.setdefault(device.user_id, set()).add(device.device_id)
    addressed = [
        (user_id, target, body)
        for (user_id, device_id), body in bodies.items()
        for target in sorted(known.get(user_id, ()))
        if device_id == target or (device_id == _ALL and (user_id, target) not in bodies)
    ]
    if not addressed:
        return False
    own = ServerName(domain_of(addressed[0][0]))
    waiting = to_device.count_waiting(tx, [(user_id, target) for user_id, target, _ in addressed])
    most = MOST_OF_SERVER if origin == own or room_servers.find_known(tx, [origin]) else MOST_OF_STRANGER
    addressed = _with_room(addressed, waiting, origin, most)
    if not addressed:
        return False
    position = stream_rows.advance(tx, len(addressed)) - len(addressed)
    to_device.add_many(
        tx,
        [
            Message(position + number, user_id, target, body.decode(), origin)
            for number, (user_id, target, body) in enumerate(addressed, 1)
        ],
    )
    _make_room(tx, [(user_id, target) for user_id, target, _ in addressed], waiting, origin, own)
    tx.wake({user_id for user_id, _, _ in addressed})
    return True


def _make_room(
    tx: WriteTx, devices_: Iterable[Device], waiting: Mapping[Device, Waiting], origin: ServerName, own: ServerName
) -> None:
    """Let go what is too much now that one more message of a server waits for each of the devices."""
    full: dict[Device, Counter[ServerName | None]] = {}
    for device in devices_:
        counts = Counter({server: count for server, (count, _) in waiting.get(device, {}).items()})
        counts[origin] += 1
        if counts.total() > MOST_WAITING:
            full[device] = counts
    if full:
        servers = {server for counts in full.values() for server in counts if server is not None}
        known = room_servers.find_known(tx, servers) | {own}
        to_device.delete_oldest(tx, {device: _too_many(counts, known) for device, counts in full.items()})


def _too_many(counts: Mapping[ServerName | None, int], known: Collection[ServerName]) -> dict[ServerName | None, int]:
    """How many messages of each server are to go, so that no more wait than may: of whom there are most, first."""
    owners: dict[ServerName | None, list[ServerName | None]] = {}
    for server in counts:
        owners.setdefault(server if server in known else None, []).append(server)
    totals = {owner: sum(counts[server] for server in servers) for owner, servers in owners.items()}
    excess = sum(totals.values()) - MOST_WAITING
    gone: dict[ServerName | None, int] = {}
    while excess > 0:
        owner = max(totals, key=lambda one: totals[one])
        server = max(owners[owner], key=lambda one: counts[one] - gone.get(one, 0))
        gone[server] = gone.get(server, 0) + 1
        totals[owner] -= 1
        excess -= 1
    return gone


def _with_room(
    addressed: Iterable[tuple[UserId, DeviceId, bytes]],
    waiting: Mapping[Device, Waiting],
    origin: ServerName,
    most: int,
) -> list[tuple[UserId, DeviceId, bytes]]:
    """Those of the messages, one at most for each device, for which the devices have room."""
    found, size = [], 0
    for user_id, target, body in addressed:
        count, length = waiting.get((user_id, target), {}).get(origin, (0, 0))
        if count < most and length < _MOST_BYTES and size < _MOST_BYTES:
            found.append((user_id, target, body))
            size += len(body)
    return found


def _send(
    tx: WriteTx,
    done: Done,
    own: ServerName,
    bodies: Mapping[Addressed, bytes],
    edus: list[OutgoingEdu],
    pauses: Mapping[ServerName, int],
) -> None:
    transactions.record_many(tx, [done])
    if pauses:
        _refuse_where_full(tx, done.user_id, edus, pauses)
    if bodies:
        deliver(tx, own, bodies)
    if edus:
        outgoing_edus.add_many(tx, edus)


def _refuse_where_full(
    tx: WriteTx, sender: UserId, edus: Iterable[OutgoingEdu], pauses: Mapping[ServerName, int]
) -> None:
    new = Counter(edu.destination for edu in edus)
    waiting = outgoing_edus.count_messages(tx, sender, pauses)
    full = [server for server, count in waiting.items() if count + new[server] > MOST_ELSEWHERE]
    if full:
        raise LimitExceeded(
            max(pauses[server] for server in full),
            f"Too many of your messages wait for {full[0]}, which cannot be reached. Wait, or leave out its users.",
        )
