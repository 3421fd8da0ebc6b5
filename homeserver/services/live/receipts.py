"""Read receipts and read markers (client-server API, Receipts, Fully read markers)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from homeserver.errors import Forbidden, InvalidParam
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import HotRooms, parse
from homeserver.services.users import account_data
from homeserver.services.users.account_data import FULLY_READ
from homeserver.storage import account_data as account_data_rows
from homeserver.storage import events, members, receipts, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.receipts import UNTHREADED, Receipt
from homeserver.storage.rooms import Room

READ = "m.read"
KINDS = (READ, receipts.PRIVATE)
MAIN = "main"
_HOPS = 3

Json = dict[str, Any]
_Key = tuple[int, UserId, str]


@dataclass(frozen=True, slots=True)
class Heard:
    """What another server says that a user, who is in the room, has read."""

    room_id: RoomId
    user_id: UserId
    event_id: EventId
    thread_id: str | None
    ts: int


class Receipts:
    """Who has read what.

    What users of this server have read publicly the other servers in the room are told, and they tell of theirs.
    """

    def __init__(self, database: Database, clock: Clock, hot: HotRooms, ephemeral: Ephemeral, server_name: str) -> None:
        self._database = database
        self._clock = clock
        self._hot = hot
        self._ephemeral = ephemeral
        self._own = frozenset([ServerName(server_name)])

    async def mark(
        self, who: Requester, room_id: RoomId, markers: dict[str, EventId], thread_id: str | None = None
    ) -> None:
        """Set markers by kind: `m.read`, `m.read.private`, `m.fully_read`. Going back changes nothing."""
        moved = await self._database.write(self._mark, who.user_id, room_id, markers, thread_id)
        if public := [receipt for receipt in moved if receipt.type == READ]:
            servers = (await self._hot.find(room_id)).servers - self._own
            for receipt in public:
                self._tell(room_id, receipt, servers)

    async def hear(self, heard: Sequence[Heard]) -> None:
        """Take what another server says of its users: the newest wins, and what it says nothing of stays."""
        await self._database.write(_hear, heard)

    def _tell(self, room_id: RoomId, receipt: Receipt, servers: frozenset[ServerName]) -> None:
        data: Json = {"ts": receipt.ts}
        if receipt.thread_id != UNTHREADED:
            data["thread_id"] = receipt.thread_id
        content = {room_id: {READ: {receipt.user_id: {"event_ids": [receipt.event_id], "data": data}}}}
        key = f"{room_id} {receipt.user_id} {receipt.thread_id}"
        self._ephemeral.put(servers, "m.receipt", key, msgspec.json.encode(content))

    def _mark(
        self, tx: WriteTx, user_id: UserId, room_id: RoomId, markers: dict[str, EventId], thread_id: str | None
    ) -> list[Receipt]:
        """The receipts that have moved."""
        room = rooms.find(tx, room_id)
        member = None if room is None else members.find(tx, room.room_nid, user_id)
        if room is None or member is None or member.membership != "join":
            raise Forbidden("You are not in this room.")
        found = events.find_many_by_id(tx, markers.values())
        moved = []
        for kind, event_id in markers.items():
            event = found.get(event_id)
            if event is None or event.room_nid != room.room_nid:
                raise InvalidParam("The room has no such event.")
            if kind == FULLY_READ:
                _move_marker(tx, user_id, room, event)
            elif (receipt := self._put(tx, user_id, room, kind, event, thread_id)) is not None:
                moved.append(receipt)
        return moved

    def _put(
        self, tx: WriteTx, user_id: UserId, room: Room, kind: str, event: StoredEvent, thread_id: str | None
    ) -> Receipt | None:
        if thread_id is not None and thread_id not in threads_of(tx, room, event):
            raise InvalidParam("The event is not in that thread.")
        slot = UNTHREADED if thread_id is None else thread_id
        for known in receipts.list_of_user(tx, user_id, [room.room_nid]):
            if (known.type, known.thread_id) == (kind, slot) and known.event_position >= event.came_at:
                return None
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
        receipts.put_many(tx, [receipt])
        # A private receipt is nobody else's business.
        tx.wake([user_id] if kind == receipts.PRIVATE else [user_id, room.room_id, receipts_key(room.room_id)])
        return receipt


def _hear(tx: WriteTx, heard: Sequence[Heard]) -> None:
    found_rooms = rooms.find_many_by_id(tx, {one.room_id for one in heard})
    nids = [room.room_nid for room in found_rooms.values()]
    listed = receipts.list_of_users(tx, {one.user_id for one in heard}, nids, READ)
    known = {_key(receipt): receipt for receipt in listed}
    doubtful = {(receipt.room_nid, receipt.user_id): receipt for receipt in listed if _is_doubtful(receipt)}
    found_events = events.find_many_by_id(
        tx, {one.event_id for one in heard} | {one.event_id for one in doubtful.values()}
    )
    new: dict[_Key, Receipt] = {}
    old: list[Receipt] = []
    woken: set[str] = set()
    for one in heard:
        room, event = found_rooms.get(one.room_id), found_events.get(one.event_id)
        if room is None or (event is not None and event.room_nid != room.room_nid):
            continue
        if not _is_in_thread(tx, room, event, one.thread_id):
            continue
        slot = UNTHREADED if one.thread_id is None else one.thread_id
        receipt = Receipt(
            room_nid=room.room_nid,
            user_id=one.user_id,
            type=READ,
            thread_id=slot,
            event_id=one.event_id,
            event_position=0 if event is None else event.came_at,
            ts=one.ts,
            position=0,
        )
        key = _key(receipt)
        before = new.get(key) or known.get(key)
        if before is None or _goes_on(before, receipt):
            new[key] = receipt
            woken |= {room.room_id, receipts_key(room.room_id)}
            if _is_doubtful(receipt):
                if (other := doubtful.get(key[:2])) is not None and _key(other) != key:
                    old.append(other)
                doubtful[key[:2]] = receipt
    if new:
        position = stream_rows.advance(tx, len(new)) - len(new)
        numbered = [replace(receipt, position=position + number) for number, receipt in enumerate(new.values(), 1)]
        settled = _settled(tx, old, {room.room_nid: room for room in found_rooms.values()}, found_events)
        receipts.remove_many(tx, old)
        receipts.put_many(tx, settled + numbered)
        tx.wake(woken)


def _settled(
    tx: ReadTx, doubtful: Sequence[Receipt], of_nid: Mapping[int, Room], found: Mapping[EventId, StoredEvent]
) -> list[Receipt]:
    """Those whose events have come meanwhile, and are in the threads that they name."""
    settled = []
    for receipt in doubtful:
        room, event = of_nid[receipt.room_nid], found.get(receipt.event_id)
        if event is None or event.room_nid != room.room_nid:
            continue
        if receipt.thread_id in threads_of(tx, room, event):
            settled.append(replace(receipt, event_position=event.came_at))
    return settled


def _key(receipt: Receipt) -> _Key:
    return receipt.room_nid, receipt.user_id, receipt.thread_id


def _is_doubtful(receipt: Receipt) -> bool:
    """Whether it names a thread and an event that was not there: each user has one such receipt in a room, no more."""
    return receipt.event_position == 0 and receipt.thread_id not in (UNTHREADED, MAIN)


def _goes_on(before: Receipt, after: Receipt) -> bool:
    """Whether more was read, and not the same again. The event itself may come later than word of its being read."""
    if before.event_position and after.event_position:
        return after.event_position > before.event_position
    return after.event_id != before.event_id and after.ts >= before.ts


def _is_in_thread(tx: ReadTx, room: Room, event: StoredEvent | None, thread_id: str | None) -> bool:
    """Whether the receipt names a thread that the event is in, or may be in once it comes.

    Nobody may fill the table with threads that are none.
    """
    if thread_id is None or event is None:
        return True
    return thread_id in threads_of(tx, room, event)


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
