"""Purging a whole room: the units of work of which it consists, in the order of this file.

First users of this server leave. Then the room ceases to be known, at once; whatever was stored of it is out of
anybody's sight from there on, and goes bit by bit.
"""

from collections.abc import Callable
from dataclasses import replace

from homeserver.errors import Conflict
from homeserver.matrix.identifiers import UserId
from homeserver.services.rooms.history_purge import roots_of
from homeserver.storage import (
    account_data,
    aliases,
    coming_members,
    deliveries,
    departures,
    event_graph,
    event_log,
    events,
    introductions,
    members,
    originals,
    out_of_room,
    outgoing,
    partial_rooms,
    purges,
    receipts,
    relations,
    resolutions,
    room_servers,
    rooms,
    stream_rows,
    transactions,
)
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.purges import ROOT, Job

_LEAVING = 50
_FOR_EVER = 1 << 62


class RoomPurge:
    """Units of work, each of which takes a job and says what it is afterwards."""

    STAYING = ("join", "invite", "knock")

    def __init__(self, server_name: str, batch: int) -> None:
        self._server_name = server_name
        self._batch = batch

    def check_nobody_is_in(self, tx: ReadTx, room_nid: int) -> None:
        """Raise `Conflict` while users of this server are in the room."""
        found = members.list_local(tx, room_nid, self._server_name, ["join"], limit=1)
        if found:
            raise Conflict(f"Users of this server are in the room, {found[0].user_id} for one.")

    def who_has_to_leave(self, tx: ReadTx, job: Job) -> list[UserId]:
        """Some of those who have to leave the room, or whose invite ends. Raises `Conflict` if that was not said."""
        if not job.is_forced:
            self.check_nobody_is_in(tx, job.room_nid)
        found = members.list_local(tx, job.room_nid, self._server_name, self.STAYING, limit=_LEAVING)
        return [member.user_id for member in found]

    def close(self, tx: WriteTx, job: Job) -> Job:
        """Make the room unknown; if somebody has come in the meantime, that one has to leave first."""
        if members.list_local(tx, job.room_nid, self._server_name, self.STAYING, limit=1):
            return replace(job, stage="leave")
        departures.note_members(tx, job.room_nid, job.room_id, self._server_name)
        stream_rows.advance(tx)
        tx.wake([job.room_id, *members.remove_local(tx, job.room_nid, self._server_name)])
        aliases.remove_of_room(tx, job.room_nid)
        out_of_room.remove_of_room(tx, job.room_id)
        partial_rooms.remove(tx, job.room_nid)
        rooms.remove(tx, job.room_nid)
        total = event_log.count_below(tx, job.room_nid, _FOR_EVER)
        return replace(job, stage="events", cursor=0, done=0, total=total)

    def events(self, tx: WriteTx, job: Job) -> Job:
        """Remove some of the events."""
        rows = event_log.list_from(tx, job.room_nid, after=job.cursor, limit=self._batch)
        if not rows:
            return replace(job, stage="rest", cursor=0, done=0, total=1)
        positions = [row.position for row in rows]
        events.remove_many(tx, positions)
        transactions.remove_events(tx, positions)
        purges.add_leftovers(tx, job.purge_id, ROOT, sorted(roots_of(rows)))
        return replace(job, cursor=rows[-1].position, done=job.done + len(rows))

    def rest(self, tx: WriteTx, job: Job) -> Job:
        """Remove some of what else there was."""
        roots = resolutions.list_roots(tx, job.room_nid, after=0, upto=_FOR_EVER)
        purges.add_leftovers(tx, job.purge_id, ROOT, sorted(roots))
        for remove_some in _REST:
            if count := remove_some(tx, job.room_nid, limit=self._batch):
                return replace(job, done=job.done + count, total=job.done + count + 1)
        account_data.remove_of_room(tx, job.room_id)
        return replace(job, stage="roots", cursor=0, done=0, total=1)


_REST: tuple[Callable[..., int], ...] = (
    members.remove_some,
    rooms.remove_some_extremities,
    relations.remove_some,
    receipts.remove_some,
    resolutions.remove_some,
    event_graph.remove_some,
    outgoing.remove_some,
    room_servers.remove_some,
    deliveries.remove_some,
    introductions.remove_some,
    coming_members.remove_some,
    originals.remove_some,
)
