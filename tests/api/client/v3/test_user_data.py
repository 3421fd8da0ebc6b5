"""Profiles, account data, tags and filters; on both databases."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.world import World

Json = dict[str, Any]


def of_type(events: list[Json], type_: str) -> list[Json]:
    return [event["content"] for event in events if event["type"] == type_]


@pytest.mark.behaviours("CS-PROF-03", "CS-PROF-04", "CS-PROF-06")
async def test_profile_fields_are_set_read_and_removed(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    path = f"/profile/{alice.user_id}"
    assert (await alice.get(path)).json() == {}
    assert (await alice.get(f"{path}/displayname")).status_code == 404
    fields: Json = {"displayname": "Alice", "avatar_url": "mxc://localhost/a", "m.tz": "Europe/Paris"}
    fields["org.example.pronouns"] = [{"language": "en", "summary": "they"}]
    for name, value in fields.items():
        assert (await alice.put(f"{path}/{name}", {name: value})).status_code == 200
    assert (await bob.get(path)).json() == fields
    assert (await bob.get(f"{path}/m.tz")).json() == {"m.tz": "Europe/Paris"}
    assert (await bob.put(f"{path}/displayname", {"displayname": "Mallory"})).status_code == 403
    assert (await alice.call("DELETE", f"{path}/m.tz")).status_code == 200
    assert (await alice.call("DELETE", f"{path}/m.tz")).status_code == 200
    assert (await alice.get(f"{path}/m.tz")).status_code == 404
    assert (await alice.get("/profile/@nobody:localhost")).json()["errcode"] == "M_NOT_FOUND"
    missing = await alice.put(f"{path}/m.tz", {"other": 1})
    assert (missing.status_code, missing.json()["errcode"]) == (400, "M_MISSING_PARAM")
    long = "x" * 256
    too_long = await alice.put(f"{path}/{long}", {long: 1})
    assert (too_long.status_code, too_long.json()["errcode"]) == (400, "M_KEY_TOO_LARGE")
    large = await alice.put(f"{path}/org.example.large", {"org.example.large": "x" * 65_536})
    assert (large.status_code, large.json()["errcode"]) == (400, "M_PROFILE_TOO_LARGE")
    assert (await alice.put(f"{path}/displayname", {"displayname": 3})).status_code == 400
    for name in ("org.example.nothing", "m.tz"):
        assert (await alice.put(f"{path}/{name}", {name: None})).status_code == 200
        assert (await alice.get(f"{path}/{name}")).json() == {name: None}
    for name in ("plain", "Org.Example", "org.", ".example", "org.exämple", "1.x", "org example.x"):
        refused = await alice.put(f"{path}/{quote(name)}", {name: 1})
        assert (refused.status_code, refused.json()["errcode"]) == (400, "M_INVALID_PARAM"), name
    nul = await alice.put(f"{path}/displayname", {"displayname": "a\0b"})
    assert nul.status_code in (200, 400)


@pytest.mark.behaviours("CS-AD-01", "CS-AD-02", "CS-AD-03", "CS-SYNC-14")
async def test_account_data_is_kept_and_reaches_all_devices(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    other = await world.user("alice", device_id="OTHER")
    room_id = await alice.create_room()
    since = (await other.sync())["next_batch"]
    path = f"/user/{alice.user_id}/account_data/org.example"
    of_room = f"/user/{alice.user_id}/rooms/{room_id}/account_data/org.example"
    assert (await alice.put(path, {"a": 1})).status_code == 200
    assert (await alice.get(of_room)).status_code == 404
    assert (await alice.put(of_room, {"b": 2})).status_code == 200
    assert (await alice.get(path)).json() == {"a": 1}
    news = await other.sync(since)
    assert of_type(news["account_data"]["events"], "org.example") == [{"a": 1}]
    assert of_type(news["rooms"]["join"][room_id]["account_data"]["events"], "org.example") == [{"b": 2}]
    assert "account_data" not in await other.sync(news["next_batch"])
    everything = await other.sync()
    assert of_type(everything["account_data"]["events"], "m.push_rules")
    assert of_type(everything["account_data"]["events"], "org.example") == [{"a": 1}]
    for answer in (await bob.get(path), await bob.put(path, {})):
        assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    for type_ in ("m.fully_read", "m.push_rules"):
        refused = await alice.put(f"/user/{alice.user_id}/account_data/{type_}", {})
        assert (refused.status_code, refused.json()["errcode"]) == (405, "M_BAD_JSON")
    headers = {"Authorization": f"Bearer {alice.token}"}
    for content in (b"[]", b"3", b"{", b"", b'"x"'):
        answer = await world.client.send("PUT", f"/_matrix/client/v3{path}", headers=headers, content=content)
        assert answer.status_code == 400


@pytest.mark.behaviours("CS-TAG-01")
async def test_rooms_are_tagged_and_untagged(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    path = f"/user/{alice.user_id}/rooms/{room_id}/tags"
    assert (await alice.get(path)).json() == {"tags": {}}
    assert (await alice.put(f"{path}/m.favourite", {"order": 0.5})).status_code == 200
    assert (await alice.put(f"{path}/u.work", {})).status_code == 200
    assert (await alice.get(path)).json() == {"tags": {"m.favourite": {"order": 0.5}, "u.work": {}}}
    room = (await alice.sync())["rooms"]["join"][room_id]
    assert of_type(room["account_data"]["events"], "m.tag") == [{"tags": {"m.favourite": {"order": 0.5}, "u.work": {}}}]
    assert (await alice.call("DELETE", f"{path}/u.work")).status_code == 200
    assert (await alice.get(path)).json() == {"tags": {"m.favourite": {"order": 0.5}}}
    for order in (2, -1, "x", True):
        assert (await alice.put(f"{path}/u.bad", {"order": order})).status_code == 400
    assert (await alice.put(f"{path}/{'x' * 256}", {})).status_code == 400


@pytest.mark.behaviours("CS-FILT-01", "CS-FILT-09")
async def test_filters_are_stored_and_named_in_a_sync(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room()
    await alice.send(room_id, "one")
    await alice.send(room_id, "two")
    wanted = {"room": {"timeline": {"limit": 1}, "state": {"types": []}}, "org.example": 1}
    filter_id = (await alice.post(f"/user/{alice.user_id}/filter", wanted)).json()["filter_id"]
    assert not filter_id.startswith("{")
    assert (await alice.get(f"/user/{alice.user_id}/filter/{filter_id}")).json() == wanted
    room = (await alice.sync(filter=filter_id))["rooms"]["join"][room_id]
    assert len(room["timeline"]["events"]) == 1
    assert room["state"]["events"] == []
    assert (await alice.get(f"/user/{alice.user_id}/filter/nosuch")).status_code == 404
    assert (await alice.get("/sync", filter="nosuch")).status_code == 404
    assert (await bob.get(f"/user/{alice.user_id}/filter/{filter_id}")).status_code == 403
    assert (await bob.get("/sync", filter=filter_id)).status_code == 404
    bad: Json
    for bad in ({"room": []}, {"room": {"timeline": {"types": "x"}}}, {"event_format": "x"}):
        assert (await alice.post(f"/user/{alice.user_id}/filter", bad)).status_code == 400


@pytest.mark.behaviours("CS-FILT-05", "CS-FILT-06")
async def test_filters_by_url_and_in_federation_format(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    await alice.send(room_id, {"msgtype": "m.image", "body": "picture", "url": "mxc://localhost/a"})
    await alice.send(room_id, "text")
    with_url = json.dumps({"room": {"timeline": {"contains_url": True}}})
    events = (await alice.sync(filter=with_url))["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["content"]["body"] for event in events] == ["picture"]
    raw = json.dumps({"event_format": "federation"})
    response = await world.client._http.get(
        "/_matrix/client/v3/sync", params={"filter": raw}, headers={"Authorization": f"Bearer {alice.token}"}
    )
    events = response.json()["rooms"]["join"][room_id]["timeline"]["events"]
    assert all({"auth_events", "hashes", "signatures"} <= event.keys() for event in events)


@pytest.mark.behaviours("CS-SYNC-20")
async def test_ignored_users_are_neither_heard_nor_can_they_invite(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    ignored: Json = {"ignored_users": {bob.user_id: {}}}
    await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
    since = (await alice.sync())["next_batch"]
    await bob.send(room_id, "Do you hear me?")
    await bob.create_room(invite=[alice.user_id])
    await alice.send(room_id, "Silence.")
    news = await alice.sync(since)
    assert "invite" not in news["rooms"]
    events = news["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["content"]["body"] for event in events] == ["Silence."]
    assert news["rooms"]["join"][room_id]["unread_notifications"]["notification_count"] == 0


@pytest.mark.behaviours("CS-FILT-02", "CS-FILT-03", "CS-FILT-04", "CS-FILT-07")
async def test_filters_limit_choose_and_bring_left_rooms(world: World) -> None:
    alice = await world.user("alice")
    room_id, other = await alice.create_room(), await alice.create_room()
    left = await alice.create_room()
    await alice.leave(left)
    for number in range(3):
        await alice.send(room_id, str(number), "org.example.a")
        await alice.send(room_id, str(number), "org.example.b")

    async def types(**timeline: Any) -> list[str]:
        wanted = json.dumps({"room": {"timeline": timeline}})
        room = (await alice.sync(filter=wanted))["rooms"]["join"][room_id]
        return [event["type"] for event in room["timeline"]["events"]]

    assert await types(limit=2) == ["org.example.a", "org.example.b"]
    assert await types(types=["org.*.a"]) == ["org.example.a"] * 3
    assert await types(types=["org.*"], not_types=["*.a"]) == ["org.example.b"] * 3
    assert await types(types=[]) == []
    assert await types(senders=["@nobody:localhost"]) == []
    assert await types(not_senders=[alice.user_id]) == []
    assert len(await types(limit=100_000)) >= 6
    for limit in (0, -1, "x", 1.5):
        bad = json.dumps({"room": {"timeline": {"limit": limit}}})
        assert (await alice.get("/sync", filter=bad)).status_code == 400
    for rooms in ({"rooms": [room_id]}, {"not_rooms": [other]}, {"rooms": [room_id, other], "not_rooms": [other]}):
        assert (await alice.sync(filter=json.dumps({"room": rooms})))["rooms"]["join"].keys() == {room_id}
    assert "leave" not in (await alice.sync())["rooms"]
    with_left = await alice.sync(filter=json.dumps({"room": {"include_leave": True}}))
    assert with_left["rooms"]["leave"].keys() == {left}


@pytest.mark.behaviours("CS-IGN-01", "CS-IGN-02")
async def test_ignoring_acts_at_once_and_spares_state(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    news = await alice.sync()

    async def hears() -> list[Any]:
        nonlocal news
        news = await alice.sync(news["next_batch"])
        events = news.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {"events": []})["events"]
        return [event["content"].get("body") or event["content"].get("topic") for event in events]

    path = f"/user/{alice.user_id}/account_data/m.ignored_user_list"
    await bob.send(room_id, "one")
    assert await hears() == ["one"]
    assert (await alice.put(path, {"ignored_users": {bob.user_id: {}, alice.user_id: {}}})).status_code == 200
    await bob.send(room_id, "two")
    await bob.set_state(room_id, "m.room.topic", {"topic": "three"})
    await alice.send(room_id, "four")
    assert await hears() == ["three", "four"]
    assert (await alice.put(path, {"ignored_users": {}})).status_code == 200
    await bob.send(room_id, "five")
    assert await hears() == ["five"]
    odd: Json
    for odd in ({}, {"ignored_users": []}, {"ignored_users": {"x": 3}}):
        await alice.put(path, odd)
        await bob.send(room_id, "still here")
        assert await hears() == ["still here"]
