"""`/sync`: everything that is new for a device, now or as soon as there is something (client-server API, Syncing).

A request registers with the notifier for its user and the rooms that the user is in, looks, and waits if there is
nothing. What it looks at in the database it sees in one snapshot, whose position becomes the next token: nothing can
fall between two answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.kit.clock import Clock
from homeserver.matrix.filters import Filter
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.state import StateTrees
from homeserver.services.sync import rooms as room_sync
from homeserver.services.sync.rooms import View
from homeserver.storage import members, rooms, stream_rows
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.members import Member
from homeserver.storage.rooms import Room
from homeserver.streams.notifier import Notifier
from homeserver.streams.positions import SyncToken

LONGEST_WAIT_MS = 120_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What a client asks for."""

    since: SyncToken | None
    filter: Filter
    timeout_ms: int
    full_state: bool
    use_state_after: bool


class Sync:
    """Answers syncs."""

    def __init__(self, database: Database, clock: Clock, notifier: Notifier, trees: StateTrees) -> None:
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._trees = trees

    async def sync(self, who: Requester, request: SyncRequest) -> Json:
        """The answer; it may wait for as long as the request allows."""
        deadline = self._clock.monotonic() + min(request.timeout_ms, LONGEST_WAIT_MS) / 1000
        may_wait = request.timeout_ms > 0 and request.since is not None and not request.full_state
        while True:
            known = await self._database.read(_joined_rooms, who.user_id)
            with self._notifier.waiting_for([who.user_id, *known]) as waiter:
                answer, has_news = await self._database.snapshot(self._look, who, request)
                left = deadline - self._clock.monotonic()
                if has_news or not may_wait or left <= 0 or self._notifier.is_stopping:
                    return answer
                if not await waiter.wait(left):
                    return answer

    def _look(self, tx: ReadTx, who: Requester, request: SyncRequest) -> tuple[Json, bool]:
        upto = stream_rows.current(tx)
        since = None if request.since is None else min(request.since.position, upto)
        view = View(
            who=who,
            filter=request.filter.room,
            full_state=request.full_state,
            state_after=request.use_state_after,
            as_pdus=request.filter.event_format == "federation",
            now=self._clock.now(),
        )
        found = self._rooms(tx, view, since, upto)
        answer: Json = {"next_batch": str(SyncToken(upto, 0))}
        if found:
            answer["rooms"] = found
        return answer, len(answer) > 1

    def _rooms(self, tx: ReadTx, view: View, since: int | None, upto: int) -> Json:
        sections: dict[str, Json] = {"join": {}, "invite": {}, "knock": {}, "leave": {}}
        for room, member in self._concerned(tx, view, since, upto):
            match member.membership:
                case "join":
                    entry = room_sync.joined_room(tx, self._trees, view, room, member, since=since, upto=upto)
                    if entry is not None:
                        sections["join"][room.room_id] = entry
                case "invite" | "knock" as kind:
                    events = room_sync.stripped_room(tx, self._trees, room, member)
                    sections[kind][room.room_id] = {f"{kind}_state": {"events": events}}
                case _:
                    entry = room_sync.left_room(tx, self._trees, view, room, member, since=since)
                    sections["leave"][room.room_id] = entry
        return {section: entries for section, entries in sections.items() if entries}

    def _concerned(self, tx: ReadTx, view: View, since: int | None, upto: int) -> Sequence[tuple[Room, Member]]:
        """The rooms that may have something to tell, with the user's membership."""
        user_id = view.who.user_id
        kinds = ["join", "invite", "knock"]
        if since is None and view.filter.include_leave:
            kinds += ["leave", "ban"]
        by_nid = {member.room_nid: member for member in members.list_of_user(tx, user_id, kinds)}
        if since is not None:
            changed = {one.room_nid: one for one in members.list_of_user_since(tx, user_id, after=since, upto=upto)}
            joined = [nid for nid, member in by_nid.items() if member.membership == "join"]
            lively = set(joined) if view.full_state else rooms.list_changed(tx, joined, after=since)
            by_nid = {nid: member for nid, member in by_nid.items() if nid in lively} | changed
        found = rooms.find_many(tx, by_nid)
        return [
            (found[nid], member)
            for nid, member in by_nid.items()
            if not member.forgotten and view.filter.admits_room(found[nid].room_id)
        ]


def _joined_rooms(tx: ReadTx, user_id: UserId) -> list[RoomId]:
    nids = [member.room_nid for member in members.list_of_user(tx, user_id, ["join"])]
    return [room.room_id for room in rooms.find_many(tx, nids).values()]
