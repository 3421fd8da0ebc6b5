"""Which push rules an event meets, by the specification's examples and the predefined rules."""

import json
from typing import Any

import pytest

from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event
from homeserver.matrix.push_rules import Outcome, Ruleset, default_rules, evaluate

Json = dict[str, Any]

ALICE, BOB = "@alice:localhost", "@bob:localhost"


def event_of(change: Json, *, version: str = "11", sender: str = BOB) -> Event:
    fields: Json = {
        "type": "m.room.message",
        "sender": sender,
        "room_id": "!room:localhost",
        "content": {
            "msgtype": "m.text",
            "body": "An exciting triple-whammy",
            "m.x": {"n": 1, "list": ["a", 2, None, {}], "null": None, "true": True},
            "topic": "Lunch plans",
            "a\\b": "backslash",
        },
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        "hashes": {"sha256": ""},
        "signatures": {},
    }
    return Event.parse(json.dumps({**fields, **change}).encode(), version, "$event")


CREATE = event_of({"type": "m.room.create", "state_key": "", "content": {}}, sender="@carol:localhost")
LEVELS = event_of(
    {
        "type": "m.room.power_levels",
        "state_key": "",
        "content": {"users": {BOB: 40}, "notifications": {"high": 41, "low": 40}},
    }
)


def outcome_of(
    event: Event, ruleset: Ruleset, *, name: str | None = "Alice", user_id: str = ALICE, members: int = 3
) -> Outcome:
    [outcome] = evaluate(event, [(ruleset, user_id, name)], member_count=members, power_levels=LEVELS, create=CREATE)
    return outcome


def ruleset_of(rules: Json) -> Ruleset:
    return Ruleset(json.dumps(rules).encode())


def is_met(condition: Any, event: Event, **more: Any) -> bool:
    rule = {"rule_id": "x", "enabled": True, "conditions": [condition], "actions": ["notify"]}
    return outcome_of(event, ruleset_of({"override": [rule]}), **more).notify


