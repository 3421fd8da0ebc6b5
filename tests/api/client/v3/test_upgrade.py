"""Replacing rooms by others of any version; on both databases."""

import asyncio
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from homeserver.matrix.room_versions import ROOM_VERSIONS
from tests.world import User, World

VERSIONS = list(ROOM_VERSIONS)


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the error code."""
    return answer.status_code, answer.json()["errcode"]


async def state(user: User, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The contents of the room's state."""
    answer = await user.get(f"/rooms/{room_id}/state")
    assert answer.status_code == 200, answer.text
    return {(event["type"], event["state_key"]): event["content"] for event in answer.json()}


async def upgrade(user: User, room_id: str, version: str, **more: Any) -> str:
    answer = await user.post(f"/rooms/{room_id}/upgrade", {"new_version": version, **more})
    assert answer.status_code == 200, answer.text
    new_id: str = answer.json()["replacement_room"]
    return new_id


@pytest.mark.parametrize("new", ["1", "6", "7", "8", "10", "11", "12"])
@pytest.mark.parametrize("old", ["1", "3", "8", "10", "11", "12"])
@pytest.mark.behaviours("CS-UPG-01", "CS-UPG-02", "CS-UPG-03", "CS-UPG-04")
@pytest.mark.by_turns
async def test_room_of_any_version_is_replaced_by_one_of_any_other(world: World, old: str, new: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    copied = {
        "m.room.server_acl": {"allow": ["*"], "deny": ["evil.example"]},
        "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
        "m.room.avatar": {"url": "mxc://localhost/den"},
        "m.room.guest_access": {"guest_access": "can_join"},
        "m.room.history_visibility": {"history_visibility": "joined"},
        "m.room.join_rules": {"join_rule": "public"},
    }
    room_id = await alice.create_room(
        room_version=old,
        name="Den",
        topic="Bears",
        room_alias_name="den",
        visibility="public",
        creation_content={"type": "org.example", "m.federate": False, "org.example": 1},
        initial_state=[
            *({"type": type_, "content": content} for type_, content in copied.items()),
            {"type": "org.example", "content": {"sensitive": True}},
        ],
        power_level_content_override={"kick": 33, "notifications": {"room": 20}},
    )
    await bob.join(room_id)
    levels = (await state(alice, room_id))["m.room.power_levels", ""]
    await alice.set_state(room_id, "m.room.power_levels", {**levels, "users": {**levels["users"], bob.user_id: 60}})
    new_id = await upgrade(alice, room_id, new)
    assert new_id != room_id

    before, after = await state(alice, room_id), await state(alice, new_id)
    assert before["m.room.tombstone", ""] == {"body": "This room has been replaced.", "replacement_room": new_id}
    create = after["m.room.create", ""]
    assert (create["room_version"], create["type"], create["m.federate"]) == (new, "org.example", False)
    assert "org.example" not in create
    assert create["predecessor"]["room_id"] == room_id
    if new != "12":
        tombstone = await alice.get(f"/rooms/{room_id}/event/{quote(create['predecessor']['event_id'], safe='')}")
        assert tombstone.json()["type"] == "m.room.tombstone"
    for type_, content in copied.items():
        assert after[type_, ""] == content
    assert (after["m.room.name", ""]["name"], after["m.room.topic", ""]["topic"]) == ("Den", "Bears")
    assert ("org.example", "") not in after
    assert [key for kind, key in after if kind == "m.room.member"] == [alice.user_id]

    levels = after["m.room.power_levels", ""]
    assert (levels["kick"], levels["notifications"]) == (33, {"room": 20})
    assert levels["users"].pop(bob.user_id) == 60
    if new == "12":
        assert levels["users"] == {}
        assert levels["events"]["m.room.tombstone"] > levels["state_default"]
    else:
        assert levels["users"][alice.user_id] >= 100

    # Names and the place in the directory move along.
    assert (await bob.get("/directory/room/%23den:localhost")).json()["room_id"] == new_id
    assert before["m.room.canonical_alias", ""] == {}
    assert after["m.room.canonical_alias", ""] == {"alias": "#den:localhost"}
    assert (await alice.get(f"/directory/list/room/{room_id}")).json() == {"visibility": "private"}
    assert (await alice.get(f"/directory/list/room/{new_id}")).json() == {"visibility": "public"}

    # Most members have no word in the old room any more; all may go on in the new one.
    restricted = before["m.room.power_levels", ""]
    assert (restricted["events_default"], restricted["invite"]) == (50, 50)
    await bob.join(new_id)
    await bob.send(new_id, "Hello.")
    await alice.send(new_id, "Hello.")
    await upgrade(alice, new_id, new)


@pytest.mark.behaviours("CS-UPG-01")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "M_MISSING_PARAM")),
        ({"new_version": 12}, (400, "M_BAD_JSON")),
        ({"new_version": ""}, (400, "M_UNSUPPORTED_ROOM_VERSION")),
        ({"new_version": "0"}, (400, "M_UNSUPPORTED_ROOM_VERSION")),
        ({"new_version": "12", "additional_creators": "@bob:localhost"}, (400, "M_BAD_JSON")),
        ({"new_version": "12", "additional_creators": [1]}, (400, "M_BAD_JSON")),
        ({"new_version": "12", "additional_creators": ["bob"]}, (400, "M_INVALID_PARAM")),
        ({"new_version": "12", "additional_creators": ["@b\0b:localhost"]}, (400, "M_INVALID_PARAM")),
        (
            {"new_version": "12", "additional_creators": [f"@{number:0250}:a" for number in range(300)]},
            (413, "M_TOO_LARGE"),
        ),
    ],
)
@pytest.mark.by_turns
async def test_upgrade_that_cannot_be_leaves_the_room_as_it_was(
    world: World, body: Any, expected: tuple[int, str]
) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_alias_name="den")
    assert refusal(await alice.post(f"/rooms/{room_id}/upgrade", body)) == expected
    assert ("m.room.tombstone", "") not in await state(alice, room_id)
    assert (await alice.get("/joined_rooms")).json() == {"joined_rooms": [room_id]}
    assert (await alice.get("/directory/room/%23den:localhost")).json()["room_id"] == room_id


