"""Deliveries of events and of what else other servers tell (server-server API, Transactions; decision 0011).

A server's deliveries are taken one after the other, those of several servers at the same time. The events of a room
are in line (`services/federation/room_lines.py`), and the answer waits for them a short while. What has not been
taken in by then is staged in the database, together with the answer, and taken in later: what was acknowledged is not
lost. A delivery that is repeated gets the answer that was given; nothing is done twice for it.

The flow is cancelled by nobody: a server that hangs up finds its answer when it repeats the delivery.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from homeserver.errors import Forbidden, LimitExceeded, NotFound
from homeserver.kit import crash
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background, KeyedLocks
from homeserver.kit.metrics import Metrics
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.services.federation.early import Early
from homeserver.services.federation.edus import Edus
from homeserver.services.federation.room_lines import Place, RoomLines
from homeserver.services.rooms.event_ids import id_of, possible_ids
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.intake import FirstWrite
from homeserver.services.rooms.invitations import Invitations
from homeserver.services.rooms.receipts import Outcome, Receipt
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.storage import deliveries
from homeserver.storage.deliveries import Answered
from homeserver.storage.engine import Database, WriteTx

log = structlog.get_logger()

MOST_PDUS = 50
MOST_EDUS = 100
_PATIENCE_S = 2.0
"""So long an answer waits for events to be taken in."""
_QUEUED = 4
"""So many deliveries of a server may wait for their turn; a server should make one at a time."""
_AGAIN_MS = 10_000
_SERVERS = 500
_GATHERED_S = 0.1
"""So long answers are gathered that are written down for good measure."""

Results = dict[EventId, dict[str, str]]
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Sent:
    """What a server delivers: who it says that it is, events, and what else it tells; not more than is allowed."""

    origin: str
    pdus: Sequence[bytes]
    edus: Sequence[bytes]


class _Head(msgspec.Struct, frozen=True):
    room_id: str


class _Hashes(msgspec.Struct, frozen=True):
    sha256: str = ""


class _Identity(msgspec.Struct, frozen=True):
    """What tells an event from others and does not change when it is delivered again, as `unsigned` does."""

    room_id: str = ""
    event_id: str = ""
    hashes: _Hashes | None = None


@dataclass(slots=True)
class _Answers:
    """The last answers to a server, by the hash of the transaction id."""

    next: int
    by_name: dict[bytes, bytes]
    unsure: dict[bytes, bytes]
    """Of what was being taken in when the server died: hashes of the events that were delivered."""

    def find(self, name: bytes, body: bytes) -> bytes | None:
        """What was answered; what the server died over is taken again if it comes again, and nothing else for it."""
        return None if self.unsure.get(name) == body else self.by_name.get(name)

    def add(self, name: bytes, answer: bytes) -> None:
        """What was delivered was taken in, and this is what is answered."""
        self.unsure.pop(name, None)
        self.by_name[name] = answer
        while len(self.by_name) > deliveries.KEPT:
            del self.by_name[next(iter(self.by_name))]


@dataclass(slots=True)
class _Sorted:
    """The events of a delivery, by room, and what is to be answered for those that cannot be taken."""

    rooms: dict[HotRoom, list[bytes]] = field(default_factory=dict)
    results: Results = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)


class Transactions:
    """Takes deliveries."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hot: HotRooms,
        inbox: Inbox,
        invitations: Invitations,
        acls: ServerAcls,
        lines: RoomLines,
        early: Early,
        edus: Edus,
        metrics: Metrics,
        background: Background,
        server_name: str,
        *,
        staged_per_server: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hot = hot
        self._inbox = inbox
        self._invitations = invitations
        self._acls = acls
        self._lines = lines
        self._early = early
        self._edus = edus
        self._metrics = metrics
        self._background = background
        self._server_name = ServerName(server_name)
        self._staged_per_server = staged_per_server
        """A server that so many events are staged of has to wait."""
        self._turns: KeyedLocks[ServerName] = KeyedLocks()
        self._under_way: dict[tuple[ServerName, bytes], asyncio.Task[bytes]] = {}
        self._queued: Counter[ServerName] = Counter()
        self._answers: Lru[ServerName, _Answers] = Lru(_SERVERS)
        self._unkept: list[Answered] = []

    async def receive(self, origin: ServerName, txn_id: str, sent: Sent) -> bytes:
        """Take a delivery; the answer, as JSON.

        Raises `Forbidden` where it says to be another's, or `LimitExceeded`.
        """
        if sent.origin != origin:
            raise Forbidden("The origin is not the server that signed the request.")
        # What else was told is taken again with the events: it makes no difference to be told twice.
        name, body = _hash(txn_id.encode("utf-8", "surrogatepass")), _hash(*sorted(map(_identity, sent.pdus)))
        task = self._under_way.get((origin, name))
        if task is None:
            answers = self._answers.get(origin)
            if answers is not None and (answer := answers.find(name, body)) is not None:
                self._metrics.transactions_received.labels("repeated").inc()
                return answer
            if self._queued[origin] >= _QUEUED or self._lines.count_staged(origin) >= self._staged_per_server:
                self._metrics.transactions_received.labels("refused").inc()
                raise LimitExceeded(_AGAIN_MS)
            self._queued[origin] += 1
            task = self._background.start(self._in_turn(origin, name, body, sent))
            self._under_way[origin, name] = task
        return await asyncio.shield(task)

    async def _in_turn(self, origin: ServerName, name: bytes, body: bytes, sent: Sent) -> bytes:
        try:
            async with self._turns.hold(origin):
                answers = await self._answers_to(origin)
                if (answer := answers.find(name, body)) is not None:
                    self._metrics.transactions_received.labels("repeated").inc()
                    return answer
                return await self._take(origin, name, body, sent, answers)
        finally:
            del self._under_way[origin, name]
            self._queued[origin] -= 1
            if not self._queued[origin]:
                del self._queued[origin]

    async def _answers_to(self, origin: ServerName) -> _Answers:
        answers = self._answers.get(origin)
        if answers is None:
            kept = await self._database.read(deliveries.list_answers, origin)
            last = {one.name: one for one in kept}  # What was taken again was answered again.
            answers = _Answers(
                kept[-1].number + 1 if kept else 0,
                {name: one.answer for name, one in last.items()},
                {name: one.body for name, one in last.items() if one.body},
            )
            self._answers.put(origin, answers)
        return answers

    async def _take(self, origin: ServerName, name: bytes, body: bytes, sent: Sent, answers: _Answers) -> bytes:
        if not sent.pdus and not sent.edus:
            # By such a one a server finds out whether what was refused was at fault, or this server is unwell.
            await self._database.ping()
        sorted_ = await self._sort(origin, sent.pdus)
        places, behind = await self._find_places(origin, sorted_)
        # Mostly this is what is answered in the end, and nothing else need be written.
        number, answers.next = answers.next, answers.next + 1
        expected = Answered(origin, number, name, _expected(places), self._clock.now(), body=body)
        first = FirstWrite(lambda tx: deliveries.begin_answer(tx, expected))
        for place in places:
            place.first = first
            self._lines.join(place)
        if places:
            await asyncio.wait([place.done for place in places], timeout=_PATIENCE_S)
        results = sorted_.results
        for place in places:
            if not place.done.done():
                behind[place.room] = place.pdus
                continue
            for receipt in place.done.result():
                _note(receipt, sorted_)
        if sent.edus:
            await self._edus.receive(origin, sent.edus)
            crash.point("K10")
        staged = self._to_be_staged(behind, sorted_)
        answer = _encode({"pdus": results})
        kept = Answered(origin, number, name, answer, self._clock.now())
        is_as_expected = first.is_written and answer == expected.answer
        if staged:
            with self._lines.staging(origin, {room.room_id for room, _ in staged}) as staging:
                numbers = await self._database.write(self._stage, kept, staged)
                staging.end([(room, number) for (room, _), number in zip(staged, numbers, strict=True)], places)
        elif any(results.values()) or (first.is_handed_over and not is_as_expected):
            await self._database.write(deliveries.keep_answers, [kept])
        elif not is_as_expected:
            # Nothing was stored. Should the answer be lost, what comes again gives the same.
            self._keep_soon(kept)
        answers.add(name, answer)
        self._tell(origin, sorted_, len(staged))
        return answer

    async def _sort(self, origin: ServerName, pdus: Sequence[bytes]) -> _Sorted:
        """Find the rooms of events, and refuse those of rooms that this server or the other has no part in."""
        by_room: dict[RoomId, list[bytes]] = {}
        found = _Sorted()
        for pdu in pdus:
            try:
                by_room.setdefault(RoomId(msgspec.json.decode(pdu, type=_Head).room_id), []).append(pdu)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                # Without the room nobody can tell the event's id, and so nothing can be said of it.
                found.outcomes["malformed"] += 1
        rooms = {room_id: self._hot.recall(room_id) for room_id in by_room}
        if cold := [room_id for room_id, room in rooms.items() if room is None]:
            rooms |= zip(cold, await asyncio.gather(*map(self._find, cold)), strict=True)
        for room_id, of_room in by_room.items():
            room = rooms[room_id]
            if room is None or self._server_name not in room.servers:
                of_room = await self._end_invites(origin, room_id, of_room, found)
            if room is None:
                is_kept = self._early.keep(origin, room_id, of_room)
                found.outcomes["early" if is_kept else "unknown_room"] += len(of_room)
                if not is_kept:
                    unknown = {"error": "This server does not know the room."}
                    found.results.update(dict.fromkeys(await possible_ids(of_room), unknown))
            elif self._server_name not in room.servers:
                is_kept = self._early.keep(origin, room_id, of_room)
                reason = "This server is not in the room" + (" yet." if is_kept else ".")
                _refuse(room, of_room, reason, "early" if is_kept else "unknown_room", found)
            elif not self._acls.allows(room, origin):
                _refuse(room, of_room, "The room does not let this server take part.", "forbidden", found)
            else:
                found.rooms[room] = of_room
        return found

    async def _end_invites(
        self, origin: ServerName, room_id: RoomId, pdus: Sequence[bytes], found: _Sorted
    ) -> list[bytes]:
        """Take what becomes of invites to a room that this server is not in, and of knocks on it; what is left."""
        left = []
        for pdu in pdus:
            event_id = await self._invitations.receive_end(origin, room_id, pdu)
            if event_id is None:
                left.append(pdu)
            else:
                found.results[event_id] = {}
                found.outcomes[Outcome.ACCEPTED.value] += 1
        return left

    async def _find(self, room_id: RoomId) -> HotRoom | None:
        try:
            return await self._hot.find(room_id)
        except NotFound:
            return None

    async def _find_places(
        self, origin: ServerName, sorted_: _Sorted
    ) -> tuple[list[Place], dict[HotRoom, Sequence[bytes]]]:
        """Places in line for the rooms' events, and those for which there is none, because too many wait."""
        behind: dict[HotRoom, Sequence[bytes]] = {
            room: pdus for room, pdus in sorted_.rooms.items() if self._lines.is_behind(room.room_id, origin)
        }
        coming = {room: pdus for room, pdus in sorted_.rooms.items() if room not in behind}
        looked_at = {one.room: one for one in await self._inbox.look_at(coming)} if coming else {}
        return [Place(room, origin, pdus, looked_at.get(room)) for room, pdus in coming.items()], behind

    def _to_be_staged(self, behind: Mapping[HotRoom, Sequence[bytes]], sorted_: _Sorted) -> list[tuple[HotRoom, bytes]]:
        staged = []
        for room, pdus in behind.items():
            for pdu in pdus:
                event_id = id_of(room, pdu)
                if event_id is None:
                    sorted_.outcomes["malformed"] += 1
                    continue
                sorted_.results.setdefault(event_id, {})
                sorted_.outcomes["staged"] += 1
                staged.append((room, pdu))
        return staged

    def _keep_soon(self, answered: Answered) -> None:
        self._unkept.append(answered)
        if len(self._unkept) == 1:
            self._background.start(self._keep_all())

    async def _keep_all(self) -> None:
        await self._clock.sleep(_GATHERED_S)
        unkept, self._unkept = self._unkept, []
        await self._database.write(deliveries.keep_answers, unkept)

    def _stage(self, tx: WriteTx, answered: Answered, staged: Sequence[tuple[HotRoom, bytes]]) -> list[int]:
        rows = [(room.room_nid or 0, pdu) for room, pdu in staged]
        # First the positions, then the answer, as whoever writes events does: otherwise each might wait for the other.
        numbers = deliveries.stage(tx, rows, answered.origin, now=answered.answered_ts)
        deliveries.keep_answers(tx, [answered])
        return numbers

    def _tell(self, origin: ServerName, sorted_: _Sorted, staged: int) -> None:
        self._metrics.transactions_received.labels("staged" if staged else "taken").inc()
        for outcome, count in sorted_.outcomes.items():
            self._metrics.pdus_received.labels(outcome).inc(count)
        if any("error" in result for result in sorted_.results.values()) or staged:
            log.info("not all events of a delivery were taken in", origin=origin, **sorted_.outcomes)


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).digest()[: deliveries.NAME]


