"""Making rooms, in every version; on both databases."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.room_versions import ROOM_VERSIONS
from tests.world import User, World

VERSIONS = list(ROOM_VERSIONS)


async def state(user: User, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The contents of the room's state."""
    answer = await user.get(f"/rooms/{room_id}/state")
    assert answer.status_code == 200, answer.text
    return {(event["type"], event["state_key"]): event["content"] for event in answer.json()}


async def timeline(user: User, room_id: str) -> list[dict[str, Any]]:
    """The room's events, the oldest first."""
    answer = await user.get(f"/rooms/{room_id}/messages", dir="f", limit=100)
    events: list[dict[str, Any]] = answer.json()["chunk"]
    return events


async def refused(user: User, status: int, errcode: str, **options: Any) -> None:
    answer = await user.post("/createRoom", options)
    assert (answer.status_code, answer.json()["errcode"]) == (status, errcode), answer.text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("CS-ROOM-01")
@pytest.mark.by_turns
async def test_rooms_of_every_version_are_made_joined_and_talked_in(world: World, version: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(room_version=version, name="Den", topic="Bears", invite=[bob.user_id])
    await bob.join(room_id)
    first = await alice.send(room_id, "Hello.")
    second = await bob.send(room_id, "Hello to you.")
    assert first != second
    assert (await bob.get("/joined_rooms")).json() == {"joined_rooms": [room_id]}


@pytest.mark.behaviours("CS-ROOM-01", "CS-ROOM-07", "CS-ROOM-08", "CS-DM-01")
async def test_first_events_come_in_the_order_that_the_specification_demands(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(
        room_alias_name="den",
        name="Den",
        topic="Bears",
        invite=[bob.user_id],
        is_direct=True,
        initial_state=[{"type": "org.example.b", "content": {"b": 1}}, {"type": "org.example.a", "content": {"a": 1}}],
    )
    events = await timeline(alice, room_id)
    assert [event["type"] for event in events] == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.canonical_alias",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "org.example.b",
        "org.example.a",
        "m.room.name",
        "m.room.topic",
        "m.room.member",
    ]
    assert events[3]["content"] == {"alias": "#den:localhost"}
    assert events[10]["content"]["m.topic"] == {"m.text": [{"body": "Bears", "mimetype": "text/plain"}]}
    assert events[11]["state_key"] == bob.user_id
    assert events[11]["content"]["is_direct"] is True
    assert (await bob.get("/directory/room/%23den:localhost")).json()["room_id"] == room_id


@pytest.mark.behaviours("CS-ROOM-02")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("invite", "shared", "can_join")),
        ({"visibility": "private"}, ("invite", "shared", "can_join")),
        ({"visibility": "public"}, ("public", "shared", "forbidden")),
        ({"visibility": "public", "preset": "private_chat"}, ("invite", "shared", "can_join")),
        ({"preset": "public_chat"}, ("public", "shared", "forbidden")),
        ({"preset": "trusted_private_chat"}, ("invite", "shared", "can_join")),
    ],
)
@pytest.mark.by_turns
async def test_preset_says_who_comes_in_and_who_reads(world: World, options: Any, expected: tuple[str, ...]) -> None:
    alice = await world.user("alice")
    found = await state(alice, await alice.create_room(**options))
    assert (
        found["m.room.join_rules", ""]["join_rule"],
        found["m.room.history_visibility", ""]["history_visibility"],
        found["m.room.guest_access", ""]["guest_access"],
    ) == expected


@pytest.mark.behaviours("CS-ROOM-02", "CS-ROOM-06")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.by_turns
async def test_trusted_invitees_stand_beside_the_creator(world: World, version: str) -> None:
    alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.user("carol")
    room_id = await alice.create_room(
        room_version=version,
        preset="trusted_private_chat",
        invite=[bob.user_id],
        creation_content={"additional_creators": [carol.user_id, bob.user_id]} if version == "12" else {},
    )
    found = await state(alice, room_id)
    levels, create = found["m.room.power_levels", ""], found["m.room.create", ""]
    if version == "12":
        assert levels["users"] == {}
        assert create["additional_creators"] == [carol.user_id, bob.user_id]
        assert levels["events"]["m.room.tombstone"] > levels["state_default"]
    else:
        assert levels["users"] == {alice.user_id: 100, bob.user_id: 100}
        assert "additional_creators" not in create
    assert create["room_version"] == version
    assert create.get("creator") == (alice.user_id if int(version) < 11 else None)
    await bob.join(room_id)
    await bob.set_state(room_id, "m.room.power_levels", {**levels, "invite": 1})