@pytest.mark.behaviours("CS-UPG-04")
async def test_room_that_is_talked_in_meanwhile_is_replaced_by_one_that_is(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_alias_name="den")
    talk = asyncio.gather(*(alice.send(room_id, str(number)) for number in range(20)))
    wishes = [alice.post(f"/rooms/{room_id}/upgrade", {"new_version": "11"}) for _ in range(3)]
    answers = await asyncio.gather(*wishes)
    await talk
    made = [answer.json()["replacement_room"] for answer in answers if answer.status_code == 200]
    assert made
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert (await state(alice, room_id))["m.room.tombstone", ""]["replacement_room"] in made
    assert (await alice.get("/directory/room/%23den:localhost")).json()["room_id"] in made
    # No room was made for nothing.
    assert sorted((await alice.get("/joined_rooms")).json()["joined_rooms"]) == sorted([room_id, *made])


@pytest.mark.behaviours("CS-UPG-01")
async def test_upgrade_needs_the_power_to_send_the_tombstone(world: World) -> None:
    alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.user("carol")
    guest = await world.guest("guest")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    levels = (await state(alice, room_id))["m.room.power_levels", ""]
    await alice.set_state(room_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 149}})
    for user in (bob, carol):
        answer = await user.post(f"/rooms/{room_id}/upgrade", {"new_version": "12"})
        assert refusal(answer) == (403, "M_FORBIDDEN")
    answer = await guest.post(f"/rooms/{room_id}/upgrade", {"new_version": "12"})
    assert refusal(answer) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    answer = await alice.post("/rooms/!nowhere:localhost/upgrade", {"new_version": "12"})
    assert refusal(answer) == (404, "M_NOT_FOUND")
    assert (await bob.get("/joined_rooms")).json() == {"joined_rooms": [room_id]}


@pytest.mark.behaviours("CS-UPG-02")
async def test_additional_creators_come_from_the_request_only(world: World) -> None:
    alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.user("carol")
    room_id = await alice.create_room(creation_content={"additional_creators": [bob.user_id]})
    levels = (await state(alice, room_id))["m.room.power_levels", ""]
    await alice.set_state(room_id, "m.room.power_levels", {**levels, "users": {carol.user_id: 50}})
    first = await upgrade(alice, room_id, "12")
    assert "additional_creators" not in (await state(alice, first))["m.room.create", ""]
    second = await upgrade(alice, first, "12", additional_creators=[carol.user_id, carol.user_id])
    found = await state(alice, second)
    assert found["m.room.create", ""]["additional_creators"] == [carol.user_id]
    assert found["m.room.power_levels", ""]["users"] == {}  # A creator is never named there.
    older = await upgrade(alice, second, "11", additional_creators=["nonsense"])
    assert "additional_creators" not in (await state(alice, older))["m.room.create", ""]


@pytest.mark.parametrize("version", ["9", "12"])
@pytest.mark.behaviours("CS-UPG-03")
async def test_moderator_with_little_power_copies_what_they_could_not_set(world: World, version: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(
        room_version="9", initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "a"}}]
    )
    levels = (await state(alice, room_id))["m.room.power_levels", ""]
    levels = {
        **levels,
        "users": {alice.user_id: 100, bob.user_id: 50},
        "events": {**levels["events"], "m.room.tombstone": 50},
    }
    await alice.set_state(room_id, "m.room.power_levels", levels)
    await alice.invite(room_id, bob)
    await bob.join(room_id)
    new_id = await upgrade(bob, room_id, version)
    found = await state(bob, new_id)
    assert found["m.room.encryption", ""] == {"algorithm": "a"}
    users = found["m.room.power_levels", ""]["users"]
    assert users == ({alice.user_id: 100} if version == "12" else {alice.user_id: 100, bob.user_id: 50})
    # Bob may not change the power levels of the old room: they stay as they were.
    assert (await state(bob, room_id))["m.room.power_levels", ""] == levels


