"""Rooms as the writer needs them: the current state and the newest events, parsed and in memory.

A hot room is ahead of the database by the events whose commit is under way (`pending`). Whoever builds an event does
so without awaiting between looking at the room and handing the event to the writer, hence no lock: the event loop is
the lock. A room whose commit failed is marked stale, dropped, and read again from the database.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from homeserver.errors import NotFound
from homeserver.kit.concurrency import SingleFlight
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import DeviceId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.services.rooms.room_state import FEW, RoomState
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, members, partial_rooms, room_servers, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.partial_rooms import PartialRoom
from homeserver.storage.state import Pair

_RECENT = 64
_RECENT_BYTES = 2500


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
    """One room, ready to be built upon.

    Whoever has to wait between looking at the room and handing over what is to follow, has it `alone`: nobody builds
    upon it meanwhile. All others look whether it `is_held`, and await `released`.
    """

    def __init__(
        self,
        room_id: RoomId,
        version: RoomVersion,
        *,
        room_nid: int | None = None,
        root: int | None = None,
        known_since: int = 0,
        state: RoomState | None = None,
        tips: Iterable[tuple[int, Event]] = (),
        arrived_at: int = 0,
        partial: PartialRoom | None = None,
    ) -> None:
        """`tips` are the forward extremities with their positions; a room that is being made has no number yet.

        `arrived_at` is the position of the event by which this server came into the room.
        """
        self.room_id = room_id
        self.version = version
        self.state = state or RoomState({}, {})
        tips = list(tips)
        self.latest: list[Event] = [event for _, event in tips]
        # What is committed: the writer alone changes these.
        self.room_nid = room_nid
        self.root = root
        self.tips: list[int] = [position for position, _ in tips]
        self.recent: deque[Recent] = deque()
        self.known_since = known_since
        """`recent` holds every event of the room after this position."""
        self.arrived_at = arrived_at
        self.partial = partial
        """How the room is known in part, if it is: members are missing from its state."""
        self.pending = 0
        self.is_stale = False
        self.is_held = False
        self._turn = asyncio.Lock()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def joined(self) -> set[UserId]:
        """The users who are in the room."""
        return self.state.joined

    @property
    def servers(self) -> frozenset[ServerName]:
        """The servers whose users are in the room, this one included."""
        return self.state.servers

    @property
    def size(self) -> int:
        """What the room costs in memory, about, in bytes."""
        return self.state.size + _RECENT_BYTES * len(self.recent)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """The room as the database has it, and as nobody else changes it."""
        async with self._turn:
            self.is_held = True
            try:
                await self._quiet.wait()
                yield
            finally:
                self.is_held = False

    async def released(self) -> None:
        """Wait until nobody has the room alone."""
        while self.is_held:
            async with self._turn:
                pass

    def begin(self) -> None:
        """A batch was handed over."""
        self.pending += 1
        self._quiet.clear()

    def end(self) -> None:
        """It is written, or it failed."""
        self.pending -= 1
        if self.pending == 0:
            self._quiet.set()

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
        return self.state.membership_of(user_id)

    def build_on(self, event: Event) -> None:
        """Take over an event that follows all before it, and that the writer is about to commit."""
        self.latest = [event]
        if event.state_key is not None:
            self.state.set((event.type, event.state_key), event)

    def forget_redacted(self, redacted: Mapping[int, Event]) -> None:
        """Put the redacted form, by position, in the place of what was said before."""
        for index, recent in enumerate(self.recent):
            if (event := redacted.get(recent.stored.position)) is not None:
                self.recent[index] = replace(recent, stored=replace(recent.stored, pdu=event.pdu), event=event)

    def remember(self, committed: Iterable[Recent]) -> None:
        """Keep what was committed, for those who read along; the oldest goes when there is too much."""
        self.recent.extend(committed)
        while len(self.recent) > _RECENT:
            self.known_since = self.recent.popleft().stored.position

    def forget_recent(self, position: int) -> None:
        """From here on, only the database knows what happened up to this position."""
        self.recent.clear()
        self.known_since = position


class HotRooms:
    """The rooms that were used of late, as many as fit into a budget of bytes."""

    def __init__(self, database: Database, trees: StateTrees, budget: int) -> None:
        self._budget = budget
        self._size = 0
        self._sizes: dict[int, int] = {}
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

    async def load(self, room: HotRoom, pairs: Iterable[Pair]) -> None:
        """Bring member events of a large room, or others with keys, into memory."""
        while missing := room.state.not_loaded(pairs):
            times = room.state.times_forgotten
            # What is not in memory is not among what is being written either, so the committed state has it.
            found = await self._database.snapshot(self._read_state, room, missing)
            if room.state.times_forgotten == times:
                self.weigh(room)  # Before, so that it does not forget again what is needed now.
                room.state.add(found)
                return
            # What was forgotten meanwhile may be newer than what was found.

    async def nid_of(self, room_id: RoomId) -> int:
        """The room's number. Raises `NotFound`."""
        if (known := self._nids.get(room_id)) is not None:
            return known
        room_nid = await self._database.read(rooms.find_nid, room_id)
        if room_nid is None:
            raise NotFound("This server does not know the room.")
        return room_nid

    async def find(self, room_id: RoomId) -> HotRoom:
        """The room with this id. Raises `NotFound`."""
        return await self.get(await self.nid_of(room_id))

    def recall(self, room_id: RoomId) -> HotRoom | None:
        """The room with this id if it is in memory, as `find` has it."""
        room_nid = self._nids.get(room_id, 0)
        room = self._rooms.pop(room_nid, None)
        if room is not None:
            self._rooms[room_nid] = room  # Last in the order of use.
        return room

    def peek(self, room_nid: int) -> HotRoom | None:
        """The room if it is in memory."""
        return self._rooms.get(room_nid)

    def add(self, room: HotRoom) -> None:
        """Keep a room that was just made."""
        assert room.room_nid is not None
        self._rooms[room.room_nid] = room
        self._nids[room.room_id] = room.room_nid
        self.weigh(room)

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
        room = rooms.find_many(tx, [room_nid]).get(room_nid)
        if room is None:
            raise NotFound("This server does not know the room.")
        positions = self._trees.items(tx, room.state_root)
        tips = rooms.list_extremities(tx, room_nid)
        memberships = {member.user_id: member.membership for member in members.list_in_room(tx, room_nid)}
        joined_servers = {domain_of(user_id) for user_id, kind in memberships.items() if kind == "join"}
        if len(memberships) > FEW:
            positions = {pair: position for pair, position in positions.items() if pair[0] != "m.room.member"}
        keyed = [pair for pair in positions if pair[1] and pair[0] != "m.room.member"]
        elsewhere = keyed if len(keyed) > FEW else []
        for pair in elsewhere:
            del positions[pair]
        stored = events.find_many(tx, {*positions.values(), *tips})
        parsed = {position: parse(event, room.version) for position, event in stored.items()}
        return HotRoom(
            room.room_id,
            ROOM_VERSIONS[room.version],
            room_nid=room_nid,
            root=room.state_root,
            known_since=stream_rows.current(tx),
            state=RoomState(
                {pair: parsed[position] for pair, position in positions.items()},
                memberships,
                unseen=room_servers.list_open(tx, room_nid) - joined_servers,
                elsewhere=elsewhere,
            ),
            tips=[(position, parsed[position]) for position in sorted(tips)],
            arrived_at=room.arrived_at,
            partial=partial_rooms.find_many(tx, [room_nid]).get(room_nid),
        )

    def _read_state(self, tx: ReadTx, room: HotRoom, pairs: Iterable[Pair]) -> dict[Pair, Event]:
        positions = self._trees.find(tx, room.root, pairs)
        stored = events.find_many(tx, positions.values())
        return {pair: parse(stored[position], room.version.identifier) for pair, position in positions.items()}

    def weigh(self, room: HotRoom) -> None:
        """Note what the room costs now; whoever was not used for the longest time goes when there is too much."""
        if room.room_nid is None or self._rooms.get(room.room_nid) is not room:
            return
        self._note_size(room.room_nid, room.size)
        if self._size <= self._budget:
            return
        if not room.pending and not room.is_held:
            room.state.forget()
            self._note_size(room.room_nid, room.size)
        # A room that is ahead of the database, or that somebody has alone, must not be read from there.
        idle = [nid for nid, one in self._rooms.items() if one is not room and not one.pending and not one.is_held]
        for room_nid in idle:
            if self._size <= self._budget * 9 // 10:
                return
            self._remove(room_nid)

    def _note_size(self, room_nid: int, size: int) -> None:
        self._size += size - self._sizes.get(room_nid, 0)
        self._sizes[room_nid] = size

    def _remove(self, room_nid: int) -> None:
        del self._nids[self._rooms.pop(room_nid).room_id]
        self._size -= self._sizes.pop(room_nid)


def parse(stored: StoredEvent, version: str) -> Event:
    """The event of a stored row."""
    return Event.parse(stored.pdu, version, stored.event_id)
