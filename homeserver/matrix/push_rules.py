"""Push rules: the predefined ones, a user's own, and which of them an event meets (client-server API, Push Rules).

:class:`Ruleset` is made of JSON text: a user's rules by kind, as clients see them. What is wrong in a rule or not
known is never met; text that is not JSON, or nested too deeply, raises CanonicalJsonError. ``len`` is the number of
enabled rules.

``evaluate(event, readers, *, member_count, power_levels, create) -> list[Outcome]``
    What each reader's first rule that the event meets says, in one call for all who are told of the event. A reader is
    ``(ruleset, user_id, display_name)``, with the name that the user has in the room. Nobody is notified of what they
    did themselves. The room is described by the number of its joined members, its power levels and its create event.

Of an :class:`Outcome`, ``notify`` tells whether the user is notified, ``highlight`` whether that stands out, and
``actions`` (a new list at each access) is what the rule says, without actions that mean nothing any more.
"""

from typing import Any

from homeserver._rust.push import Outcome, Ruleset, evaluate

__all__ = ["KINDS", "Outcome", "Ruleset", "default_rules", "evaluate"]

Json = dict[str, Any]

KINDS = ("override", "content", "room", "sender", "underride")
"""In the order in which they are tried."""

_SOUND = {"set_tweak": "sound", "value": "default"}
_HIGHLIGHT = {"set_tweak": "highlight"}
_MASTER = ".m.rule.master"


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