def _identity(pdu: bytes) -> bytes:
    """By what an event is known when it is delivered again; what is none is like all others that are none."""
    try:
        found = msgspec.json.decode(pdu, type=_Identity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    return _encode((found.room_id, found.event_id, "" if found.hashes is None else found.hashes.sha256))


def _expected(places: Sequence[Place]) -> bytes:
    """What is answered if all that was looked at can be taken in."""
    looked_at = [place.looked_at.checked for place in places if place.looked_at is not None]
    receipts = [receipt for checked in looked_at for receipt in checked.receipts]
    return _encode({"pdus": {one.event_id: {} for one in receipts if one.event_id is not None}})


def _note(receipt: Receipt, sorted_: _Sorted) -> None:
    sorted_.outcomes[receipt.outcome.value] += 1
    if receipt.event_id is None:
        return
    if receipt.outcome in (Outcome.DROPPED, Outcome.REJECTED):
        sorted_.results[receipt.event_id] = {"error": receipt.reason or "The event was refused before."}
    else:
        sorted_.results[receipt.event_id] = {}


def _refuse(room: HotRoom, pdus: Sequence[bytes], reason: str, outcome: str, sorted_: _Sorted) -> None:
    for pdu in pdus:
        sorted_.outcomes[outcome] += 1
        event_id = id_of(room, pdu)
        if event_id is not None:
            sorted_.results[event_id] = {"error": reason}
