"""What one room has for one client between two positions: timeline, state, summary (client-server API, Syncing)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.matrix.events import Event
from homeserver.matrix.filters import RoomFilter
from homeserver.matrix.identifiers import UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.client_events import Form, show, show_state_events, with_unsigned
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.stays import is_joined_since
from homeserver.services.rooms.stripped import STRIPPED
from homeserver.services.rooms.visibility import Onlooker, Seen
from homeserver.storage import events, members, places, timelines
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.members import Member
from homeserver.storage.out_of_room import Outsider
from homeserver.storage.rooms import Room
from homeserver.storage.state import Pair
from homeserver.streams.positions import RoomToken

DEFAULT_TIMELINE = 10
_PAGE = 100
_PAGES = 5
_HEROES = 5

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """Who looks, and how."""

    who: Requester
    filter: RoomFilter
    full_state: bool
    state_after: bool
    as_pdus: bool
    now: int
    ignored: frozenset[UserId]

    def onlooker(self, tx: ReadTx, trees: StateTrees, room: Room, member: Member) -> Onlooker:
        """The same, looking at one room."""
        return Onlooker(tx, trees, room, self.who.user_id, member, self.ignored)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The newest events of a stretch of a room, the oldest first."""

    seen: list[Seen]
    limited: bool
    """The stretch has further events before these."""
    skipped: bool
    """Events among or before these were left out, so that state may have changed without being told."""
    is_empty: bool
    """Nothing happened in the stretch."""
    has_gap: bool
    """Events are missing before those of the stretch."""
    before: int
    """The place just before the first event."""


def joined_room(
    tx: ReadTx, trees: StateTrees, view: View, room: Room, member: Member, *, since: int | None, upto: int
) -> Json | None:
    """The entry of a room that the user is in, or None if nothing changed in it after `since`."""
    eye = view.onlooker(tx, trees, room, member)
    base = since if since is not None and is_joined_since(tx, room.version, member, since) else None
    base = _in_history(room, base)
    timeline = _timeline(tx, eye, view, base=base, upto=upto)
    became_whole = base is not None and base < room.completed_at
    if base is not None and not view.full_state and timeline.is_empty and not became_whole:
        return None
    state, members_changed = _state(tx, trees, view, room, timeline, base=base, end=room.state_root)
    is_told = bool(timeline.seen or state or timeline.has_gap or became_whole)
    if base is not None and not view.full_state and not is_told:
        return None
    entry = _entry(tx, eye, view, timeline)
    heroes: Sequence[UserId] = ()
    if base is None or view.full_state or members_changed or became_whole or _has_member(timeline):
        entry["summary"] = summary = _summary(tx, room.room_nid, view.who.user_id)
        heroes = summary["m.heroes"]
    state.update(_lazy(tx, trees, view, room, timeline, heroes, is_whole=base is None or view.full_state))
    _put_state(tx, view, room, entry, state.values())
    return entry


def left_room(tx: ReadTx, trees: StateTrees, view: View, room: Room, member: Member, *, since: int | None) -> Json:
    """The entry of a room that the user has left, up to the leave."""
    eye = view.onlooker(tx, trees, room, member)
    leave = events.find_many(tx, [member.event])[member.event]
    was_joined = eye.end is not None
    base = _in_history(room, since) if was_joined else None
    if was_joined:
        timeline = _timeline(tx, eye, view, base=base, upto=member.position)
        state, _ = _state(tx, trees, view, room, timeline, base=base, end=_root_at(tx, room, member.position))
    else:
        # An invite that was rejected, or a knock that came to nothing: nothing but the end of it is theirs to see.
        seen = [Seen(leave, parse(leave, room.version), member.membership)]
        before = places.at(member.position) - 1
        timeline, state = Timeline(seen, limited=False, skipped=False, is_empty=False, has_gap=False, before=before), {}
    entry = _entry(tx, eye, view, timeline)
    state.update(_lazy(tx, trees, view, room, timeline, (), is_whole=base is None and was_joined))
    _put_state(tx, view, room, entry, state.values())
    return entry


