"""Push rules: the predefined ones, a user's own, and which of them an event meets (client-server API, Push Rules)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Json = dict[str, Any]

KINDS = ("override", "content", "room", "sender", "underride")
"""In the order in which they are tried."""

_SOUND = {"set_tweak": "sound", "value": "default"}
_HIGHLIGHT = {"set_tweak": "highlight"}
_MASTER = ".m.rule.master"
_HISTORICAL = ("dont_notify", "coalesce")


def _match(key: str, pattern: str) -> Json:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _rule(rule_id: str, conditions: list[Json], actions: list[Any], *, enabled: bool = True) -> Json:
    return {"rule_id": rule_id, "default": True, "enabled": enabled, "conditions": conditions, "actions": actions}


def default_rules(user_id: str) -> dict[str, list[Json]]:
    """The server-default rules of a user, by kind, in order."""
    two = {"kind": "room_member_count", "is": "2"}
    return {
        "override": [
            _rule(_MASTER, [], [], enabled=False),
            _rule(".m.rule.suppress_notices", [_match("content.msgtype", "m.notice")], []),
            _rule(
                ".m.rule.invite_for_me",
                [_match("type", "m.room.member"), _match("content.membership", "invite"), _match("state_key", user_id)],
                ["notify", _SOUND],
            ),
            _rule(".m.rule.member_event", [_match("type", "m.room.member")], []),
            _rule(
                ".m.rule.is_user_mention",
                [{"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": user_id}],
                ["notify", _SOUND, _HIGHLIGHT],
            ),
            _rule(
                ".m.rule.is_room_mention",
                [
                    {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
                    {"kind": "sender_notification_permission", "key": "room"},
                ],
                ["notify", _HIGHLIGHT],
            ),
            _rule(
                ".m.rule.tombstone",
                [_match("type", "m.room.tombstone"), _match("state_key", "")],
                ["notify", _HIGHLIGHT],
            ),
            _rule(".m.rule.reaction", [_match("type", "m.reaction")], []),
            _rule(".m.rule.room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")], []),
            _rule(
                ".m.rule.suppress_edits",
                [{"kind": "event_property_is", "key": r"content.m\.relates_to.rel_type", "value": "m.replace"}],
                [],
            ),
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": [
            _rule(
                ".m.rule.call",
                [_match("type", "m.call.invite")],
                ["notify", {"set_tweak": "sound", "value": "ring"}],
            ),
            _rule(".m.rule.encrypted_room_one_to_one", [two, _match("type", "m.room.encrypted")], ["notify", _SOUND]),
            _rule(".m.rule.room_one_to_one", [two, _match("type", "m.room.message")], ["notify", _SOUND]),
            _rule(".m.rule.message", [_match("type", "m.room.message")], ["notify"]),
            _rule(".m.rule.encrypted", [_match("type", "m.room.encrypted")], ["notify"]),
        ],
    }


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What an event's room has to do with the rules."""

    member_count: int
    sender_level: float
    """The sender's power level; a creator of version 12 has infinity."""
    notification_level: Callable[[str], int]
    """The level that a kind of notification needs."""
    display_name: str | None
    """The user's name in the room."""


