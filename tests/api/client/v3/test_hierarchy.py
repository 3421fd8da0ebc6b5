"""Walking through spaces; on both databases."""

from typing import Any

import httpx2
import pytest

from tests.world import User, World


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the error code."""
    return answer.status_code, answer.json()["errcode"]


async def walk(user: User, space: str, **params: Any) -> dict[str, Any]:
    answer = await user.get(f"/v1/rooms/{space}/hierarchy", **params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids(page: dict[str, Any]) -> list[str]:
    return [room["room_id"] for room in page["rooms"]]


async def make_space(user: User, *children: str, **options: Any) -> str:
    space = await user.create_room(creation_content={"type": "m.space"}, **options)
    for child in children:
        await add_child(user, space, child)
    return space


async def add_child(user: User, space: str, child: str, **more: Any) -> None:
    await user.set_state(space, "m.space.child", {"via": ["localhost"], **more}, child)


@pytest.mark.behaviours("CS-SPACE-01", "CS-SPACE-04")
async def test_tree_is_walked_depth_first_and_loops_end(world: World) -> None:
    alice = await world.user("alice")
    one, two, three = [await alice.create_room(name=name) for name in ("one", "two", "three")]
    inner = await make_space(alice)
    await add_child(alice, inner, two, order="b")
    await add_child(alice, inner, one, order="a")
    outer = await make_space(alice, name="Outer")
    await add_child(alice, inner, outer)
    world.clock.time += 1000
    await add_child(alice, outer, three)
    await add_child(alice, outer, one, order="not \n valid")
    await add_child(alice, outer, inner, order="z")
    page = await walk(alice, outer)
    assert ids(page) == [outer, inner, one, two, *([three] if three < one else []), *([three] if one < three else [])]
    assert "next_batch" not in page
    first = page["rooms"][0]
    assert (first["name"], first["room_type"], first["room_version"]) == ("Outer", "m.space", "12")
    assert first["children_state"][0] == {
        "type": "m.space.child",
        "state_key": inner,
        "sender": alice.user_id,
        "content": {"via": ["localhost"], "order": "z"},
        "origin_server_ts": world.clock.time,
    }
    assert page["rooms"][2]["children_state"] == []


@pytest.mark.behaviours("CS-SPACE-01")
async def test_only_children_with_servers_in_a_space_count(world: World) -> None:
    alice = await world.user("alice")
    child = await alice.create_room()
    wrong: list[dict[str, Any]] = [{}, {"via": []}, {"via": "localhost"}, {"via": [1]}, {"via": None}]
    for content in wrong:
        space = await make_space(alice)
        await alice.set_state(space, "m.space.child", content, child)
        page = await walk(alice, space)
        assert (ids(page), page["rooms"][0]["children_state"]) == ([space], [])
    space = await make_space(alice, "!unknown:elsewhere", "nonsense")
    page = await walk(alice, space)
    assert ids(page) == [space]
    assert [event["state_key"] for event in page["rooms"][0]["children_state"]] == ["!unknown:elsewhere"]
    plain = await alice.create_room()
    await add_child(alice, plain, child)
    assert ids(await walk(alice, plain)) == [plain]


@pytest.mark.behaviours("CS-SPACE-01")
async def test_rooms_are_shown_to_those_who_could_see_or_join_them(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    member_of = await alice.create_room(preset="public_chat")
    condition = {"type": "m.room_membership", "room_id": member_of}

    async def room(rule: str, *, version: str = "12", **content: Any) -> str:
        rules = {"type": "m.room.join_rules", "content": {"join_rule": rule, **content}}
        return await alice.create_room(room_version=version, initial_state=[rules])

    visible = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    rooms = {
        "private": await room("invite"),
        "invited": await alice.create_room(invite=[bob.user_id]),
        "public": await room("public"),
        "knock": await room("knock"),
        "knock before it was known": await room("knock", version="6"),
        "knock_restricted": await room("knock_restricted", allow=[]),
        "restricted, not met": await room("restricted", allow=[{**condition, "room_id": "!nowhere:localhost"}]),
        "restricted, met": await room("restricted", allow=[condition]),
        "world readable": await alice.create_room(initial_state=[visible]),
    }
    space = await make_space(alice, *rooms.values(), preset="public_chat")
    await bob.join(member_of)

    async def seen(user: User) -> set[str]:
        found = ids(await walk(user, space))
        return {name for name, room_id in rooms.items() if room_id in found}

    hidden = {"private", "knock before it was known", "restricted, not met"}
    assert await seen(alice) == set(rooms)
    assert await seen(bob) == set(rooms) - hidden
    carol = await world.user("carol")
    assert await seen(carol) == set(rooms) - hidden - {"invited", "restricted, met"}


@pytest.mark.behaviours("CS-SPACE-01")
async def test_space_that_is_not_to_be_seen_is_forbidden(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    space = await make_space(alice)
    assert refusal(await bob.get(f"/v1/rooms/{space}/hierarchy")) == (403, "M_FORBIDDEN")
    assert refusal(await bob.get("/v1/rooms/!nowhere:localhost/hierarchy")) == (403, "M_FORBIDDEN")


@pytest.mark.behaviours("CS-SPACE-02")
async def test_tree_is_paged_and_its_view_cannot_change_meanwhile(world: World) -> None:
    alice = await world.user("alice")
    rooms = [await alice.create_room() for _ in range(5)]
    space = await make_space(alice)
    for number, room_id in enumerate(rooms):
        await add_child(alice, space, room_id, order=str(number), suggested=number % 2 == 0)
    first = await walk(alice, space, limit=2)
    second = await walk(alice, space, limit=3, **{"from": first["next_batch"]})
    third = await walk(alice, space, limit=3, **{"from": second["next_batch"]})
    assert [ids(first), ids(second), ids(third)] == [[space, rooms[0]], rooms[1:4], rooms[4:]]
    assert "next_batch" not in third
    for changed in ({"max_depth": 1}, {"suggested_only": "true"}):
        answer = await alice.get(f"/v1/rooms/{space}/hierarchy", **{"from": first["next_batch"], **changed})
        assert refusal(answer) == (400, "M_INVALID_PARAM")
    suggested = await walk(alice, space, suggested_only="true")
    assert ids(suggested) == [space, *rooms[::2]]
    assert len(suggested["rooms"][0]["children_state"]) == 3


@pytest.mark.behaviours("CS-SPACE-02")
async def test_depth_is_bounded(world: World) -> None:
    alice = await world.user("alice")
    leaf = await alice.create_room()
    inner = await make_space(alice, leaf)
    middle = await make_space(alice, inner)
    outer = await make_space(alice, middle)
    everything = [outer, middle, inner, leaf]
    for depth in range(4):
        page = await walk(alice, outer, max_depth=depth)
        assert ids(page) == everything[: depth + 1]
    assert ids(await walk(alice, outer, max_depth=10**6)) == everything


@pytest.mark.behaviours("CS-SPACE-02")
@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "-1"},
        {"limit": "x"},
        {"max_depth": "-1"},
        {"max_depth": "x"},
        {"suggested_only": "perhaps"},
        {"from": ""},
        {"from": "x"},
        {"from": "h1"},
        {"from": "hx_20_0"},
        {"from": "h" + "1" * 5000 + "_20_0"},
        {"from": "ä1_20_0"},
    ],
)
@pytest.mark.by_turns
async def test_walk_that_makes_no_sense_is_refused(world: World, params: dict[str, str]) -> None:
    alice = await world.user("alice")
    space = await make_space(alice)
    assert refusal(await alice.get(f"/v1/rooms/{space}/hierarchy", **params)) == (400, "M_INVALID_PARAM")
