"""The authorisation rules through Python. That each rule holds in each version is tested in Rust."""

import json
from typing import Any

import pytest

from homeserver.matrix.event_auth import (
    AuthError,
    auth_event_keys,
    check_auth,
    check_state_auth,
    level_for_action,
    level_for_event,
    notification_level,
    power_level_of,
)
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.matrix.signing import SigningKey

KEY = SigningKey.generate("1", bytes(32))
by_version = pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda version: version.identifier)
ALICE = "@alice:one"
BOB = "@bob:one"


class Room:
    """Builds events on the state that it has."""

    def __init__(self, version: RoomVersion) -> None:
        self.version = version
        self.state: dict[tuple[str, str], Event] = {}
        self.last: list[Event] = []
        content: dict[str, Any] = {"room_version": version.identifier}
        if version.creator_in_content:
            content["creator"] = ALICE
        self.create = self.build("m.room.create", ALICE, "", content)
        self.send("m.room.member", ALICE, ALICE, {"membership": "join"})
        self.send(
            "m.room.power_levels", ALICE, "", {"users": {} if version.creators_have_infinite_power else {ALICE: 100}}
        )
        self.send("m.room.join_rules", ALICE, "", {"join_rule": "public"})
        self.send("m.room.member", BOB, BOB, {"membership": "join"})

    def auth_events(self, kind: str, sender: str, state_key: str | None, content: dict[str, Any]) -> list[Event]:
        keys = auth_event_keys(
            self.version.identifier,
            type=kind,
            sender=sender,
            state_key=state_key,
            content=json.dumps(content).encode(),
        )
        return [self.state[key] for key in keys if key in self.state]

    def build(self, kind: str, sender: str, state_key: str | None, content: dict[str, Any]) -> Event:
        is_create = kind == "m.room.create"
        event = build_event(
            self.version.identifier,
            server_name="one",
            key=KEY,
            room_id=None
            if is_create and self.version.room_ids_are_hashes
            else "!r:one"
            if is_create
            else self.create.room_id,
            type=kind,
            sender=sender,
            state_key=state_key,
            content=json.dumps(content).encode(),
            origin_server_ts=1,
            depth=len(self.state),
            prev_events=self.last,
            auth_events=self.auth_events(kind, sender, state_key, content),
            event_id=f"$e{len(self.state)}:one" if self.version.event_ids_in_pdu else None,
        )
        if is_create:
            self.accept(event)
        return event

    def accept(self, event: Event) -> None:
        self.state[event.type, event.state_key or ""] = event
        self.last = [event]

    def check(self, event: Event) -> None:
        cited = self.auth_events(event.type, event.sender, event.state_key, event.content)
        check_auth(event, cited, create=self.create)
        check_state_auth(event, list(self.state.values()), create=self.create)

    def send(self, kind: str, sender: str, state_key: str, content: dict[str, Any]) -> None:
        event = self.build(kind, sender, state_key, content)
        self.check(event)
        self.accept(event)


@pytest.mark.behaviours("RV-03", "RV-06")
@by_version
def test_a_room_of_each_version_can_live(version: RoomVersion) -> None:
    room = Room(version)
    check_auth(room.create, [])
    room.check(room.build("m.room.message", BOB, None, {"body": "x"}))
    levels: dict[str, Any] = {"users": {BOB: 50}}
    if not version.creators_have_infinite_power:
        levels["users"][ALICE] = 100
    room.send("m.room.power_levels", ALICE, "", levels)
    room.send("m.room.name", BOB, "", {"name": "x"})
    room.send("m.room.member", ALICE, BOB, {"membership": "ban"})
    with pytest.raises(AuthError, match="banned"):
        room.check(room.build("m.room.member", BOB, BOB, {"membership": "join"}))


@by_version
def test_auth_error_says_why(version: RoomVersion) -> None:
    room = Room(version)
    event = room.build("m.room.name", BOB, "", {"name": "x"})
    with pytest.raises(AuthError) as error:
        room.check(event)
    assert str(error.value) == "sender's power level 0 is below the level 50 required for m.room.name"
    assert not isinstance(error.value, ValueError)


