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


@pytest.mark.behaviours("CS-REL-10", "CS-SEND-01")
async def test_a_reaction_that_is_sent_again_is_the_same_and_after_redaction_a_new_one(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    parent = await alice.send(room_id, "parent")
    body: Json = {"m.relates_to": {"rel_type": "m.annotation", "event_id": parent, "key": "👍"}}
    path = f"/rooms/{room_id}/send/m.reaction"
    first = (await alice.put(f"{path}/one", body)).json()["event_id"]
    assert (await alice.put(f"{path}/one", body)).json()["event_id"] == first
    assert (await alice.put(f"{path}/two", body)).json()["errcode"] == "M_DUPLICATE_ANNOTATION"
    await alice.put(f"/rooms/{room_id}/redact/{first}/r1")
    assert (await alice.put(f"{path}/two", body)).status_code == 200


@pytest.mark.behaviours("CS-REL-01", "CS-REL-10")
async def test_relations_across_rooms_count_in_neither(world: World) -> None:
    alice = await world.user("alice")
    here, there = await alice.create_room(), await alice.create_room()
    parent = await alice.send(here, "parent")
    await react(alice, there, parent, "👍")
    await relate(alice, there, parent, "m.thread")
    await relate(alice, there, parent, "m.reference", "org.example")
    await edit(alice, there, parent, "changed")
    assert ids(await related(alice, here, parent)) == []
    assert await bundle(alice, here, parent) == {}
    for room_id in (here, there):
        assert (await alice.get(f"/v1/rooms/{room_id}/threads")).json() == {"chunk": []}
    await react(alice, here, parent, "👍")


@pytest.mark.behaviours("CS-REL-14")
async def test_replies_are_not_relations_and_may_begin_threads(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    parent = await alice.send(room_id, "parent")
    reply = {"msgtype": "m.text", "body": "x", "m.relates_to": {"m.in_reply_to": {"event_id": parent}}}
    root = await alice.send(room_id, reply)
    assert ids(await related(alice, room_id, parent)) == []
    inside = await relate(alice, room_id, root, "m.thread")
    assert ids(await related(alice, room_id, root)) == [inside]


@pytest.mark.behaviours("CS-REL-06", "CS-REL-07")
async def test_of_many_edits_the_newest_that_counts_is_found(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    parent = await alice.send(room_id, "original")
    twins = [await edit(alice, room_id, parent, f"twin {number}") for number in range(2)]
    assert (await bundle(alice, room_id, parent))["m.replace"]["event_id"] == max(twins)
    for _ in range(12):
        world.clock.time += 1000
        await relate(alice, room_id, parent, "m.replace")  # Without new content.
        other: Json = {"m.new_content": {}}
        await relate(alice, room_id, parent, "m.replace", "org.example", **other)  # Of another type.
    assert (await bundle(alice, room_id, parent))["m.replace"]["event_id"] == max(twins)


@pytest.mark.behaviours("CS-REL-06")
async def test_an_encrypted_edit_counts_although_nobody_can_look_into_it(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    parent = await alice.send(room_id, {"ciphertext": "a"}, "m.room.encrypted")
    change = await relate(alice, room_id, parent, "m.replace", "m.room.encrypted")
    assert (await bundle(alice, room_id, parent))["m.replace"]["event_id"] == change


@pytest.mark.behaviours("CS-REL-03", "CS-REL-06")
async def test_state_is_neither_edited_nor_aggregated_on(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    state = await alice.set_state(room_id, "org.example", {})
    await relate(alice, room_id, state, "m.reference", "org.example")
    await relate(alice, room_id, state, "m.replace", "org.example", **{"m.new_content": {}})
    assert await bundle(alice, room_id, state) == {}
    parent = await alice.send(room_id, {}, "org.example")
    relation: Json = {"rel_type": "m.replace", "event_id": parent}
    await alice.set_state(room_id, "org.example", {"m.new_content": {}, "m.relates_to": relation}, "x")
    assert await bundle(alice, room_id, parent) == {}


@pytest.mark.behaviours("CS-REL-05", "CS-REL-12")
async def test_a_thread_outlives_its_root_and_loses_what_is_redacted(world: World) -> None:
    alice, bob, _, room_id = await three_in_a_room(world)
    root = await alice.send(room_id, "root")
    first = await relate(bob, room_id, root, "m.thread")
    second = await relate(bob, room_id, root, "m.thread")
    await alice.put(f"/rooms/{room_id}/redact/{root}/r1")
    assert (await bundle(bob, room_id, root))["m.thread"]["latest_event"]["event_id"] == second
    await bob.put(f"/rooms/{room_id}/redact/{second}/r2")
    thread = (await bundle(bob, room_id, root))["m.thread"]
    assert (thread["latest_event"]["event_id"], thread["count"]) == (first, 1)
    assert thread["latest_event"]["unsigned"]["membership"] == "join"
    assert thread["latest_event"]["unsigned"]["transaction_id"].startswith("t")
    assert "transaction_id" not in (await bundle(alice, room_id, root))["m.thread"]["latest_event"]["unsigned"]
    await bob.put(f"/rooms/{room_id}/redact/{first}/r3")
    assert await bundle(bob, room_id, root) == {}
    assert (await bob.get(f"/v1/rooms/{room_id}/threads")).json() == {"chunk": []}


@pytest.mark.behaviours("CS-REL-04", "CS-REL-12", "CS-REL-16", "CS-HIST-05")
async def test_what_came_after_somebody_left_is_in_no_aggregation_for_them(world: World) -> None:
    alice, bob, _, room_id = await three_in_a_room(world)
    root = await alice.send(room_id, "root")
    first = await relate(alice, room_id, root, "m.thread")
    one = await relate(alice, room_id, root, "m.reference", "org.example")
    change = await edit(alice, room_id, root, "changed")
    await bob.leave(room_id)
    world.clock.time += 1000
    await relate(alice, room_id, root, "m.thread")
    await relate(alice, room_id, root, "m.reference", "org.example")
    await edit(alice, room_id, root, "changed again")
    newer = await alice.send(room_id, "newer root")
    await relate(alice, room_id, newer, "m.thread")
    listed = (await bob.get(f"/v1/rooms/{room_id}/threads")).json()
    assert ids(listed) == [root]
    for found in (await bundle(bob, room_id, root), listed["chunk"][0]["unsigned"]["m.relations"]):
        assert found["m.thread"]["latest_event"]["event_id"] == first
        assert found["m.thread"]["count"] == 1
        assert found["m.reference"] == {"chunk": [{"event_id": one}]}
        assert found["m.replace"]["event_id"] == change
    assert ids(await related(bob, room_id, root)) == [change, one, first]
    await bob.join(room_id)
    assert (await bundle(bob, room_id, root))["m.thread"]["count"] == 2


@pytest.mark.behaviours("CS-REL-16")
async def test_threads_of_ignored_users_begin_with_nothing_and_ones_own_count_as_participated(world: World) -> None:
    alice, bob, carol, room_id = await three_in_a_room(world)
    his, hers = await bob.send(room_id, "his"), await alice.send(room_id, "hers")
    await relate(carol, room_id, his, "m.thread")
    await relate(carol, room_id, hers, "m.thread")
    threads = f"/v1/rooms/{room_id}/threads"
    assert ids((await alice.get(threads, include="participated")).json()) == [hers]
    assert ids((await alice.get(threads)).json()) == [hers, his]
    ignored: Json = {"ignored_users": {bob.user_id: {}}}
    await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
    first, second = (await alice.get(threads)).json()["chunk"]
    assert (first["content"]["body"], second["event_id"], second["content"]) == ("hers", his, {})
    assert second["unsigned"]["m.relations"]["m.thread"]["count"] == 1
    eve = await world.user("eve")
    assert (await eve.get(threads)).status_code == 403


@pytest.mark.behaviours("CS-REL-16")
async def test_the_last_page_of_threads_says_that_it_is_the_last(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    roots = [await alice.send(room_id, str(number)) for number in range(4)]
    for root in roots:
        await relate(alice, room_id, root, "m.thread")
    threads = f"/v1/rooms/{room_id}/threads"
    page = (await alice.get(threads, limit=2)).json()
    rest = (await alice.get(threads, limit=2, **{"from": page["next_batch"]})).json()
    assert ids(page) + ids(rest) == roots[::-1]
    assert "next_batch" not in rest
    for bad in ("limit=0", "limit=x", "from=x", "include=some"):
        assert (await alice.get(f"{threads}?{bad}")).status_code == 400


@pytest.mark.behaviours("CS-REL-14", "CS-GET-11")
async def test_relations_lie_between_tokens_of_history_and_syncs(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    parent = await alice.send(room_id, "parent")
    first = await relate(alice, room_id, parent, "m.reference", "org.example")
    token = (await alice.sync())["next_batch"]
    second = await relate(alice, room_id, parent, "m.reference", "org.example")
    assert ids(await related(alice, room_id, parent, **{"from": token})) == [first]
    assert ids(await related(alice, room_id, parent, to=token)) == [second]
    assert ids(await related(alice, room_id, parent, dir="f", **{"from": token})) == [second]
    assert ids(await related(alice, room_id, parent, dir="f", to=token, recurse="true")) == [first]


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
@pytest.mark.by_turns
async def test_malformed_relations_are_no_relations(world: World, relation: Any) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    await alice.send(room_id, {"msgtype": "m.text", "body": "x", "m.relates_to": relation})
    answer = (await alice.get("/sync")).json()
    assert answer["rooms"]["join"][room_id]["timeline"]["events"][-1]["content"]["m.relates_to"] == relation
