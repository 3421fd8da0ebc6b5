"""Read receipts and read markers (client-server API, Receipts, Fully read markers)."""

from typing import Any

import msgspec

from homeserver.errors import Forbidden, InvalidParam
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import EventId, RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import parse
from homeserver.services.users import account_data
from homeserver.services.users.account_data import FULLY_READ
from homeserver.storage import account_data as account_data_rows
from homeserver.storage import events, members, receipts, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.receipts import UNTHREADED, Receipt
from homeserver.storage.rooms import Room

KINDS = ("m.read", receipts.PRIVATE)
MAIN = "main"
_HOPS = 3

Json = dict[str, Any]


class Receipts:
    """Who has read what."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def mark(
        self, who: Requester, room_id: RoomId, markers: dict[str, EventId], thread_id: str | None = None
    ) -> None:
        """Set markers by kind: `m.read`, `m.read.private`, `m.fully_read`. Going back changes nothing."""
        await self._database.write(self._mark, who.user_id, room_id, markers, thread_id)

    def _mark(
        self, tx: WriteTx, user_id: UserId, room_id: RoomId, markers: dict[str, EventId], thread_id: str | None
    ) -> None:
        room = rooms.find(tx, room_id)
        member = None if room is None else members.find(tx, room.room_nid, user_id)
        if room is None or member is None or member.membership != "join":
            raise Forbidden("You are not in this room.")
        found = events.find_many_by_id(tx, markers.values())
        for kind, event_id in markers.items():
            event = found.get(event_id)
            if event is None or event.room_nid != room.room_nid:
                raise InvalidParam("The room has no such event.")
            if kind == FULLY_READ:
                _move_marker(tx, user_id, room, event)
            else:
                self._put(tx, user_id, room, kind, event, thread_id)

    def _put(
        self, tx: WriteTx, user_id: UserId, room: Room, kind: str, event: StoredEvent, thread_id: str | None
    ) -> None:
        if thread_id is not None and thread_id not in threads_of(tx, room, event):
            raise InvalidParam("The event is not in that thread.")
        slot = UNTHREADED if thread_id is None else thread_id
        for known in receipts.list_of_user(tx, user_id, [room.room_nid]):
            if (known.type, known.thread_id) == (kind, slot) and known.event_position >= event.came_at:
                return
        receipt = Receipt(
            room_nid=room.room_nid,
            user_id=user_id,
            type=kind,
            thread_id=slot,
            event_id=event.event_id,
            event_position=event.came_at,
            ts=self._clock.now(),
            position=stream_rows.advance(tx),
        )
        receipts.put(tx, receipt)
        # A private receipt is nobody else's business.
        tx.wake([user_id] if kind == receipts.PRIVATE else [user_id, room.room_id, receipts_key(room.room_id)])


def receipts_key(room_id: RoomId) -> str:
    """The notifier's key of a room's public receipts; waiters wait for the room itself."""
    return f"receipts {room_id}"


def content_of(found: list[Receipt]) -> Json:
    """The content of an `m.receipt` event."""
    content: dict[str, dict[str, Json]] = {}
    for receipt in found:
        said: Json = {"ts": receipt.ts}
        if receipt.thread_id != UNTHREADED:
            said["thread_id"] = receipt.thread_id
        content.setdefault(receipt.event_id, {}).setdefault(receipt.type, {})[receipt.user_id] = said
    return content


def threads_of(tx: ReadTx, room: Room, event: StoredEvent) -> set[str]:
    """The threads that an event can be read in: a root is in the main timeline and begins its own thread."""
    thread = thread_of(tx, room, event)
    return {MAIN, event.event_id} if thread == MAIN else {thread}


def thread_of(tx: ReadTx, room: Room, event: StoredEvent) -> str:
    """The thread of an event: its root's id, or `main`, found by following relations a few steps."""
    for _ in range(_HOPS + 1):
        relates_to = parse(event, room.version).content.get("m.relates_to")
        parent = relates_to.get("event_id") if isinstance(relates_to, dict) else None
        if not isinstance(relates_to, dict) or not isinstance(parent, str):
            return MAIN
        if relates_to.get("rel_type") == "m.thread":
            return parent
        found = events.find_by_id(tx, room.room_nid, EventId(parent))
        if found is None:
            return MAIN
        event = found
    return MAIN


def _move_marker(tx: WriteTx, user_id: UserId, room: Room, event: StoredEvent) -> None:
    known = account_data_rows.find(tx, user_id, room.room_id, FULLY_READ)
    if known is not None:
        before = events.find_by_id(tx, room.room_nid, msgspec.json.decode(known)["event_id"])
        if before is not None and before.came_at >= event.came_at:
            return
    content = msgspec.json.encode({"event_id": event.event_id}).decode()
    account_data.put(tx, user_id, room.room_id, FULLY_READ, content)