@pytest.mark.behaviours("CS-ROOM-03")
async def test_initial_state_beats_the_preset_and_name_and_topic_beat_initial_state(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(
        name="Den",
        topic="Bears",
        initial_state=[
            {"type": "m.room.join_rules", "content": {"join_rule": "knock"}},
            {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "forbidden"}},
            {"type": "m.room.name", "content": {"name": "Cave"}},
            {"type": "m.room.topic", "content": {"topic": "Bats"}},
            {"type": "org.example", "state_key": "key", "content": {}},
        ],
    )
    found = await state(alice, room_id)
    assert found["m.room.join_rules", ""] == {"join_rule": "knock"}
    assert found["m.room.guest_access", ""] == {"guest_access": "forbidden"}
    assert found["m.room.name", ""] == {"name": "Den"}
    assert found["m.room.topic", ""]["topic"] == "Bears"
    assert found["org.example", "key"] == {}
    events = await timeline(alice, room_id)
    assert len([event for event in events if event["type"] == "m.room.join_rules"]) == 1


@pytest.mark.behaviours("CS-ROOM-03", "CS-ROOM-06")
@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_power_levels_of_the_client_are_laid_over_the_servers(world: World, version: str) -> None:
    alice = await world.user("alice")
    override = {"events": {"m.room.name": 0}, "invite": 77, "org.example": {"kept": True}}
    room_id = await alice.create_room(room_version=version, power_level_content_override=override)
    levels = (await state(alice, room_id))["m.room.power_levels", ""]
    assert (levels["invite"], levels["ban"], levels["org.example"]) == (77, 50, {"kept": True})
    # What version 12 demands of tombstones stays, whatever is laid over the rest.
    assert levels["events"] == ({"m.room.name": 0, "m.room.tombstone": 150} if version == "12" else {"m.room.name": 0})