@pytest.mark.behaviours("RV-06")
@by_version
def test_create_event_in_auth_events(version: RoomVersion) -> None:
    room = Room(version)
    event = room.build("m.room.message", BOB, None, {})
    cited = room.auth_events("m.room.message", BOB, None, {})
    assert (room.create in cited) is version.create_in_auth_events
    if version.create_in_auth_events:
        check_auth(event, cited)
        with pytest.raises(AuthError, match=r"no m\.room\.create"):
            check_auth(event, [cited_event for cited_event in cited if cited_event.type != "m.room.create"])
    else:
        with pytest.raises(AuthError, match="not known"):
            check_auth(event, cited)
        with pytest.raises(AuthError, match="needlessly"):
            check_auth(event, [*cited, room.create], create=room.create)


@by_version
def test_rejected_auth_events_reject(version: RoomVersion) -> None:
    room = Room(version)
    event = room.build("m.room.message", BOB, None, {})
    cited = room.auth_events("m.room.message", BOB, None, {})
    for rejected in (*cited, room.create):
        for ids in ({rejected.event_id}, frozenset([rejected.event_id])):
            with pytest.raises(AuthError, match="rejected"):
                check_auth(event, cited, create=room.create, rejected=ids)
    check_auth(event, cited, create=room.create, rejected={"$other"})


@pytest.mark.behaviours("RV-04")
@by_version
def test_create_event_of_unknown_version_is_rejected(version: RoomVersion) -> None:
    room = Room(version)
    room.last = []
    event = room.build("m.room.create", ALICE, "", {"creator": ALICE, "room_version": "unknown"})
    with pytest.raises(AuthError, match="room version"):
        check_auth(event, [])


@by_version
def test_auth_event_keys_of_a_restricted_join(version: RoomVersion) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": BOB}
    keys = auth_event_keys(
        version.identifier, type="m.room.member", sender=ALICE, state_key=ALICE, content=json.dumps(content).encode()
    )
    expected = [("m.room.power_levels", ""), ("m.room.member", ALICE), ("m.room.join_rules", "")]
    if version.restricted:
        expected.append(("m.room.member", BOB))
    if version.create_in_auth_events:
        expected.insert(0, ("m.room.create", ""))
    assert keys == expected


@by_version
def test_levels(version: RoomVersion) -> None:
    room = Room(version)
    creator = None if version.creators_have_infinite_power else 100
    assert power_level_of(ALICE, None, room.create) == creator
    assert power_level_of(BOB, None, room.create) == 0
    levels = room.build(
        "m.room.power_levels",
        ALICE,
        "",
        {
            "users": {BOB: 40},
            "users_default": 5,
            "events": {"m.room.name": 30},
            "events_default": 6,
            "state_default": 7,
            "ban": 1,
            "kick": 2,
            "redact": 3,
            "invite": 4,
            "notifications": {"room": 8},
        },
    )
    assert power_level_of(ALICE, levels, room.create) == (None if creator is None else 5)
    assert power_level_of(BOB, levels, room.create) == 40
    assert level_for_event("m.room.name", True, levels) == 30
    assert level_for_event("m.room.topic", True, levels) == 7
    assert level_for_event("m.room.message", False, levels) == 6
    assert [level_for_action(action, levels) for action in ("ban", "kick", "redact", "invite")] == [1, 2, 3, 4]
    assert notification_level("room", levels) == 8
    assert notification_level("other", levels) == 50


def test_levels_without_power_levels_are_the_defaults() -> None:
    assert level_for_event("m.room.name", True, None) == 50
    assert level_for_event("m.room.message", False, None) == 0
    assert [level_for_action(action, None) for action in ("ban", "kick", "redact", "invite")] == [50, 50, 50, 0]
    assert notification_level("room", None) == 50
    with pytest.raises(ValueError, match="action"):
        level_for_action("dance", None)  # type: ignore[arg-type]  # that is the point


@pytest.mark.behaviours("RV-03")
def test_old_power_levels_may_be_strings_and_floats() -> None:
    room = Room(ROOM_VERSIONS["1"])
    levels = room.build("m.room.power_levels", ALICE, "", {"users": {ALICE: " +0100 ", BOB: 50.57}, "ban": "x"})
    assert power_level_of(ALICE, levels, room.create) == 100
    assert power_level_of(BOB, levels, room.create) == 50
    with pytest.raises(AuthError, match="no integer in ban"):
        level_for_action("ban", levels)
