"""`/sync`: everything that is new for a device, now or as soon as there is something (client-server API, Syncing).

A request registers with the notifier for its user and the rooms that the user is in, looks, and waits if there is
nothing. What it looks at in the database it sees in one snapshot, whose position becomes the next token: nothing can
fall between two answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import HomeserverError
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.matrix.filters import Filter
from homeserver.matrix.identifiers import DeviceId, RoomId, UserId
from homeserver.matrix.push_rules import Ruleset
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.counter import LiveCounter
from homeserver.services.live.presence import Presence
from homeserver.services.live.receipts import receipts_key
from homeserver.services.live.typing import Typing
from homeserver.services.rooms.client_events import with_unsigned
from homeserver.services.rooms.hot import HotRoom, HotRooms, Recent
from homeserver.services.rooms.room_state import NotLoaded
from homeserver.services.rooms.state import StateTrees
from homeserver.services.sync import extensions
from homeserver.services.sync import rooms as room_sync
from homeserver.services.sync.rooms import View
from homeserver.services.sync.unread import Unread
from homeserver.services.users.account_data import blocks_invites, ignored_users
from homeserver.services.users.push_rules import PushRules
from homeserver.storage import departures, members, out_of_room, rooms, stream_rows, to_device
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.members import Member
from homeserver.storage.rooms import Room
from homeserver.storage.state import Pair
from homeserver.streams.notifier import Notifier
from homeserver.streams.positions import RoomToken, SyncToken

LONGEST_WAIT_MS = 120_000
_STANDINGS = 20_000
_LOADS = 3
"""How often at most something is brought into memory for one look."""

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


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of a user, as long as nothing that concerns the user alone has happened since `position`."""

    position: int
    joined: Mapping[RoomId, int]
    rooms: frozenset[RoomId]
    ruleset: Ruleset
    ignored: frozenset[UserId]
    keys: dict[DeviceId, Json]