def stripped_room(tx: ReadTx, trees: StateTrees, room: Room, member: Member) -> list[msgspec.Raw]:
    """What somebody who is invited, or knocks, is told of the room: its stripped state at that moment."""
    event = events.find_many(tx, [member.event])[member.event]
    pairs: list[Pair] = [(kind, "") for kind in STRIPPED]
    # Where the history of that time was purged, it is the state of now.
    root = event.state_after or room.state_root
    positions = trees.find(tx, root, [*pairs, ("m.room.member", member.user_id)])
    stored = events.find_many(tx, positions.values())
    return [msgspec.Raw(parse(stored[position], room.version).stripped_json()) for position in sorted(stored)]


def left_outside(view: View, outsider: Outsider, upto: int) -> Json:
    """The entry of a room of which nothing was known but an invite or a knock, and that is over now."""
    event = Event.parse(outsider.pdu, outsider.version)
    unsigned = {"age": max(0, view.now - event.origin_server_ts)}
    shown = msgspec.Raw(event.pdu) if view.as_pdus else with_unsigned(event, unsigned, include_room_id=False)
    timeline = {"events": [shown], "limited": False, "prev_batch": str(RoomToken(upto))}
    return {"timeline": timeline, "state_after" if view.state_after else "state": {"events": []}}


def _in_history(room: Room, since: int | None) -> int | None:
    """The position from which on changes can be told; None where they were purged, so that all has to be told anew."""
    return since if since is not None and since + 1 >= room.purged_before else None


def _timeline(tx: ReadTx, eye: Onlooker, view: View, *, base: int | None, upto: int) -> Timeline:
    wanted, room = view.filter.timeline, eye.room
    limit = wanted.limit_or(DEFAULT_TIMELINE) if wanted.admits_room(room.room_id) else 0
    seen: list[Seen] = []
    end, more, skipped, is_empty = places.at(upto), True, False, True
    # What is missing before an event may come later, where it belongs: before the event.
    has_gap = room.gapped_at > (base or 0) and room.gapped_at <= upto
    after = places.at(room.gapped_at) - 1 if has_gap else places.FIRST if base is None else places.upto(base)
    for _ in range(_PAGES):
        size = limit + 1 if wanted.admits_all else _PAGE
        rows = timelines.list_backwards(tx, room.room_nid, after=after, upto=end, limit=size)
        heard = [one for one in eye.seen(rows) if eye.hears(one.event)]
        admitted = heard if wanted.admits_all else [one for one in heard if wanted.admits_event(one.event)]
        is_empty = is_empty and not rows
        skipped = skipped or len(admitted) < len(rows)
        seen.extend(admitted)
        more = len(rows) == size
        if not more or len(seen) > limit:
            break
        end = rows[-1].timeline_place - 1
    limited = more or has_gap or len(seen) > limit
    chosen = seen[:limit][::-1]
    before = chosen[0].stored.timeline_place - 1 if chosen else places.upto(upto)
    return Timeline(chosen, limited, skipped or limited, is_empty, has_gap, before)


def _state(
    tx: ReadTx, trees: StateTrees, view: View, room: Room, timeline: Timeline, *, base: int | None, end: int | None
) -> tuple[dict[Pair, int], bool]:
    """The state to tell, and whether memberships changed in it."""
    if not view.filter.state.admits_room(room.room_id):
        return {}, False
    is_forked = room.forked_at > (places.position_of(timeline.before) if base is None or view.full_state else base)
    # Where branches met, the state changes by more than the timeline tells, so the rest of it is told beforehand.
    told = {one.stored.position for one in timeline.seen} if is_forked and not view.state_after else set()
    target = end
    if not view.state_after and timeline.seen and not is_forked:
        target = timeline.seen[0].stored.state_before
    if base is None or view.full_state:
        whole = {pair: at for pair, at in trees.items(tx, target).items() if at not in told}
        return _without_members(view, whole), False
    if not timeline.skipped and not view.state_after and not is_forked:
        return {}, False
    changes = trees.difference(tx, _root_at(tx, room, base), target)
    if base < room.completed_at and view.filter.state.lazy_load_members:
        # The members of a room that was known in part; who needs one of them is told of that one.
        changes = {pair: change for pair, change in changes.items() if pair[0] != "m.room.member" or change[0]}
    state = {pair: new for pair, (_, new) in changes.items() if new is not None and new not in told}
    return state, any(kind == "m.room.member" for kind, _ in changes)


