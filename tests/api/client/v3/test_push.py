"""Push rules, pushers and unread counts; on both databases."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.world import User, World

Json = dict[str, Any]


async def rules(user: User, kind: str) -> list[str]:
    found = (await user.get("/pushrules/")).json()["global"][kind]
    return [rule["rule_id"] for rule in found]


@pytest.mark.behaviours("CS-PUSH-02", "CS-PUSH-03", "CS-PUSH-09", "CS-PUSH-10", "CS-PUSH-11")
async def test_rules_are_added_in_order_changed_and_removed(world: World) -> None:
    alice = await world.user("alice")
    predefined = await rules(alice, "override")
    assert predefined[0] == ".m.rule.master"
    since = (await alice.sync())["next_batch"]
    condition = {"kind": "event_match", "key": "type", "pattern": "m.x"}
    body: Json = {"actions": ["notify"], "conditions": [condition]}
    path = "/pushrules/global/override"
    for rule_id in ("one", "two"):
        assert (await alice.put(f"{path}/{rule_id}", body)).status_code == 200
    assert (await alice.call("PUT", f"{path}/three?after=two", body)).status_code == 200
    assert (await alice.call("PUT", f"{path}/four?before=one", body)).status_code == 200
    assert await rules(alice, "override") == [".m.rule.master", "two", "three", "four", "one", *predefined[1:]]
    [event] = (await alice.sync(since))["account_data"]["events"]
    assert event["type"] == "m.push_rules"
    assert (await alice.get(f"{path}/one")).json() == {
        "rule_id": "one",
        "default": False,
        "enabled": True,
        **body,
    }
    assert (await alice.put(f"{path}/one/enabled", {"enabled": False})).status_code == 200
    assert (await alice.get(f"{path}/one/enabled")).json() == {"enabled": False}
    assert (await alice.put(f"{path}/.m.rule.master/enabled", {"enabled": True})).status_code == 200
    assert (await alice.put(f"{path}/.m.rule.reaction/actions", {"actions": ["notify"]})).status_code == 200
    assert (await alice.get(f"{path}/.m.rule.reaction/actions")).json() == {"actions": ["notify"]}
    assert (await alice.call("DELETE", f"{path}/two")).status_code == 200
    assert "two" not in await rules(alice, "override")

    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    refused = [
        (await alice.put(f"{path}/.mine", body), 400),
        (await alice.put(f"{path}/{quote('a/b', safe='')}", body), 400),
        (await alice.put("/pushrules/global/nokind/x", body), 400),
        (await alice.put("/pushrules/global/content/x", {"actions": []}), 400),
        (await alice.put(f"{path}/x", {}), 400),
        (await alice.put(f"{path}/x", {"actions": [3]}), 400),
        (await alice.put(f"{path}/x", {"actions": [], "conditions": [{**condition, "pattern": "x" * 1025}]}), 400),
        (await alice.put("/pushrules/global/content/x", {"actions": [], "pattern": "x" * 1025}), 400),
        (await alice.put(f"{path}/x", {"actions": [{"set_tweak": "x", "value": deep}]}), 400),
        (await alice.put(f"{path}/one/actions", {"actions": [{"set_tweak": "x", "value": deep}]}), 400),
        (await alice.call("PUT", f"{path}/x?before=none", body), 404),
        (await alice.call("PUT", f"{path}/x?before=.m.rule.reaction", body), 400),
        (await alice.call("DELETE", f"{path}/.m.rule.reaction"), 400),
        (await alice.call("DELETE", f"{path}/none"), 404),
        (await alice.get(f"{path}/none"), 404),
        (await alice.put(f"{path}/none/enabled", {"enabled": True}), 404),
        (await alice.put(f"{path}/.m.rule.none/enabled", {"enabled": True}), 404),
        (await alice.put(f"{path}/one/enabled", {"enabled": "yes"}), 400),
    ]
    assert [answer.status_code for answer, _ in refused] == [status for _, status in refused]


@pytest.mark.behaviours("CS-PUSH-13", "CS-PUSH-14")
async def test_pushers_are_set_moved_and_removed(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    pusher: Json = {
        "app_id": "org.example",
        "pushkey": "key",
        "kind": "http",
        "app_display_name": "Example",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": "https://push.example.org/_matrix/push/v1/notify"},
    }
    assert (await alice.post("/pushers/set", pusher)).status_code == 200
    assert (await alice.get("/pushers")).json() == {"pushers": [pusher]}
    await bob.post("/pushers/set", {**pusher, "append": True})
    assert len((await alice.get("/pushers")).json()["pushers"]) == 1
    await bob.post("/pushers/set", pusher)
    assert (await alice.get("/pushers")).json() == {"pushers": []}
    await bob.post("/pushers/set", {"app_id": "org.example", "pushkey": "key", "kind": None})
    assert (await bob.get("/pushers")).json() == {"pushers": []}
    gateway = "/_matrix/push/v1/notify"
    urls = ["http://x" + gateway, "https://x", "https://x/y" + gateway, "https://x/?" + gateway, "https://[x" + gateway]
    changes: list[Json] = [{"data": {"url": url}} for url in [*urls, "https://" + gateway, 3]]
    changes += [{"data": {}}, {"data": 3}, {"app_id": "x" * 65}, {"pushkey": "x" * 513}, {"pushkey": "é" * 257}]
    for change in [*changes, {"lang": 3}]:
        assert (await alice.post("/pushers/set", {**pusher, **change})).status_code == 400
    del pusher["lang"]
    assert (await alice.post("/pushers/set", pusher)).json()["errcode"] == "M_MISSING_PARAM"


@pytest.mark.behaviours("CS-PUSH-12", "CS-SYNC-13", "CS-RCPT-03", "CS-PUSH-04")
async def test_unread_counts_rise_with_messages_and_fall_with_receipts(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)

    async def counts() -> tuple[int, int]:
        found = (await alice.sync(full_state="true"))["rooms"]["join"][room_id]["unread_notifications"]
        return found["notification_count"], found["highlight_count"]

    assert await counts() == (0, 0)
    first = await bob.send(room_id, "one")
    mention = {"msgtype": "m.text", "body": "alice", "m.mentions": {"user_ids": [alice.user_id]}}
    second = await bob.send(room_id, mention)
    await bob.send(room_id, {"msgtype": "m.notice", "body": "nobody cares"})
    assert await counts() == (2, 1)
    since = (await alice.sync())["next_batch"]
    assert (await alice.post(f"/rooms/{room_id}/receipt/m.read.private/{first}")).status_code == 200
    news = await alice.sync(since)
    assert news["rooms"]["join"][room_id]["unread_notifications"] == {"notification_count": 1, "highlight_count": 1}
    assert (await alice.post(f"/rooms/{room_id}/receipt/m.read/{second}")).status_code == 200
    assert await counts() == (0, 0)
    assert (await alice.post(f"/rooms/{room_id}/receipt/m.read.private/{first}")).status_code == 200
    assert await counts() == (0, 0)
    await bob.send(room_id, "three")
    assert await counts() == (1, 0)
    await alice.send(room_id, "I am here.")
    assert await counts() == (0, 0)


@pytest.mark.behaviours("CS-SYNC-13", "CS-RCPT-04", "CS-RCPT-05")
async def test_threads_are_counted_and_read_apart(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    root = await alice.send(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    inside = await bob.send(room_id, {"msgtype": "m.text", "body": "in", "m.relates_to": relation})
    outside = await bob.send(room_id, "out")
    apart = '{"room": {"timeline": {"unread_thread_notifications": true}}}'

    async def room() -> Json:
        found: Json = (await alice.sync(filter=apart))["rooms"]["join"][room_id]
        return found

    one = {"notification_count": 1, "highlight_count": 0}
    assert (await room())["unread_notifications"] == one
    assert (await room())["unread_thread_notifications"] == {root: one}
    together = (await alice.sync())["rooms"]["join"][room_id]
    assert together["unread_notifications"]["notification_count"] == 2
    path = f"/rooms/{room_id}/receipt/m.read"
    for event_id, thread in ((inside, "main"), (outside, root), (inside, ""), (inside, 3)):
        answer = await alice.post(f"{path}/{event_id}", {"thread_id": thread})
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), (event_id, thread)
    assert (await alice.post(f"{path}/{inside}", {"thread_id": root})).status_code == 200
    assert "unread_thread_notifications" not in await room()
    assert (await room())["unread_notifications"] == one
    assert (await alice.post(f"{path}/{outside}", {"thread_id": "main"})).status_code == 200
    assert (await room())["unread_notifications"]["notification_count"] == 0


async def notifications(user: User, **params: Any) -> Json:
    answer = await user.get("/notifications", **params)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def bodies(answer: Json) -> list[str]:
    return [one["event"]["content"].get("body", one["event"]["type"]) for one in answer["notifications"]]


@pytest.mark.behaviours("CS-PUSH-15", "CS-PUSH-04")
async def test_notifications_are_listed_by_page_and_highlight_with_what_is_read(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    assert await notifications(alice) == {"notifications": []}
    one, two = await bob.create_room(preset="public_chat"), await bob.create_room(preset="public_chat")
    await bob.send(one, "before alice came")
    await alice.join(one)
    await alice.join(two)
    first = await bob.send(one, "first")
    await bob.send(two, {"msgtype": "m.notice", "body": "notice"})
    await bob.send(two, {"msgtype": "m.text", "body": "mention", "m.mentions": {"user_ids": [alice.user_id]}})
    await bob.send(one, "last")
    everything = await notifications(alice)
    assert bodies(everything) == ["last", "mention", "first"]
    assert "next_token" not in everything
    assert [one["read"] for one in everything["notifications"]] == [False] * 3
    found = everything["notifications"][-1]
    assert found["room_id"] == one
    assert found["event"]["event_id"] == first
    assert "room_id" not in found["event"]
    assert found["ts"] == found["event"]["origin_server_ts"]
    assert found["actions"] == ["notify", {"set_tweak": "sound", "value": "default"}]
    assert bodies(await notifications(alice, only="highlight")) == ["mention"]

    page = await notifications(alice, limit="2")
    assert bodies(page) == ["last", "mention"]
    rest = await notifications(alice, limit="2", **{"from": page["next_token"]})
    assert bodies(rest) == ["first"]
    assert (await alice.post(f"/rooms/{one}/receipt/m.read/{first}")).status_code == 200
    assert [one["read"] for one in (await notifications(alice))["notifications"]] == [False, False, True]
    await alice.send(one, "I answer.")
    assert [one["read"] for one in (await notifications(alice))["notifications"]] == [True, False, True]
    for params in ({"from": "x"}, {"limit": "0"}, {"limit": "x"}):
        assert (await alice.get("/notifications", **params)).status_code == 400


@pytest.mark.behaviours("CS-PUSH-15", "CS-IGN-02")
async def test_notifications_name_invites_and_leave_out_the_ignored(world: World) -> None:
    alice, bob, eve = await world.user("alice"), await world.user("bob"), await world.user("eve")
    shared = await alice.create_room(preset="public_chat")
    await eve.join(shared)
    ignored: Json = {"ignored_users": {eve.user_id: {}}}
    await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
    await eve.send(shared, "Do you hear me?")
    room_id = await bob.create_room(invite=[alice.user_id])
    await bob.send(room_id, "You do not hear this yet.")
    assert await notifications(alice) == {"notifications": []}
    await alice.join(room_id)
    [invite] = (await notifications(alice))["notifications"]
    assert (invite["room_id"], invite["event"]["type"], invite["read"]) == (room_id, "m.room.member", True)


async def test_of_very_much_that_was_not_read_the_newest_counts(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await asyncio.gather(*(alice.send(room_id, str(number)) for number in range(1010)))
    await alice.send(room_id, {"msgtype": "m.text", "body": "bob", "m.mentions": {"user_ids": [bob.user_id]}})
    counts = (await bob.sync())["rooms"]["join"][room_id]["unread_notifications"]
    assert counts == {"notification_count": 1000, "highlight_count": 1}