@pytest.mark.behaviours("CS-ROOM-06")
async def test_version_12_keeps_tombstones_above_a_raised_state_default(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(power_level_content_override={"events": {}, "state_default": 200})
    assert (await state(alice, room_id))["m.room.power_levels", ""]["events"] == {"m.room.tombstone": 201}


@pytest.mark.behaviours("CS-ROOM-04")
@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_creation_content_cannot_say_who_made_the_room_nor_its_version(world: World, version: str) -> None:
    alice = await world.user("alice")
    wanted = {
        "creator": "@bob:localhost",
        "room_version": "1",
        "m.federate": False,
        "type": "m.space",
        "org.example": 1,
    }
    found = await state(alice, await alice.create_room(room_version=version, creation_content=wanted))
    expected = {"room_version": version, "m.federate": False, "type": "m.space", "org.example": 1}
    if version == "10":
        expected["creator"] = alice.user_id
    assert found["m.room.create", ""] == expected


@pytest.mark.behaviours("CS-ROOM-05")
@pytest.mark.parametrize(
    ("options", "status", "errcode"),
    [
        ({"room_version": "0"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": ""}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": 12}, 400, "M_BAD_JSON"),
        ({"room_alias_name": "a:b"}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": "a b"}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": "a\0b"}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": ""}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": "ä" * 130}, 400, "M_INVALID_PARAM"),
        ({"invite": ["bob"]}, 400, "M_INVALID_PARAM"),
        ({"invite": "@bob:localhost"}, 400, "M_BAD_JSON"),
        ({"invite": ["@nobody:localhost"]}, 404, "M_NOT_FOUND"),
        ({"invite": ["@bob:elsewhere"]}, 502, "M_UNKNOWN"),
        ({"invite": ["@alice:localhost"]}, 400, "M_INVALID_ROOM_STATE"),
        ({"invite": [f"@u{number}:localhost" for number in range(1001)]}, 400, "M_INVALID_PARAM"),
        ({"invite_3pid": [{"medium": "email"}]}, 403, "M_THREEPID_DENIED"),
        ({"preset": "party"}, 400, "M_BAD_JSON"),
        ({"visibility": "hidden"}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"content": {}}]}, 400, "M_MISSING_PARAM"),
        ({"initial_state": [{"type": "a", "content": []}]}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"type": "m.room.create", "content": {}}]}, 400, "M_BAD_JSON"),
        (
            {"room_version": "11", "initial_state": [{"type": "m.room.create", "content": {}}]},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        ({"initial_state": [{"type": "a", "state_key": "@bob:localhost", "content": {}}]}, 400, "M_INVALID_ROOM_STATE"),
        ({"initial_state": [{"type": "a" * 256, "content": {}}]}, 413, "M_TOO_LARGE"),
        ({"initial_state": [{"type": "a\0", "content": {}}]}, 400, "M_INVALID_PARAM"),
        ({"initial_state": [{"type": "a", "content": {"a": 1.5}}]}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"type": "a", "content": {"a": 2**53}}]}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"type": "a", "content": {"a": 10**30}}]}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"type": "a", "content": {"a": "a" * 66_000}}]}, 413, "M_TOO_LARGE"),
        ({"initial_state": [{"type": "a", "content": {}}] * 1001}, 400, "M_INVALID_PARAM"),
        ({"initial_state": [{"type": "m.room.canonical_alias", "content": {"alias": "x"}}]}, 400, "M_INVALID_PARAM"),
        (
            {"initial_state": [{"type": "m.room.canonical_alias", "content": {"alias": "#x:localhost"}}]},
            400,
            "M_BAD_ALIAS",
        ),
        (
            {
                "initial_state": [
                    {
                        "type": "m.room.member",
                        "state_key": "@nobody:localhost",
                        "content": {"membership": "invite"},
                    }
                ]
            },
            404,
            "M_NOT_FOUND",
        ),
        ({"creation_content": {"m.federate": "no"}}, 400, "M_BAD_JSON"),
        ({"creation_content": {"type": 1}}, 400, "M_BAD_JSON"),
        ({"creation_content": {"predecessor": "!a:b"}}, 400, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": ["bob"]}}, 400, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": "bob"}}, 400, "M_BAD_JSON"),
        (
            {"creation_content": {"additional_creators": [1]}, "preset": "trusted_private_chat"},
            400,
            "M_BAD_JSON",
        ),
        ({"creation_content": {"a": 0.1}}, 400, "M_BAD_JSON"),
        ({"power_level_content_override": {"users": {"@alice:localhost": 100}}}, 400, "M_INVALID_ROOM_STATE"),
        (
            {"room_version": "11", "power_level_content_override": {"users": {"@alice:localhost": 0}}},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        ({"power_level_content_override": {"ban": "50"}}, 400, "M_BAD_JSON"),
        ({"power_level_content_override": {"events": ["a"]}}, 400, "M_BAD_JSON"),
        ({"room_version": "1", "power_level_content_override": {"state_default": "50"}}, 400, "M_BAD_JSON"),
    ],
)
@pytest.mark.by_turns
async def test_rooms_that_cannot_be_are_refused_whole(world: World, options: Any, status: int, errcode: str) -> None:
    alice = await world.user("alice")
    await world.user("bob")
    await refused(alice, status, errcode, **options)
    assert (await alice.get("/joined_rooms")).json() == {"joined_rooms": []}