def _root_at(tx: ReadTx, room: Room, position: int) -> int | None:
    """The state of the room at a position."""
    last = timelines.list_backwards(tx, room.room_nid, after=places.FIRST, upto=places.at(position), limit=1)
    if last and max(last[0].came_at + 1, room.purged_before) <= room.completed_at <= position:
        return room.completed_root  # What was in the state and not known came without an event.
    return last[0].room_root if last else None


def _without_members(view: View, state: dict[Pair, int]) -> dict[Pair, int]:
    """A whole state as it is shown at first: under lazy loading members come by `_lazy`."""
    if not view.filter.state.lazy_load_members:
        return state
    return {pair: position for pair, position in state.items() if pair[0] != "m.room.member"}


def _lazy(
    tx: ReadTx,
    trees: StateTrees,
    view: View,
    room: Room,
    timeline: Timeline,
    heroes: Iterable[str],
    *,
    is_whole: bool,
) -> dict[Pair, int]:
    """The member events that a client needs under lazy loading: of those who speak, of heroes, and its own."""
    if not view.filter.state.lazy_load_members:
        return {}
    users = {*heroes, *(one.event.sender for one in timeline.seen)}
    if is_whole:
        users.add(view.who.user_id)
    if not users:
        return {}
    root = room.state_root
    if timeline.seen and room.forked_at <= places.position_of(timeline.before):
        root = timeline.seen[-1].stored.state_after or root
        if not view.state_after:
            root = timeline.seen[0].stored.state_before or root
    return trees.find(tx, root, [("m.room.member", user_id) for user_id in sorted(users)])


def _entry(tx: ReadTx, eye: Onlooker, view: View, timeline: Timeline) -> Json:
    if view.as_pdus:
        shown = [msgspec.Raw(one.event.pdu) for one in timeline.seen]
    else:
        form = Form(now=view.now, include_room_id=False, bundle=timeline.limited)
        shown = show(tx, eye, view.who, timeline.seen, form)
    prev_batch = str(RoomToken.at(timeline.before))
    return {"timeline": {"events": shown, "limited": timeline.limited, "prev_batch": prev_batch}}


def _put_state(tx: ReadTx, view: View, room: Room, entry: Json, positions: Iterable[int]) -> None:
    wanted = view.filter.state
    rows: Iterable[StoredEvent] = events.find_many(tx, set(positions)).values()
    if not wanted.admits_all:
        rows = [row for row in rows if wanted.admits_event(parse(row, room.version))]
    if view.as_pdus:
        shown = [msgspec.Raw(row.pdu) for row in sorted(rows, key=lambda row: row.position)]
    else:
        shown = show_state_events(tx, room.version, rows, view.now, include_room_id=False)
    entry["state_after" if view.state_after else "state"] = {"events": shown}


def _summary(tx: ReadTx, room_nid: int, user_id: UserId) -> Json:
    counts = members.count(tx, room_nid)
    heroes = members.list_first(tx, room_nid, ["join", "invite"], but=user_id, limit=_HEROES)
    if not heroes:
        heroes = members.list_first(tx, room_nid, ["leave", "ban"], but=user_id, limit=_HEROES)
    return {
        "m.heroes": heroes,
        "m.joined_member_count": counts.get("join", 0),
        "m.invited_member_count": counts.get("invite", 0),
    }


def _has_member(timeline: Timeline) -> bool:
    return any(one.event.type == "m.room.member" for one in timeline.seen)
