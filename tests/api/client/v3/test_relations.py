"""Edits, reactions, threads, and what is aggregated from them; on both databases."""

from typing import Any

import pytest

from tests.world import User, World

Json = dict[str, Any]


async def relate(
    user: User, room_id: str, parent: str, rel_type: str, type_: str = "m.room.message", **more: Any
) -> str:
    relation = {"rel_type": rel_type, "event_id": parent, **more.pop("relation", {})}
    return await user.send(room_id, {"msgtype": "m.text", "body": "…", **more, "m.relates_to": relation}, type_)


async def edit(user: User, room_id: str, parent: str, body: str) -> str:
    new: Json = {"m.new_content": {"msgtype": "m.text", "body": body}}
    return await relate(user, room_id, parent, "m.replace", **new)


async def react(user: User, room_id: str, parent: str, key: str) -> str:
    return await relate(user, room_id, parent, "m.annotation", "m.reaction", relation={"key": key})


async def related(user: User, room_id: str, path: str, **params: Any) -> Json:
    answer = await user.get(f"/v1/rooms/{room_id}/relations/{path}", **params)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def bundle(user: User, room_id: str, event_id: str) -> Json:
    event = (await user.get(f"/rooms/{room_id}/event/{event_id}")).json()
    found: Json = event["unsigned"].get("m.relations", {})
    return found


async def three_in_a_room(world: World) -> tuple[User, User, User, str]:
    alice, bob, carol = [await world.user(name) for name in ("alice", "bob", "carol")]
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await carol.join(room_id)
    return alice, bob, carol, room_id


def ids(answer: Json) -> list[str]:
    return [event["event_id"] for event in answer["chunk"]]


@pytest.mark.behaviours("CS-REL-14")
async def test_relations_are_listed_newest_first_in_pages_and_by_kind(world: World) -> None:
    alice, bob, carol, room_id = await three_in_a_room(world)
    parent = await alice.send(room_id, "parent")
    reactions = [await react(user, room_id, parent, "👍") for user in (alice, bob, carol)]
    change = await edit(alice, room_id, parent, "changed")
    assert ids(await related(bob, room_id, parent)) == [change, *reversed(reactions)]
    assert ids(await related(bob, room_id, parent, dir="f")) == [*reactions, change]
    assert ids(await related(bob, room_id, f"{parent}/m.annotation")) == reactions[::-1]
    assert ids(await related(bob, room_id, f"{parent}/m.annotation/m.reaction")) == reactions[::-1]
    assert ids(await related(bob, room_id, f"{parent}/m.annotation/m.other")) == []
    page = await related(bob, room_id, parent, limit=3)
    rest = await related(bob, room_id, parent, limit=3, **{"from": page["next_batch"]})
    assert ids(page) + ids(rest) == [change, *reversed(reactions)]
    assert "next_batch" not in rest
    eve = await world.user("eve")
    for user, event_id in ((eve, parent), (bob, "$nothing")):
        answer = await user.get(f"/v1/rooms/{room_id}/relations/{event_id}")
        assert answer.status_code in (403, 404)
    for bad in ("dir=x", "limit=0", "from=x", "recurse=perhaps"):
        assert (await bob.get(f"/v1/rooms/{room_id}/relations/{parent}?{bad}")).status_code == 400


@pytest.mark.behaviours("CS-REL-15")
async def test_relations_of_relations_are_found_if_asked_for(world: World) -> None:
    alice, bob, _, room_id = await three_in_a_room(world)
    parent = await alice.send(room_id, "parent")
    inside = await relate(bob, room_id, parent, "m.thread")
    reaction = await react(alice, room_id, inside, "👍")
    answer = await related(alice, room_id, parent, recurse="true")
    assert ids(answer) == [reaction, inside]
    assert answer["recursion_depth"] >= 2
    # A way that leads over what is not wanted leads nowhere.
    assert ids(await related(alice, room_id, f"{parent}/m.annotation", recurse="true")) == []
    assert ids(await related(alice, room_id, f"{parent}/m.thread", recurse="true")) == [inside]
    assert "recursion_depth" not in await related(alice, room_id, parent)
    assert (await related(alice, room_id, parent, recurse="false"))["recursion_depth"] == 1


