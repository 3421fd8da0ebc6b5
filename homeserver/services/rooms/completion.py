"""Making rooms whole that are known in part: the rest of their state is asked for, verified, stored, and put in.

Each step is durable: what was stored is not verified or stored again, whatever happens meanwhile. Where no server
gives the state, the room goes on as it is, and it is tried again, at longer and longer intervals.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from homeserver.errors import BadAnswer, HomeserverError, NotFound, RemoteFailure, Unavailable
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.services.rooms.checks import Checks, Unfit
from homeserver.services.rooms.hot import HotRoom, HotRooms, parse
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.landing import Membership
from homeserver.services.rooms.outliers import Outliers, by_auth
from homeserver.services.rooms.persist import Superseded
from homeserver.services.rooms.replay import Replay
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.state_requests import StateRequests
from homeserver.services.rooms.unproven import Unproven
from homeserver.storage import coming_members, events, members, originals, partial_rooms, room_servers, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.partial_rooms import PartialRoom
from homeserver.storage.state import Pair
from homeserver.storage.tables import chunks

log = structlog.get_logger()

_MEMBER = "m.room.member"
_GROUP = 500
_STEP = 2500
"""So many events are stored before it is noted how far it has come."""
_FEW = 50
"""Up to so many events that are missing are asked for one by one: the state is large."""
_SERVERS = 10
_PATIENCE = 4
"""So often the rest is told while events of it are not given, or cannot be proven for want of keys; then it is taken
without them."""
_FIRST_PAUSE_MS = 10_000
_LONGEST_PAUSE_MS = 60 * 60 * 1000
_BELIEVED_MS = 24 * 60 * 60 * 1000
"""So long we believe the server that let us in which others are in the room."""
_TELL_MS = 3000
_ORIGINALS_MS = 7 * 24 * 60 * 60 * 1000
"""So long it is kept what was redacted, for the case that that was not allowed."""


class Lacking(HomeserverError):
    """The state was told, and something of it cannot be had at the moment: left out now, it is left out for good."""


@dataclass(slots=True)
class _Progress:
    done: int
    total: int
    told_ts: int


class Completion:
    """Makes rooms whole. A room is worked at by one caller at a time, who is told of it by `list_all`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        metrics: Metrics,
        requests: StateRequests,
        hot: HotRooms,
        trees: StateTrees,
        inbox: Inbox,
        checks: Checks,
        outliers: Outliers,
        replay: Replay,
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._requests = requests
        self._hot = hot
        self._trees = trees
        self._inbox = inbox
        self._checks = checks
        self._outliers = outliers
        self._replay = replay
        self._server_name = server_name
        self._unproven = Unproven()

    async def list_all(self) -> list[PartialRoom]:
        """The rooms that are known in part."""
        found = await self._database.read(partial_rooms.list_all)
        self._metrics.partial_rooms.set(len(found))
        self._unproven.keep_only({room.room_nid for room in found})
        return found

    def is_due(self, room: PartialRoom) -> bool:
        """Whether the rest of the room should be asked for now."""
        now = self._clock.now()
        # No pause ends so far ahead: the clock was wrong when that was written down.
        return not now < room.retry_ts <= now + _LONGEST_PAUSE_MS

    async def tidy(self) -> None:
        """Remove what was prepared for rooms that have become whole otherwise, or have gone."""
        for room_nid in await self._database.read(_find_leftovers):
            await self._replay.unprepare(room_nid)

    async def complete(self, partial: PartialRoom) -> RoomId | None:
        """Try to make a room whole; which one, if that was so. If it fails, it is noted when to try again.

        That is noted beforehand, too: whatever happens, no room is tried again and again without a pause.
        """
        now = self._clock.now()
        retry_ts = now + _pause_after(partial.failures)
        await self._database.write(_begin, partial.room_nid, retry_ts=retry_ts, now=now)
        try:
            room = await self._hot.get(partial.room_nid)
        except NotFound:
            return None  # It was purged.
        try:
            await self._complete(room, partial)
        except NotFound:
            return None  # It was purged meanwhile.
        except Lacking as error:
            # However long nobody told anything before: what lacks may be there soon.
            await self._database.write(partial_rooms.set_lacking, partial.room_nid)
            await self._note_failure(room, partial, str(error), _pause_after(partial.lacking))
            return None
        except (RemoteFailure, Superseded, Unavailable) as error:
            reason = str(error) or "The room was changing."
            await self._note_failure(room, partial, reason, _pause_after(partial.failures))
            return None
        finally:
            if partial.lacking >= _PATIENCE:
                self._unproven.forget(partial.room_nid)  # It is not waited for any more.
        await self._replay.unprepare(partial.room_nid)
        return room.room_id

    async def _note_failure(self, room: HotRoom, partial: PartialRoom, reason: str, pause_ms: int) -> None:
        now = self._clock.now()
        await self._database.write(partial_rooms.set_failed, partial.room_nid, reason, retry_ts=now + pause_ms)
        if now - partial.since_ts > _BELIEVED_MS:
            await self._believe_members_alone(partial)
        log.warning(
            f"the rest of room {room.room_id} could not be had; it goes on, and is tried again",
            room_id=room.room_id,
            reason=reason,
            in_s=pause_ms // 1000,
        )

    async def _believe_members_alone(self, partial: PartialRoom) -> None:
        room = await self._hot.get(partial.room_nid)
        async with room.alone():
            if await self._database.write(_believe_members_alone, partial, self._server_name):
                self._hot.drop(room)

    async def _complete(self, room: HotRoom, partial: PartialRoom) -> None:
        if not any(domain_of(user_id) == self._server_name for user_id in room.joined):
            raise BadAnswer("Nobody of this server is in the room any more.")
        join_id, servers, left_out = await self._database.snapshot(_find_sources, partial)
        failures: list[str] = []
        best: Sequence[EventId] | None = None
        trusted = set(left_out)
        for server in servers:
            try:
                is_begun = partial.done > 0 or best is not None
                state, absent = await self._fetch(room, partial, server, join_id, left_out, is_begun)
                if server == partial.via:
                    trusted.update(state)
                self._check_proven(partial)
                if not absent:
                    await self._put_in(room, partial, state, trusted)
                    return
            except RemoteFailure as error:
                failures.append(f"{server}: {error}")
            else:
                # Another one may have them.
                failures.append(f"{server}: It did not give {absent} events of the state.")
                best = best or state
        if best is None:
            raise BadAnswer("; ".join(failures) or "There is nobody to ask.")
        if partial.lacking < _PATIENCE:
            raise Lacking("; ".join(failures))
        await self._put_in(room, partial, best, trusted)

    def _check_proven(self, partial: PartialRoom) -> None:
        """Raises `Lacking` while it is worth waiting for keys."""
        unproven = self._unproven.count(partial.room_nid)
        if unproven and partial.lacking < _PATIENCE:
            raise Lacking(f"{unproven} events are signed by keys that cannot be had at the moment.")

    async def _fetch(
        self,
        room: HotRoom,
        partial: PartialRoom,
        server: ServerName,
        join_id: EventId,
        left_out: Sequence[EventId],
        is_begun: bool,
    ) -> tuple[Sequence[EventId], int]:
        """Have all events of the state before the join; which they are, and how many that takes were not given.

        What was left out at the join belongs to it, whether this server says so or not.
        """
        if is_begun:
            ids = await self._requests.ids(room, server, join_id)
            wanted = list(dict.fromkeys([*left_out, *ids.all()]))
            known = await self._find_known(wanted)
            held = self._unproven.held(partial.room_nid)
            here = {event_id: held[event_id] for event_id in wanted if event_id in held and event_id not in known}
            absent = [event_id for event_id in wanted if event_id not in known and event_id not in here]
            if len(absent) <= _FEW:
                given = await self._requests.singly(room, server, absent)
                await self._store(room, here | given, len(known))
                return [*left_out, *ids.state], len(absent) - len(given)
        log.info(f"asking {server} for the state of room {room.room_id}", room_id=room.room_id)
        whole = await self._requests.whole(room, server, join_id, self._find_unknown)
        unknown = await self._find_unknown(left_out)
        missing = [event_id for event_id in left_out if event_id in unknown and event_id not in whole.chosen]
        given = await self._requests.singly(room, server, missing[:_FEW])
        await self._store(room, {**whole.chosen, **given}, whole.count - len(whole.chosen))
        return [*left_out, *whole.state], len(missing) - len(given)

    async def _find_unknown(self, event_ids: Collection[EventId]) -> set[EventId]:
        return set(event_ids) - await self._find_known(event_ids)

    async def _find_known(self, event_ids: Collection[EventId]) -> set[EventId]:
        known: set[EventId] = set()
        for part in chunks(event_ids, 2 * _GROUP):
            known.update(await self._database.read(events.find_positions, part))
        return known

    async def _store(self, room: HotRoom, new: Mapping[EventId, bytes], known: int) -> None:
        """Verify events and store them."""
        progress = _Progress(known, known + len(new), self._clock.now())
        assert room.room_nid is not None
        found: dict[EventId, Event] = {}
        self._unproven.forget(room.room_nid)
        for part in chunks(new.values(), _STEP):
            for one in await self._checks.check(room.room_id, room.version, part, is_old=True):
                if not isinstance(one, Unfit):
                    found[EventId(one.event_id)] = one
                elif one.unproven is not None:
                    event_id = EventId(one.unproven.event_id)
                    self._unproven.add(room.room_nid, event_id, new[event_id])
            self._tell(room, progress, f"{len(found)} of {len(new)} new events are verified")
        for events_ in chunks(await asyncio.to_thread(by_auth, found), _STEP):
            async with self._inbox.turn(room.room_id):
                # What came from elsewhere in the meantime is not taken twice.
                known_now = await self._find_known([EventId(one.event_id) for one in events_])
                fresh = [event for event in events_ if event.event_id not in known_now]
                await self._outliers.take(await self._hot.find(room.room_id), fresh)
            progress.done += len(events_)
            self._metrics.state_events_fetched.inc(len(events_))
            await self._database.write(partial_rooms.set_progress, room.room_nid, progress.done, progress.total)
            self._tell(room, progress, f"{progress.done} of {progress.total} events are known")

    def _tell(self, room: HotRoom, progress: _Progress, what: str) -> None:
        now = self._clock.now()
        if now - progress.told_ts >= _TELL_MS:
            progress.told_ts = now
            log.info(f"the state of room {room.room_id} is coming: {what}", room_id=room.room_id)

    async def _put_in(
        self, room: HotRoom, partial: PartialRoom, state: Sequence[EventId], trusted: Collection[EventId]
    ) -> None:
        """Let the room be known whole.

        Only members were left out on purpose; what else is not known yet could not be proven. Who was not asked to let
        us in could claim anything to be that, as long as it was allowed once: of those others only `trusted` are taken.
        """
        given = await self._database.snapshot(self._given, partial)
        additions: dict[int, int] = {}
        others: list[Pair] = []
        people: dict[UserId, Membership] = {}
        standings: dict[EventId, events.Standing] = {}
        for part in chunks(state, 2 * _GROUP):
            standings |= await self._database.read(events.find_standings_by_id, part)
        of_room = [
            one
            for one in standings.values()
            if one.room_nid == partial.room_nid and one.pair_id is not None and one.status != events.REJECTED
        ]
        new = {one.position: one.pair_id for one in of_room if one.pair_id not in given}
        for positions in chunks([*given.values(), *new], _GROUP):
            rows = await self._database.read(events.find_many, positions)
            read = await asyncio.to_thread(_read_state, rows, room.version.identifier)
            for position, (pair, standing) in read.items():
                pair_id = new.get(position)
                if pair_id in additions:
                    continue
                if pair_id is not None:
                    if standing is None and rows[position].event_id not in trusted:
                        continue
                    additions[pair_id] = position
                if standing is not None:
                    people[UserId(pair[1])] = standing
                elif pair_id is not None:
                    others.append(pair)
        await self._replay.prepare(partial.room_nid, people)
        async with self._inbox.turn(room.room_id):
            whole = await self._database.write(self._write_whole, partial, additions)
            count = await self._replay.run(partial, whole, people, others)
        log.info(
            f"room {room.room_id} is known whole: {len(people)} members", room_id=room.room_id, events_replayed=count
        )

    def _given(self, tx: ReadTx, partial: PartialRoom) -> dict[int, int]:
        """The state before the join as it was given with it."""
        positions = self._trees.items(tx, partial.given_root)
        ids = self._trees.pair_ids(tx, positions)
        return {ids[pair]: at for pair, at in positions.items()}

    def _write_whole(self, tx: WriteTx, partial: PartialRoom, additions: Mapping[int, int]) -> int:
        """The root of the whole state before the join: what was given stays, the rest is added."""
        if not additions:
            return partial.given_root
        states = self._trees.begin(tx, set())
        root = states.change(partial.given_root, additions, stream_rows.advance(tx))
        states.store(tx)
        tx.on_commit(lambda: self._trees.keep(states))
        return root


