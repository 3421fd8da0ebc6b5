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
    for user, event_id in ((bob, early), (eve, late), (alice, "$nothing")):
        for path in ("event", "context"):
            answer = await user.get(f"/rooms/{room_id}/{path}/{event_id}")
            assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")


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


HISTORY = {
    # (visibility, who reads) -> whether what was said before the invite, while invited, while joined, and after
    # leaving may be seen.
    ("world_readable", "left"): (True, True, True, True),
    ("world_readable", "stranger"): (True, True, True, True),
    ("shared", "left"): (True, True, True, False),
    ("invited", "left"): (False, True, True, False),
    ("joined", "left"): (False, False, True, False),
    ("nonsense", "left"): (True, True, True, False),
}


@pytest.mark.parametrize(("visibility", "reader"), HISTORY)
async def test_history_visibility_decides_what_is_seen(world: World, visibility: str, reader: str) -> None:
    alice, bob, eve = [await world.user(name) for name in ("alice", "bob", "eve")]
    rule = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room_id = await alice.create_room(initial_state=[rule])
    ids = [await alice.send(room_id, "before the invite")]
    await alice.invite(room_id, bob)
    ids.append(await alice.send(room_id, "while invited"))
    await bob.join(room_id)
    ids.append(await alice.send(room_id, "while joined"))
    await bob.leave(room_id)
    ids.append(await alice.send(room_id, "after leaving"))
    user = bob if reader == "left" else eve
    chunk = (await page(user, room_id, dir="f", limit=100))["chunk"]
    shown = {event["event_id"] for event in chunk}
    assert tuple(event_id in shown for event_id in ids) == HISTORY[visibility, reader]


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


@pytest.mark.parametrize(
    "query", ["", "dir=x", "dir=b&from=x", "dir=b&limit=-1", "dir=b&filter={", "dir=b&filter=[]", "dir=b&to=t"]
)
async def test_bad_queries_are_refused(world: World, query: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    assert (await alice.get(f"/rooms/{room_id}/messages?{query}")).status_code == 400
