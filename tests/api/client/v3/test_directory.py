"""Aliases, the published directory and room summaries; on both databases."""

from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from homeserver.storage import aliases
from tests.world import User, World


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the error code."""
    return answer.status_code, answer.json()["errcode"]


def alias_path(alias: str) -> str:
    return f"/directory/room/{quote(alias, safe='')}"


async def add_alias(user: User, room_id: str, alias: str) -> None:
    answer = await user.put(alias_path(alias), {"room_id": room_id})
    assert answer.status_code == 200, answer.text


async def canonical(user: User, room_id: str, **content: Any) -> httpx2.Response:
    return await user.put(f"/rooms/{room_id}/state/m.room.canonical_alias", content)


@pytest.mark.behaviours("CS-ALIAS-01", "CS-ALIAS-02", "CS-ALIAS-04")
async def test_alias_is_made_once_and_resolved_by_everybody(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room()
    for alias in ("#den:localhost", "#Höhle/1%2:localhost"):
        await add_alias(alice, room_id, alias)
        answer = await world.client.get(f"/_matrix/client/v3{alias_path(alias)}")
        assert answer.json() == {"room_id": room_id, "servers": ["localhost"]}
        assert refusal(await alice.put(alias_path(alias), {"room_id": room_id})) == (409, "M_UNKNOWN")
    found = (await alice.get(f"/rooms/{room_id}/aliases")).json()["aliases"]
    assert sorted(found) == ["#Höhle/1%2:localhost", "#den:localhost"]
    # For those who are not in the room only if anybody may read it.
    assert refusal(await bob.get(f"/rooms/{room_id}/aliases")) == (403, "M_FORBIDDEN")
    assert refusal(await bob.get("/rooms/!nowhere:localhost/aliases")) == (403, "M_FORBIDDEN")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert len((await bob.get(f"/rooms/{room_id}/aliases")).json()["aliases"]) == 2


@pytest.mark.behaviours("CS-ALIAS-01", "CS-ALIAS-02")
@pytest.mark.parametrize(
    ("alias", "body", "expected"),
    [
        ("den", None, (400, "M_INVALID_PARAM")),
        ("#den", None, (400, "M_INVALID_PARAM")),
        ("#:localhost", None, (400, "M_INVALID_PARAM")),
        ("#d n:localhost", None, (400, "M_INVALID_PARAM")),
        ("#d\0n:localhost", None, (400, "M_INVALID_PARAM")),
        ("#" + "d" * 255 + ":localhost", None, (400, "M_INVALID_PARAM")),
        ("#den:elsewhere", None, (400, "M_INVALID_PARAM")),
        ("#den:localhost", {}, (400, "M_MISSING_PARAM")),
        ("#den:localhost", {"room_id": 1}, (400, "M_BAD_JSON")),
        ("#den:localhost", {"room_id": "den"}, (400, "M_INVALID_PARAM")),
        ("#den:localhost", {"room_id": "!nowhere:localhost"}, (404, "M_NOT_FOUND")),
    ],
)
@pytest.mark.by_turns
async def test_alias_that_cannot_be_is_refused(world: World, alias: str, body: Any, expected: tuple[int, str]) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    assert refusal(await alice.put(alias_path(alias), {"room_id": room_id} if body is None else body)) == expected


@pytest.mark.behaviours("CS-ALIAS-02")
async def test_alias_is_made_by_members_only(world: World) -> None:
    alice, bob, guest = await world.user("alice"), await world.user("bob"), await world.guest("guest")
    room_id = await alice.create_room(preset="public_chat")
    path = alias_path("#den:localhost")
    assert refusal(await bob.put(path, {"room_id": room_id})) == (403, "M_FORBIDDEN")
    assert refusal(await guest.put(path, {"room_id": room_id})) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert refusal(await world.client.get(f"/_matrix/client/v3{path}")) == (404, "M_NOT_FOUND")


@pytest.mark.behaviours("CS-ALIAS-03")
async def test_alias_is_removed_by_its_maker_and_by_those_with_power(world: World) -> None:
    alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.user("carol")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await carol.join(room_id)
    for alias in ("#one:localhost", "#two:localhost", "#three:localhost"):
        await add_alias(bob, room_id, alias)
    kept = {"alias": "#one:localhost", "alt_aliases": ["#two:localhost", "#three:localhost"], "org.example": 1}
    assert (await canonical(alice, room_id, **kept)).status_code == 200
    assert refusal(await carol.call("DELETE", alias_path("#one:localhost"))) == (403, "M_FORBIDDEN")
    # Bob made it but may not change the event: the alias goes all the same.
    assert (await bob.call("DELETE", alias_path("#one:localhost"))).status_code == 200
    assert refusal(await bob.get(alias_path("#one:localhost"))) == (404, "M_NOT_FOUND")
    assert (await alice.get(f"/rooms/{room_id}/state/m.room.canonical_alias")).json() == kept
    # Alice may, and it is taken out of the event.
    assert (await alice.call("DELETE", alias_path("#two:localhost"))).status_code == 200
    after = (await alice.get(f"/rooms/{room_id}/state/m.room.canonical_alias")).json()
    assert after == {**kept, "alt_aliases": ["#three:localhost"]}
    assert refusal(await alice.call("DELETE", alias_path("#two:localhost"))) == (404, "M_NOT_FOUND")
    assert refusal(await alice.call("DELETE", alias_path("#two:elsewhere"))) == (404, "M_NOT_FOUND")


@pytest.mark.behaviours("CS-SEND-04")
async def test_canonical_alias_takes_only_aliases_that_point_to_the_room(world: World) -> None:
    alice = await world.user("alice")
    room_id, other = await alice.create_room(), await alice.create_room()
    await add_alias(alice, room_id, "#one:localhost")
    await add_alias(alice, room_id, "#two:localhost")
    await add_alias(alice, other, "#other:localhost")
    for named in ("#other:localhost", "#nobody:localhost", "#one:elsewhere"):
        assert refusal(await canonical(alice, room_id, alias=named)) == (400, "M_BAD_ALIAS")
        assert refusal(await canonical(alice, room_id, alt_aliases=["#one:localhost", named])) == (400, "M_BAD_ALIAS")
    for wrong in ("one", "#one", "!one:localhost", "#" + "x" * 255 + ":localhost"):
        assert refusal(await canonical(alice, room_id, alias=wrong)) == (400, "M_INVALID_PARAM")
        assert refusal(await canonical(alice, room_id, alt_aliases=[wrong])) == (400, "M_INVALID_PARAM")
    assert refusal(await canonical(alice, room_id, alias=1)) == (400, "M_BAD_JSON")
    assert refusal(await canonical(alice, room_id, alt_aliases="#one:localhost")) == (400, "M_BAD_JSON")
    good = {"alias": "#one:localhost", "alt_aliases": ["#two:localhost"]}
    assert (await canonical(alice, room_id, **good)).status_code == 200
    # What is there already is left alone, even when it points nowhere any more; so is what goes.
    await world.container.database.write(_forget_alias, "#two:localhost")
    assert (await canonical(alice, room_id, **good, more=1)).status_code == 200
    assert (await canonical(alice, room_id, alt_aliases=["#two:localhost"])).status_code == 200
    assert (await canonical(alice, room_id)).status_code == 200
    assert refusal(await canonical(alice, room_id, alt_aliases=["#two:localhost"])) == (400, "M_BAD_ALIAS")


def _forget_alias(tx: Any, alias: Any) -> None:
    aliases.remove(tx, alias)


async def published(user: User, **options: Any) -> dict[str, Any]:
    answer = await user.post("/publicRooms", options)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids(page: dict[str, Any]) -> list[str]:
    return [room["room_id"] for room in page["chunk"]]


@pytest.mark.behaviours("CS-DIR-01")
async def test_directory_has_the_rooms_that_were_made_public_and_no_others(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    open_id = await alice.create_room(preset="public_chat")  # Anybody may join it, yet it is not listed.
    closed_id = await alice.create_room(visibility="public", preset="private_chat", name="Den")
    assert ids(await published(bob)) == [closed_id]
    path = f"/directory/list/room/{open_id}"
    assert (await world.client.get(f"/_matrix/client/v3{path}")).json() == {"visibility": "private"}
    for user, expected in ((bob, (403, "M_FORBIDDEN")), (await world.guest("g"), (403, "M_GUEST_ACCESS_FORBIDDEN"))):
        assert refusal(await user.put(path, {"visibility": "public"})) == expected
    await bob.join(open_id)
    assert refusal(await bob.put(path, {"visibility": "public"})) == (403, "M_FORBIDDEN")
    assert (await alice.put(path, {})).status_code == 200  # The default is to list it.
    assert (await alice.get(path)).json() == {"visibility": "public"}
    assert ids(await published(bob)) == [open_id, closed_id]  # The larger one comes first.
    assert (await alice.put(path, {"visibility": "private"})).status_code == 200
    assert ids(await published(bob)) == [closed_id]
    assert refusal(await alice.put(path, {"visibility": "hidden"})) == (400, "M_BAD_JSON")
    assert refusal(await alice.get("/directory/list/room/!nowhere:localhost")) == (404, "M_NOT_FOUND")
    assert refusal(await alice.put("/directory/list/room/!nowhere:localhost")) == (404, "M_NOT_FOUND")


@pytest.mark.behaviours("CS-DIR-01")
async def test_directory_says_of_a_room_what_its_state_says(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(
        visibility="public",
        name="Den",
        topic="Bears",
        room_alias_name="den",
        creation_content={"type": "m.space"},
        initial_state=[
            {"type": "m.room.avatar", "content": {"url": "mxc://localhost/den"}},
            {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}},
            {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}},
        ],
    )
    await bob.join(room_id)
    entry = {
        "room_id": room_id,
        "name": "Den",
        "topic": "Bears",
        "canonical_alias": "#den:localhost",
        "avatar_url": "mxc://localhost/den",
        "room_type": "m.space",
        "join_rule": "public",
        "world_readable": True,
        "guest_can_join": True,
        "num_joined_members": 2,
    }
    assert (await world.client.get("/_matrix/client/v3/publicRooms")).json() == {
        "chunk": [entry],
        "total_room_count_estimate": 1,
    }
    await alice.set_state(room_id, "m.room.topic", {"topic": "<b>", "m.topic": {"m.text": [{"body": "Bats"}]}})
    await alice.set_state(room_id, "m.room.name", {"name": ""})
    await alice.set_state(room_id, "m.room.avatar", {"url": 1})
    await bob.leave(room_id)
    [changed] = (await published(bob))["chunk"]
    without = {key: value for key, value in entry.items() if key not in ("name", "avatar_url")}
    assert changed == {**without, "topic": "Bats", "num_joined_members": 1}


@pytest.mark.behaviours("CS-DIR-02")
async def test_directory_is_searched_by_text_and_type(world: World) -> None:
    alice = await world.user("alice")
    made = {
        "name": await alice.create_room(visibility="public", name="The BÄR"),
        "topic": await alice.create_room(visibility="public", topic="a bär hides"),
        "alias": await alice.create_room(visibility="public", room_alias_name="bär", name="x"),
        "space": await alice.create_room(visibility="public", creation_content={"type": "m.space"}),
        "other": await alice.create_room(visibility="public", creation_content={"type": "org.example"}),
    }

    async def names(**filters: Any) -> set[str]:
        found = ids(await published(alice, filter=filters))
        return {name for name, room_id in made.items() if room_id in found}

    assert await names(generic_search_term="BäR") == {"name", "topic", "alias"}
    assert await names(generic_search_term="nothing") == set()
    assert await names(generic_search_term="") == set(made)
    assert await names(room_types=["m.space"]) == {"space"}
    assert await names(room_types=[None]) == {"name", "topic", "alias"}
    assert await names(room_types=[None, "org.example"]) == {"name", "topic", "alias", "other"}
    assert await names(room_types=[None], generic_search_term="hides") == {"topic"}


@pytest.mark.behaviours("CS-DIR-02")
async def test_directory_is_paged_both_ways_in_a_stable_order(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    made = [await alice.create_room(visibility="public") for _ in range(7)]
    await bob.join(made[4])
    expected = [made[4], *made[:4], *made[5:]]
    pages: list[list[str]] = []
    page = await published(alice, limit=3)
    while True:
        pages.append(ids(page))
        if "next_batch" not in page:
            break
        page = await published(alice, limit=3, since=page["next_batch"])
    assert pages == [expected[:3], expected[3:6], expected[6:]]
    page = await published(alice, limit=3, since=page["prev_batch"])
    assert ids(page) == expected[3:6]
    # A room that grows meanwhile moves nothing about between the pages.
    await bob.join(made[6])
    page = (await alice.get("/publicRooms", limit=3, since=page["prev_batch"])).json()
    assert ids(page) == [made[6], *expected[1:3]]
    assert page["total_room_count_estimate"] == 7


@pytest.mark.behaviours("CS-DIR-02", "CS-DIR-03")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"since": "x"}, (400, "M_INVALID_PARAM")),
        ({"since": ""}, (400, "M_INVALID_PARAM")),
        ({"since": "n1"}, (400, "M_INVALID_PARAM")),
        ({"since": "n" + "1" * 5000 + "_1"}, (400, "M_INVALID_PARAM")),
        ({"since": "n-1_1"}, (400, "M_INVALID_PARAM")),
        ({"since": "nä_1"}, (400, "M_INVALID_PARAM")),
        ({"since": 1}, (400, "M_BAD_JSON")),
        ({"limit": -1}, (400, "M_BAD_JSON")),
        ({"limit": "many"}, (400, "M_BAD_JSON")),
        ({"filter": []}, (400, "M_BAD_JSON")),
        ({"filter": {"generic_search_term": 1}}, (400, "M_BAD_JSON")),
        ({"filter": {"room_types": [1]}}, (400, "M_BAD_JSON")),
        ({"include_all_networks": True, "third_party_instance_id": "irc"}, (400, "M_INVALID_PARAM")),
    ],
)
@pytest.mark.by_turns
async def test_directory_refuses_what_makes_no_sense(world: World, options: Any, expected: tuple[int, str]) -> None:
    alice = await world.user("alice")
    assert refusal(await alice.post("/publicRooms", options)) == expected


@pytest.mark.behaviours("CS-DIR-02", "CS-DIR-03")
async def test_directory_of_others_is_asked_for_there_and_ours_is_by_name(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(visibility="public")
    assert refusal(await alice.get("/publicRooms", server="elsewhere")) == (502, "M_UNKNOWN")
    assert refusal(await alice.get("/publicRooms", limit=-1)) == (400, "M_INVALID_PARAM")
    assert refusal(await alice.get("/publicRooms", limit="x")) == (400, "M_INVALID_PARAM")
    assert ids((await alice.get("/publicRooms", server="localhost")).json()) == [room_id]
    assert (await published(alice, third_party_instance_id="irc"))["chunk"] == []
    assert ids(await published(alice, include_all_networks=True)) == [room_id]
    assert (await world.client.send("POST", "/_matrix/client/v3/publicRooms", json={})).status_code == 401


@pytest.mark.behaviours("CS-SUM-01")
async def test_summary_is_for_those_who_are_in_the_room_or_could_come_in(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(name="Den", room_alias_name="den")
    by_alias = f"/v1/room_summary/{quote('#den:localhost', safe='')}"
    anonymous = f"/_matrix/client/v1/room_summary/{room_id}"
    summary = (await alice.get(by_alias, via="elsewhere")).json()
    assert summary == {
        "room_id": room_id,
        "name": "Den",
        "canonical_alias": "#den:localhost",
        "join_rule": "invite",
        "world_readable": False,
        "guest_can_join": True,
        "num_joined_members": 1,
        "room_version": "12",
        "membership": "join",
    }
    assert refusal(await bob.get(by_alias)) == (404, "M_NOT_FOUND")
    assert refusal(await world.client.get(anonymous)) == (404, "M_NOT_FOUND")
    await alice.invite(room_id, bob)
    assert (await bob.get(by_alias)).json()["membership"] == "invite"
    await bob.leave(room_id)
    for rule in ("public", "knock", "knock_restricted"):
        await alice.set_state(room_id, "m.room.join_rules", {"join_rule": rule, "allow": []})
        assert (await bob.get(by_alias)).json()["membership"] == "leave"
        shown = (await world.client.get(anonymous)).json()
        assert (shown["join_rule"], "membership" in shown) == (rule, False)
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "private"})
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    await alice.set_state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    shown = (await world.client.get(anonymous)).json()
    assert (shown["world_readable"], shown["encryption"]) == (True, "m.megolm.v1.aes-sha2")


@pytest.mark.behaviours("CS-SUM-01", "CS-MEM-04")
async def test_summary_of_a_restricted_room_is_for_those_who_meet_a_condition(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    other = await alice.create_room(preset="public_chat")
    room_id = await alice.create_room()
    rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": other}]}
    await alice.set_state(room_id, "m.room.join_rules", rules)
    path = f"/v1/room_summary/{room_id}"
    assert refusal(await bob.get(path)) == (404, "M_NOT_FOUND")
    await bob.join(other)
    assert (await bob.get(path)).json()["allowed_room_ids"] == [other]


@pytest.mark.behaviours("CS-SUM-01")
async def test_summary_of_nothing_is_not_found(world: World) -> None:
    alice = await world.user("alice")
    assert refusal(await alice.get("/v1/room_summary/!nowhere:localhost")) == (404, "M_NOT_FOUND")
    assert refusal(await alice.get("/v1/room_summary/%23nowhere:localhost")) == (404, "M_NOT_FOUND")
    assert refusal(await alice.get("/v1/room_summary/nowhere")) == (400, "M_INVALID_PARAM")
    stranger = User(alice.client, alice.user_id, alice.device_id, "wrong")
    assert refusal(await stranger.get("/v1/room_summary/!nowhere:localhost")) == (401, "M_UNKNOWN_TOKEN")
