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
from homeserver.matrix.identifiers import DeviceId, RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.counter import LiveCounter
from homeserver.services.live.presence import Presence
from homeserver.services.live.typing import Typing
from homeserver.services.rooms.state import StateTrees
from homeserver.services.sync import extensions
from homeserver.services.sync import rooms as room_sync
from homeserver.services.sync.rooms import View
from homeserver.services.sync.unread import Unread
from homeserver.services.users.push_rules import PushRules
from homeserver.storage import members, rooms, stream_rows, to_device
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.members import Member
from homeserver.storage.rooms import Room
from homeserver.streams.notifier import Notifier
from homeserver.streams.positions import RoomToken, SyncToken

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
    set_presence: str


@dataclass(slots=True)
class _Answer:
    """An answer, and whether it has anything that is worth ending a wait for."""

    body: Json
    has_news: bool
    keys: Json
    """What the device is told of its one-time and fallback keys: a change of it ends a wait, too."""
    handed: int | None = None
    """The position up to which the device was given its messages."""


class Sync:
    """Answers syncs."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        notifier: Notifier,
        trees: StateTrees,
        counter: LiveCounter,
        typing: Typing,
        presence: Presence,
        push_rules: PushRules,
    ) -> None:
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._trees = trees
        self._counter = counter
        self._typing = typing
        self._presence = presence
        self._push_rules = push_rules
        self._unread = Unread(trees, push_rules)
        # Up to where devices were given messages; these are deleted when the device comes back with that position.
        self._handed: dict[tuple[UserId, DeviceId], int] = {}

    async def sync(self, who: Requester, request: SyncRequest) -> Json:
        """The answer; it may wait for as long as the request allows."""
        deadline = self._clock.monotonic() + min(request.timeout_ms, LONGEST_WAIT_MS) / 1000
        may_wait = request.timeout_ms > 0 and request.since is not None and not request.full_state
        await self._receive(who, request.since)
        await self._presence.note_sync(who.user_id, request.set_presence)
        with self._presence.syncing(who.user_id, request.set_presence):
            first: Json | None = None
            while True:
                known = await self._database.read(_joined_rooms, who.user_id)
                with self._notifier.waiting_for([who.user_id, *known]) as waiter:
                    # Taken before the look: what happens meanwhile is looked at again, not missed.
                    live = self._counter.value
                    answer = await self._database.snapshot(self._look, who, request, live)
                    left = deadline - self._clock.monotonic()
                    first = first or answer.keys
                    if (
                        answer.has_news
                        or answer.keys != first
                        or not may_wait
                        or left <= 0
                        or self._notifier.is_stopping
                    ):
                        break
                    if not await waiter.wait(left):
                        break
        if answer.handed is not None:
            self._handed[who.user_id, who.device_id] = answer.handed
        return answer.body

    async def _receive(self, who: Requester, since: SyncToken | None) -> None:
        """Delete the messages that the device has received: it comes back with the position of their answer."""
        key = (who.user_id, who.device_id)
        if since is not None and self._handed.get(key, since.position + 1) <= since.position:
            del self._handed[key]
            await self._database.write(to_device.delete_upto, *key, since.position)

    def _look(self, tx: ReadTx, who: Requester, request: SyncRequest, live: int) -> _Answer:
        upto = stream_rows.current(tx)
        since = None if request.since is None else min(request.since.position, upto)
        messages, more = extensions.to_device_events(tx, who, after=since or 0, upto=upto)
        if more is not None:
            upto = more  # The rest of everything comes with the rest of the messages.
        view = View(
            who=who,
            filter=request.filter.room,
            full_state=request.full_state,
            state_after=request.use_state_after,
            as_pdus=request.filter.event_format == "federation",
            now=self._clock.now(),
        )
        body: Json = {}
        of_all, of_rooms = extensions.account_data_events(
            tx, self._push_rules, who.user_id, request.filter, since=since, upto=upto
        )
        sections = self._rooms(tx, view, request, since, upto, of_rooms)
        if sections:
            body["rooms"] = sections
        if of_all:
            body["account_data"] = {"events": of_all}
        if messages:
            body["to_device"] = {"events": messages}
        presence = self._presence_events(who.user_id, request)
        if presence:
            body["presence"] = {"events": presence}
        if since is not None and (lists := extensions.device_lists(tx, who.user_id, after=since, upto=upto)):
            body["device_lists"] = lists
        has_news = bool(body)
        body["next_batch"] = str(SyncToken(upto, live))
        keys = extensions.key_counts(tx, who)
        return _Answer(body | keys, has_news, keys, upto if messages else None)

    def _presence_events(self, user_id: UserId, request: SyncRequest) -> list[Json]:
        wanted = request.filter.presence
        after = None if request.since is None else request.since.live
        return [
            event for event in self._presence.list_since(user_id, after) if wanted.admits("m.presence", event["sender"])
        ]

    def _rooms(
        self,
        tx: ReadTx,
        view: View,
        request: SyncRequest,
        since: int | None,
        upto: int,
        of_rooms: dict[str, list[Json]],
    ) -> Json:
        sections: dict[str, Json] = {"join": {}, "invite": {}, "knock": {}, "leave": {}}
        all_joined = self._joined(tx, view)
        for room, member in self._concerned(tx, view, all_joined, since, upto):
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
        self._add_to_rooms(tx, view, request, since, upto, all_joined, of_rooms, sections["join"])
        return {section: entries for section, entries in sections.items() if entries}

    def _add_to_rooms(
        self,
        tx: ReadTx,
        view: View,
        request: SyncRequest,
        since: int | None,
        upto: int,
        all_joined: dict[int, tuple[Room, Member]],
        of_rooms: dict[str, list[Json]],
        entries: Json,
    ) -> None:
        """Add account data, receipts, typing and counts to the rooms that the user is in."""
        by_id = {room.room_id: (room, member) for room, member in all_joined.values()}
        names = {nid: room.room_id for nid, (room, _) in all_joined.items()}
        ephemeral: dict[RoomId, list[Json]] = {}
        new = {nid: names[nid] for nid, (_, member) in all_joined.items() if since is None or member.position > since}
        receipts, read_on = extensions.receipt_events(
            tx, view.who.user_id, names, request.filter, after=since or 0, upto=upto
        )
        if since is not None and new:
            # Receipts and data of a room that was joined just now are older than that.
            older, _ = extensions.receipt_events(tx, view.who.user_id, new, request.filter, after=0, upto=upto)
            receipts |= older
        for room_id, event in receipts.items():
            ephemeral.setdefault(room_id, []).append(event)
        wanted = request.filter.room.ephemeral
        if wanted.admits("m.typing", None):
            after = None if request.since is None else request.since.live
            for room_id, typists in self._typing.list_since(by_id, after).items():
                if wanted.admits_room(room_id):
                    ephemeral.setdefault(room_id, []).append(extensions.typing_event(typists))
        touched = {*ephemeral, *read_on, *(room_id for room_id in of_rooms if room_id in by_id), *entries}
        by_thread = request.filter.room.timeline.unread_thread_notifications
        for name in touched:
            room_id = RoomId(name)
            room, member = by_id[room_id]
            entry = entries.setdefault(room_id, _empty(view, upto))
            entry["ephemeral"] = {"events": ephemeral.get(room_id, [])}
            entry["account_data"] = {"events": of_rooms.get(room_id, [])}
            entry.update(self._unread.counts(tx, view.who.user_id, room, member, upto=upto, by_thread=by_thread))

    def _joined(self, tx: ReadTx, view: View) -> dict[int, tuple[Room, Member]]:
        """The rooms that the user is in and wants to hear of."""
        found = {member.room_nid: member for member in members.list_of_user(tx, view.who.user_id, ["join"])}
        return {
            nid: (room, found[nid])
            for nid, room in rooms.find_many(tx, found).items()
            if view.filter.admits_room(room.room_id)
        }

    def _concerned(
        self,
        tx: ReadTx,
        view: View,
        joined: dict[int, tuple[Room, Member]],
        since: int | None,
        upto: int,
    ) -> Sequence[tuple[Room, Member]]:
        """The rooms whose events may have something to tell, with the user's membership."""
        user_id = view.who.user_id
        if since is None:
            lively = list(joined.values())
            kinds = ["invite", "knock", *(["leave", "ban"] if view.filter.include_leave else [])]
            others = members.list_of_user(tx, user_id, kinds)
        else:
            nids = set(joined) if view.full_state else rooms.list_changed(tx, joined, after=since)
            lively = [joined[nid] for nid in nids]
            changed = members.list_of_user_since(tx, user_id, after=since, upto=upto)
            others = [member for member in changed if member.membership != "join"]
        found = rooms.find_many(tx, [member.room_nid for member in others])
        return lively + [
            (found[member.room_nid], member)
            for member in others
            if not member.forgotten and view.filter.admits_room(found[member.room_nid].room_id)
        ]


def _empty(view: View, upto: int) -> Json:
    """The entry of a room without new events."""
    timeline = {"events": [], "limited": False, "prev_batch": str(RoomToken(upto))}
    return {"timeline": timeline, "state_after" if view.state_after else "state": {"events": []}}


def _joined_rooms(tx: ReadTx, user_id: UserId) -> list[RoomId]:
    nids = [member.room_nid for member in members.list_of_user(tx, user_id, ["join"])]
    return [room.room_id for room in rooms.find_many(tx, nids).values()]