class Ruleset:
    """A user's rules, ready to be tried."""

    def __init__(self, rules: Mapping[str, Sequence[Json]]) -> None:
        self._rules = [
            (_conditions(kind, rule), _outcome(rule["actions"]))
            for kind in KINDS
            for rule in rules[kind]
            if rule["enabled"]
        ]

    def evaluate(self, event: Json, room: Circumstances) -> "Outcome":
        """What the first rule that the event meets says; nothing if it meets none.

        `event` is the event in its client format, without `unsigned`.
        """
        for conditions, outcome in self._rules:
            if all(condition(event, room) for condition in conditions):
                return outcome
        return NOTHING


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether an event notifies the user, and whether it is highlighted."""

    notify: bool
    highlight: bool
    actions: Sequence[Any] = ()
    """What the rule says, without what means nothing any more."""


NOTHING = Outcome(notify=False, highlight=False)

_Condition = Callable[[Json, Circumstances], bool]


def _outcome(actions: Sequence[Any]) -> Outcome:
    notify = "notify" in actions
    highlight = any(
        isinstance(action, dict) and action.get("set_tweak") == "highlight" and action.get("value", True) is not False
        for action in actions
    )
    return Outcome(notify, notify and highlight, [action for action in actions if action not in _HISTORICAL])


def _conditions(kind: str, rule: Json) -> list[_Condition]:
    if kind == "content":
        return [_event_match("content.body", rule["pattern"])]
    if kind == "room":
        return [_property_is("room_id", rule["rule_id"])]
    if kind == "sender":
        return [_property_is("sender", rule["rule_id"])]
    return [_condition(condition) for condition in rule.get("conditions") or []]


def _condition(condition: Any) -> _Condition:
    match condition:
        case {"kind": "event_match", "key": str(key), "pattern": str(pattern)}:
            return _event_match(key, pattern)
        case {"kind": "event_property_is", "key": str(key), "value": value}:
            return _property_is(key, value)
        case {"kind": "event_property_contains", "key": str(key), "value": value}:
            return _property_contains(key, value)
        case {"kind": "contains_display_name"}:
            return _contains_display_name
        case {"kind": "room_member_count", "is": str(bound)}:
            return _member_count(bound)
        case {"kind": "sender_notification_permission", "key": str(key)}:
            return lambda event, room: room.sender_level >= room.notification_level(key)
        case _:
            return _never


def _never(event: Json, room: Circumstances) -> bool:
    return False


def _event_match(key: str, pattern: str) -> _Condition:
    path = _path(key)
    matches = _glob(pattern, words=key == "content.body")

    def condition(event: Json, room: Circumstances) -> bool:
        value = _look_up(event, path)
        return isinstance(value, str) and matches(value)

    return condition


def _property_is(key: str, wanted: Any) -> _Condition:
    path = _path(key)

    def condition(event: Json, room: Circumstances) -> bool:
        return _same(_look_up(event, path), wanted)

    return condition


def _property_contains(key: str, wanted: Any) -> _Condition:
    path = _path(key)

    def condition(event: Json, room: Circumstances) -> bool:
        values = _look_up(event, path)
        return isinstance(values, list) and any(_same(value, wanted) for value in values)

    return condition


def _contains_display_name(event: Json, room: Circumstances) -> bool:
    body = _look_up(event, ("content", "body"))
    if not isinstance(body, str) or not room.display_name:
        return False
    return re.search(_WORD_BEGINS + re.escape(room.display_name) + _WORD_ENDS, body, re.IGNORECASE) is not None


def _member_count(bound: str) -> _Condition:
    found = re.fullmatch(r"(==|<=|>=|<|>)?([0-9]{1,15})", bound)
    if found is None:
        return _never
    number = int(found[2])
    compare: dict[str | None, Callable[[int], bool]] = {
        None: lambda count: count == number,
        "==": lambda count: count == number,
        "<": lambda count: count < number,
        ">": lambda count: count > number,
        "<=": lambda count: count <= number,
        ">=": lambda count: count >= number,
    }
    wanted = compare[found[1]]
    return lambda event, room: wanted(room.member_count)


_ABSENT = object()


def _look_up(event: Json, path: Sequence[str]) -> Any:
    value: Any = event
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _same(value: Any, wanted: Any) -> bool:
    """Whether two scalars are the same, of one type."""
    if not (wanted is None or isinstance(wanted, str | bool | int)):
        return False
    return type(value) is type(wanted) and bool(value == wanted)


@lru_cache(maxsize=1000)
def _path(key: str) -> tuple[str, ...]:
    r"""The names of a dotted path; `\.` and `\\` stand for themselves (appendices, Dot-separated property paths)."""
    return tuple(_split(key))


def _split(key: str) -> list[str]:
    names, current, escaped = [], "", False
    for char in key:
        if escaped:
            current += char if char in ".\\" else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ".":
            names.append(current)
            current = ""
        else:
            current += char
    return [*names, current + ("\\" if escaped else "")]


_WORD_BEGINS = r"(?:^|(?<![A-Za-z0-9_]))"
_WORD_ENDS = r"(?:$|(?![A-Za-z0-9_]))"


@lru_cache(maxsize=1000)
def _glob(pattern: str, *, words: bool) -> Callable[[str], bool]:
    """Matches case-insensitively: `*` is any run of characters, `?` any one.

    With `words` anything between word boundaries may match, else the whole value must. The pieces between the stars
    are found one after the other, each as early as possible: one expression for the whole could take for ever.
    """
    begins, ends = (_WORD_BEGINS, _WORD_ENDS) if words else (r"\A", r"\Z")
    pieces = ["".join("." if char == "?" else re.escape(char) for char in piece) for piece in pattern.split("*")]
    pieces[0] = begins + pieces[0]
    pieces[-1] += ends
    compiled = [re.compile(piece, re.IGNORECASE | re.DOTALL) for piece in pieces]

    def matches(value: str) -> bool:
        at = 0
        for piece in compiled:
            found = piece.search(value, at)
            if found is None:
                return False
            at = found.end()
        return True

    return matches
