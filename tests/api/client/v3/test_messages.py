"""Reading a room's history, single events and context; on both databases."""

from typing import Any

import pytest

from tests.world import User, World


async def page(user: User, room_id: str, **params: Any) -> dict[str, Any]:
    answer = await user.get(f"/rooms/{room_id}/messages", **params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


@pytest.mark.behaviours("CS-GET-06")
async def test_history_is_read_in_pages_both_ways_without_gap_or_repetition(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    for number in range(25):
        await alice.send(room_id, str(number))
    for direction, expected in (("b", range(24, -1, -1)), ("f", range(25))):
        found: list[str] = []
        token: dict[str, str] = {}
        answer: dict[str, Any] = {}
        for _ in range(20):
            answer = await page(alice, room_id, dir=direction, limit=7, **token)
            found += texts(answer["chunk"])
            if "end" not in answer:
                break
            token = {"from": answer["end"]}
        assert found == [str(number) for number in expected]
        assert "end" not in answer


@pytest.mark.behaviours("CS-GET-11")
async def test_history_goes_on_where_a_sync_began(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    for number in range(15):
        await alice.send(room_id, str(number))
    first = (await alice.get("/sync")).json()
    token = first["rooms"]["join"][room_id]["timeline"]["prev_batch"]
    answer = await page(alice, room_id, dir="b", limit=100, **{"from": token})
    assert texts(answer["chunk"]) == ["4", "3", "2", "1", "0"]
    await alice.send(room_id, "later")
    answer = await page(alice, room_id, dir="f", **{"from": first["next_batch"]})
    assert texts(answer["chunk"]) == ["later"]


@pytest.mark.behaviours("CS-GET-06")
async def test_there_is_no_next_page_without_anything_on_it(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    rule = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await alice.create_room(preset="public_chat", initial_state=[rule])
    for number in range(5):
        await alice.send(room_id, str(number))
    await bob.join(room_id)
    for number in range(5, 9):
        await alice.send(room_id, str(number))
    only_texts = '{"types": ["m.room.message"], "limit": 9}'
    answer = await page(bob, room_id, dir="b", limit=4, filter=only_texts)
    assert texts(answer["chunk"]) == ["8", "7", "6", "5"]
    assert "end" not in answer
    answer = await page(alice, room_id, dir="b", filter=only_texts)
    assert (len(answer["chunk"]), "end" in answer) == (9, False)
    assert "end" not in await page(alice, room_id, dir="f", filter=only_texts)


@pytest.mark.behaviours("CS-GET-11")
async def test_a_page_begins_with_the_token_that_was_given(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    await alice.send(room_id, "one")
    token = (await alice.sync())["next_batch"]
    answer = await page(alice, room_id, dir="b", limit=1, **{"from": token})
    assert answer["start"] == token
    following = await page(alice, room_id, dir="b", limit=2, to=answer["end"])
    assert texts(following["chunk"]) == ["one"]


@pytest.mark.behaviours("CS-GET-08", "CS-FILT-08")
async def test_lazy_loading_gives_the_member_events_of_those_who_speak(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.send(room_id, "hi")
    answer = await page(alice, room_id, dir="b", limit=1, filter='{"lazy_load_members": true}')
    assert [event["state_key"] for event in answer["state"]] == [bob.user_id]


async def test_history_is_not_for_strangers_and_unknown_rooms_look_alike(world: World) -> None:
    alice, eve = await world.user("alice"), await world.user("eve")
    room_id = await alice.create_room()
    for path in ("messages?dir=b", "state", "members", "joined_members", "state/m.room.create/"):
        known = await eve.get(f"/rooms/{room_id}/{path}")
        unknown = await eve.get(f"/rooms/!nowhere:localhost/{path}")
        assert (known.status_code, known.json()["errcode"]) == (403, "M_FORBIDDEN"), path
        assert unknown.json() == known.json()


@pytest.mark.behaviours("CS-GET-01")
async def test_an_event_that_one_may_not_see_does_not_exist(world: World) -> None:
    alice, bob, eve = [await world.user(name) for name in ("alice", "bob", "eve")]
    room_id = await alice.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}],
    )
    early = await alice.send(room_id, "early")
    await bob.join(room_id)
    late = await alice.send(room_id, "late")
    assert (await bob.get(f"/rooms/{room_id}/event/{late}")).json()["content"]["body"] == "late"
    nowhere = "!nowhere:localhost"
    for user, place, event_id in (
        (bob, room_id, early),
        (eve, room_id, late),
        (alice, room_id, "$nothing"),
        (alice, nowhere, late),
    ):
        for path in (f"/rooms/{place}/event", f"/rooms/{place}/context", f"/v1/rooms/{place}/relations"):
            answer = await user.get(f"{path}/{event_id}")
            assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND"), path


@pytest.mark.behaviours("CS-GET-09")
async def test_context_has_what_was_said_before_and_after(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    ids = [await alice.send(room_id, str(number)) for number in range(11)]
    answer = (await alice.get(f"/rooms/{room_id}/context/{ids[5]}", limit=4)).json()
    assert texts(answer["events_before"]) == ["4", "3"]
    assert answer["event"]["event_id"] == ids[5]
    assert texts(answer["events_after"]) == ["6", "7"]
    assert "m.room.create" in {event["type"] for event in answer["state"]}
    older = await page(alice, room_id, dir="b", limit=2, **{"from": answer["start"]})
    assert texts(older["chunk"]) == ["2", "1"]
    newer = await page(alice, room_id, dir="f", limit=2, **{"from": answer["end"]})
    assert texts(newer["chunk"]) == ["8", "9"]
    alone = (await alice.get(f"/rooms/{room_id}/context/{ids[5]}", limit=0)).json()
    assert (alone["events_before"], alone["events_after"]) == ([], [])


@pytest.mark.behaviours("CS-GET-02", "CS-MEM-08", "CS-MEM-09")
async def test_whoever_left_sees_the_state_of_then_until_the_room_is_forgotten(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat", name="Den")
    await bob.join(room_id)
    assert (await bob.post(f"/rooms/{room_id}/forget")).status_code == 400
    await bob.leave(room_id)
    await alice.set_state(room_id, "m.room.name", {"name": "Lair"})
    assert (await bob.get(f"/rooms/{room_id}/state/m.room.name")).json() == {"name": "Den"}
    assert (await alice.get(f"/rooms/{room_id}/state/m.room.name/")).json() == {"name": "Lair"}
    assert (await bob.post(f"/rooms/{room_id}/forget")).status_code == 200
    assert (await bob.get(f"/rooms/{room_id}/state/m.room.name")).status_code == 403


@pytest.mark.behaviours("CS-GET-09", "CS-FILT-02")
async def test_the_filter_of_a_context_is_for_everything_but_the_event(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(name="Den")
    event_id = await alice.send(room_id, {}, "org.example.other")
    await alice.send(room_id, "after")
    wanted = '{"types": ["m.room.message", "m.room.name"]}'
    answer = (await alice.get(f"/rooms/{room_id}/context/{event_id}", filter=wanted)).json()
    assert answer["event"]["event_id"] == event_id
    assert [event["type"] for event in answer["events_before"]] == ["m.room.name"]
    assert texts(answer["events_after"]) == ["after"]
    assert [event["type"] for event in answer["state"]] == ["m.room.name"]
    lazy = '{"lazy_load_members": true}'
    answer = (await alice.get(f"/rooms/{room_id}/context/{event_id}", filter=lazy)).json()
    assert [event["state_key"] for event in answer["state"]] == [alice.user_id]


@pytest.mark.behaviours("CS-IGN-02")
async def test_history_leaves_out_what_ignored_users_say(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.send(room_id, "from alice")
    await bob.send(room_id, "from bob")
    ignored: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
    chunk = (await page(alice, room_id, dir="b", limit=100))["chunk"]
    assert texts(chunk) == ["from alice"]
    assert bob.user_id in {event["sender"] for event in chunk if event["type"] == "m.room.member"}
    answer = (await alice.get(f"/rooms/{room_id}/context/{event_id}")).json()
    assert texts(answer["events_after"]) == []
    assert texts((await page(bob, room_id, dir="b", limit=100))["chunk"]) == ["from bob", "from alice"]


@pytest.mark.behaviours("CS-SEND-08")
@pytest.mark.parametrize("version", ["6", "11", "12"])
async def test_a_redacted_event_is_stripped_with_its_redaction_wherever_it_is_read(world: World, version: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_version=version, topic="secret")
    message = await alice.send(room_id, "secret")
    topic = (await alice.get(f"/rooms/{room_id}/state/m.room.topic", format="event")).json()["event_id"]
    redactions = {}
    for number, event_id in enumerate((message, topic)):
        answer = await alice.put(f"/rooms/{room_id}/redact/{event_id}/r{number}", {"reason": "secret no more"})
        redactions[event_id] = answer.json()["event_id"]
    assert (await alice.get(f"/rooms/{room_id}/state/m.room.topic")).json() == {}
    shown = [
        (await alice.get(f"/rooms/{room_id}/event/{message}")).json(),
        (await alice.get(f"/rooms/{room_id}/context/{message}")).json()["event"],
        (await alice.get(f"/rooms/{room_id}/state/m.room.topic", format="event")).json(),
        *(await page(alice, room_id, dir="b", limit=100))["chunk"],
        *(await alice.get(f"/rooms/{room_id}/state")).json(),
    ]
    redacted = [event for event in shown if event["event_id"] in redactions]
    assert len(redacted) == 6
    for event in redacted:
        assert event["content"] == {}
        because = event["unsigned"]["redacted_because"]
        assert because["event_id"] == redactions[event["event_id"]]
        assert because["redacts"] == because["content"]["redacts"] == event["event_id"]


@pytest.mark.behaviours("CS-SEND-08", "CS-HIST-04")
async def test_whoever_left_before_a_redaction_sees_what_it_did_and_not_the_redaction(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    message = await alice.send(room_id, "secret")
    await bob.leave(room_id)
    await alice.put(f"/rooms/{room_id}/redact/{message}/r1", {"reason": "Bob was here."})
    for user, is_told in ((alice, True), (bob, False)):
        event = (await user.get(f"/rooms/{room_id}/event/{message}")).json()
        assert (event["content"], "redacted_because" in event["unsigned"]) == ({}, is_told)


@pytest.mark.behaviours("CS-EV-06")
async def test_what_a_state_event_replaced_is_named_and_shown_to_those_who_may_see_it(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    rule = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await alice.create_room(preset="public_chat", initial_state=[rule], topic="one")
    first = (await alice.get(f"/rooms/{room_id}/state/m.room.topic", format="event")).json()["event_id"]
    await bob.join(room_id)
    second = await alice.set_state(room_id, "m.room.topic", {"topic": "two"})
    hers = (await alice.get(f"/rooms/{room_id}/event/{second}")).json()["unsigned"]
    his = (await bob.get(f"/rooms/{room_id}/event/{second}")).json()["unsigned"]
    assert hers["replaces_state"] == his["replaces_state"] == first
    assert hers["prev_content"]["topic"] == "one"
    assert "prev_content" not in his


@pytest.mark.behaviours("CS-GET-03")
async def test_one_piece_of_state_is_read_as_content_or_as_event(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(name="Den")
    event_id = await alice.set_state(room_id, "org.example", {"a": 1}, "a/b")
    path = f"/rooms/{room_id}/state/org.example/a%2Fb"
    assert (await alice.get(path)).json() == {"a": 1}
    assert (await alice.get(path, format="event")).json()["event_id"] == event_id
    missing = await alice.get(f"/rooms/{room_id}/state/org.example/none")
    assert (missing.status_code, missing.json()["errcode"]) == (404, "M_NOT_FOUND")


@pytest.mark.behaviours("CS-GET-04", "CS-GET-05")
async def test_members_now_and_at_a_token(world: World) -> None:
    alice, bob, carol = [await world.user(name) for name in ("alice", "bob", "carol")]
    room_id = await alice.create_room(preset="public_chat")
    before = (await alice.get("/sync")).json()["next_batch"]
    await bob.join(room_id)
    await alice.invite(room_id, carol)

    async def members(**params: str) -> set[str]:
        answer = await alice.get(f"/rooms/{room_id}/members", **params)
        return {event["state_key"] for event in answer.json()["chunk"]}

    assert await members() == {alice.user_id, bob.user_id, carol.user_id}
    assert await members(at=before) == {alice.user_id}
    assert await members(membership="invite") == {carol.user_id}
    assert await members(not_membership="join") == {carol.user_id}
    assert await members(membership="join", not_membership="invite") == {alice.user_id, bob.user_id}
    joined = (await bob.get(f"/rooms/{room_id}/joined_members")).json()["joined"]
    assert joined.keys() == {alice.user_id, bob.user_id}


@pytest.mark.behaviours("CS-GET-10")
async def test_the_event_nearest_to_a_time_is_found(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    world.clock.time += 10_000
    first = await alice.send(room_id, "first")
    world.clock.time += 10_000
    second = await alice.send(room_id, "second")

    async def at(ts: int, direction: str) -> Any:
        return (await alice.get(f"/v1/rooms/{room_id}/timestamp_to_event", ts=ts, dir=direction)).json()

    assert (await at(world.clock.time - 5000, "f"))["event_id"] == second
    assert (await at(world.clock.time - 5000, "b"))["event_id"] == first
    assert (await at(world.clock.time + 5000, "f"))["errcode"] == "M_NOT_FOUND"
    for ts in (2**53 + 1, 2**63, 2**64, -(2**63) - 1):
        assert (await at(ts, "f"))["errcode"] == "M_INVALID_PARAM"


@pytest.mark.behaviours("CS-GET-10")
async def test_the_nearest_event_is_found_behind_many_that_may_not_be_seen(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    rule = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await alice.create_room(preset="public_chat", initial_state=[rule])
    world.clock.time += 10_000
    for number in range(120):
        await alice.send(room_id, str(number))
    await bob.join(room_id)
    answer = await bob.get(f"/v1/rooms/{room_id}/timestamp_to_event", ts=world.clock.time, dir="f")
    event = (await bob.get(f"/rooms/{room_id}/event/{answer.json()['event_id']}")).json()
    assert event["content"]["membership"] == "join"


@pytest.mark.parametrize("bad", ["%00", "$%00", "nothing", "%F0%9F%98%80", "$" + "x" * 3000])
async def test_what_is_no_event_is_not_found(world: World, bad: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    for path in (f"/rooms/{room_id}/event/{bad}", f"/rooms/{room_id}/context/{bad}", f"/rooms/{bad}/event/$x"):
        assert (await alice.get(path)).status_code in (400, 404), path
    for path in (f"/rooms/{room_id}/state/{bad}", f"/v1/rooms/{room_id}/relations/{bad}", f"/v1/rooms/{bad}/threads"):
        assert (await alice.get(path)).status_code in (400, 403, 404), path


@pytest.mark.parametrize(
    "query", ["", "dir=x", "dir=b&from=x", "dir=b&limit=-1", "dir=b&filter={", "dir=b&filter=[]", "dir=b&to=t"]
)
@pytest.mark.by_turns
async def test_bad_queries_are_refused(world: World, query: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    assert (await alice.get(f"/rooms/{room_id}/messages?{query}")).status_code == 400
