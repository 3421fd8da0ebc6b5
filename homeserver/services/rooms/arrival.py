"""Coming into a room through another server: what follows `send_join` (server-server API, Joining Rooms).

The answer is verified as a whole before any of it is used. What it consists of is then stored in groups, as events
that are in no timeline; and in the end the join event is written with the state that it was sent upon, in one
transaction. Until then the room is for everybody as it was before, so an attempt that ended half way is no obstacle to
another one, and what it stored is not stored again.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from homeserver.errors import BadAnswer, Conflict, NotFound
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import finish
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.services.auth.limits import host_of
from homeserver.services.rooms.checks import Checks
from homeserver.services.rooms.hot import HotRoom, HotRooms, parse
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.join_answers import CREATE, MEMBER, JoinAnswer, JoinAnswers
from homeserver.services.rooms.landing import Landing, Membership, land
from homeserver.services.rooms.outliers import Outliers, by_auth
from homeserver.services.rooms.persist import ATTEMPTS, EventWriter, Superseded
from homeserver.services.rooms.placement import Batch, NewEvent, Placement
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.state_requests import MOST_CHAIN, MOST_STATE
from homeserver.services.rooms.verdicts import auth_keys, refusal
from homeserver.storage import events
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.state import Pair
from homeserver.storage.tables import chunks

_PART = 1000
_MOST_SERVERS = 10_000
_MOST_OF_HOST = 3
"""So many servers are believed to be in a room, and so many of one host, because somebody says so: what our users say
there is sent to all of them."""


@dataclass(frozen=True, slots=True)
class _Footing:
    """What the database has of that upon which a join is written."""

    own: events.Standing | None
    auth: Sequence[StoredEvent]
    missing: Sequence[EventId]
    """The events before it at which the state is not known."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A piece of the state before the join: where it is, and, of a member event, what it makes of the user."""

    position: int
    pair_id: int
    member: tuple[str, UserId] | None


