"""Sends other servers what they are to have (server-server API, Transactions; docs/decisions/0013-outbound.md).

One task follows the log and finds out for whom each new event is; one transaction at a time goes to each server. What a
server is to have is not stored for it: it follows from a position up to which it has everything, and from when it was
in which room. For servers that keep up, the positions of what comes next are in memory, a few hundred at most; for all
others they are looked up when it is their turn. So a server that is down costs a timer, and no memory or statement for
what it misses. When it is back and lacks much, it is sent the newest event of each room: it fetches what lies between,
or does not.

A transaction is written down before it is sent, and the same is sent again until the server answers 200. (One without
anything durable is not: it is forgotten with the process.) Where a server takes empty transactions and not this one,
smaller ones are tried, until the event that it refuses is found, noted and left out.

All of this is one task group in one event loop: between two awaits nobody else changes a `_Line`.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import msgspec
import structlog

from homeserver.consumers.federation_audiences import Audiences
from homeserver.consumers.federation_ledger import AT_A_TIME, Ledger
from homeserver.errors import Refused, RemoteFailure
from homeserver.kit import crash
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.logs import report
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations, Health
from homeserver.outbound.ephemeral import Ephemeral, EphemeralEdu
from homeserver.outbound.federation import FederationClient, Received
from homeserver.storage import destinations, events, outgoing, room_servers, stream_rows
from homeserver.storage.destinations import MOST_EDUS, MOST_PDUS, Destination, Parcel, Skipped
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.outgoing import FEDERATION, OutgoingEvent, StoredEdu
from homeserver.streams.notifier import Notifier

_BATCH = 200
_LOOK_AGAIN_S = 60.0
_MOST_QUEUED = 200
"""So many positions of a server are in memory."""
_FEW = 1000
"""Up to so many events of this server, all those for a server are looked up; else the newest of each room."""
_FEW_MISSED = 100
"""Up to so many events that it has missed, a server is sent all of them."""
_AT_ONCE = 200
"""So many transactions that have not taken long yet."""
_MOST_AT_ONCE = 600
_TRIES_AT_ONCE = 50
"""So many attempts to reach servers that are down."""
_LONG_S = 5.0
_IN_A_ROW = 20
_TICK_S = 1.0
_TIMEOUT_S = 60.0
_DOWN_AFTER = 3
_SUSPICIOUS = 2
_SUSPICIOUS_SILENCE = 4
_BLAMED = 2
_BLAMED_ALONE = 3
_GROW_AFTER = 3
_AWAY_MS = 60_000
_GREETING_S = 0.02
_NOTE_SUCCESS_MS = 60_000
_FLUSH_TICKS = 5
_TRIM_S = 3600.0
_TRIM_BATCH = 2000
_RECENT = 1000

_LONGEST = 500

_Raw = msgspec.Raw
_encode = msgspec.json.encode
log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Line:
    """A server, and what it is to have next."""

    row: Destination
    queue: deque[int] = field(default_factory=deque)
    """Positions of events, the oldest first: all that it is to have, unless it is behind."""
    is_behind: bool = False
    """What it is to have has to be looked up."""
    has_edus: bool = False
    edus_after: int = 0
    fetched: list[StoredEdu] | None = None
    is_greeted: bool = True
    """It need not be told that this server is there again."""
    is_busy: bool = False
    is_ready: bool = False
    tries: int = 0
    """How often the transaction under way was sent in vain."""
    blamed: int = 0
    """How often it was not taken while an empty one was."""
    good: int = 0
    due: float = 0.0
    noted_success_ts: int = 0
    is_dirty: bool = False

    @property
    def name(self) -> ServerName:
        return self.row.server_name


@dataclass(frozen=True, slots=True)
class _News:
    """What is new in the log, up to a position."""

    upto: int
    events: Sequence[OutgoingEvent]
    audiences: Sequence[frozenset[ServerName]]
    pdus: dict[int, bytes]
    edus_for: set[ServerName]


@dataclass(frozen=True, slots=True)
class _Start:
    """What there was when this server was started."""

    upto: int
    rows: Sequence[Destination]
    pending: set[ServerName]
    neighbours: set[ServerName]


class FederationSender:
    """Sends to other servers."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        notifier: Notifier,
        client: FederationClient,
        health: Destinations,
        ephemeral: Ephemeral,
        metrics: Metrics,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._notifier = notifier
        self._client = client
        self._health = health
        self._ephemeral = ephemeral
        self._metrics = metrics
        self._own = ServerName(server_name)
        self._begin()

    def _begin(self) -> None:
        self._ledger = Ledger(self._database)
        self._audiences = Audiences()
        self._lines: dict[ServerName, _Line] = {}
        self._ready: deque[_Line] = deque()
        self._trying: deque[_Line] = deque()
        self._turn = asyncio.Event()
        self._in_flight: dict[ServerName, float] = {}
        self._tries = 0
        self._timers: list[tuple[float, ServerName]] = []
        self._recent: Lru[int, bytes] = Lru(_RECENT)
        self._tail = 0
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        self._begin()
        start = await self._database.snapshot(_read_start)
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._take_up(start)
            for work in (
                self._ledger.run,
                self._follow_log,
                self._follow_ephemeral,
                self._follow_signs,
                self._follow_turns,
                self._tick,
            ):
                group.create_task(work())

    # What there is to do.

    def _take_up(self, start: _Start) -> None:
        """Go on where a server of this database ended, or died."""
        self._tail = start.upto
        self._health.forget_all()
        now = self._clock.now()
        for row in start.rows:
            self._lines[row.server_name] = line = _Line(row)
            if row.failures:
                since = row.failing_since_ts or now
                health = Health(row.failures, since, row.last_attempt_ts or since, row.next_retry_ts or now, row.error)
                self._health.restore(row.server_name, health)
                self._mark_behind(line)
                self._schedule(line, health)
            elif row.txn is not None:
                self._mark_behind(line)
        for server in start.pending - {self._own}:
            line = self._lines.setdefault(server, _Line(Destination(server)))
            line.is_behind = line.has_edus = True
        newest = max((row.last_success_ts or 0 for row in start.rows), default=0)
        if newest and now - newest > _AWAY_MS:
            self._greet(start.neighbours)
        for line in list(self._lines.values()):
            self._wake(line)

    def _greet(self, servers: Iterable[ServerName]) -> None:
        """Let servers know that this one is there again: those that have given it up will try."""
        due = self._clock.monotonic()
        for server in servers:
            line = self._line(server)
            if not self._has_work(line) and self._health.find(server) is None:
                line.is_greeted = False
                due += _GREETING_S
                self._set_timer(line, due)

    async def _follow_log(self) -> None:
        with self._notifier.waiting_for([FEDERATION]) as waiter:
            while True:
                news = await self._database.snapshot(self._read_news, self._tail)
                for position, pdu in news.pdus.items():
                    self._recent.put(position, pdu)
                for event, audience in zip(news.events, news.audiences, strict=True):
                    for server in audience:
                        self._enqueue(server, event.position)
                    self._tail = event.position
                    await asyncio.sleep(0)
                for server in news.edus_for - {self._own}:
                    line = self._line(server)
                    line.has_edus = True
                    self._wake(line)
                self._tail = news.upto
                if len(news.events) < _BATCH:
                    await waiter.wait(_LOOK_AGAIN_S)

    def _read_news(self, tx: ReadTx, after: int) -> _News:
        upto = stream_rows.current(tx)
        new = outgoing.list_new(tx, after=after, upto=upto, limit=_BATCH) if upto > after else []
        if len(new) == _BATCH:
            upto = new[-1].position
        audiences = self._audiences.find(tx, new, after=after, upto=upto) if new else []
        found = events.find_many(tx, [event.position for event in new]) if new else {}
        pdus = {position: event.pdu for position, event in found.items()}
        edus_for = outgoing.list_edu_destinations(tx, after=after, upto=upto) if upto > after else set()
        return _News(upto, new, audiences, pdus, edus_for)

    async def _follow_ephemeral(self) -> None:
        while True:
            for server in await self._ephemeral.fresh():
                if server == self._own:
                    self._ephemeral.take(server, MOST_EDUS)
                else:
                    self._wake(self._line(server))

    async def _follow_signs(self) -> None:
        while True:
            for server in await self._health.awake():
                if (line := self._lines.get(server)) is not None:
                    self._try(line)

    async def _tick(self) -> None:
        trimmed, below = self._clock.monotonic(), self._tail
        for ticks in count(1):
            await self._clock.sleep(_TICK_S)
            if ticks % _FLUSH_TICKS == 0:
                self._ledger.flush()
            now = self._clock.monotonic()
            while self._timers and self._timers[0][0] <= now:
                due, server = heapq.heappop(self._timers)
                if self._lines[server].due == due:
                    self._try(self._lines[server])
            self._dispatch()
            self._metrics.destinations.set(len(self._lines))
            self._metrics.destinations_failing.set(self._health.count())
            if now - trimmed >= _TRIM_S:
                await self._trim(below)
                trimmed, below = now, self._tail

    async def _trim(self, below: int) -> None:
        queued = [line.queue[0] for line in self._lines.values() if line.queue]
        below = min([below, *queued])
        while await self._database.write(outgoing.trim, below=below, limit=_TRIM_BATCH) == _TRIM_BATCH:
            pass
        await self._database.write(outgoing.forget_stays, below=below)

    def _line(self, server: ServerName) -> _Line:
        line = self._lines.get(server)
        if line is None:
            # Whoever lacked something at the start is known: this one has all that there was for it.
            line = self._lines[server] = _Line(Destination(server, delivered=self._tail))
        return line

    def _enqueue(self, server: ServerName, position: int) -> None:
        if server == self._own:
            return
        line = self._lines.get(server) or self._line(server)
        if line.is_behind:
            return
        if len(line.queue) >= _MOST_QUEUED:
            self._mark_behind(line)
            return
        line.queue.append(position)
        self._wake(line)

    def _mark_behind(self, line: _Line) -> None:
        line.is_behind = True
        line.queue.clear()

    def _has_work(self, line: _Line) -> bool:
        return bool(
            line.row.txn is not None
            or line.queue
            or line.is_behind
            or line.has_edus
            or not line.is_greeted
            or self._ephemeral.has(line.name)
        )

    # Whose turn it is.

    def _wake(self, line: _Line) -> None:
        """There is something for the server: it has its turn, unless it is down."""
        if not line.is_busy and not line.is_ready and self._health.find(line.name) is None and self._has_work(line):
            line.is_ready = True
            self._ready.append(line)
            self._dispatch()

    def _try(self, line: _Line) -> None:
        """It is time to try a server that was down."""
        if line.is_busy or line.is_ready:
            return
        if self._health.find(line.name) is None:
            self._wake(line)
            return
        if not self._has_work(line):
            line.is_greeted = False  # Whether it is back is worth knowing all the same.
        line.is_ready = True
        self._trying.append(line)
        self._dispatch()

    def _dispatch(self) -> None:
        self._turn.set()

    async def _follow_turns(self) -> None:
        """Begin with a few at a time: whoever waits for an answer of this server comes in between."""
        while True:
            await self._turn.wait()
            self._turn.clear()
            for begun in count(1):
                if self._ready and self._has_room():
                    self._start(self._ready.popleft())
                elif self._trying and self._tries < _TRIES_AT_ONCE:
                    self._start(self._trying.popleft(), is_try=True)
                else:
                    break
                if begun % AT_A_TIME == 0:
                    await asyncio.sleep(0)

    def _has_room(self) -> bool:
        """Whether another transaction may be sent: those that take long keep nobody else waiting."""
        if len(self._in_flight) < _AT_ONCE:
            return True
        young = self._clock.monotonic() - _LONG_S
        begun = sum(1 for started in self._in_flight.values() if started > young)
        return begun < _AT_ONCE and len(self._in_flight) < _MOST_AT_ONCE

    def _start(self, line: _Line, *, is_try: bool = False) -> None:
        assert self._group is not None
        line.is_ready, line.is_busy = False, True
        if is_try:
            self._tries += 1
        else:
            self._in_flight[line.name] = self._clock.monotonic()
        self._group.create_task(self._serve(line, is_try=is_try))

    async def _serve(self, line: _Line, *, is_try: bool) -> None:
        [outcome] = await asyncio.gather(self._deliver_some(line), return_exceptions=True)
        line.is_busy = False
        if is_try:
            self._tries -= 1
        else:
            del self._in_flight[line.name]
        if isinstance(outcome, BaseException):
            # Whatever it is, it concerns this server alone.
            report(outcome)
            self._fail(line, f"Nothing could be sent to it, which is a fault of this server: {type(outcome).__name__}")
        self._wake(line)
        self._dispatch()

    def _schedule(self, line: _Line, health: Health) -> None:
        wait_s = max(0, health.next_retry_ts - self._clock.now()) / 1000
        self._set_timer(line, self._clock.monotonic() + wait_s)

    def _set_timer(self, line: _Line, due: float) -> None:
        line.due = due
        heapq.heappush(self._timers, (due, line.name))

    # What is sent.

    async def _deliver_some(self, line: _Line) -> None:
        for _ in range(_IN_A_ROW):
            if not await self._deliver(line):
                return

    async def _deliver(self, line: _Line) -> bool:
        """Send one transaction; whether there may be another to send at once."""
        if line.row.txn is None and not await self._pack(line):
            return False
        assert line.row.txn is not None
        assert line.row.txn_id is not None
        parcel = line.row.txn
        pdus = await self._pdus(parcel.pdus)
        edus = [_edu(edu.edu_type, edu.content) for edu in await self._edus(line, parcel.edus)]
        edus += [bytes(edu) for edu in parcel.ephemeral]
        if (parcel.pdus or parcel.edus) and not pdus and not edus:
            # All of it was purged in the meantime.
            self._conclude(line, parcel)
            return True
        try:
            answer = await self._client.send_transaction(
                line.name,
                line.row.txn_id,
                pdus=pdus,
                edus=edus,
                origin_server_ts=self._clock.now(),
                timeout_s=_TIMEOUT_S,
            )
        except RemoteFailure as failure:
            return await self._cope(line, parcel, failure)
        crash.point("K8")
        self._note_success(line, parcel, answer)
        return True

    async def _pack(self, line: _Line) -> bool:
        """Make the next transaction, and write it down; whether there is one."""
        at_most = line.row.at_most
        pdus, upto = await self._next_pdus(line, at_most)
        edus: list[StoredEdu] = []
        # While it is being found out what a server refuses, events and data go separately.
        if line.has_edus and (at_most == MOST_PDUS or not pdus):
            edus = await self._next_edus(line, min(MOST_EDUS, 2 * at_most) if at_most > 1 else 1)
        ephemeral: list[EphemeralEdu] = []
        if at_most == MOST_PDUS or not (pdus or edus):
            ephemeral = self._ephemeral.take(line.name, MOST_EDUS - len(edus))
        if not pdus and not edus and not ephemeral and line.is_greeted:
            if upto > line.row.delivered and line.is_dirty:
                line.row = replace(line.row, delivered=upto)
            if line.is_dirty:
                line.is_dirty = False
                self._ledger.note_later(line.row)
            return False
        parcel = Parcel(
            pdus=tuple(pdus),
            edus=tuple(edu.position for edu in edus),
            ephemeral=tuple(_Raw(_edu(edu.edu_type, edu.content)) for edu in ephemeral),
            upto=upto,
        )
        line.is_greeted = True
        line.tries = line.blamed = 0
        line.fetched = edus
        line.row = replace(line.row, txn_id=self._randomness.letters(20), txn=parcel)
        if pdus or edus:
            line.is_dirty = False
            await self._ledger.save(line.row)
        return True

    async def _next_pdus(self, line: _Line, at_most: int) -> tuple[list[int], int]:
        """The next events, and up to where all are delivered with them."""
        if line.is_behind:
            return await self._look_up(line, at_most)
        pdus = [line.queue.popleft() for _ in range(min(at_most, len(line.queue)))]
        return pdus, pdus[-1] if pdus and line.queue else self._tail

    async def _look_up(self, line: _Line, at_most: int) -> tuple[list[int], int]:
        upto = self._tail
        line.is_behind = False  # What is new from here on comes to the queue.
        line.queue.clear()
        found, is_all = await self._database.snapshot(
            _list_missed, line.name, after=line.row.delivered, upto=upto, at_most=at_most
        )
        pdus, rest = found[:at_most], found[at_most:]
        if not is_all or line.is_behind:
            self._mark_behind(line)
        else:
            line.queue.extendleft(reversed(rest))
            if not rest:
                line.is_dirty = True
                return pdus, upto
        return pdus, pdus[-1] if pdus else line.row.delivered

    async def _next_edus(self, line: _Line, at_most: int) -> list[StoredEdu]:
        line.has_edus = False
        found = await self._database.read(outgoing.list_edus, line.name, after=line.edus_after, limit=at_most + 1)
        if len(found) > at_most:
            line.has_edus = True
        return found[:at_most]

    async def _pdus(self, positions: Sequence[int]) -> list[bytes]:
        found = {position: pdu for position in positions if (pdu := self._recent.get(position)) is not None}
        missing = [position for position in positions if position not in found]
        if missing:
            stored = await self._database.read(events.find_many, missing)
            found.update((position, event.pdu) for position, event in stored.items())
        return [found[position] for position in positions if position in found]

    async def _edus(self, line: _Line, positions: Sequence[int]) -> list[StoredEdu]:
        fetched, line.fetched = line.fetched, None
        if not positions or fetched is not None:
            return fetched or []
        return await self._database.read(outgoing.find_edus, line.name, positions)

    # What comes of it.

    def _conclude(self, line: _Line, parcel: Parcel) -> None:
        """The server has this, or is not to have it."""
        if parcel.edus:
            line.edus_after = parcel.edus[-1]
            self._ledger.note(line.row, edus=parcel.edus)
        upto = max(line.row.delivered, parcel.upto)
        line.row = replace(line.row, delivered=upto, txn=None, txn_id=None)
        line.is_dirty = line.is_dirty or bool(parcel.pdus or parcel.edus)
        line.tries = 0

    def _note_success(self, line: _Line, parcel: Parcel, answer: Received) -> None:
        now = self._clock.now()
        self._metrics.federation_transactions.labels("delivered").inc()
        self._metrics.federation_pdus.inc(len(parcel.pdus))
        self._metrics.federation_edus.inc(len(parcel.edus) + len(parcel.ephemeral))
        health = self._health.succeeded(line.name)
        self._ephemeral.deaf.discard(line.name)
        self._conclude(line, parcel)
        at_most = line.row.at_most
        if at_most < MOST_PDUS:
            line.good += 1
            if line.good >= _GROW_AFTER:
                line.good = 0
                at_most = min(MOST_PDUS, 2 * at_most)
        line.row = replace(
            line.row,
            at_most=at_most,
            failures=0,
            failing_since_ts=None,
            next_retry_ts=None,
            error="",
            last_success_ts=now,
            last_attempt_ts=now,
        )
        if health is not None or now - line.noted_success_ts > _NOTE_SUCCESS_MS:
            line.is_dirty = True
        if line.is_dirty:
            line.noted_success_ts = now
        if health is not None and health.failures >= _DOWN_AFTER:
            log.info(
                "a server takes again what is sent to it",
                destination=line.name,
                after_s=(now - health.since_ts) // 1000,
            )
        refused = {event_id: one["error"] for event_id, one in answer.pdus.items() if one.get("error")}
        if refused:
            event_id, error = next(iter(refused.items()))
            log.info(
                "a server took a transaction and refused events of it",
                destination=line.name,
                events=len(refused),
                event_id=_readable(event_id),
                error=_readable(str(error)),
            )

    async def _cope(self, line: _Line, parcel: Parcel, failure: RemoteFailure) -> bool:
        """A transaction was not taken; whether it is of use to send another at once."""
        is_answer = isinstance(failure, Refused)
        self._metrics.federation_transactions.labels("refused" if is_answer else "unreachable").inc()
        is_busy = isinstance(failure, Refused) and failure.status == 429
        line.tries += 1
        enough = 1 if line.row.at_most < MOST_PDUS else _SUSPICIOUS
        size = len(parcel.pdus) + len(parcel.edus) + len(parcel.ephemeral)
        if (
            size
            and not is_busy
            and line.tries >= (enough if is_answer else _SUSPICIOUS_SILENCE)
            and await self._takes_empty_ones(line)
        ):
            # It may have come back just now: what is not taken a moment later is at fault, and what is to be left
            # out for ever has some moments.
            line.blamed += 1
            if line.blamed >= (_BLAMED_ALONE if size == 1 else _BLAMED):
                self._split(line, parcel, str(failure))
                return True
            if size > 1:
                return True
            self._health.succeeded(line.name)  # It is well: it need not be left alone for long.
        self._fail(line, str(failure), failure.patience_ms if isinstance(failure, Refused) else None)
        return False

    async def _takes_empty_ones(self, line: _Line) -> bool:
        """Whether it is what is sent, and not the server, that is at fault."""
        try:
            await self._client.send_transaction(
                line.name,
                self._randomness.letters(20),
                pdus=[],
                edus=[],
                origin_server_ts=self._clock.now(),
                timeout_s=_TIMEOUT_S,
            )
        except RemoteFailure:
            return False
        return True

    def _split(self, line: _Line, parcel: Parcel, error: str) -> None:
        """Send less at once, or leave out what the server does not take even alone."""
        line.good = 0
        self._ephemeral_lost(line, parcel)
        many = len(parcel.pdus) or len(parcel.edus)
        if many == 1 and len(parcel.pdus) + len(parcel.edus) + len(parcel.ephemeral) == 1:  # Durable, and alone.
            [position] = parcel.pdus or parcel.edus
            log.warning(
                "a server refuses something so long that it is left out",
                destination=line.name,
                position=position,
                error=_readable(error),
            )
            self._conclude(line, parcel)
            line.row = replace(line.row, at_most=MOST_PDUS)
            skipped = Skipped(line.name, position, self._clock.now(), _readable(error))
            self._ledger.note(line.row, skipped=[skipped])
            return
        # What was in it is looked up again: up to where it has everything, has not changed.
        at_most = max(1, min(line.row.at_most, many) // 2) if many else line.row.at_most
        line.row = replace(line.row, txn=None, txn_id=None, at_most=at_most)
        line.is_dirty = True
        line.tries = 0
        if parcel.pdus:
            self._mark_behind(line)
        line.has_edus = line.has_edus or bool(parcel.edus)

    def _ephemeral_lost(self, line: _Line, parcel: Parcel) -> None:
        if parcel.ephemeral:
            log.info("a server refuses data that is not worth keeping", destination=line.name)

    def _fail(self, line: _Line, error: str, patience_ms: float | None = None) -> None:
        """Leave the server alone for a while."""
        health = self._health.failed(line.name, _readable(error), patience_ms=patience_ms)
        self._mark_behind(line)
        line.row = replace(
            line.row,
            failures=health.failures,
            failing_since_ts=health.since_ts,
            next_retry_ts=health.next_retry_ts,
            last_attempt_ts=health.last_attempt_ts,
            error=health.error,
        )
        self._ledger.note(line.row)
        self._schedule(line, health)
        if health.failures == _DOWN_AFTER:
            log.warning(
                "a server does not take what is sent to it",
                destination=line.name,
                error=health.error,
                next_attempt_s=(health.next_retry_ts - self._clock.now()) // 1000,
            )
        if health.failures >= _DOWN_AFTER:
            self._ephemeral.forget(line.name)


def _read_start(tx: ReadTx) -> _Start:
    return _Start(
        stream_rows.current(tx),
        destinations.list_all(tx),
        outgoing.list_pending_servers(tx),
        room_servers.list_neighbours(tx),
    )


def _list_missed(tx: ReadTx, server: ServerName, *, after: int, upto: int, at_most: int) -> tuple[list[int], bool]:
    """The events that a server has missed, and whether they are all; or some of the newest of each room."""
    if outgoing.count(tx, after=after, upto=upto, limit=_FEW + 1) <= _FEW:
        found = outgoing.list_for(tx, server, after=after, upto=upto, limit=_FEW_MISSED + 1)
        if len(found) <= _FEW_MISSED:
            return found, True
    found = outgoing.list_newest_for(tx, server, after=after, upto=upto, limit=at_most + 1)
    return found[:at_most], len(found) <= at_most


def _readable(error: str) -> str:
    """What another server may have written, so that it can be stored and shown."""
    text = error[:_LONGEST].encode("utf-8", "replace").decode()
    return "".join(character if character.isprintable() else "�" for character in text)


def _edu(edu_type: str, content: bytes) -> bytes:
    return b'{"edu_type":' + _encode(edu_type) + b',"content":' + content + b"}"
