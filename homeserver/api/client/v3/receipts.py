"""Receipts and read markers (client-server API, Receipts, Fully read markers)."""

from typing import Any

import msgspec

from homeserver.errors import InvalidParam
from homeserver.http.bodies import Body, Empty, identifier
from homeserver.http.endpoint import USER_OR_GUEST, Endpoint
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.receipts import KINDS, Receipts
from homeserver.services.users.account_data import FULLY_READ


class Thread(Body, frozen=True):
    thread_id: Any = msgspec.UNSET


class Markers(Body, frozen=True):
    fully_read: str | None = msgspec.field(default=None, name="m.fully_read")
    read: str | None = msgspec.field(default=None, name="m.read")
    private: str | None = msgspec.field(default=None, name="m.read.private")


async def receipt(
    room_id: RoomId, receipt_type: str, event_id: EventId, body: Thread, who: Requester, receipts: Receipts
) -> Empty:
    if receipt_type not in (*KINDS, FULLY_READ):
        raise InvalidParam("A receipt is m.read, m.read.private or m.fully_read.")
    thread = None if body.thread_id is msgspec.UNSET else body.thread_id
    if body.thread_id is not msgspec.UNSET and (
        receipt_type == FULLY_READ or not isinstance(thread, str) or not thread
    ):
        raise InvalidParam("A thread is named by its root or as main, and not for m.fully_read.")
    await receipts.mark(who, room_id, {receipt_type: event_id}, thread)
    return Empty()


async def read_markers(room_id: RoomId, body: Markers, who: Requester, receipts: Receipts) -> Empty:
    given = {FULLY_READ: body.fully_read, "m.read": body.read, "m.read.private": body.private}
    markers = {kind: identifier(identifiers.event_id, text) for kind, text in given.items() if text is not None}
    await receipts.mark(who, room_id, markers)
    return Empty()


ENDPOINTS = [
    Endpoint(
        "POST",
        "/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
        receipt,
        auth=USER_OR_GUEST,
        limit=None,
        body=Thread,
    ),
    Endpoint("POST", "/rooms/{room_id}/read_markers", read_markers, auth=USER_OR_GUEST, limit=None, body=Markers),
]
