"""Messages from devices of other servers' users (server-server API, Send-to-device messaging)."""

from typing import Any

import msgspec

from homeserver.errors import BadJson
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import ServerName, UserId, domain_of
from homeserver.services.federation.contents import decoded, user_of
from homeserver.services.users.to_device import Addressed, deliver, event_of
from homeserver.storage import to_device
from homeserver.storage.engine import Database, WriteTx

REMEMBERED_MS = 30 * 24 * 60 * 60 * 1000
"""For so long it is known which messages have come: longer than a server tries to deliver one."""
_LONGEST_ID = 32
_LONGEST_TYPE = 255
_LARGEST_MESSAGE = 65_536
_MOST_MESSAGES = 10_000

Json = dict[str, Any]


class _Content(msgspec.Struct, frozen=True):
    sender: str
    type: str
    message_id: str
    messages: dict[str, dict[str, Json]]


class DirectToDevice:
    """Takes `m.direct_to_device`. What is answered is committed, and is left for the devices once (K10)."""

    def __init__(self, database: Database, clock: Clock, server_name: str) -> None:
        self._database = database
        self._clock = clock
        self._server_name = server_name

    async def receive(self, origin: ServerName, content: Json) -> None:
        """Take it. Raises `RequestError` where it is not what it should be."""
        told = decoded(content, _Content)
        sender = user_of(origin, told.sender)
        if len(told.message_id) > _LONGEST_ID:
            raise BadJson(f"`message_id` has at most {_LONGEST_ID} characters.")
        if len(told.type) > _LONGEST_TYPE:
            raise BadJson(f"`type` has at most {_LONGEST_TYPE} characters.")
        if sum(map(len, told.messages.values())) > _MOST_MESSAGES:
            raise BadJson(f"There are at most {_MOST_MESSAGES} messages in one.")
        bodies: dict[Addressed, bytes] = {}
        for user_id, of_user in told.messages.items():
            if domain_of(user_id) == self._server_name and "\0" not in user_id:
                for device_id, message in of_user.items():
                    body = event_of(sender, told.type, message)
                    if len(body) <= _LARGEST_MESSAGE:
                        bodies[UserId(user_id), device_id] = body
        await self._database.write(_take, origin, told.message_id, bodies, now=self._clock.now())


def _take(tx: WriteTx, origin: ServerName, message_id: str, bodies: dict[Addressed, bytes], *, now: int) -> None:
    if not bodies or not to_device.receive(tx, origin, message_id, now=now):
        return
    if not deliver(tx, origin, bodies):
        # Of what is for nobody there need be no trace: anybody may send any number of those.
        to_device.forget(tx, origin, message_id)
