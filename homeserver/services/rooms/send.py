"""Writing what local users say.

`Drafts` gathers the events of one request on top of a hot room, each authorised by the state that the ones before it
make. Nothing changes until the batch is written, so a refusal half way leaves no trace.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from homeserver.errors import BadJson, Conflict, Forbidden, NotFound
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import KeyedLocks
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, UserId, domain_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.author import Author, Draft, Drafts
from homeserver.services.rooms.hot import HotRoom, HotRooms, Transaction, parse
from homeserver.services.rooms.merge import Merger
from homeserver.services.rooms.persist import ATTEMPTS, EventWriter, Superseded
from homeserver.services.rooms.placement import Batch, Redaction
from homeserver.services.rooms.policy import PolicyServers
from homeserver.services.rooms.power import may_act
from homeserver.services.rooms.room_state import NotLoaded
from homeserver.storage import events, transactions, users
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.transactions import Repeated

T = TypeVar("T")

_SENT = 10_000

Build = Callable[[Drafts], None]
"""Adds events; called again if the room has changed meanwhile. What it raises ends the request."""


class Sender:
    """Writes what local users say into rooms."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hot: HotRooms,
        writer: EventWriter,
        merger: Merger,
        author: Author,
        policies: PolicyServers,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hot = hot
        self._writer = writer
        self._merger = merger
        self._author = author
        self._policies = policies
        self._signing: KeyedLocks[RoomId] = KeyedLocks()
        # A request is mostly repeated soon; the table has those that are repeated later.
        self._sent: Lru[Transaction, EventId] = Lru(_SENT)

    async def nid_of(self, room_id: RoomId) -> int:
        """The room's number. Raises `NotFound`."""
        return await self._hot.nid_of(room_id)

    async def room(self, room_id: RoomId) -> HotRoom:
        """The room as it is now. Raises `NotFound`."""
        return await self._hot.find(room_id)

    def begin(self, room: HotRoom) -> Drafts:
        """Drafts for a room that is being made."""
        return Drafts(room, self._author)

    async def write(
        self,
        drafts: Drafts,
        transaction: Transaction | None = None,
        also: Callable[[WriteTx, int], None] | None = None,
    ) -> list[StoredEvent]:
        """Write the drafts. No await may lie between building and this. Raises `Superseded`."""
        return await self._writer.write(_of_ours(drafts, transaction, also, now=self._clock.now()))

    async def write_both(self, old: Drafts, new: Drafts, *, also: Callable[[WriteTx, int], None]) -> None:
        """Write drafts for a room and for the new one that follows it; neither is written without the other.

        `also` is of the new room. No await may lie between building and this. Raises `Superseded`.
        """
        first = EventId(old.events[0].event.event_id)

        def only_together(tx: WriteTx, room_nid: int) -> None:
            if not events.find_many_by_id(tx, [first]):
                raise Superseded
            also(tx, room_nid)

        now = self._clock.now()
        # Handed over one behind the other, they are in one group and so in one transaction.
        waiting = [
            self._writer.write(_of_ours(old, now=now)),
            self._writer.write(_of_ours(new, also=only_together, now=now)),
        ]
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def change(
        self,
        room_id: RoomId,
        build: Build,
        transaction: Transaction | None = None,
        also: Callable[[WriteTx, int], None] | None = None,
    ) -> list[StoredEvent]:
        """Write what `build` adds on top of the room; nothing is written if it adds nothing."""

        async def act(drafts: Drafts) -> list[StoredEvent]:
            build(drafts)
            if not drafts.events:
                return []
            await self.have_signed(drafts)
            return await self.write(drafts, transaction, also)

        return await self._upon_in_turn(room_id, act)

    async def propose(self, room_id: RoomId, build: Callable[[Drafts], T]) -> tuple[list[Event], T]:
        """The events that `build` adds on top of the room, and what it returns; nothing is written.

        They are signed by the room's policy server, for others to sign them as well.
        """

        async def act(drafts: Drafts) -> tuple[list[Event], T]:
            built = build(drafts)
            await self.have_signed(drafts)
            return [new.event for new in drafts.events], built

        return await self._upon_in_turn(room_id, act)

    async def sign(self, room_id: RoomId, event: Event) -> Event:
        """An event of ours with the signature of the room's policy server, if it has one. Raises as that does."""
        return await self._policies.sign(await self.room(room_id), event)

    async def have_signed(self, drafts: Drafts) -> None:
        """Have the drafts signed by the room's policy server, if it has one.

        Raises `Superseded` if the room has gone on meanwhile, and what `PolicyServers.sign` does.
        """
        if self._policies.of(drafts.room) is None:
            return
        ends = [event.event_id for event in drafts.room.latest]
        for index, new in enumerate(drafts.events):
            drafts.replace(index, await self._policies.sign(drafts.room, new.event))
        if drafts.room.is_stale or drafts.room.is_held or [event.event_id for event in drafts.room.latest] != ends:
            raise Superseded

    async def look(self, room_id: RoomId, see: Callable[[Drafts], T]) -> T:
        """What `see` finds in the room, when an event could follow all there is; nothing is written.

        It is called again if it needs member events that are not in memory. Raises `NotFound`.
        """

        async def act(drafts: Drafts) -> T:
            return see(drafts)

        return await self._upon(room_id, act)

    async def _upon_in_turn(self, room_id: RoomId, act: Callable[[Drafts], Awaitable[T]]) -> T:
        """Act upon the room; where it has a policy server, one after the other.

        While that is asked the room goes on, and what was built would be out of date then.
        """
        if self._policies.of(await self.room(room_id)) is None:
            return await self._upon(room_id, act)
        async with self._signing.hold(room_id):
            return await self._upon(room_id, act)

    async def _upon(self, room_id: RoomId, act: Callable[[Drafts], Awaitable[T]]) -> T:
        """Act upon the room while nobody has it alone and an event can follow all its ends."""
        room_nid = await self.nid_of(room_id)
        for _ in range(ATTEMPTS):
            room = await self.free(room_nid)
            if not room.latest:
                raise Forbidden("You are not in this room.")  # Nor is anybody of this server: it was joined half way.
            try:
                if self._merger.is_needed(room):
                    await self._merger.merge(room)
                    continue
                return await act(Drafts(room, self._author))
            except NotLoaded as missing:
                await self._hot.load(room, missing.pairs)
            except Superseded:
                continue
        raise Conflict("The room changes too quickly. Try again.")

    async def free(self, room_nid: int) -> HotRoom:
        """The room, when nobody has it alone: what is built before the next await can be handed over."""
        while True:
            room = await self._hot.get(room_nid)
            if not room.is_held:
                return room
            await room.released()

    async def load(self, room: HotRoom, missing: NotLoaded) -> None:
        """Bring what was missing into memory."""
        await self._hot.load(room, missing.pairs)

    async def send(
        self, who: Requester, room_id: RoomId, type_: str, content: bytes, *, scope: str, txn_id: str
    ) -> EventId:
        """Send a message event once for each transaction id (`Room.send`)."""
        if type_ == "m.room.redaction":
            return await self.redact(who, room_id, _redacts_in(content), content, scope=scope, txn_id=txn_id)
        return await self._once(
            Transaction(who.user_id, who.device_id, scope, txn_id),
            room_id,
            lambda drafts: drafts.add(Draft(type_, who.user_id, content)),
        )

    async def set_state(self, who: Requester, room_id: RoomId, type_: str, state_key: str, content: bytes) -> EventId:
        """Set a piece of state."""
        stored = await self.change(
            room_id, lambda drafts: _discard(drafts.add(Draft(type_, who.user_id, content, state_key=state_key)))
        )
        return stored[0].event_id

    async def redact(
        self, who: Requester, room_id: RoomId, target_id: str, content: bytes, *, scope: str, txn_id: str
    ) -> EventId:
        """Redact an event. Raises `NotFound` if the room has no such event, `Forbidden` without the power to."""
        transaction = Transaction(who.user_id, who.device_id, scope, txn_id)
        room_nid = await self.nid_of(room_id)
        target = await self._database.read(events.find_by_id, room_nid, EventId(target_id))
        guests = await self._guests_to_go(room_nid, target_id)

        def build(drafts: Drafts) -> None:
            if drafts.room.membership_of(who.user_id) != "join":
                raise Forbidden("Only members of the room may redact its events.")
            if target is None:
                raise NotFound("The room has no such event.")
            event = parse(target, drafts.room.version.identifier)
            _check_redaction(drafts, who.user_id, event)
            redaction = Redaction(target.position, event.redacted())
            drafts.add(Draft("m.room.redaction", who.user_id, content, redacts=target_id), redaction)
            for guest in guests & drafts.room.joined:
                drafts.add(Draft("m.room.member", guest, {"membership": "leave"}, state_key=guest))

        return await self._once(transaction, room_id, build)

    async def _guests_to_go(self, room_nid: int, target_id: str) -> set[UserId]:
        """Whom the redaction puts out: what is left of a guest access event lets no guest in (Guest Access)."""
        room = await self._hot.get(room_nid)
        access = room.state.get(("m.room.guest_access", ""))
        if access is None or access.event_id != target_id:
            return set()
        accounts = await self._database.read(users.find_many, room.joined)
        return {account.user_id for account in accounts.values() if account.is_guest}

    async def _once(self, transaction: Transaction, room_id: RoomId, build: Callable[[Drafts], object]) -> EventId:
        if (sent := self._sent.get(transaction)) is not None:
            return sent
        try:
            stored = await self.change(room_id, lambda drafts: _discard(build(drafts)), transaction)
        except Repeated:
            done = await self._database.read(_find_done, transaction)
            if done is None or done.event_id is None:
                raise Conflict("The transaction id was used for something else.") from None
            return done.event_id
        self._sent.put(transaction, stored[0].event_id)
        return stored[0].event_id


