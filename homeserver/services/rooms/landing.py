"""The transaction by which a join event, and the state that it was sent upon, become the room.

It is written apart from all other events (`record.py`), because it puts a whole state in the place of another: what
is in memory meanwhile are numbers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from homeserver.kit import crash
from homeserver.matrix import auth_graph
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.services.rooms.state import StateTrees, StateWriter
from homeserver.storage import (
    event_graph,
    events,
    introductions,
    members,
    originals,
    partial_rooms,
    places,
    room_servers,
    rooms,
    stream_rows,
)
from homeserver.storage.engine import WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.introductions import Introduction
from homeserver.storage.members import Member
from homeserver.storage.partial_rooms import PartialRoom
from homeserver.storage.tables import chunks

PARTIAL = "partial rooms"
"""The notifier's key of rooms that are known in part from now on."""

_ROWS = 500
"""So many rows are written by one statement: between statements others have a turn."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a user's member event makes of the user."""

    membership: str
    sender: UserId
    event: int
    """Its position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """A join event, and all that the room is when it has come."""

    room_nid: int
    room_id: RoomId
    root: int | None
    """The state of the room as it was known until now."""
    tips: Sequence[int]
    event: Event
    auth: Sequence[int]
    state: Mapping[int, int]
    """The state before the event: positions by pair id."""
    members: Mapping[UserId, Membership]
    """The members by this state."""
    missing: Sequence[EventId]
    """The events before it that are not known."""
    partial: Collection[ServerName] | None = None
    """The servers in the room, where members are missing from the state."""
    left_out: Collection[EventId] = ()
    """What else is missing that was named as part of it."""
    via: str = ""
    now: int = 0


def land(tx: WriteTx, trees: StateTrees, landing: Landing, server_name: str, commit: Callable[[], None]) -> StoredEvent:
    """Write it; `commit` is called after the commit, before anybody is woken."""
    event, nid = landing.event, landing.room_nid
    assert event.state_key is not None
    pair = (event.type, event.state_key)
    states = trees.begin(tx, {pair})
    pair_id = states.ids[pair]
    position = stream_rows.advance(tx, 2)
    before = change_to(states, landing.root, landing.state, position - 1)
    row = StoredEvent(
        position=position,
        place=places.at(position),
        room_nid=nid,
        event_id=EventId(event.event_id),
        depth=event.depth,
        origin_server_ts=event.origin_server_ts,
        pair_id=pair_id,
        replaces=landing.state.get(pair_id),
        state_before=before,
        state_after=states.change(before, {pair_id: position}, position),
        room_state=None,
        auth=auth_graph.pack(position, list(landing.auth)),
        status=events.OK,
        redacted_by=None,
        pdu=event.pdu,
    )
    events.insert_many(tx, [row])
    states.store(tx)
    event_graph.end_waiting(tx, [row.event_id])
    event_graph.remove_backward_extremities(tx, [row.event_id])
    event_graph.add_backward_extremities(tx, nid, position, landing.missing)
    assert row.state_after is not None
    rooms.set_state_roots(tx, [(nid, row.state_after)])
    rooms.set_forked(tx, [(nid, position)])
    if landing.missing:
        rooms.set_gapped(tx, [(nid, position)])
    rooms.set_arrived(tx, nid, position)
    rooms.replace_extremities(tx, [(nid, tip) for tip in landing.tips], [(nid, position)])
    own = Membership("join", UserId(event.sender), position)
    changed = write_members(tx, nid, {**landing.members, UserId(event.state_key): own}, position)
    servers = servers_by(landing.members, server_name)
    originals.remove_of_room(tx, nid)  # What happened before is not judged again.
    if landing.partial is None:
        partial_rooms.remove(tx, nid)
    else:
        servers.update(one for one in landing.partial if one != server_name)
        partial_rooms.put(tx, PartialRoom(nid, position, before, landing.via, landing.now), landing.left_out)
        tx.wake([PARTIAL])
    room_servers.replace(tx, nid, servers, position)
    if servers:
        introductions.add_many(tx, [Introduction(position, UserId(event.state_key), nid)])
    tx.wake([landing.room_id, members.GUESTS, *(user_id for user_id in changed if domain_of(user_id) == server_name)])

    def settle() -> None:
        crash.point("K4")
        trees.keep(states)
        commit()
        crash.point("K5")

    tx.on_commit(settle)
    crash.point("K3")
    return row


def change_to(states: StateWriter, root: int | None, state: Mapping[int, int], page: int) -> int:
    """The root of this state, which has in common with that of the other root what it can."""
    old = states.items(root)
    changes: dict[int, int | None] = {pair: at for pair, at in state.items() if old.get(pair) != at}
    changes.update((pair, None) for pair in old.keys() - state.keys())
    if not changes and root is not None:
        return root
    return states.change(root, changes, page)


def servers_by(members_: Mapping[UserId, Membership], server_name: str) -> set[ServerName]:
    """The other servers of those who are in the room."""
    servers = {ServerName(domain_of(user_id)) for user_id, one in members_.items() if one.membership == "join"}
    return servers - {server_name}


def write_members(tx: WriteTx, room_nid: int, now: Mapping[UserId, Membership], position: int) -> set[UserId]:
    """Let the table of memberships say this and nothing else of a room; who is another than before."""
    old = {member.user_id: member for member in members.list_in_room(tx, room_nid)}
    changed = [
        Member(room_nid, user_id, one.membership, one.sender, position, one.event)
        for user_id, one in now.items()
        if (was := old.get(user_id)) is None
        or (was.membership, was.sender, was.event) != (one.membership, one.sender, one.event)
    ]
    gone = [(room_nid, user_id) for user_id in old.keys() - now.keys()]
    for part in chunks(changed, _ROWS):
        members.set_many(tx, part)
    for group in chunks(gone, _ROWS):
        members.remove_many(tx, group)
    return {member.user_id for member in changed} | {user_id for _, user_id in gone}
