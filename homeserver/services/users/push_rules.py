"""A user's push rules and pushers (client-server API, Push Notifications)."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from homeserver.errors import BadJson, InvalidParam, MissingParam, NotFound
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.identifiers import UserId
from homeserver.matrix.push_rules import KINDS, Ruleset, default_rules
from homeserver.storage import push, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.push import Changes

_LONGEST_ID = 255
# Both hold down what trying the rules on an event may cost.
_LONGEST_PATTERN = 1024
_MOST_RULES = 1000
_RULESETS = 5000

Json = dict[str, Any]


class PushRules:
    """The rules by which users are notified.

    Stored are a user's own rules and what differs in the predefined ones, so that new predefined rules reach everybody.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rulesets: Lru[tuple[UserId, int], Ruleset] = Lru(_RULESETS)

    async def get(self, user_id: UserId) -> dict[str, list[Json]]:
        """All rules, by kind, in the order in which they are tried."""
        return await self._database.read(lambda tx: self.read(tx, user_id)[0])

    async def get_rule(self, user_id: UserId, kind: str, rule_id: str) -> Json:
        """One rule. Raises `NotFound`."""
        return _find((await self.get(user_id)).get(kind, []), rule_id)

    async def put(
        self, user_id: UserId, kind: str, rule_id: str, rule: Json, *, before: str | None, after: str | None
    ) -> None:
        """Add a rule of one's own, or replace it. It comes first of its kind, or next to another one."""
        made = _made(kind, rule_id, rule)

        def change(changes: Json) -> None:
            rules: list[Json] = changes["own"].setdefault(kind, [])
            known = next((one for one in rules if one["rule_id"] == rule_id), None)
            if known is not None:
                made["enabled"] = known["enabled"]
            elif sum(map(len, changes["own"].values())) >= _MOST_RULES:
                raise InvalidParam(f"There can be {_MOST_RULES} rules at most.")
            others = [one for one in rules if one["rule_id"] != rule_id]
            if before is None and after is None and known is not None:
                at = rules.index(known)
            else:
                at = _place(others, before, after)
            changes["own"][kind] = [*others[:at], made, *others[at:]]

        await self._database.write(_change, user_id, change)

    async def remove(self, user_id: UserId, kind: str, rule_id: str) -> None:
        """Remove a rule of one's own. Raises `NotFound`, and `InvalidParam` for a predefined one."""
        if rule_id.startswith("."):
            raise InvalidParam("Predefined rules can be disabled, not removed.")

        def change(changes: Json) -> None:
            rules = changes["own"].get(kind, [])
            _find(rules, rule_id)
            changes["own"][kind] = [one for one in rules if one["rule_id"] != rule_id]

        await self._database.write(_change, user_id, change)

    async def set_enabled(self, user_id: UserId, kind: str, rule_id: str, *, enabled: bool) -> None:
        """Switch a rule on or off."""
        await self._database.write(_change, user_id, _setter(user_id, kind, rule_id, "enabled", enabled))

    async def set_actions(self, user_id: UserId, kind: str, rule_id: str, actions: list[Any]) -> None:
        """Change what a rule does."""
        await self._database.write(_change, user_id, _setter(user_id, kind, rule_id, "actions", _actions(actions)))

    def read(self, tx: ReadTx, user_id: UserId) -> tuple[dict[str, list[Json]], int]:
        """All rules, and the position at which they were changed last; 0 for never."""
        found = push.find(tx, user_id)
        return _all_rules(user_id, found), 0 if found is None else found.position

    def ruleset(self, tx: ReadTx, user_id: UserId) -> Ruleset:
        """The user's rules, ready to be tried."""
        found = push.find(tx, user_id)
        key = (user_id, 0 if found is None else found.position)
        ruleset = self._rulesets.get(key)
        if ruleset is None:
            ruleset = Ruleset(msgspec.json.encode(_all_rules(user_id, found)))
            self._rulesets.put(key, ruleset)
        return ruleset


class Pushers:
    """The pushers of users' devices."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(self, user_id: UserId) -> list[msgspec.Raw]:
        """The user's pushers."""
        return [msgspec.Raw(body.encode()) for body in await self._database.read(push.list_pushers, user_id)]

    async def set(self, user_id: UserId, pusher: Json, *, append: bool) -> None:
        """Add or replace the pusher of an app and key; without `append` it ends those of other users."""
        now = self._clock.now()
        app_id, pushkey = pusher["app_id"], pusher["pushkey"]

        def write(tx: WriteTx) -> None:
            if not append:
                push.remove_pushers_of_others(tx, user_id, app_id, pushkey)
            push.put_pusher(tx, user_id, app_id, pushkey, msgspec.json.encode(pusher).decode(), now=now)

        await self._database.write(write)

    async def remove(self, user_id: UserId, app_id: str, pushkey: str) -> None:
        """Remove the pusher of an app and key, if there is one."""
        await self._database.write(push.remove_pusher, user_id, app_id, pushkey)