@dataclass(slots=True)
class _Expected:
    """How many try to get into a room, and when that ends."""

    tries: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Arrivals:
    """Brings this server into rooms.

    While somebody arrives in a room, nothing that comes from elsewhere is taken into it (`Inbox.turn`); for the last
    step the room is held alone, so that nobody here builds upon what is about to be replaced. The hot room is dropped
    then: whoever needs it reads it anew.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hot: HotRooms,
        trees: StateTrees,
        writer: EventWriter,
        inbox: Inbox,
        checks: Checks,
        outliers: Outliers,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hot = hot
        self._trees = trees
        self._writer = writer
        self._inbox = inbox
        self._answers = JoinAnswers(checks)
        self._outliers = outliers
        self._server_name = server_name
        self._expected: dict[RoomId, _Expected] = {}

    @contextmanager
    def expecting(self, room_id: RoomId) -> Iterator[None]:
        """While somebody tries to get into the room: what others say in it may come before that is done."""
        expected = self._expected.setdefault(room_id, _Expected())
        expected.tries += 1
        try:
            yield
        finally:
            expected.tries -= 1
            if not expected.tries:
                del self._expected[room_id]
                expected.ended.set()

    def ended(self, room_id: RoomId) -> asyncio.Event | None:
        """What is set when nobody tries to get into the room any more; None if nobody does."""
        expected = self._expected.get(room_id)
        return None if expected is None else expected.ended

    async def arrive(
        self,
        room_id: RoomId,
        version: str,
        pdu: bytes,
        state: Sequence[bytes],
        auth_chain: Sequence[bytes],
        *,
        partial: Collection[ServerName] | None,
        via: str,
    ) -> EventId:
        """Take a join event of a user of this server, as the resident server gave it back, with all that it stands on.

        `state` is the state before it, `partial` the servers in the room where members were left out of the state.
        What cannot be proven soon is left out here, and had later with what was left out there.
        Raises `BadAnswer` where nothing can be made of it: another server may be tried then.
        """
        facts = ROOM_VERSIONS[version]
        if len(state) > MOST_STATE or len(auth_chain) > MOST_CHAIN:
            raise BadAnswer("The room is too large.")
        answer = await self._answers.verify(room_id, facts, pdu, state, auth_chain)
        if partial is None:
            partial = answer.servers
        if partial is not None:
            partial = _believable([ServerName(via), *partial])
        event_id = EventId(answer.join.event_id)
        if await self._is_in(room_id):
            # Somebody else of this server has come meanwhile: what the room is, is known here.
            [receipt] = await self._inbox.receive(room_id, [answer.join.pdu])
            if receipt.outcome in (Outcome.ACCEPTED, Outcome.WAITING):
                return event_id
            raise BadAnswer(f"The join is not allowed in the room as it is known here: {receipt.reason}")
        async with self._inbox.turn(room_id):
            for _ in range(ATTEMPTS):
                try:
                    room = await self._room(room_id, facts, answer)
                    await self._take(room, answer)
                except Superseded:
                    continue
                if await self._land(room, answer, partial, via):
                    return event_id
        raise Conflict("The room changes too quickly. Try again.")

    async def _is_in(self, room_id: RoomId) -> bool:
        """Whether users of this server are in the room."""
        try:
            room = await self._hot.find(room_id)
        except NotFound:
            return False
        return any(domain_of(user_id) == self._server_name for user_id in room.joined)

    async def _room(self, room_id: RoomId, version: RoomVersion, answer: JoinAnswer) -> HotRoom:
        """The room as far as it is known; one that is not begins with its create event."""
        try:
            room = await self._hot.find(room_id)
        except NotFound:
            pass
        else:
            if room.version != version or room.create is None or room.create.event_id != answer.create.event_id:
                raise BadAnswer("The room began with another event, as this server knows.")
            return room
        if await self._database.read(events.find_positions, [EventId(answer.create.event_id)]):
            raise BadAnswer("The room begins with an event of another room.")
        if reason := refusal(answer.create, []):
            raise BadAnswer(f"The room cannot begin like this: {reason}")
        room = HotRoom(room_id, version)
        # Whoever does not wait for the end of it must not leave a room behind that has no beginning.
        await finish(self._found(room, answer.create))
        return await self._hot.find(room_id)

    async def _found(self, room: HotRoom, create: Event) -> None:
        begin = NewEvent(create, status=events.OUTLIER, placement=Placement(None))
        await self._writer.write(Batch(room, [begin], now=self._clock.now()))
        self._hot.drop(room)  # Nobody has seen it yet; it is read with the state that it has by now.

    async def _take(self, room: HotRoom, answer: JoinAnswer) -> None:
        """Store what is not known yet, but for the join event."""
        known = await self._database.read(events.find_positions, answer.events)
        new = {event_id: event for event_id, event in answer.events.items() if event_id not in known}
        if new:
            await self._outliers.take(room, await asyncio.to_thread(by_auth, new))

    async def _land(self, room: HotRoom, answer: JoinAnswer, partial: Collection[ServerName] | None, via: str) -> bool:
        """Write the join event; False if the room has become another meanwhile."""
        given = await self._given(room, answer)
        async with room.alone():
            if room.is_stale or self._hot.peek(room.room_nid or 0) is not room:
                return False
            footing = await self._database.snapshot(_look, room, answer.join)
            if footing.own is not None:
                if footing.own.room_nid == room.room_nid and footing.own.status == events.OK:
                    return True
                raise BadAnswer("The join event is known already, and was not accepted.")
            _judge(room, answer, footing, given, fill_in=partial is not None)
            landing = self._landing(room, answer, footing, given, partial, via)
            try:
                await self._database.write(land, self._trees, landing, self._server_name, lambda: self._hot.drop(room))
            except BaseException:
                self._hot.drop(room)  # Whether it was written, the database alone knows.
                raise
        return True

    async def _given(self, room: HotRoom, answer: JoinAnswer) -> dict[Pair, _Given]:
        """What can be used of the state: what was found to be allowed by its own auth events."""
        found: dict[EventId, events.Standing] = {}
        for part in chunks(answer.state.values(), _PART):
            found |= await self._database.read(events.find_standings_by_id, part)
        return {
            pair: _Given(one.position, one.pair_id, answer.members.get(event_id))
            for pair, event_id in answer.state.items()
            if (one := found.get(event_id)) is not None
            and one.room_nid == room.room_nid
            and one.pair_id is not None
            and one.status != events.REJECTED
        }

    def _landing(
        self,
        room: HotRoom,
        answer: JoinAnswer,
        footing: _Footing,
        given: Mapping[Pair, _Given],
        partial: Collection[ServerName] | None,
        via: str,
    ) -> Landing:
        assert room.room_nid is not None
        return Landing(
            room_nid=room.room_nid,
            room_id=room.room_id,
            root=room.root,
            tips=room.tips,
            event=answer.join,
            auth=[row.position for row in footing.auth],
            state={one.pair_id: one.position for one in given.values()},
            members={
                UserId(pair[1]): Membership(*one.member, one.position)
                for pair, one in given.items()
                if one.member is not None
            },
            missing=footing.missing,
            partial=partial,
            left_out=_left_out(answer, given),
            via=via,
            now=self._clock.now(),
        )


def _believable(servers: Iterable[ServerName]) -> list[ServerName]:
    """Those that may well be in one room together, and are no harm if they are not."""
    hosts = Counter[str]()
    found: list[ServerName] = []
    for server in dict.fromkeys(servers):
        hosts[host_of(server)] += 1
        if hosts[host_of(server)] <= _MOST_OF_HOST and len(found) < _MOST_SERVERS:
            found.append(server)
    return found


def _left_out(answer: JoinAnswer, given: Collection[Pair]) -> list[EventId]:
    """What was named as state besides members, and cannot be used: it, or what it rests on, is not proven."""
    unusable = [event_id for pair, event_id in answer.state.items() if pair not in given and pair[0] != MEMBER]
    return [*unusable, *answer.unproven]


def _look(tx: ReadTx, room: HotRoom, join: Event) -> _Footing:
    own_id, before = EventId(join.event_id), [EventId(one) for one in dict.fromkeys(join.prev_events)]
    auth_ids = [EventId(one) for one in dict.fromkeys(join.auth_events)]
    found = events.find_many_by_id(tx, auth_ids)
    assert room.room_nid is not None
    known = events.find_in_graph(tx, room.room_nid, before)
    return _Footing(
        own=events.find_standings_by_id(tx, [own_id]).get(own_id),
        auth=[row for one in auth_ids if (row := found.get(one)) is not None and row.room_nid == room.room_nid],
        missing=[one for one in before if one not in known],
    )


def _judge(room: HotRoom, answer: JoinAnswer, footing: _Footing, given: dict[Pair, _Given], *, fill_in: bool) -> None:
    """Check the join by its auth events and by the state before it. Raises `BadAnswer`.

    With `fill_in`, members that were left out of the state are taken from the auth events, into the state as well.
    """
    if CREATE not in given:
        raise BadAnswer("The event that created the room is not allowed.")
    join = answer.join
    cited = {row.position: parse(row, room.version.identifier) for row in footing.auth}
    if len(cited) < len(set(join.auth_events)):
        raise BadAnswer("Events by which the join is allowed are missing.")
    rejected = {row.event_id for row in footing.auth if row.status == events.REJECTED}
    state = {pair: answer.events[answer.state[pair]] for pair in auth_keys(join) if pair in given}
    for row in footing.auth:
        event = cited[row.position]
        pair = (event.type, event.state_key or "")
        if fill_in and event.type == MEMBER and pair not in given and row.pair_id is not None:
            state[pair] = event
            given[pair] = _Given(row.position, row.pair_id, (event.membership or "leave", UserId(event.sender)))
    if reason := refusal(join, cited.values(), state.values(), answer.create, rejected):
        raise BadAnswer(f"The join is not allowed by what the server says of the room: {reason}")