@pytest.mark.behaviours("CS-REL-02", "CS-REL-06", "CS-REL-07", "CS-REL-08")
async def test_the_newest_valid_edit_is_bundled_and_the_content_stays(world: World) -> None:
    alice, bob, _, room_id = await three_in_a_room(world)
    parent = await alice.send(room_id, "original")
    await edit(alice, room_id, parent, "first")
    world.clock.time += 1000
    newest = await edit(alice, room_id, parent, "second")
    world.clock.time += 1000
    await edit(bob, room_id, parent, "not his to edit")
    await relate(alice, room_id, parent, "m.replace")  # Without new content.
    nested: Json = {"m.new_content": {"msgtype": "m.text", "body": "an edit of an edit"}}
    await relate(alice, room_id, newest, "m.replace", **nested)
    found = await bundle(bob, room_id, parent)
    assert found["m.replace"]["event_id"] == newest
    event = (await bob.get(f"/rooms/{room_id}/event/{parent}")).json()
    assert event["content"]["body"] == "original"
    assert await bundle(bob, room_id, newest) == {}
    await alice.put(f"/rooms/{room_id}/redact/{newest}/r1")
    assert (await bundle(bob, room_id, parent))["m.replace"]["content"]["m.new_content"]["body"] == "first"
    await alice.put(f"/rooms/{room_id}/redact/{parent}/r2")
    assert "m.replace" not in await bundle(bob, room_id, parent)


@pytest.mark.behaviours("CS-REL-05", "CS-REL-09", "CS-REL-11")
async def test_references_are_bundled_and_reactions_are_not(world: World) -> None:
    alice, bob, _, room_id = await three_in_a_room(world)
    parent = await alice.send(room_id, "parent")
    await react(bob, room_id, parent, "👍")
    first = await relate(bob, room_id, parent, "m.reference", "org.example")
    second = await relate(bob, room_id, parent, "m.reference", "org.example")
    assert await bundle(alice, room_id, parent) == {
        "m.reference": {"chunk": [{"event_id": first}, {"event_id": second}]}
    }
    await bob.put(f"/rooms/{room_id}/redact/{first}/r1")
    assert await bundle(alice, room_id, parent) == {"m.reference": {"chunk": [{"event_id": second}]}}


@pytest.mark.behaviours("CS-REL-10", "CS-REL-13")
async def test_the_same_reaction_twice_and_a_thread_on_a_relation_are_refused(world: World) -> None:
    alice, bob, _, room_id = await three_in_a_room(world)
    parent = await alice.send(room_id, "parent")
    await react(bob, room_id, parent, "👍")
    await react(bob, room_id, parent, "👎")
    body: Json = {"m.relates_to": {"rel_type": "m.annotation", "event_id": parent, "key": "👍"}}
    answer = await bob.put(f"/rooms/{room_id}/send/m.reaction/again", body)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_DUPLICATE_ANNOTATION")
    inside = await relate(bob, room_id, parent, "m.thread")
    body = {"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": inside}}
    answer = await bob.put(f"/rooms/{room_id}/send/m.room.message/nested", body)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_UNKNOWN")


@pytest.mark.behaviours("CS-REL-12", "CS-REL-16", "CS-REL-04")
async def test_threads_are_listed_by_their_newest_event_and_summed_up(world: World) -> None:
    alice, bob, carol, room_id = await three_in_a_room(world)
    one, two = await alice.send(room_id, "one"), await bob.send(room_id, "two")
    await relate(bob, room_id, two, "m.thread")
    await relate(carol, room_id, one, "m.thread")
    last = await relate(bob, room_id, one, "m.thread")
    change = await edit(bob, room_id, last, "better")
    listed = (await alice.get(f"/v1/rooms/{room_id}/threads")).json()
    assert ids(listed) == [one, two]
    thread = listed["chunk"][0]["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["current_user_participated"]) == (2, True)
    assert thread["latest_event"]["event_id"] == last
    assert thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == change
    mine = (await carol.get(f"/v1/rooms/{room_id}/threads", include="participated")).json()
    assert ids(mine) == [one]
    page = (await alice.get(f"/v1/rooms/{room_id}/threads", limit=1)).json()
    rest = (await alice.get(f"/v1/rooms/{room_id}/threads", limit=1, **{"from": page["next_batch"]})).json()
    assert ids(page) + ids(rest) == [one, two]
    ignored: Json = {"ignored_users": {bob.user_id: {}}}
    await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
    thread = (await bundle(alice, room_id, one))["m.thread"]
    assert thread["count"] == 1
    assert thread["latest_event"]["sender"] == carol.user_id


@pytest.mark.behaviours("CS-REL-01", "CS-REL-03")
@pytest.mark.parametrize(
    "relation", [3, [], {}, {"rel_type": 1, "event_id": "$x"}, {"rel_type": "m.x"}, {"event_id": 1}]
)
async def test_malformed_relations_are_no_relations(world: World, relation: Any) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    await alice.send(room_id, {"msgtype": "m.text", "body": "x", "m.relates_to": relation})
    answer = (await alice.get("/sync")).json()
    assert answer["rooms"]["join"][room_id]["timeline"]["events"][-1]["content"]["m.relates_to"] == relation
