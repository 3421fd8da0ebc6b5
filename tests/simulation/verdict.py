"""What must hold of rooms in the end, on each server and between them; what does not, in words."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from homeserver.matrix import event_auth
from homeserver.matrix.event_auth import AuthError
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import UserId, domain_of
from homeserver.services.rooms.power import may_act
from homeserver.storage import events
from homeserver.storage.engine import ReadTx
from tests.simulation.seen import Seen, State, States, look

_POWERS = ("m.room.power_levels", "")


def compare(found: Mapping[str, Seen], said: Mapping[str, set[str]]) -> list[str]:
    """What servers do not agree on, and what some lack that others had taken (`said`, by server)."""
    wrong = []
    for (name, one), (other_name, other) in combinations(found.items(), 2):
        # Whether an event is rejected follows from the event and what is before it; whether it soft-fails does not.
        differing = (one.of_status(events.REJECTED) ^ other.of_status(events.REJECTED)) & one.placed & other.placed
        if differing:
            wrong.append(f"{name} and {other_name} do not agree on whether to reject {sorted(differing)}")
    seen = present(found)
    wrong += _compare_states(seen)
    return wrong + _look_for_the_lost(seen, said)


def present(found: Mapping[str, Seen]) -> dict[str, Seen]:
    """Those who are in the room, without who was put out and cannot know it."""
    seen = {name: one for name, one in found.items() if name in one.inside}
    out = {name for name, one in seen.items() if any(one.is_unaware_of(other, name) for other in seen.values())}
    return {name: one for name, one in seen.items() if name not in out}


def judge(tx: ReadTx, room_id: str) -> list[str]:
    """What is in the room that should not be there, or is not as it should be."""
    seen = look(tx, room_id)
    if seen is None:
        return []
    states = States(tx, seen)
    return _find_forbidden(seen, states) + _find_unredacted(seen, states)


def judge_sync(seen: Seen, timeline: Sequence[Any]) -> list[str]:
    """What clients are told of the room that is not so: nothing but what is part of it, as it is stored."""
    wrong = []
    for told in timeline:
        event_id = told["event_id"]
        if seen.verdicts.get(event_id) != events.OK:
            wrong.append(f"clients are told of {event_id}, whose verdict is {seen.verdicts.get(event_id)}")
        # Clients are told in the content what a redaction redacts, in all versions.
        elif {**told["content"], "redacts": None} != {**seen.events[event_id].content, "redacts": None}:
            wrong.append(f"clients are told of {event_id} with other content than it has")
    return wrong


def _compare_states(seen: Mapping[str, Seen]) -> list[str]:
    wrong = []
    states = {name: {pair: event.event_id for pair, event in one.state.items()} for name, one in seen.items()}
    for pair in sorted({pair for state in states.values() for pair in state}):
        by_server = {name: state.get(pair) for name, state in states.items()}
        if len(set(by_server.values())) > 1:
            verdicts = {
                name: {event_id: one.verdicts.get(event_id) for event_id in by_server.values() if event_id is not None}
                for name, one in seen.items()
            }
            wrong.append(f"they do not agree on {pair}: {by_server}, with the verdicts {verdicts}")
    return wrong


def _look_for_the_lost(seen: Mapping[str, Seen], said: Mapping[str, set[str]]) -> list[str]:
    """What servers in the room said they had taken, all others in it have, unless it lies in a gap they know of."""
    wrong = []
    taken = {event_id for name in seen for event_id in said.get(name, ())}
    before = {event_id: event.prev_events for one in seen.values() for event_id, event in one.events.items()}
    for name, one in seen.items():
        behind: set[str] = set()
        ways = [*one.gaps]
        while ways:
            event_id = ways.pop()
            if event_id not in behind:
                behind.add(event_id)
                ways.extend(before.get(event_id, []))
        if lost := taken - one.placed - behind:
            wrong.append(f"{name} lacks {sorted(lost)}")
    return wrong


def _find_forbidden(seen: Seen, states: States) -> list[str]:
    """Whatever clients were told as it happened, the room allowed, as it was when that came.

    What came with it counts as well: beyond a gap, the state before the event may let its sender in.
    """
    wrong = []
    now: State = {}
    for row in seen.live:
        event, then = seen.events[row.event_id], now
        now = states.at(row.room_root)
        told = {pair: one for pair, one in states.at(row.state_before).items() if pair[0] == "m.room.member"}
        if row.state_before is None or _stands_in(then, event):
            continue
        # Members whom a room that is known in part does not know are believed to be what the event says.
        reasons = [_refusal(event, {**told, **state}, seen.create) for state in (then, now)]
        if all(reasons):
            wrong.append(f"{event.event_id} of {event.sender} ({event.type}) was told to clients: {reasons[0]}")
    return wrong


def _find_unredacted(seen: Seen, states: States) -> list[str]:
    """What may redact has redacted; nothing else has."""
    wrong = []
    redacted = set()
    for row in seen.rows.values():
        event = seen.events[row.event_id]
        target = seen.events.get(event.redacts or "")
        if event.type != "m.room.redaction" or row.status != events.OK or target is None:
            continue
        if _may_redact(event, target, states.at(row.state_before), seen):
            redacted.add(target.event_id)
            if target.redacted().pdu != target.pdu:
                wrong.append(f"{target.event_id} has content still, though {event.event_id} redacts it")
    for row in seen.rows.values():
        by = None if row.redacted_by is None else seen.rows.get(row.redacted_by)
        # A redaction that was redacted does not tell any more what it was for.
        if row.redacted_by is not None and row.event_id not in redacted and (by is None or by.redacted_by is None):
            wrong.append(f"{row.event_id} was redacted, and nothing may have done so")
    return wrong


def _may_redact(event: Event, target: Event, before: State, seen: Seen) -> bool:
    if target.type == "m.room.create" or seen.verdicts[target.event_id] == events.REJECTED:
        return False
    if domain_of(event.sender) == domain_of(target.sender):
        return True
    return may_act(UserId(event.sender), "redact", before.get(_POWERS), seen.create)


def _stands_in(state: State, event: Event) -> bool:
    """Whether the state has the event already, from before it came."""
    standing = state.get((event.type, event.state_key or ""))
    return event.state_key is not None and standing is not None and standing.event_id == event.event_id


def _refusal(event: Event, state: State, create: Event) -> str:
    """Why the event is not allowed in this state; nothing if it is."""
    keys = event_auth.auth_event_keys(
        event.room_version,
        type=event.type,
        sender=event.sender,
        state_key=event.state_key,
        content=event.content_json,
    )
    try:
        event_auth.check_state_auth(event, [state[key] for key in keys if key in state], create=create)
    except AuthError as error:
        return str(error)
    return ""
