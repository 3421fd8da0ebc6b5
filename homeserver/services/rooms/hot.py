"""Rooms as the writer needs them: the current state and the newest events, parsed and in memory.

A hot room is ahead of the database by the events whose commit is under way (`pending`). Whoever builds an event does
so without awaiting between looking at the room and handing the event to the writer, hence no lock: the event loop is
the lock. A room whose commit failed is marked stale, dropped, and read again from the database.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from homeserver.kit.concurrency import SingleFlight
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import DeviceId, RoomId, UserId
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.state import Pair

_RECENT = 64
_ROOMS = 2000


@dataclass(frozen=True, slots=True)
class Transaction:
    """The client's name for a request, so that a repeated one is answered alike."""

    user_id: UserId
    device_id: DeviceId
    scope: str
    txn_id: str


@dataclass(frozen=True, slots=True)
class Recent:
    """An event that was committed while its room was hot."""

    stored: StoredEvent
    event: Event
    transaction: Transaction | None
    """By which it was sent, for the device that sent it."""


class HotRoom:
    """One room, ready to be built upon."""

    def __init__(
        self,
        room_id: RoomId,
        version: RoomVersion,
        *,
        room_nid: int | None = None,
        root: int | None = None,
        known_since: int = 0,
        state: Mapping[Pair, Event] | None = None,
        tips: Iterable[tuple[int, Event]] = (),
    ) -> None:
        """`tips` are the forward extremities with their positions; a room that is being made has no number yet."""
        self.room_id = room_id
        self.version = version
        self.state: dict[Pair, Event] = dict(state or {})
        tips = list(tips)
        self.latest: list[Event] = [event for _, event in tips]
        self.joined: set[UserId] = {
            UserId(state_key)
            for (kind, state_key), event in self.state.items()
            if kind == "m.room.member" and event.membership == "join"
        }
        # What is committed: the writer alone changes these.
        self.room_nid = room_nid
        self.root = root
        self.tips: list[int] = [position for position, _ in tips]
        self.recent: deque[Recent] = deque()
        self.known_since = known_since
        """`recent` holds every event of the room after this position."""
        self.pending = 0
        self.is_stale = False

    @property
    def create(self) -> Event | None:
        """The create event, once there is one."""
        return self.state.get(("m.room.create", ""))

    @property
    def power_levels(self) -> Event | None:
        """The power levels event, if there is one."""
        return self.state.get(("m.room.power_levels", ""))

    def membership_of(self, user_id: str) -> str:
        """The user's membership; `leave` for somebody who was never here."""
        event = self.state.get(("m.room.member", user_id))
        return "leave" if event is None else event.membership or "leave"

    def build_on(self, built: Iterable[Event], redacted: Mapping[str, Event]) -> None:
        """Take over events that the writer is about to commit. `redacted` are state events in their new form."""
        for event in built:
            self.latest = [event]
            if event.state_key is not None:
                self._set_state(event, event.state_key)
        for pair, event in list(self.state.items()) if redacted else ():
            if event.event_id in redacted:
                self.state[pair] = redacted[event.event_id]

    def forget_redacted(self, redacted: Mapping[int, tuple[int, Event]]) -> None:
        """Put the redacted form, and the position of the redaction, in the place of what was said at a position."""
        for index, recent in enumerate(self.recent):
            if (change := redacted.get(recent.stored.position)) is not None:
                redacted_by, event = change
                stored = replace(recent.stored, pdu=event.pdu, redacted_by=redacted_by)
                self.recent[index] = replace(recent, stored=stored, event=event)

    def remember(self, committed: Iterable[Recent]) -> None:
        """Keep what was committed, for those who read along; the oldest goes when there is too much."""
        self.recent.extend(committed)
        while len(self.recent) > _RECENT:
            self.known_since = self.recent.popleft().stored.position

    def _set_state(self, event: Event, state_key: str) -> None:
        self.state[event.type, state_key] = event
        if event.type == "m.room.member":
            if event.membership == "join":
                self.joined.add(UserId(state_key))
            else:
                self.joined.discard(UserId(state_key))


class HotRooms:
    """The rooms that were used of late."""

    def __init__(self, database: Database, trees: StateTrees) -> None:
        self._database = database
        self._trees = trees
        self._rooms: dict[int, HotRoom] = {}
        self._nids: dict[RoomId, int] = {}
        self._loading: SingleFlight[int, HotRoom] = SingleFlight()

    async def get(self, room_nid: int) -> HotRoom:
        """The room with this number, from memory or the database."""
        room = self._rooms.pop(room_nid, None)
        if room is None:
            return await self._loading.run(room_nid, lambda: self._load(room_nid))
        self._rooms[room_nid] = room  # Last in the order of use.
        return room

    def nid_of(self, room_id: RoomId) -> int | None:
        """The number of a room that is in memory."""
        return self._nids.get(room_id)

    def peek(self, room_nid: int) -> HotRoom | None:
        """The room if it is in memory."""
        return self._rooms.get(room_nid)

    def add(self, room: HotRoom) -> None:
        """Keep a room that was just made."""
        assert room.room_nid is not None
        self._rooms[room.room_nid] = room
        self._nids[room.room_id] = room.room_nid
        if len(self._rooms) > _ROOMS:
            self._evict()

    def drop(self, room: HotRoom) -> None:
        """Forget a room that memory and database no longer agree about."""
        room.is_stale = True
        if room.room_nid is not None and self._rooms.get(room.room_nid) is room:
            self._remove(room.room_nid)

    async def _load(self, room_nid: int) -> HotRoom:
        room = await self._database.snapshot(self._read, room_nid)
        self.add(room)
        return room

    def _read(self, tx: ReadTx, room_nid: int) -> HotRoom:
        room = rooms.find_many(tx, [room_nid])[room_nid]
        positions = self._trees.items(tx, room.state_root)
        tips = rooms.list_extremities(tx, room_nid)
        stored = events.find_many(tx, {*positions.values(), *tips})
        parsed = {position: parse(event, room.version) for position, event in stored.items()}
        return HotRoom(
            room.room_id,
            ROOM_VERSIONS[room.version],
            room_nid=room_nid,
            root=room.state_root,
            known_since=stream_rows.current(tx),
            state={pair: parsed[position] for pair, position in positions.items()},
            tips=[(position, parsed[position]) for position in tips],
        )

    def _evict(self) -> None:
        # A room that is ahead of the database must not be read from it.
        for room_nid in [nid for nid, room in self._rooms.items() if not room.pending][: _ROOMS // 10]:
            self._remove(room_nid)

    def _remove(self, room_nid: int) -> None:
        del self._nids[self._rooms.pop(room_nid).room_id]


def parse(stored: StoredEvent, version: str) -> Event:
    """The event of a stored row."""
    return Event.parse(stored.pdu, version, stored.event_id)
