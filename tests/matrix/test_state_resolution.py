"""State resolution through Python. That it does what the specification says is tested in Rust."""

import json
from itertools import permutations
from typing import Any

import pytest

from homeserver.matrix.event_auth import AuthError, auth_event_keys, check_state_auth
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.state_resolution import Resolution, needed_pairs, resolve, resolve_states

KEY = SigningKey.generate("1", bytes(32))
ALICE, BOB, CAROL = "@alice:one", "@bob:one", "@carol:one"
by_version = pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda version: version.identifier)

State = dict[tuple[str, str], str]


class Room:
    """A room whose branches grow from any state."""

    def __init__(self, version: RoomVersion) -> None:
        self.version = version
        self.events: dict[str, Event] = {}
        content: dict[str, Any] = {"room_version": version.identifier}
        if version.creator_in_content:
            content["creator"] = ALICE
        self.create = self.build({}, "m.room.create", ALICE, "", content)
        state: State = {("m.room.create", ""): self.create.event_id}
        state = self.send(state, "m.room.member", ALICE, ALICE, {"membership": "join"})
        users = {} if version.creators_have_infinite_power else {ALICE: 100}
        state = self.send(state, "m.room.power_levels", ALICE, "", {"users": {**users, BOB: 50}})
        state = self.send(state, "m.room.join_rules", ALICE, "", {"join_rule": "public"})
        self.base = self.send(state, "m.room.member", BOB, BOB, {"membership": "join"})

    def cited(self, state: State, event: tuple[str, str, str | None, dict[str, Any]]) -> list[Event]:
        kind, sender, state_key, content = event
        keys = auth_event_keys(
            self.version.identifier, type=kind, sender=sender, state_key=state_key, content=json.dumps(content).encode()
        )
        return [self.events[state[key]] for key in keys if key in state]

    def build(self, state: State, kind: str, sender: str, state_key: str, content: dict[str, Any]) -> Event:
        is_create = kind == "m.room.create"
        room_id = self.create.room_id if not is_create else None if self.version.room_ids_are_hashes else "!r:one"
        event = build_event(
            self.version.identifier,
            server_name="one",
            key=KEY,
            room_id=room_id,
            type=kind,
            sender=sender,
            state_key=state_key,
            content=json.dumps(content).encode(),
            origin_server_ts=len(self.events),
            depth=len(self.events),
            prev_events=list(self.events.values())[-1:],
            auth_events=self.cited(state, (kind, sender, state_key, content)),
            event_id=f"$e{len(self.events)}:one" if self.version.event_ids_in_pdu else None,
        )
        self.events[event.event_id] = event
        return event

    def send(self, state: State, kind: str, sender: str, state_key: str, content: dict[str, Any]) -> State:
        event = self.build(state, kind, sender, state_key, content)
        check_state_auth(event, [self.events[event_id] for event_id in state.values()], create=self.create)
        return {**state, (kind, state_key): event.event_id}

    def resolve(self, *states: State) -> Resolution:
        return resolve_states(self.version.identifier, states, list(self.events.values()))


@pytest.mark.behaviours("RV-03", "RV-05")
@by_version
def test_ban_on_one_branch_beats_what_the_banned_did_on_another(version: RoomVersion) -> None:
    room = Room(version)
    named = room.send(room.base, "m.room.name", BOB, "", {"name": "Bob's"})
    banned = room.send(room.base, "m.room.member", ALICE, BOB, {"membership": "ban"})
    resolution = room.resolve(named, banned)
    assert resolution.missing == []
    expected = {("m.room.member", BOB): banned["m.room.member", BOB]}
    if version.state_resolution == "1":
        # Where no event of a pair is allowed, version 1 keeps one nevertheless.
        assert resolution.state == {**expected, ("m.room.name", ""): named["m.room.name", ""]}
        assert resolution.lost == []
    else:
        assert resolution.state == expected
        assert resolution.lost == [(named["m.room.name", ""], f"{BOB} is not joined to the room")]