class _Incomplete(HomeserverError):
    """A hot room lacks member events that an answer out of memory needs."""

    def __init__(self, room: HotRoom, pairs: Iterable[Pair]) -> None:
        super().__init__()
        self.room = room
        self.pairs = pairs


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
    """Answers syncs.

    Most answers tell a user who has been listening all the time of a message in a room. They come out of memory
    (`_glance`): the hot rooms have the newest events, and the notifier knows for certain what has not changed. In all
    other cases, and whenever in doubt, the answer comes out of the database (`_look`).
    """

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
        unread: Unread,
        hot: HotRooms,
    ) -> None:
        self._hot = hot
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._trees = trees
        self._counter = counter
        self._typing = typing
        self._presence = presence
        self._push_rules = push_rules
        self._unread = unread
        # Up to where devices were given messages; these are deleted when the device comes back with that position.
        self._standings: Lru[UserId, _Standing] = Lru(_STANDINGS)
        self._handed: dict[tuple[UserId, DeviceId], int] = {}

    async def sync(self, who: Requester, request: SyncRequest) -> Json:
        """The answer; it may wait for as long as the request allows."""
        deadline = self._clock.monotonic() + min(request.timeout_ms, LONGEST_WAIT_MS) / 1000
        may_wait = request.timeout_ms > 0 and request.since is not None and not request.full_state
        await self._receive(who, request.since)
        await self._presence.note_sync(who, request.set_presence)
        with self._presence.syncing(who, request.set_presence):
            answer = await self._listen(who, request, deadline if may_wait else 0.0)
        if answer.handed is not None:
            self._handed[who.user_id, who.device_id] = answer.handed
        return answer.body

    async def _listen(self, who: Requester, request: SyncRequest, deadline: float) -> _Answer:
        """The first answer that is worth giving, or the last before the deadline."""
        first: Json | None = None
        while True:
            standing = self._standing(who.user_id) or await self._stand(who.user_id)
            with self._notifier.waiting_for([who.user_id, *standing.joined]) as waiter:
                while self._standing(who.user_id) is standing or first is None:
                    # Taken before the look: what happens meanwhile is looked at again, not missed.
                    live = self._counter.value
                    answer = await self._answer(who, request, live, standing)
                    left = deadline - self._clock.monotonic()
                    first = first or answer.keys
                    if answer.has_news or answer.keys != first or left <= 0 or self._notifier.is_stopping:
                        return answer
                    if not await waiter.wait(left):
                        return answer

    async def _answer(self, who: Requester, request: SyncRequest, live: int, standing: _Standing) -> _Answer:
        for _ in range(_LOADS):
            try:
                answer = self._glance(who, request, live)
            except _Incomplete as missing:
                await self._hot.load(missing.room, missing.pairs)
            else:
                return answer or await self._look_closely(who, request, live, standing)
        return await self._look_closely(who, request, live, standing)

    async def _receive(self, who: Requester, since: SyncToken | None) -> None:
        """Delete the messages that the device has received: it comes back with the position of their answer."""
        key = (who.user_id, who.device_id)
        if since is not None and self._handed.get(key, since.position + 1) <= since.position:
            del self._handed[key]
            await self._database.write(to_device.delete_upto, *key, since.position)

    def _standing(self, user_id: UserId) -> _Standing | None:
        standing = self._standings.get(user_id)
        if standing is None or self._notifier.may_have_changed(user_id, standing.position):
            return None
        return standing

    async def _stand(self, user_id: UserId) -> _Standing:
        standing = await self._database.snapshot(self._read_standing, user_id)
        self._standings.put(user_id, standing)
        return standing

    def _read_standing(self, tx: ReadTx, user_id: UserId) -> _Standing:
        nids = [member.room_nid for member in members.list_of_user(tx, user_id, ["join"])]
        joined = {room.room_id: nid for nid, room in rooms.find_many(tx, nids).items()}
        return _Standing(
            position=stream_rows.current(tx),
            joined=joined,
            rooms=frozenset(joined),
            ruleset=self._push_rules.ruleset(tx, user_id),
            ignored=ignored_users(tx, user_id),
            keys={},
        )

    def _glance(self, who: Requester, request: SyncRequest, live: int) -> _Answer | None:
        """The answer out of memory; None if it is not certain to be the whole truth."""
        standing = self._standing(who.user_id)
        since = request.since
        if since is None or standing is None or request.full_state or request.filter.event_format == "federation":
            return None
        upto = min(self._database.unsettled, default=self._notifier.latest + 1) - 1
        keys = standing.keys.get(who.device_id)
        if keys is None or upto < since.position or self._notifier.may_have_changed(who.user_id, since.position):
            return None
        joined: Json = {}
        for room_id, room_nid in standing.joined.items():
            if request.filter.room.admits_room(room_id) and self._notifier.may_have_changed(room_id, since.position):
                entry = self._glance_at_room(who, request, standing, room_id, room_nid, upto)
                if entry is None:
                    return None
                if entry["timeline"]["events"]:
                    joined[room_id] = entry
        wanted = request.filter.room.ephemeral
        if wanted.admits("m.typing", None):
            for room_id, typists in self._typing.list_since(standing.joined, since.live).items():
                if room_id not in joined:
                    return None
                if wanted.admits_room(room_id):
                    joined[room_id]["ephemeral"]["events"].append(extensions.typing_event(typists))
        body: Json = {"rooms": {"join": joined}} if joined else {}
        if presence := self._presence_events(who.user_id, standing.rooms, request):
            body["presence"] = {"events": presence}
        has_news = bool(body)
        body["next_batch"] = str(SyncToken(upto, live))
        return _Answer(body | keys, has_news, keys)

    def _glance_at_room(
        self, who: Requester, request: SyncRequest, standing: _Standing, room_id: RoomId, room_nid: int, upto: int
    ) -> Json | None:
        """New messages in a room; None where there is more to be told than messages."""
        assert request.since is not None
        since = request.since.position
        room = self._hot.peek(room_nid)
        if room is None or room.known_since > since or self._notifier.may_have_changed(receipts_key(room_id), since):
            return None
        wanted = request.filter.room.timeline
        fresh = [recent for recent in room.recent if since < recent.stored.position <= upto]
        if len(fresh) > wanted.limit_or(room_sync.DEFAULT_TIMELINE):
            return None
        # What was redacted is shown with its redaction, for which one has to look.
        if any(one.event.is_state or one.event.type == "m.room.redaction" for one in fresh):
            return None
        shown = [
            one for one in fresh if wanted.admits_event(one.event) and UserId(one.event.sender) not in standing.ignored
        ]
        if shown and not wanted.admits_room(room_id):
            return None
        now = self._clock.now()
        try:
            counts = self._unread.glance(
                who.user_id, room, standing.ruleset, upto=upto, by_thread=wanted.unread_thread_notifications
            )
            state = _senders(room, shown, now) if request.filter.room.state.lazy_load_members else []
        except NotLoaded as missing:
            raise _Incomplete(room, missing.pairs) from None
        if counts is None:
            return None
        before = shown[0].stored.position - 1 if shown else upto
        return {
            "timeline": {
                "events": [_message(one, who, now) for one in shown],
                "limited": False,
                "prev_batch": str(RoomToken(before)),
            },
            "state_after" if request.use_state_after else "state": {"events": state},
            "ephemeral": {"events": []},
            "account_data": {"events": []},
            **counts,
        }

    async def _look_closely(self, who: Requester, request: SyncRequest, live: int, before: _Standing) -> _Answer:
        answer = await self._database.snapshot(self._look, who, request, live, before.rooms)
        # What the device is told of its keys is good for as long as nothing happens to the user.
        if (standing := self._standing(who.user_id)) is not None:
            standing.keys[who.device_id] = answer.keys
        return answer

    def _look(self, tx: ReadTx, who: Requester, request: SyncRequest, live: int, shared: frozenset[RoomId]) -> _Answer:
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
            ignored=ignored_users(tx, who.user_id),
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
        presence = self._presence_events(who.user_id, shared, request)
        if presence:
            body["presence"] = {"events": presence}
        if since is not None and (lists := extensions.device_lists(tx, who.user_id, after=since, upto=upto)):
            body["device_lists"] = lists
        has_news = bool(body)
        body["next_batch"] = str(SyncToken(upto, live))
        keys = extensions.key_counts(tx, who)
        return _Answer(body | keys, has_news, keys, upto if messages else None)

    def _presence_events(self, user_id: UserId, shared: frozenset[RoomId], request: SyncRequest) -> list[msgspec.Raw]:
        wanted = request.filter.presence
        after = None if request.since is None else request.since.live
        return [
            event
            for sender, event in self._presence.list_since(user_id, shared, after)
            if wanted.admits("m.presence", sender)
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
        concerned = self._concerned(tx, view, all_joined, since, upto)
        are_blocked = _are_blocked(tx, view, (member.membership for _, member in concerned))
        for room, member in concerned:
            match member.membership:
                case "join":
                    entry = room_sync.joined_room(tx, self._trees, view, room, member, since=since, upto=upto)
                    if entry is not None:
                        sections["join"][room.room_id] = entry
                case "invite" if member.sender in view.ignored or are_blocked:
                    continue
                case "invite" | "knock" as kind:
                    events = room_sync.stripped_room(tx, self._trees, room, member)
                    sections[kind][room.room_id] = {f"{kind}_state": {"events": events}}
                case _:
                    entry = room_sync.left_room(tx, self._trees, view, room, member, since=since)
                    sections["leave"][room.room_id] = entry
        self._add_outside(tx, view, since, upto, sections)
        if since is not None:
            known = {
                *(room.room_id for room, _ in all_joined.values()),
                *(one for part in sections.values() for one in part),
            }
            for gone in departures.list_since(tx, view.who.user_id, after=since, upto=upto):
                if gone.room_id not in known and view.filter.admits_room(gone.room_id):
                    sections["leave"][gone.room_id] = _empty(view, upto)
        self._add_to_rooms(tx, view, request, since, upto, all_joined, of_rooms, sections["join"])
        return {section: entries for section, entries in sections.items() if entries}

    def _add_outside(self, tx: ReadTx, view: View, since: int | None, upto: int, sections: dict[str, Json]) -> None:
        """Add invites to rooms that this server is not in, knocks on them, and what became of either."""
        user_id = view.who.user_id
        if since is None:
            kinds = ["invite", "knock", *(["leave", "ban"] if view.filter.include_leave else [])]
            found = out_of_room.list_of_user(tx, user_id, kinds)
        else:
            found = out_of_room.list_of_user_since(tx, user_id, after=since, upto=upto)
        are_blocked = _are_blocked(tx, view, (outsider.membership for outsider in found))
        for outsider in found:
            room_id, kind = outsider.room_id, outsider.membership
            if not view.filter.admits_room(room_id):
                continue
            if kind == "invite" and (outsider.sender in view.ignored or are_blocked):
                continue
            # The user may have been in the room before, when this server was.
            sections["leave"].pop(room_id, None)
            if kind in ("invite", "knock"):
                sections[kind][room_id] = {f"{kind}_state": {"events": msgspec.Raw(outsider.stripped)}}
            else:
                sections["leave"][room_id] = room_sync.left_outside(view, outsider, upto)

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


def _are_blocked(tx: ReadTx, view: View, memberships: Iterable[str]) -> bool:
    """Whether there are invites among these that the user wants none of."""
    return "invite" in memberships and blocks_invites(tx, view.who.user_id)


def _empty(view: View, upto: int) -> Json:
    """The entry of a room without new events."""
    timeline = {"events": [], "limited": False, "prev_batch": str(RoomToken(upto))}
    return {"timeline": timeline, "state_after" if view.state_after else "state": {"events": []}}


def _message(recent: Recent, who: Requester, now: int) -> msgspec.Raw:
    """A message as the requester, who is in the room, is shown it."""
    unsigned: Json = {"age": max(0, now - recent.event.origin_server_ts), "membership": "join"}
    sent = recent.transaction
    if sent is not None and sent.user_id == who.user_id and sent.device_id == who.device_id:
        unsigned["transaction_id"] = sent.txn_id
    return with_unsigned(recent.event, unsigned, include_room_id=False)


def _senders(room: HotRoom, shown: Sequence[Recent], now: int) -> list[msgspec.Raw]:
    """The member events of those who speak."""
    found = [room.state.get(("m.room.member", sender)) for sender in sorted({one.event.sender for one in shown})]
    return [
        with_unsigned(event, {"age": max(0, now - event.origin_server_ts)}, include_room_id=False)
        for event in found
        if event is not None
    ]
