"""Purging a room's history before a point: the units of work of which it consists, in the order of this file.

Messages go. State events leave the timeline and the graph at once, and the room's state keeps those that it still
needs: they are like events that are only known because others cite them. Forward extremities stay where they are.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from homeserver.kit.clock import Clock
from homeserver.matrix import auth_graph
from homeserver.matrix.identifiers import EventId
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import (
    auth_nodes,
    event_graph,
    event_log,
    events,
    members,
    originals,
    places,
    purges,
    receipts,
    relations,
    resolutions,
    rooms,
    stream_rows,
    timelines,
    transactions,
)
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.events import OK, StoredEvent
from homeserver.storage.purges import ROOT, Job

_ROOTS = 5_000
_NODES = 5_000
_FOR_EVER = 1 << 62


@dataclass(slots=True)
class Survey:
    """What remains of a room, as far as it needs what was before the point."""

    roots: list[int]
    """Of the states that remain; those left out were made from one of these by events behind the point."""
    needed: set[int]
    """Positions of events that these states, and what cites auth events, refer to. Steps add to it."""
    upto: int
    """What came behind this position has not been looked at."""


class HistoryPurge:
    """Units of work, each of which takes a job and says what it is afterwards."""

    def __init__(self, trees: StateTrees, clock: Clock, batch: int) -> None:
        self._trees = trees
        self._clock = clock
        self._batch = batch

    def begin(self, tx: WriteTx, job: Job) -> Job:
        """From now on nobody is told what changed since before the point: they are told of the room anew."""
        before = _point(job)
        room = rooms.find_many(tx, [job.room_nid])[job.room_nid]
        rooms.set_purged(tx, job.room_nid, max(before, room.purged_before))
        first = event_log.list_from(tx, job.room_nid, after=before - 1, limit=1)
        ts = first[0].origin_server_ts if first else self._clock.now()
        event_graph.end_waiting(tx, event_graph.list_waiting_since(tx, job.room_nid, before=ts))
        total = event_log.count_below(tx, job.room_nid, before)
        return replace(job, stage="messages", cursor=0, done=0, total=total)

    def messages(self, tx: WriteTx, job: Job) -> Job:
        """Remove some messages, and take the state events among them out of the graph, the oldest first."""
        before, place = _point(job), _place(job)
        rows = event_log.list_from(tx, job.room_nid, after=job.cursor, limit=2 * self._batch)
        batch = [row for row in rows[: self._batch] if row.position < before]
        if not batch:
            has_past = rooms.find_many(tx, [job.room_nid])[job.room_nid].gapped_at > 0
            if has_past:
                return replace(job, stage="past", cursor=0, done=0, total=1)
            return replace(job, stage="edges", cursor=before - 1, done=0, total=1)
        upto = batch[-1].position
        tips = set(rooms.list_extremities(tx, job.room_nid))
        # What was an outlier for long may stand behind the point, too.
        staying = {row.position for row in batch if row.place is not None and row.place >= place} | tips
        leaving = [row for row in batch if row.position not in staying]
        _take_out(tx, job, leaving)
        receipts.remove_pointing(tx, job.room_nid, after=job.cursor, upto=upto, but=tips)
        roots = resolutions.list_roots(tx, job.room_nid, after=job.cursor, upto=upto) | roots_of(leaving)
        resolutions.remove_many(tx, job.room_nid, after=job.cursor, upto=upto)
        purges.add_leftovers(tx, job.purge_id, ROOT, sorted(roots))
        remaining = [row for row in batch if row.position in staying] + rows[len(batch) :]
        _note_what_is_missing(tx, job, remaining)
        return replace(job, cursor=upto, done=job.done + len(batch))

    def past(self, tx: WriteTx, job: Job) -> Job:
        """Do the same with what came later than the point, but stands before it."""
        rows = timelines.list_past(tx, job.room_nid, after=places.FIRST, below=_place(job), limit=self._batch)
        if not rows:
            return replace(job, stage="gaps", cursor=_place(job) - 1, done=0, total=1)
        _take_out(tx, job, rows)
        purges.add_leftovers(tx, job.purge_id, ROOT, sorted(roots_of(rows)))
        return replace(job, done=job.done + len(rows), total=job.done + len(rows) + 1)

    def gaps(self, tx: WriteTx, job: Job) -> Job:
        """Note what is missing before the events of the past that stay."""
        rows = timelines.list_past(tx, job.room_nid, after=job.cursor, below=places.LAST, limit=self._batch)
        if not rows:
            return replace(job, stage="edges", cursor=_point(job) - 1, done=0, total=1)
        _note_what_is_missing(tx, job, rows)
        return replace(job, cursor=rows[-1].timeline_place, done=job.done + len(rows), total=job.done + len(rows) + 1)

    def edges(self, tx: WriteTx, job: Job) -> Job:
        """Note what is missing before events that did not simply follow all before them."""
        forked_at = rooms.find_many(tx, [job.room_nid])[job.room_nid].forked_at
        rows = event_log.list_from(tx, job.room_nid, after=job.cursor, limit=self._batch)
        _note_what_is_missing(tx, job, rows)
        if rows and rows[-1].position <= forked_at:
            return replace(job, cursor=rows[-1].position, done=job.done + len(rows), total=job.done + 2 * len(rows))
        before = _point(job)
        total = event_log.count_below(tx, job.room_nid, before, only_state=True)
        return replace(job, stage="state", cursor=before, done=0, total=total)

    def survey(self, tx: ReadTx, job: Job) -> Survey:
        """What remains and what it needs, as far as the job has not come past it.

        To be asked once no event before the point is in the graph.
        """
        before = _point(job)
        upto = stream_rows.current(tx)
        tips = [one for one in rooms.list_extremities(tx, job.room_nid) if one < before]
        roots = sorted(roots_of(events.find_many(tx, tips).values()))
        roots += resolutions.list_roots(tx, job.room_nid, after=before - 1, upto=_FOR_EVER)
        known = set(roots)
        needed = members.list_events_below(tx, job.room_nid, before) | set(tips)
        after = _place(job) - 1
        while rows := timelines.list_roots(tx, job.room_nid, after=after, limit=_ROOTS):
            needed.update(row.position for row in rows if row.position < before)
            for row in rows:
                new = [root for root in (row.state_before, row.room_state) if root is not None and root not in known]
                roots += new
                # The state after an event behind the point is that before it, with the event.
                known.update(new, () if row.state_after is None else (row.state_after,))
            after = rows[-1].place
        last: int | None = None
        for root in roots:
            changed = self._trees.differing_ids(tx, last, root)
            needed.update(at for _, at in changed.values() if at is not None and at < before)
            last = root
        for node in auth_nodes.list_above(tx, job.room_nid, after=before - 1):
            needed.update(auth_graph.unpack(node.position, node.auth))
        below = before
        while job.stage == "state" and below > job.cursor:
            nodes = auth_nodes.list_below(tx, job.room_nid, below=below, limit=_NODES)
            for node in nodes:
                if node.position >= job.cursor:
                    needed.update(auth_graph.unpack(node.position, node.auth))
            below = nodes[-1].position if nodes else job.cursor
        return Survey(roots, needed, upto)

    def state(self, tx: WriteTx, job: Job, survey: Survey) -> Job:
        """Remove some of the state events that nothing refers to, the newest first: events cite older ones."""
        new = auth_nodes.list_above(tx, job.room_nid, after=survey.upto)
        for node in new:
            survey.needed.update(auth_graph.unpack(node.position, node.auth))
        survey.upto = new[-1].position if new else survey.upto
        rows = auth_nodes.list_below(tx, job.room_nid, below=job.cursor, limit=self._batch)
        if not rows:
            return replace(job, stage="redactions", cursor=0)
        unneeded = []
        for node in rows:
            if node.position in survey.needed:
                survey.needed.update(auth_graph.unpack(node.position, node.auth))
            else:
                unneeded.append(node.position)
        events.remove_many(tx, unneeded)
        originals.remove_many(tx, unneeded)
        return replace(job, cursor=rows[-1].position, done=job.done + len(rows))

    def redactions(self, tx: WriteTx, job: Job) -> Job:
        """Remove redactions that were kept for events which are gone by now."""
        before = _point(job)
        positions = event_log.list_messages(tx, job.room_nid, after=job.cursor, below=before, limit=self._batch)
        if not positions:
            return replace(job, stage="roots", cursor=0, done=0, total=1)
        tips = rooms.list_extremities(tx, job.room_nid)
        events.remove_many(tx, _not_referred_to(tx, set(positions) - set(tips)))
        return replace(job, cursor=positions[-1])


def roots_of(rows: Iterable[StoredEvent]) -> set[int]:
    """The roots of all states that these events have to do with."""
    return {root for row in rows for root in (row.state_before, row.state_after, row.room_state) if root is not None}


def _point(job: Job) -> int:
    assert job.before is not None
    return job.before


def _place(job: Job) -> int:
    return places.at(_point(job)) if job.before_place is None else job.before_place


def _take_out(tx: WriteTx, job: Job, leaving: Sequence[StoredEvent]) -> None:
    """Remove messages, and take state events out of the graph."""
    gone = _not_referred_to(tx, {row.position for row in leaving if row.pair_id is None})
    events.hide_many(tx, [row.position for row in leaving if row.position not in gone])
    events.remove_many(tx, gone)
    _remove_derived(tx, job.room_nid, leaving)


def _not_referred_to(tx: ReadTx, messages: Collection[int]) -> set[int]:
    """Those of the messages which redacted none of the events that remain when they are gone."""
    gone = set(messages)
    redacted = events.list_redacted(tx, gone)
    while kept := {redaction for target, redaction in redacted if target not in gone} & gone:
        gone -= kept
    return gone


def _remove_derived(tx: WriteTx, room_nid: int, leaving: Sequence[StoredEvent]) -> None:
    """Remove what was made of events that leave the graph, but for what goes by ranges.

    What remains is still said to relate to what is gone, as the events themselves say.
    """
    positions = [row.position for row in leaving]
    relations.remove_many(tx, positions)
    originals.remove_many(tx, positions)
    transactions.remove_events(tx, positions)
    event_graph.remove_loose_ends(tx, room_nid, positions)


def _note_what_is_missing(tx: WriteTx, job: Job, rows: Sequence[StoredEvent]) -> None:
    """Note which of the events before these are not in the graph (any more)."""
    version = rooms.find_many(tx, [job.room_nid])[job.room_nid].version
    cited = {
        row.position: [EventId(event_id) for event_id in parse(row, version).prev_events]
        for row in rows
        if row.status == OK
    }
    there = events.find_in_graph(tx, job.room_nid, {one for ids in cited.values() for one in ids})
    missing = [(position, one) for position, ids in cited.items() for one in ids if one not in there]
    event_graph.add_many_backward_extremities(tx, job.room_nid, missing)