def _discard(_value: object) -> None:
    """For builders, which return nothing."""


def _find_done(tx: ReadTx, key: Transaction) -> transactions.Outcome | None:
    return transactions.find(tx, key.user_id, key.device_id, key.scope, key.txn_id)


def _check_redaction(drafts: Drafts, sender: UserId, target: Event) -> None:
    """Raise `Forbidden` unless the sender may redact (rooms v3, Handling redactions)."""
    if target.type == "m.room.create":
        raise Forbidden("The event that created the room cannot be redacted.")
    if target.sender == sender:
        return
    power_levels = drafts.state("m.room.power_levels")
    create = drafts.state("m.room.create")
    assert create is not None
    if not may_act(sender, "redact", power_levels, create):
        raise Forbidden("You may only redact your own events in this room.")


def _of_ours(
    drafts: Drafts,
    transaction: Transaction | None = None,
    also: Callable[[WriteTx, int], None] | None = None,
    *,
    now: int,
) -> Batch:
    return Batch(drafts.room, drafts.events, transaction, also, now=now, is_local=True)


def _redacts_in(content: bytes) -> str:
    """What a redaction that is sent as an ordinary event redacts."""
    value = msgspec.json.decode(content)
    redacts = value.get("redacts") if isinstance(value, dict) else None
    if not isinstance(redacts, str):
        raise BadJson("A redaction names the event in `redacts`.")
    return redacts


def is_local(user_id: str, server_name: str) -> bool:
    """Whether the user is one of this server."""
    return domain_of(user_id) == server_name