def _begin(tx: WriteTx, room_nid: int, *, retry_ts: int, now: int) -> None:
    partial_rooms.set_begun(tx, room_nid, retry_ts=retry_ts)
    originals.remove_old(tx, room_nid, before=now - _ORIGINALS_MS)


def _believe_members_alone(tx: WriteTx, partial: PartialRoom, server_name: str) -> bool:
    """Let no other servers be in the room than those of its known members; whether others were said to be."""
    known = {ServerName(domain_of(user_id)) for user_id in members.list_joined_users(tx, partial.room_nid)}
    known = (known | {ServerName(partial.via)}) - {server_name}
    if room_servers.list_open(tx, partial.room_nid) <= known:
        return False
    room_servers.replace(tx, partial.room_nid, known, stream_rows.advance(tx))
    return True


def _find_leftovers(tx: ReadTx) -> list[int]:
    found = coming_members.list_rooms(tx)
    return sorted(set(found) - partial_rooms.find_many(tx, found).keys())


def _pause_after(times: int) -> int:
    return min(_FIRST_PAUSE_MS << min(times, 20), _LONGEST_PAUSE_MS)


def _find_sources(tx: ReadTx, partial: PartialRoom) -> tuple[EventId, list[ServerName], list[EventId]]:
    """The join event, servers that should know the state before it, and what was left out of that state."""
    row = events.find_many(tx, [partial.position])[partial.position]
    servers = [ServerName(partial.via), *room_servers.list_longest(tx, partial.room_nid, limit=_SERVERS)]
    return row.event_id, list(dict.fromkeys(servers)), partial_rooms.list_left_out(tx, partial.room_nid)


def _read_state(rows: Mapping[int, events.StoredEvent], version: str) -> dict[int, tuple[Pair, Membership | None]]:
    """Where in the state events are, by position, and what those of them that are member events say."""
    read: dict[int, tuple[Pair, Membership | None]] = {}
    for position, row in rows.items():
        event = parse(row, version)
        if event.state_key is not None:
            is_member = event.type == _MEMBER
            standing = Membership(event.membership or "leave", UserId(event.sender), position) if is_member else None
            read[position] = (event.type, event.state_key), standing
    return read