@pytest.mark.behaviours("RV-05")
@by_version
def test_order_of_states_and_events_does_not_matter(version: RoomVersion) -> None:
    room = Room(version)
    one = room.send(room.base, "m.room.topic", ALICE, "", {"topic": "one"})
    two = room.send(room.base, "m.room.topic", BOB, "", {"topic": "two"})
    three = room.send(two, "m.room.member", CAROL, CAROL, {"membership": "join"})
    expected = room.resolve(one, two, three).state
    assert expected == {
        ("m.room.topic", ""): two["m.room.topic", ""],
        ("m.room.member", CAROL): three["m.room.member", CAROL],
    }
    events = list(room.events.values())
    for states in permutations([one, two, three]):
        events = [*events[3:], *events[:3]]
        assert resolve_states(version.identifier, states, events).state == expected


@by_version
def test_equal_states_leave_nothing_to_decide(version: RoomVersion) -> None:
    room = Room(version)
    resolution = room.resolve(room.base, dict(room.base))
    assert (resolution.state, resolution.lost, resolution.applied, resolution.missing) == ({}, [], [], [])


@pytest.mark.behaviours("RV-05")
@by_version
def test_conflict_alone_is_resolved_with_what_is_missing_asked_for(version: RoomVersion) -> None:
    room = Room(version)
    one = room.send(room.base, "m.room.member", CAROL, CAROL, {"membership": "join"})
    two = room.send(room.base, "m.room.topic", BOB, "", {"topic": "two"})
    conflicted = [room.events[one["m.room.member", CAROL]], room.events[two["m.room.topic", ""]]]
    # Both chains have the same events: all that is cited is in the common state.
    pairs = needed_pairs(conflicted)
    assert ("m.room.member", CAROL) in pairs
    assert ("m.room.member", BOB) in pairs
    assert ("m.room.member", ALICE) not in pairs
    unconflicted = [room.events[room.base[pair]] for pair in pairs if pair in room.base]
    known: list[Event] = []
    rounds = 0
    while True:
        resolution = resolve(
            version.identifier,
            create=room.create,
            unconflicted=unconflicted,
            conflicted=conflicted,
            auth_difference=[],
            subgraph=[],
            known=known,
            rejected=set(),
        )
        if not resolution.missing:
            break
        assert resolution.state == {}
        known += [room.events[event_id] for event_id in resolution.missing]
        rounds += 1
    assert resolution.state == room.resolve(one, two).state
    assert sorted(resolution.applied) == sorted(event.event_id for event in conflicted)
    assert rounds == 0


@by_version
def test_unknown_auth_events_are_asked_for_at_once(version: RoomVersion) -> None:
    room = Room(version)
    one = room.send(room.base, "m.room.topic", ALICE, "", {"topic": "one"})
    two = room.send(room.base, "m.room.topic", BOB, "", {"topic": "two"})
    conflicted = [room.events[state["m.room.topic", ""]] for state in (one, two)]
    resolution = resolve(
        version.identifier,
        create=room.create,
        unconflicted=[],
        conflicted=conflicted,
        auth_difference=[],
        subgraph=[],
        known=[],
        rejected=(),
    )
    if version.state_resolution == "1":
        # Version 1 never looks at what an event cites.
        assert resolution.missing == []
        assert resolution.lost == [(conflicted[1].event_id, f"{BOB} is not joined to the room")]
    else:
        cited = {event_id for event in conflicted for event_id in event.auth_events}
        assert resolution.missing == sorted(cited - {room.create.event_id})
        assert (resolution.state, resolution.lost) == ({}, [])


def test_rejected_event_authorises_nothing() -> None:
    room = Room(ROOM_VERSIONS["11"])
    before = {pair: event_id for pair, event_id in room.base.items() if pair != ("m.room.member", BOB)}
    named = room.send(room.base, "m.room.name", BOB, "", {"name": "x"})
    rejected = {room.base["m.room.member", BOB]}
    resolution = resolve_states("11", [before, named], list(room.events.values()), rejected)
    assert ("m.room.name", "") not in resolution.state
    assert ("m.room.name", "") in resolve_states("11", [before, named], list(room.events.values())).state


def test_events_without_a_create_event_are_refused() -> None:
    room = Room(ROOM_VERSIONS["12"])
    with pytest.raises(ValueError, match=r"no m\.room\.create"):
        resolve_states("12", [room.base, {}], [])


def test_forbidden_branch_cannot_be_built() -> None:
    # The tests above rely on it.
    room = Room(ROOM_VERSIONS["12"])
    with pytest.raises(AuthError):
        room.send(room.base, "m.room.topic", CAROL, "", {"topic": "x"})