@pytest.mark.behaviours("CS-PUSH-05", "CS-PUSH-06", "CS-PUSH-07", "CS-PUSH-08", "ID-06")
@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ({"kind": "event_match", "key": "content.body", "pattern": "ex*ple"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "EXCITING"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "excit"}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": "citing"}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": "excit*"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "*hamm?"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "whamm?"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "whammy?"}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": "triple-whammy"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "whammy*exciting"}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": "*"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunc?*"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunch"}, False),
        ({"kind": "event_match", "key": "content.topic", "pattern": "l*n*s"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunch plans*lunch plans"}, False),
        ({"kind": "event_match", "key": "content.topic", "pattern": "???????????"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "????????????"}, False),
        ({"kind": "event_match", "key": "type", "pattern": "m.room.*"}, True),
        ({"kind": "event_match", "key": "type", "pattern": "M.Room.Message"}, True),
        ({"kind": "event_match", "key": "type", "pattern": "room"}, False),
        ({"kind": "event_match", "key": "state_key", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.absent", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "", "pattern": "*"}, False),
        ({"kind": "event_match", "key": r"content.m\.x.n", "pattern": "1"}, False),
        ({"kind": "event_match", "key": "content.m.x.n", "pattern": "1"}, False),
        ({"kind": "event_match", "key": r"content.m\.x.null", "pattern": "*"}, False),
        ({"kind": "event_match", "key": r"content.a\\b", "pattern": "backslash"}, True),
        ({"kind": "event_match", "key": r"content.a\b", "pattern": "backslash"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "a" + "*a" * 50}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": 3}, False),
        ({"kind": "event_property_is", "key": r"content.m\.x.n", "value": 1}, True),
        ({"kind": "event_property_is", "key": r"content.m\.x.n", "value": 1.0}, False),
        ({"kind": "event_property_is", "key": r"content.m\.x.n", "value": True}, False),
        ({"kind": "event_property_is", "key": r"content.m\.x.n", "value": "1"}, False),
        ({"kind": "event_property_is", "key": r"content.m\.x.true", "value": True}, True),
        ({"kind": "event_property_is", "key": r"content.m\.x.true", "value": False}, False),
        ({"kind": "event_property_is", "key": r"content.m\.x.null", "value": None}, True),
        ({"kind": "event_property_is", "key": r"content.m\.x.absent", "value": None}, False),
        ({"kind": "event_property_is", "key": r"content.m\.x.null"}, False),
        ({"kind": "event_property_is", "key": r"content.m\.x.list", "value": ["a", 2, None, {}]}, False),
        ({"kind": "event_property_is", "key": "sender", "value": BOB}, True),
        ({"kind": "event_property_is", "key": "sender", "value": BOB.upper()}, False),
        ({"kind": "event_property_is", "key": "origin_server_ts", "value": 1}, True),
        ({"kind": "event_property_contains", "key": r"content.m\.x.list", "value": 2}, True),
        ({"kind": "event_property_contains", "key": r"content.m\.x.list", "value": None}, True),
        ({"kind": "event_property_contains", "key": r"content.m\.x.list", "value": "2"}, False),
        ({"kind": "event_property_contains", "key": r"content.m\.x.list", "value": {}}, False),
        ({"kind": "event_property_contains", "key": r"content.m\.x.n", "value": 1}, False),
        ({"kind": "contains_display_name"}, False),
        ({"kind": "room_member_count", "is": "3"}, True),
        ({"kind": "room_member_count", "is": "==3"}, True),
        ({"kind": "room_member_count", "is": "<3"}, False),
        ({"kind": "room_member_count", "is": "<=3"}, True),
        ({"kind": "room_member_count", "is": ">2"}, True),
        ({"kind": "room_member_count", "is": ">=3"}, True),
        ({"kind": "room_member_count", "is": "=3"}, False),
        ({"kind": "room_member_count", "is": "three"}, False),
        ({"kind": "room_member_count", "is": "+3"}, False),
        ({"kind": "room_member_count", "is": "<" + "9" * 50}, False),
        ({"kind": "room_member_count", "is": ""}, False),
        ({"kind": "room_member_count", "is": 3}, False),
        ({"kind": "sender_notification_permission", "key": "low"}, True),
        ({"kind": "sender_notification_permission", "key": "high"}, False),
        ({"kind": "sender_notification_permission", "key": "room"}, False),
        ({"kind": "org.example.unknown"}, False),
        ({"kind": "event_match"}, False),
        ({}, False),
        ("event_match", False),
    ],
)
def test_a_condition_is_met_or_not(condition: Any, met: bool) -> None:
    assert is_met(condition, event_of({})) is met


@pytest.mark.behaviours("CS-PUSH-05", "CS-PUSH-07")
@pytest.mark.parametrize(
    ("text", "body", "met"),
    [
        ("Alice", "Hello alice!", True),
        ("Alice", "alice", True),
        ("Alice", "malice", False),
        ("Alice", "alice_", False),
        ("Alice", "malice and alice", True),
        ("Ælfwynn", "hej ælfwynn.", True),
        ("ÆLFWYNN", "hej ælfwynn.", True),
        ("猫", "猫がいる", True),
        ("A*e", "a*e", True),
        ("A?e", "ae", False),
        ("!!", "yes!!", True),
        ("", "anything", False),
    ],
)
def test_a_display_name_is_a_word_of_the_body(text: str, body: str, met: bool) -> None:
    event = event_of({"content": {"body": body}})
    assert is_met({"kind": "contains_display_name"}, event, name=text) is met
    assert not is_met({"kind": "contains_display_name"}, event, name=None)
    assert not is_met({"kind": "contains_display_name"}, event_of({"content": {"body": [body]}}), name=text)


@pytest.mark.behaviours("CS-PUSH-01", "CS-PUSH-03")
@pytest.mark.parametrize(
    ("change", "notify", "highlight"),
    [
        ({}, True, False),
        ({"content": {"msgtype": "m.notice", "body": "x"}}, False, False),
        ({"content": {"body": "x", "m.mentions": {"user_ids": [ALICE]}}}, True, True),
        ({"content": {"body": "x", "m.mentions": {"user_ids": ALICE}}}, True, False),
        ({"content": {"body": "alice"}}, True, False),
        ({"content": {"body": "x", "m.mentions": {"room": True}}}, True, False),
        ({"content": {"body": "x", "m.mentions": {"room": True}}, "sender": "@carol:localhost"}, True, False),
        ({"type": "m.reaction", "content": {}}, False, False),
        ({"type": "m.room.encrypted", "content": {}}, True, False),
        ({"type": "m.call.invite", "content": {}}, True, False),
        ({"type": "m.room.topic", "state_key": "", "content": {}}, False, False),
        ({"type": "m.room.server_acl", "state_key": "", "content": {}}, False, False),
        ({"type": "m.room.tombstone", "state_key": "", "content": {}}, True, True),
        ({"type": "m.room.tombstone", "content": {}}, False, False),
        ({"type": "m.room.member", "state_key": ALICE, "content": {"membership": "invite"}}, True, False),
        ({"type": "m.room.member", "state_key": BOB, "content": {"membership": "join"}}, False, False),
        ({"content": {"body": "*", "m.relates_to": {"rel_type": "m.replace"}}}, False, False),
    ],
)
def test_the_predefined_rules_decide(change: Json, notify: bool, highlight: bool) -> None:
    outcome = outcome_of(event_of(change), ruleset_of(default_rules(ALICE)))
    assert (outcome.notify, outcome.highlight) == (notify, highlight)


@pytest.mark.behaviours("CS-PUSH-03", "CS-PUSH-07")
def test_only_those_with_power_mention_the_room() -> None:
    ruleset = ruleset_of(default_rules(ALICE))
    event = event_of({"content": {"body": "x", "m.mentions": {"room": True}}}, sender="@carol:localhost")
    # Without power levels the creator has a level of 100, and 50 is needed.
    reader = (ruleset, ALICE, None)
    [outcome] = evaluate(event, [reader], member_count=3, power_levels=None, create=CREATE)
    assert outcome.highlight
    creator = Event.parse(CREATE.pdu.replace(b'"room_id":"!room:localhost",', b""), "12", "$create")
    [outcome] = evaluate(event, [reader], member_count=3, power_levels=LEVELS, create=creator)
    assert outcome.highlight
    [outcome] = evaluate(event, [reader], member_count=3, power_levels=LEVELS, create=CREATE)
    assert not outcome.highlight


@pytest.mark.behaviours("CS-PUSH-04")
def test_many_readers_are_judged_at_once_and_senders_not_told() -> None:
    noisy = ruleset_of(default_rules(ALICE))
    quiet = ruleset_of({"override": [{"rule_id": "x", "enabled": True, "actions": []}]})
    readers = [(noisy, f"@user{number}:localhost", None) for number in range(500)]
    outcomes = evaluate(
        event_of({}),
        [(noisy, BOB, None), (quiet, ALICE, None), *readers],
        member_count=500,
        power_levels=None,
        create=CREATE,
    )
    assert [outcome.notify for outcome in outcomes] == [False, False, *[True] * 500]
    assert outcomes[0].actions == []


@pytest.mark.behaviours("CS-PUSH-01", "CS-PUSH-05", "CS-PUSH-08")
def test_kinds_are_tried_in_order_and_disabled_rules_not_at_all() -> None:
    def rule(name: str, **more: Any) -> Json:
        return {"rule_id": name, "enabled": True, "actions": ["notify", {"set_tweak": name}], **more}

    rules: Json = {
        "underride": [rule("under", conditions=[])],
        "sender": [rule(BOB)],
        "room": [rule("!room:localhost")],
        "content": [rule("content", pattern="EXCITING")],
        "override": [rule("off", enabled=False), rule("over")],
    }
    for kind, name in [
        ("override", "over"),
        ("content", "content"),
        ("room", "!room:localhost"),
        ("sender", BOB),
        ("underride", "under"),
    ]:
        assert outcome_of(event_of({}), ruleset_of(rules)).actions == ["notify", {"set_tweak": name}]
        del rules[kind]
    assert outcome_of(event_of({}), ruleset_of(rules)).actions == []
    others = {"room": [rule("!other:localhost")], "sender": [rule(ALICE)], "content": [rule("x", pattern="excit")]}
    assert not outcome_of(event_of({}), ruleset_of(others)).notify


@pytest.mark.behaviours("CS-PUSH-08")
@pytest.mark.parametrize(
    ("actions", "notify", "highlight", "left"),
    [
        (["dont_notify"], False, False, []),
        (["coalesce", "notify"], True, False, ["notify"]),
        (["notify", {"set_tweak": "highlight", "value": False}], True, False, None),
        (["notify", {"set_tweak": "highlight", "value": True}], True, True, None),
        (["notify", {"set_tweak": "highlight"}], True, True, None),
        ([{"set_tweak": "highlight"}], False, False, None),
        (["notify", {"set_tweak": "x", "value": [1.5, "a", None]}], True, False, None),
    ],
)
def test_actions_say_what_to_do(actions: list[Any], notify: bool, highlight: bool, left: list[Any] | None) -> None:
    ruleset = ruleset_of({"override": [{"rule_id": "x", "enabled": True, "actions": actions}]})
    outcome = outcome_of(event_of({}), ruleset)
    assert (outcome.notify, outcome.highlight) == (notify, highlight)
    assert outcome.actions == (actions if left is None else left)


@pytest.mark.parametrize("rules", [{}, {"override": 3}, {"override": [3, {}, {"enabled": True, "conditions": 1}]}])
def test_what_are_no_rules_is_never_met(rules: Json) -> None:
    assert not outcome_of(event_of({}), ruleset_of(rules)).notify


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"x":' + b"[" * 200 + b"]" * 200 + b"}"])
def test_what_is_not_an_object_of_json_is_refused(text: bytes) -> None:
    with pytest.raises(CanonicalJsonError):
        Ruleset(text)


def test_long_patterns_take_no_longer_than_they_must() -> None:
    body = "a" * 60_000
    patterns = ["a" * 1000 + "b", "*a" * 500 + "b", "?" * 1000 + "b", "*a?" * 300 + "b"]
    for pattern in patterns:
        for key in ("content.body", "content.topic"):
            condition = {"kind": "event_match", "key": key, "pattern": pattern}
            assert not is_met(condition, event_of({"content": {"body": body, "topic": ""}}))