@pytest.mark.behaviours("CS-ROOM-05")
async def test_alias_that_is_taken_makes_no_room(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(room_alias_name="den")
    await refused(bob, 400, "M_ROOM_IN_USE", room_alias_name="den")
    assert (await bob.get("/joined_rooms")).json() == {"joined_rooms": []}
    assert (await bob.get("/directory/room/%23den:localhost")).json()["room_id"] == room_id


@pytest.mark.behaviours("CS-ROOM-09", "CS-INVP-01")
async def test_invitee_who_wants_no_invites_is_not_invited_to_a_new_room(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    await bob.put(f"/user/{bob.user_id}/account_data/m.invite_permission_config", {"default_action": "block"})
    await refused(alice, 403, "M_INVITE_BLOCKED", invite=[bob.user_id])
    invite = {"type": "m.room.member", "state_key": bob.user_id, "content": {"membership": "invite"}}
    await refused(alice, 403, "M_INVITE_BLOCKED", initial_state=[invite])
    await bob.put(f"/user/{bob.user_id}/account_data/m.invite_permission_config", {})
    await alice.create_room(invite=[bob.user_id])


@pytest.mark.behaviours("CS-GUEST-01")
async def test_guests_make_no_rooms(world: World) -> None:
    await refused(await world.guest("gast"), 403, "M_GUEST_ACCESS_FORBIDDEN")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("CS-SEND-07", "CS-SEND-03")
@pytest.mark.by_turns
async def test_redaction_needs_its_level_and_that_of_others_events_one_more(world: World, version: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await bob.join(room_id)
    levels = (await state(alice, room_id))["m.room.power_levels", ""]

    async def redact(user: User, event_id: str, path: str) -> int:
        if path == "redact":
            answer = await user.put(f"/rooms/{room_id}/redact/{quote(event_id, safe='')}/t{next(user.transactions)}")
        else:
            name = f"m.room.redaction/t{next(user.transactions)}"
            answer = await user.put(f"/rooms/{room_id}/send/{name}", {"redacts": event_id})
        return answer.status_code

    for path in ("redact", "send"):
        await alice.set_state(room_id, "m.room.power_levels", levels)
        assert await redact(bob, await bob.send(room_id, "mine"), path) == 200
        assert await redact(bob, await alice.send(room_id, "hers"), path) == 403
        assert await redact(alice, await bob.send(room_id, "his"), path) == 200
        moderator = {**levels, "users": {**levels["users"], bob.user_id: 50}}
        await alice.set_state(room_id, "m.room.power_levels", moderator)
        assert await redact(bob, await alice.send(room_id, "hers"), path) == 200
        strict = {**moderator, "events": {**levels["events"], "m.room.redaction": 51}}
        await alice.set_state(room_id, "m.room.power_levels", strict)
        assert await redact(bob, await bob.send(room_id, "mine"), path) == 403
        assert await redact(bob, await alice.send(room_id, "hers"), path) == 403


@pytest.mark.behaviours("CS-ROOM-05")
async def test_of_many_who_want_one_alias_at_once_one_gets_it(world: World) -> None:
    alice = await world.user("alice")
    wishes = [alice.post("/createRoom", {"room_alias_name": "den", "name": str(number)}) for number in range(12)]
    others = asyncio.gather(*(alice.create_room() for _ in range(4)))
    answers = await asyncio.gather(*wishes)
    [won] = [answer.json()["room_id"] for answer in answers if answer.status_code == 200]
    assert {answer.json().get("errcode") for answer in answers} == {None, "M_ROOM_IN_USE"}
    assert (await alice.get("/directory/room/%23den:localhost")).json()["room_id"] == won
    made = await others
    assert sorted((await alice.get("/joined_rooms")).json()["joined_rooms"]) == sorted([won, *made])


@pytest.mark.behaviours("CS-EV-12", "CS-SEND-06")
@pytest.mark.parametrize("version", ["1", "5", "9", "12"])
async def test_content_that_clients_could_not_read_is_not_sent(world: World, version: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_version=version)
    for content in ({}, {"msgtype": "m.text"}, {"body": "a"}, {"msgtype": "m.text", "body": ["a"]}):
        answer = await alice.put(f"/rooms/{room_id}/send/m.room.message/x", content)
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_BAD_JSON")
    for levels in ({"ban": "50"}, {"users": {alice.user_id: "100"}}, {"events": 1}):
        answer = await alice.put(f"/rooms/{room_id}/state/m.room.power_levels", levels)
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_BAD_JSON")
