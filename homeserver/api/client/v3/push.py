"""Push rules and pushers (client-server API, Push Notifications)."""

from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from homeserver.errors import InvalidParam, MissingParam
from homeserver.http.bodies import Body, Empty, Query
from homeserver.http.endpoint import USER, Endpoint
from homeserver.services.auth.sessions import Requester
from homeserver.services.sync.notifications import Notifications
from homeserver.services.users.push_rules import Pushers, PushRules
from homeserver.streams.positions import RoomToken

_LONGEST_PUSHKEY = 512


class Rule(Body, frozen=True):
    actions: list[Any]
    conditions: list[dict[str, Any]] | None = None
    pattern: str | None = None


class Enabled(Body, frozen=True):
    enabled: bool


class Actions(Body, frozen=True):
    actions: list[Any]


class Place(Query, frozen=True):
    before: str | None = None
    after: str | None = None


class Pusher(Body, frozen=True):
    app_id: Annotated[str, Meta(max_length=64)]
    pushkey: str
    kind: str | None
    app_display_name: str | None = None
    device_display_name: str | None = None
    profile_tag: str | None = None
    lang: str | None = None
    data: dict[str, Any] | None = None
    append: bool = False


class NotificationsQuery(Query, frozen=True):
    start: str | None = msgspec.field(default=None, name="from")
    limit: Annotated[int, Meta(ge=1)] = 20
    only: str | None = None


async def rules(who: Requester, push_rules: PushRules) -> dict[str, Any]:
    return {"global": await push_rules.get(who.user_id)}


async def global_rules(who: Requester, push_rules: PushRules) -> dict[str, Any]:
    return dict(await push_rules.get(who.user_id))


async def rule(kind: str, rule_id: str, who: Requester, push_rules: PushRules) -> dict[str, Any]:
    return await push_rules.get_rule(who.user_id, kind, rule_id)


async def put_rule(kind: str, rule_id: str, body: Rule, query: Place, who: Requester, push_rules: PushRules) -> Empty:
    made = {"actions": body.actions, "conditions": body.conditions, "pattern": body.pattern}
    await push_rules.put(who.user_id, kind, rule_id, made, before=query.before, after=query.after)
    return Empty()


async def delete_rule(kind: str, rule_id: str, who: Requester, push_rules: PushRules) -> Empty:
    await push_rules.remove(who.user_id, kind, rule_id)
    return Empty()


async def enabled(kind: str, rule_id: str, who: Requester, push_rules: PushRules) -> dict[str, Any]:
    return {"enabled": (await push_rules.get_rule(who.user_id, kind, rule_id))["enabled"]}


async def put_enabled(kind: str, rule_id: str, body: Enabled, who: Requester, push_rules: PushRules) -> Empty:
    await push_rules.set_enabled(who.user_id, kind, rule_id, enabled=body.enabled)
    return Empty()


async def actions(kind: str, rule_id: str, who: Requester, push_rules: PushRules) -> dict[str, Any]:
    return {"actions": (await push_rules.get_rule(who.user_id, kind, rule_id))["actions"]}


async def put_actions(kind: str, rule_id: str, body: Actions, who: Requester, push_rules: PushRules) -> Empty:
    await push_rules.set_actions(who.user_id, kind, rule_id, body.actions)
    return Empty()


def _is_gateway(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname) and parts.path == "/_matrix/push/v1/notify"


async def list_pushers(who: Requester, pushers: Pushers) -> dict[str, Any]:
    return {"pushers": await pushers.list(who.user_id)}


async def set_pusher(body: Pusher, who: Requester, pushers: Pushers) -> Empty:
    if len(body.pushkey.encode()) > _LONGEST_PUSHKEY:
        raise InvalidParam(f"A pushkey has at most {_LONGEST_PUSHKEY} bytes.")
    if body.kind is None:
        await pushers.remove(who.user_id, body.app_id, body.pushkey)
        return Empty()
    needed = ("app_display_name", "device_display_name", "lang", "data")
    missing = [name for name in needed if getattr(body, name) is None]
    if missing:
        raise MissingParam(f"A pusher has {', '.join(missing)}.")
    if body.kind == "http":
        url = (body.data or {}).get("url")
        if not isinstance(url, str) or not _is_gateway(url):
            raise InvalidParam("The gateway's address begins with https:// and its path is /_matrix/push/v1/notify.")
    pusher: dict[str, Any] = {
        key: value for key, value in msgspec.to_builtins(body).items() if value is not None and key != "append"
    }
    await pushers.set(who.user_id, pusher, append=body.append)
    return Empty()


async def list_notifications(query: NotificationsQuery, who: Requester, notifications: Notifications) -> dict[str, Any]:
    start = RoomToken.parse(query.start) if query.start else None
    return await notifications.page(who, start, query.limit, only_highlights=query.only == "highlight")


_RULE = "/pushrules/global/{kind}/{rule_id}"

ENDPOINTS = [
    Endpoint("GET", "/pushrules/", rules, auth=USER, limit=None, body=None),
    Endpoint("GET", "/pushrules", rules, auth=USER, limit=None, body=None),
    Endpoint("GET", "/pushrules/global/", global_rules, auth=USER, limit=None, body=None),
    Endpoint("GET", _RULE, rule, auth=USER, limit=None, body=None),
    Endpoint("PUT", _RULE, put_rule, auth=USER, limit=None, body=Rule),
    Endpoint("DELETE", _RULE, delete_rule, auth=USER, limit=None, body=None),
    Endpoint("GET", _RULE + "/enabled", enabled, auth=USER, limit=None, body=None),
    Endpoint("PUT", _RULE + "/enabled", put_enabled, auth=USER, limit=None, body=Enabled),
    Endpoint("GET", _RULE + "/actions", actions, auth=USER, limit=None, body=None),
    Endpoint("PUT", _RULE + "/actions", put_actions, auth=USER, limit=None, body=Actions),
    Endpoint("GET", "/pushers", list_pushers, auth=USER, limit=None, body=None),
    Endpoint("POST", "/pushers/set", set_pusher, auth=USER, limit=None, body=Pusher),
    Endpoint("GET", "/notifications", list_notifications, auth=USER, limit=None, body=None),
]
