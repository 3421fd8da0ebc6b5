"""Messages from device to device (client-server API, Send-to-Device messaging)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from homeserver.errors import InvalidParam
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.storage import devices, stream_rows, to_device, transactions
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.to_device import Message
from homeserver.storage.transactions import Done, Repeated

_MOST_MESSAGES = 10_000
_ALL = "*"


class ToDevice:
    """Leaves messages for devices."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def send(self, who: Requester, type_: str, txn_id: str, messages: Mapping[UserId, Mapping[str, Any]]) -> None:
        """Leave messages by user and device, `*` for all of a user's devices; once for each transaction id."""
        done = Done(who.user_id, who.device_id, f"to_device/{type_}", txn_id, None, self._clock.now())
        bodies = {
            (user_id, device_id): msgspec.json.encode({"sender": who.user_id, "type": type_, "content": content})
            for user_id, of_user in messages.items()
            for device_id, content in of_user.items()
        }
        if len(bodies) > _MOST_MESSAGES:
            raise InvalidParam(f"At most {_MOST_MESSAGES} messages can be sent at once.")
        try:
            await self._database.write(_send, done, bodies)
        except Repeated:
            return


def _send(tx: WriteTx, done: Done, bodies: Mapping[tuple[UserId, str], bytes]) -> None:
    transactions.record_many(tx, [done])
    known: dict[UserId, set[DeviceId]] = {}
    for device in devices.list_of_users(tx, {user_id for user_id, _ in bodies}):
        known.setdefault(device.user_id, set()).add(device.device_id)
    addressed = [
        (user_id, target, body)
        for (user_id, device_id), body in bodies.items()
        for target in sorted(known.get(user_id, ()))
        if device_id == target or (device_id == _ALL and (user_id, target) not in bodies)
    ]
    if addressed:
        position = stream_rows.advance(tx, len(addressed)) - len(addressed)
        to_device.add_many(
            tx,
            [
                Message(position + number, user_id, target, body.decode())
                for number, (user_id, target, body) in enumerate(addressed, 1)
            ],
        )
        tx.wake({user_id for user_id, _, _ in addressed})