@pytest.mark.parametrize(
    ("rule", "version", "expected"),
    [
        ("knock", "6", "invite"),
        ("knock", "7", "knock"),
        ("restricted", "7", "invite"),
        ("restricted", "8", "restricted"),
        ("knock_restricted", "7", "invite"),
        ("knock_restricted", "9", "restricted"),
        ("knock_restricted", "10", "knock_restricted"),
    ],
)
@pytest.mark.behaviours("CS-UPG-03")
@pytest.mark.by_turns
async def test_join_rule_that_the_version_does_not_know_lets_in_fewer(
    world: World, rule: str, version: str, expected: str
) -> None:
    alice = await world.user("alice")
    rules = {"join_rule": rule, "allow": []}
    room_id = await alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": rules}])
    new_id = await upgrade(alice, room_id, version)
    assert (await state(alice, new_id))["m.room.join_rules", ""] == {**rules, "join_rule": expected}


@pytest.mark.behaviours("CS-UPG-03")
async def test_children_of_a_space_come_along(world: World) -> None:
    alice = await world.user("alice")
    child, gone = await alice.create_room(), await alice.create_room()
    space = await alice.create_room(creation_content={"type": "m.space"})
    await alice.set_state(space, "m.space.child", {"via": ["localhost"], "order": "a"}, child)
    await alice.set_state(space, "m.space.child", {}, gone)
    found = await state(alice, await upgrade(alice, space, "12"))
    assert {key: content for (kind, key), content in found.items() if kind == "m.space.child"} == {
        child: {"via": ["localhost"], "order": "a"}
    }


@pytest.mark.behaviours("CS-UPG-04")
async def test_old_room_that_was_strict_already_stays_as_strict(world: World) -> None:
    alice = await world.user("alice")
    override = {"users_default": 60, "events_default": 80, "invite": 0}
    room_id = await alice.create_room(power_level_content_override=override)
    await upgrade(alice, room_id, "12")
    levels = (await state(alice, room_id))["m.room.power_levels", ""]
    assert (levels["events_default"], levels["invite"]) == (80, 61)


@pytest.mark.behaviours("CS-UPG-05")
async def test_members_take_tags_rules_and_direct_chats_along(world: World) -> None:
    alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.user("carol")
    room_id = await alice.create_room(preset="public_chat")
    for user in (bob, carol):
        await user.join(room_id)
    for user in (alice, bob):
        await user.put(f"/user/{user.user_id}/rooms/{room_id}/tags/u.work", {"order": 0.5})
        await user.put(f"/pushrules/global/room/{room_id}", {"actions": []})
        direct = {carol.user_id: [room_id], "nonsense": 1}
        await user.put(f"/user/{user.user_id}/account_data/m.direct", direct)
    new_id = await upgrade(alice, room_id, "12")
    await bob.join(new_id)
    await carol.join(new_id)
    for user in (alice, bob):
        tags = (await user.get(f"/user/{user.user_id}/rooms/{new_id}/tags")).json()["tags"]
        assert tags == {"u.work": {"order": 0.5}}
        assert (await user.get(f"/pushrules/global/room/{new_id}")).json()["actions"] == []
        direct = (await user.get(f"/user/{user.user_id}/account_data/m.direct")).json()
        assert direct == {carol.user_id: [room_id, new_id], "nonsense": 1}
    assert (await carol.get(f"/user/{carol.user_id}/rooms/{new_id}/tags")).json()["tags"] == {}
    # What was changed since is not overwritten by coming again.
    await bob.put(f"/user/{bob.user_id}/rooms/{new_id}/tags/u.other", {})
    await bob.leave(new_id)
    await bob.join(new_id)
    assert len((await bob.get(f"/user/{bob.user_id}/rooms/{new_id}/tags")).json()["tags"]) == 2


@pytest.mark.behaviours("CS-UPG-05")
async def test_room_that_only_claims_to_follow_inherits_nothing(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await bob.create_room()
    await bob.put(f"/user/{bob.user_id}/rooms/{room_id}/tags/u.work", {})
    for predecessor in ({"room_id": room_id}, {"room_id": "!a\0b"}, {"room_id": "!nowhere:localhost"}):
        new_id = await alice.create_room(preset="public_chat", creation_content={"predecessor": predecessor})
        await bob.join(new_id)
        assert (await bob.get(f"/user/{bob.user_id}/rooms/{new_id}/tags")).json()["tags"] == {}