def _all_rules(user_id: UserId, found: Changes | None) -> dict[str, list[Json]]:
    changes = _decode(found)
    rules: dict[str, list[Json]] = {}
    for kind, predefined in default_rules(user_id).items():
        changed = [{**rule, **changes["predefined"].get(rule["rule_id"], {})} for rule in predefined]
        own = [{**rule, "default": False} for rule in changes["own"].get(kind, [])]
        # The master rule stands before everything, also before a user's own rules.
        master = [rule for rule in changed if rule["rule_id"] == ".m.rule.master"]
        rules[kind] = [*master, *own, *(rule for rule in changed if rule not in master)]
    return rules


def _change(tx: WriteTx, user_id: UserId, change: Callable[[Json], None]) -> None:
    changes = _decode(push.find(tx, user_id))
    change(changes)
    changed = Changes(msgspec.json.encode(changes).decode(), stream_rows.advance(tx))
    try:
        Ruleset(msgspec.json.encode(_all_rules(user_id, changed)))
    except CanonicalJsonError:
        raise BadJson("The rule is nested too deeply.") from None
    push.put(tx, user_id, changed)
    tx.wake([user_id])


def copy_room_rule(tx: WriteTx, user_id: UserId, old_id: str, new_id: str) -> None:
    """Let a rule of a room hold in another one too, unless that has one of its own."""
    changes = _decode(push.find(tx, user_id))
    rules: list[Json] = changes["own"].get("room", [])
    known = {rule["rule_id"]: rule for rule in rules}
    if old_id not in known or new_id in known:
        return
    changes["own"]["room"] = [*rules, {**known[old_id], "rule_id": new_id}]
    push.put(tx, user_id, Changes(msgspec.json.encode(changes).decode(), stream_rows.advance(tx)))
    tx.wake([user_id])


def _setter(user_id: UserId, kind: str, rule_id: str, name: str, value: Any) -> Callable[[Json], None]:
    def change(changes: Json) -> None:
        if rule_id.startswith("."):
            _find(default_rules(user_id).get(kind, []), rule_id)
            changes["predefined"].setdefault(rule_id, {})[name] = value
        else:
            _find(changes["own"].get(kind, []), rule_id)[name] = value

    return change


def _decode(found: Changes | None) -> Json:
    return {"own": {}, "predefined": {}} if found is None else msgspec.json.decode(found.body)


def _find(rules: list[Json], rule_id: str) -> Json:
    for rule in rules:
        if rule["rule_id"] == rule_id:
            return rule
    raise NotFound("There is no such push rule.")


def _place(rules: list[Json], before: str | None, after: str | None) -> int:
    ids = [rule["rule_id"] for rule in rules]
    named = before if before is not None else after
    if named is None:
        return 0
    if named.startswith("."):
        raise InvalidParam("A rule can stand only next to rules of your own.")
    if named not in ids:
        raise NotFound("There is no push rule to stand next to.")
    return ids.index(named) + (0 if before is not None else 1)


def _made(kind: str, rule_id: str, rule: Json) -> Json:
    """The rule as it is stored."""
    if kind not in KINDS:
        raise InvalidParam("There is no such kind of push rule.")
    if rule_id.startswith(".") or re.search(r"[/\\]", rule_id) or not 1 <= len(rule_id.encode()) <= _LONGEST_ID:
        raise InvalidParam("The id of a rule does not begin with a dot and has no slashes.")
    made: Json = {"rule_id": rule_id, "enabled": True, "actions": _actions(rule["actions"])}
    if kind == "content":
        if rule.get("pattern") is None:
            raise MissingParam("A content rule has a pattern.")
        made["pattern"] = rule["pattern"]
    elif kind in ("override", "underride"):
        made["conditions"] = rule.get("conditions") or []
    patterns = [made.get("pattern"), *(condition.get("pattern") for condition in made.get("conditions", []))]
    if any(isinstance(pattern, str) and len(pattern) > _LONGEST_PATTERN for pattern in patterns):
        raise InvalidParam(f"A pattern has {_LONGEST_PATTERN} characters at most.")
    return made


def _actions(actions: list[Any]) -> list[Any]:
    for action in actions:
        if not (isinstance(action, str) or (isinstance(action, dict) and isinstance(action.get("set_tweak"), str))):
            raise BadJson("An action is a word, or an object with `set_tweak`.")
    return actions
