"""Joining, leaving, inviting and moderating; on both databases."""

from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from homeserver.matrix.room_versions import ROOM_VERSIONS
from tests.world import User, World

VERSIONS = list(ROOM_VERSIONS)
KNOCK = [name for name, version in ROOM_VERSIONS.items() if version.knock]
RESTRICTED = [name for name, version in ROOM_VERSIONS.items() if version.restricted]
KNOCK_RESTRICTED = [name for name, version in ROOM_VERSIONS.items() if version.knock_restricted]


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the error code."""
    return answer.status_code, answer.json()["errcode"]


async def member(user: User, room_id: str, target: User) -> dict[str, Any]:
    """The content of somebody's member event."""
    answer = await user.get(f"/rooms/{room_id}/state/m.room.member/{target.user_id}")
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


async def act(user: User, room_id: str, action: str, target: User, **more: Any) -> httpx2.Response:
    return await user.post(f"/rooms/{room_id}/{action}", {"user_id": target.user_id, **more})


async def put_member(user: User, room_id: str, target: User, membership: str, **more: Any) -> httpx2.Response:
    path = f"/rooms/{room_id}/state/m.room.member/{target.user_id}"
    return await user.put(path, {"membership": membership, **more})


@pytest.mark.behaviours("CS-MEM-10")
async def test_member_events_carry_names_pictures_and_reasons(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
    await bob.put(f"/profile/{bob.user_id}/avatar_url", {"avatar_url": "mxc://localhost/bob"})
    room_id = await alice.create_room(preset="public_chat")
    assert await member(alice, room_id, alice) == {"membership": "join", "displayname": "Alice"}
    profile = {"displayname": "Bob", "avatar_url": "mxc://localhost/bob"}
    await act(alice, room_id, "invite", bob, reason="Come!")
    assert await member(alice, room_id, bob) == {"membership": "invite", "reason": "Come!", **profile}
    await bob.post(f"/rooms/{room_id}/join", {"reason": "Gladly."})
    assert await member(alice, room_id, bob) == {"membership": "join", "reason": "Gladly.", **profile}
    await bob.post(f"/rooms/{room_id}/leave", {"reason": "Bye."})
    assert await member(alice, room_id, bob) == {"membership": "leave", "reason": "Bye.", **profile}
    await act(alice, room_id, "ban", bob, reason="No.")
    assert await member(alice, room_id, bob) == {"membership": "ban", "reason": "No."}
    await act(alice, room_id, "unban", bob, reason="Well.")
    assert await member(alice, room_id, bob) == {"membership": "leave", "reason": "Well."}
    await bob.join(room_id)
    await act(alice, room_id, "kick", bob, reason="Out!")
    assert await member(alice, room_id, bob) == {"membership": "leave", "reason": "Out!"}


@pytest.mark.behaviours("CS-MEM-03", "CS-ALIAS-01")
async def test_join_by_alias_or_id_answers_with_the_room(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat", room_alias_name="den")
    for name in ("#den:localhost", room_id):
        for more in ("", "?via=elsewhere&via=localhost", "?server_name=elsewhere"):
            answer = await bob.post(f"/join/{quote(name)}{more}")
            assert (answer.status_code, answer.json()) == (200, {"room_id": room_id})
    assert (await bob.post(f"/rooms/{room_id}/join")).json() == {"room_id": room_id}


@pytest.mark.behaviours("CS-MEM-03")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("!nowhere:localhost", (404, "M_NOT_FOUND")),
        ("!nowhere:elsewhere?via=elsewhere", (502, "M_UNKNOWN")),
        ("%23nowhere:localhost", (404, "M_NOT_FOUND")),
        ("%23nowhere:elsewhere", (502, "M_UNKNOWN")),
        ("nowhere", (400, "M_INVALID_PARAM")),
        ("%23nowhere", (400, "M_INVALID_PARAM")),
        ("%00", (400, "M_INVALID_PARAM")),
        ("!%00:localhost", (400, "M_INVALID_PARAM")),
    ],
)
@pytest.mark.by_turns
async def test_join_and_knock_where_nothing_is_are_refused(world: World, name: str, expected: tuple[int, str]) -> None:
    bob = await world.user("bob")
    assert refusal(await bob.post(f"/join/{name}")) == expected
    assert refusal(await bob.post(f"/knock/{name}")) == expected


@pytest.mark.behaviours("CS-MEM-11")
async def test_join_by_third_party_invite_is_declined_in_words(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    signed = {"third_party_signed": {"sender": alice.user_id, "mxid": bob.user_id, "token": "t", "signatures": {}}}
    assert refusal(await bob.post(f"/rooms/{room_id}/join", signed)) == (403, "M_FORBIDDEN")
    assert refusal(await bob.post(f"/join/{room_id}", signed)) == (403, "M_FORBIDDEN")
    assert refusal(await bob.post(f"/join/{room_id}", {"third_party_signed": 1})) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("CS-MEM-01", "CS-MEM-02", "CS-MEM-08")
@pytest.mark.by_turns
async def test_every_change_of_membership_that_may_be_and_that_may_not(world: World, version: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(room_version=version)
    # Never here.
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")
    assert refusal(await bob.post(f"/rooms/{room_id}/leave")) == (403, "M_FORBIDDEN")
    assert refusal(await act(alice, room_id, "kick", bob)) == (403, "M_BAD_STATE")
    assert refusal(await act(alice, room_id, "unban", bob)) == (403, "M_BAD_STATE")
    # Invited, rejected, invited again, withdrawn.
    await alice.invite(room_id, bob)
    await alice.invite(room_id, bob)
    await bob.leave(room_id)
    await bob.leave(room_id)
    await alice.invite(room_id, bob)
    assert (await act(alice, room_id, "kick", bob)).status_code == 200
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")
    # In, and put out.
    await alice.invite(room_id, bob)
    await bob.join(room_id)
    await bob.join(room_id)
    assert refusal(await act(alice, room_id, "invite", bob)) == (403, "M_FORBIDDEN")
    assert (await act(alice, room_id, "kick", bob)).status_code == 200
    assert refusal(await act(alice, room_id, "kick", bob)) == (403, "M_BAD_STATE")
    # Banned.
    assert (await act(alice, room_id, "ban", bob)).status_code == 200
    assert (await act(alice, room_id, "ban", bob)).status_code == 200
    assert refusal(await act(alice, room_id, "invite", bob)) == (403, "M_FORBIDDEN")
    assert refusal(await act(alice, room_id, "kick", bob)) == (403, "M_BAD_STATE")
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")
    assert refusal(await bob.post(f"/rooms/{room_id}/leave")) == (403, "M_FORBIDDEN")
    assert (await act(alice, room_id, "unban", bob)).status_code == 200
    assert (await member(alice, room_id, bob))["membership"] == "leave"
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")
    await alice.invite(room_id, bob)
    await bob.join(room_id)


@pytest.mark.behaviours("CS-MEM-02", "CS-SEND-02")
async def test_moderation_needs_presence_and_power(world: World) -> None:
    alice, bob, carol, dora = [await world.user(name) for name in ("alice", "bob", "carol", "dora")]
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await dora.join(room_id)
    for action in ("invite", "kick", "ban"):
        for by in (bob, carol):  # one without power, one who is not in the room
            assert refusal(await act(by, room_id, action, dora if action != "invite" else carol)) == (
                403,
                "M_FORBIDDEN",
            )
    await act(alice, room_id, "ban", dora)
    for by in (bob, carol):
        assert refusal(await act(by, room_id, "unban", dora)) == (403, "M_FORBIDDEN")
    await alice.set_state(room_id, "m.room.power_levels", {"users": {bob.user_id: 50}, "kick": 50, "ban": 51})
    assert refusal(await act(bob, room_id, "ban", carol)) == (403, "M_FORBIDDEN")
    assert refusal(await act(bob, room_id, "kick", alice)) == (403, "M_FORBIDDEN")
    assert (await act(bob, room_id, "invite", carol)).status_code == 200
    assert (await act(bob, room_id, "kick", carol)).status_code == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "M_MISSING_PARAM")),
        ({"user_id": None}, (400, None)),
        ({"user_id": 1}, (400, "M_BAD_JSON")),
        ({"user_id": "bob"}, (400, "M_INVALID_PARAM")),
        ({"user_id": "@bob"}, (400, "M_INVALID_PARAM")),
        ({"user_id": "@b\0b:localhost"}, (400, "M_INVALID_PARAM")),
        ({"user_id": "@" + "b" * 250 + ":localhost"}, (400, "M_INVALID_PARAM")),
        ({"user_id": "@bob:localhost", "reason": 1}, (400, "M_BAD_JSON")),
        ({"user_id": "@bob:localhost", "reason": "x" * 70_000}, (413, "M_TOO_LARGE")),
        ([], (400, "M_BAD_JSON")),
    ],
)
@pytest.mark.parametrize("action", ["invite", "kick", "ban", "unban"])
@pytest.mark.by_turns
async def test_bad_targets_are_refused(world: World, action: str, body: Any, expected: tuple[int, Any]) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    if action == "kick":
        await bob.join(room_id)
    if action == "unban":
        await act(alice, room_id, "ban", bob)
    answer = await alice.post(f"/rooms/{room_id}/{action}", body)
    assert answer.status_code == expected[0], answer.text
    assert expected[1] in (None, answer.json()["errcode"])


@pytest.mark.behaviours("CS-MEM-02")
async def test_invites_go_only_to_users_who_are(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    for user_id, expected in (
        ("@nobody:localhost", (404, "M_NOT_FOUND")),
        ("@bob:elsewhere", (502, "M_UNKNOWN")),
    ):
        assert refusal(await alice.post(f"/rooms/{room_id}/invite", {"user_id": user_id})) == expected
        answer = await alice.put(f"/rooms/{room_id}/state/m.room.member/{user_id}", {"membership": "invite"})
        assert refusal(answer) == expected
    by_mail = {"id_server": "id.example", "id_access_token": "t", "medium": "email", "address": "bob@example.org"}
    assert refusal(await alice.post(f"/rooms/{room_id}/invite", by_mail)) == (403, "M_THREEPID_DENIED")


@pytest.mark.behaviours("CS-SEND-11", "CS-INVP-01")
async def test_user_who_wants_no_invites_gets_none_on_any_path(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.put(f"/user/{bob.user_id}/account_data/m.invite_permission_config", {"default_action": "block"})
    assert refusal(await act(alice, room_id, "invite", bob)) == (403, "M_INVITE_BLOCKED")
    assert refusal(await put_member(alice, room_id, bob, "invite")) == (403, "M_INVITE_BLOCKED")
    await bob.join(room_id)
    await bob.leave(room_id)
    await bob.put(f"/user/{bob.user_id}/account_data/m.invite_permission_config", {"default_action": "allow"})
    await alice.invite(room_id, bob)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("CS-MEM-06")
@pytest.mark.by_turns
async def test_knock_is_for_rooms_that_are_knocked_at(world: World, version: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
    room_id = await alice.create_room(room_version=version, room_alias_name="den")
    assert refusal(await bob.post(f"/knock/{room_id}")) == (403, "M_FORBIDDEN")
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    answer = await bob.post("/knock/%23den:localhost?via=localhost", {"reason": "Please!"})
    if version not in KNOCK:
        assert refusal(answer) == (403, "M_FORBIDDEN")
        return
    assert (answer.status_code, answer.json()) == (200, {"room_id": room_id})
    assert await member(alice, room_id, bob) == {"membership": "knock", "displayname": "Bob", "reason": "Please!"}
    assert room_id in (await bob.get("/sync")).json()["rooms"]["knock"]
    assert (await bob.post(f"/knock/{room_id}")).status_code == 200
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")
    await bob.leave(room_id)  # Taken back.
    assert (await bob.post(f"/knock/{room_id}")).status_code == 200
    assert (await act(alice, room_id, "kick", bob)).status_code == 200  # Turned down.
    assert (await bob.post(f"/knock/{room_id}")).status_code == 200
    await alice.invite(room_id, bob)
    assert refusal(await bob.post(f"/knock/{room_id}")) == (403, "M_FORBIDDEN")
    await bob.join(room_id)
    assert refusal(await bob.post(f"/knock/{room_id}")) == (403, "M_FORBIDDEN")
    await act(alice, room_id, "ban", bob)
    assert refusal(await bob.post(f"/knock/{room_id}")) == (403, "M_FORBIDDEN")


def restricted(*room_ids: str, rule: str = "restricted") -> dict[str, Any]:
    return {
        "join_rule": rule,
        "allow": [{"type": "m.room_membership", "room_id": room_id} for room_id in room_ids],
    }


@pytest.mark.parametrize("rule", ["restricted", "knock_restricted"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("CS-MEM-04", "CS-MEM-06")
@pytest.mark.by_turns
async def test_restricted_room_lets_in_the_members_of_another(world: World, version: str, rule: str) -> None:
    alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.user("carol")
    other = await alice.create_room(preset="public_chat")
    room_id = await alice.create_room(room_version=version)
    await alice.set_state(room_id, "m.room.join_rules", restricted("!nowhere:localhost", other, rule=rule))
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")
    await bob.join(other)
    answer = await bob.post(f"/rooms/{room_id}/join")
    if version not in (RESTRICTED if rule == "restricted" else KNOCK_RESTRICTED):
        assert refusal(answer) == (403, "M_FORBIDDEN")
        return
    assert answer.status_code == 200
    assert await member(bob, room_id, bob) == {
        "membership": "join",
        "join_authorised_via_users_server": alice.user_id,
    }
    # It is not kept up afterwards, and a change of one's name asks for nothing.
    await bob.leave(other)
    assert (await put_member(bob, room_id, bob, "join", displayname="B.")).status_code == 200
    assert await member(bob, room_id, bob) == {"membership": "join", "displayname": "B."}
    await bob.leave(room_id)
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")
    # An invite needs no condition; a knock is for rooms with both.
    await alice.invite(room_id, carol)
    await carol.join(room_id)
    assert "join_authorised_via_users_server" not in await member(carol, room_id, carol)
    expected = 200 if rule == "knock_restricted" else 403
    assert (await bob.post(f"/knock/{room_id}")).status_code == expected


@pytest.mark.behaviours("CS-MEM-04")
async def test_nobody_authorises_their_own_restricted_join(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    other = await alice.create_room()
    room_id = await alice.create_room()
    await alice.set_state(room_id, "m.room.join_rules", restricted(other))
    answer = await put_member(bob, room_id, bob, "join", join_authorised_via_users_server=alice.user_id)
    assert refusal(answer) == (403, "M_FORBIDDEN")
    await alice.invite(other, bob)
    await bob.join(other)
    answer = await put_member(bob, room_id, bob, "join", join_authorised_via_users_server="@nobody:elsewhere")
    assert answer.status_code == 200
    assert (await member(bob, room_id, bob))["join_authorised_via_users_server"] == alice.user_id


@pytest.mark.behaviours("CS-MEM-04")
async def test_restricted_join_needs_a_member_who_may_invite(world: World) -> None:
    alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.user("carol")
    other = await alice.create_room(preset="public_chat")
    room_id = await alice.create_room(room_version="10", power_level_content_override={"invite": 50})
    await alice.invite(room_id, bob)
    await bob.join(room_id)
    await alice.set_state(room_id, "m.room.join_rules", restricted(other))
    await alice.leave(room_id)
    await carol.join(other)
    answer = await carol.post(f"/rooms/{room_id}/join")
    assert refusal(answer) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "rules",
    [
        {"join_rule": "restricted"},
        {"join_rule": "restricted", "allow": "all"},
        {"join_rule": "restricted", "allow": [1, {}, {"type": "m.room_membership", "room_id": ["!a"]}]},
        {"join_rule": "restricted", "allow": [{"type": "org.example", "room_id": "!a:localhost"}]},
        {"join_rule": ["restricted"]},
        {},
    ],
)
@pytest.mark.by_turns
async def test_join_rules_that_make_no_sense_let_nobody_in(world: World, rules: Any) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room()
    answer = await alice.put(f"/rooms/{room_id}/state/m.room.join_rules", rules)
    assert answer.status_code in (200, 400, 403)
    assert refusal(await bob.post(f"/rooms/{room_id}/join")) == (403, "M_FORBIDDEN")


@pytest.mark.behaviours("CS-GUEST-02", "CS-GUEST-03")
async def test_guests_join_where_they_may_and_leave_when_they_may_no_longer(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    first, second = await world.guest("first"), await world.guest("second")
    room_id = await alice.create_room(preset="public_chat")
    assert refusal(await first.post(f"/rooms/{room_id}/join")) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert refusal(await first.post(f"/join/{room_id}")) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert refusal(await put_member(first, room_id, first, "join")) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "can_join"})
    for user in (first, second, bob):
        await user.join(room_id)
    await first.send(room_id, "Hello.")
    await first.set_state(room_id, "m.room.member", {"membership": "join", "displayname": "F"}, first.user_id)
    # A change that lets them stay.
    await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "can_join", "org.example": 1})
    assert (await first.get("/joined_rooms")).json() == {"joined_rooms": [room_id]}
    # Nobody without the power puts them out.
    assert refusal(await bob.put(f"/rooms/{room_id}/state/m.room.guest_access", {})) == (403, "M_FORBIDDEN")
    await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "forbidden"})
    for guest in (first, second):
        assert (await guest.get("/joined_rooms")).json() == {"joined_rooms": []}
        assert (await member(alice, room_id, guest))["membership"] == "leave"
    assert (await bob.get("/joined_rooms")).json() == {"joined_rooms": [room_id]}


@pytest.mark.behaviours("CS-GUEST-03", "CS-SEND-03")
@pytest.mark.parametrize("path", ["redact", "send"])
async def test_guests_leave_when_what_let_them_in_is_redacted(world: World, path: str) -> None:
    alice, guest = await world.user("alice"), await world.guest("guest")
    room_id = await alice.create_room(preset="public_chat")
    access = await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "can_join"})
    await guest.join(room_id)
    said = await guest.send(room_id, "Hello.")
    for event_id in (said, access):
        if path == "redact":
            answer = await alice.put(f"/rooms/{room_id}/redact/{quote(event_id, safe='')}/{event_id[1:9]}")
        else:
            answer = await alice.put(f"/rooms/{room_id}/send/m.room.redaction/{event_id[1:9]}", {"redacts": event_id})
        assert answer.status_code == 200, answer.text
        joined = (await guest.get("/joined_rooms")).json()["joined_rooms"]
        assert joined == ([room_id] if event_id == said else [])


@pytest.mark.behaviours("CS-GUEST-02")
async def test_guest_with_an_invite_does_not_join_where_guests_may_not(world: World) -> None:
    alice, guest = await world.user("alice"), await world.guest("guest")
    absent = {"type": "m.room.guest_access", "content": {}}
    room_id = await alice.create_room(initial_state=[absent], invite=[guest.user_id])
    assert refusal(await guest.post(f"/rooms/{room_id}/join")) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    await guest.leave(room_id)


@pytest.mark.behaviours("CS-GUEST-01")
async def test_guests_do_not_moderate_nor_knock(world: World) -> None:
    alice, guest = await world.user("alice"), await world.guest("guest")
    room_id = await alice.create_room(preset="public_chat")
    for action in ("invite", "kick", "ban", "unban"):
        assert refusal(await act(guest, room_id, action, alice)) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert refusal(await guest.post(f"/knock/{room_id}")) == (403, "M_GUEST_ACCESS_FORBIDDEN")


@pytest.mark.behaviours("CS-MEM-09")
async def test_room_is_forgotten_after_leaving_only(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    assert refusal(await bob.post(f"/rooms/{room_id}/forget")) == (400, "M_UNKNOWN")
    await bob.leave(room_id)
    assert (await bob.get(f"/rooms/{room_id}/messages", dir="b")).status_code == 200
    assert (await bob.post(f"/rooms/{room_id}/forget")).status_code == 200
    assert (await bob.post(f"/rooms/{room_id}/forget")).status_code == 200
    for path in ("messages?dir=b", "state", "members"):
        assert refusal(await bob.get(f"/rooms/{room_id}/{path}")) == (403, "M_FORBIDDEN")
    everything = '{"room":{"include_leave":true}}'
    assert room_id not in (await bob.get("/sync", filter=everything)).json().get("rooms", {}).get("leave", {})
    assert refusal(await bob.post("/rooms/!nowhere:localhost/forget")) == (404, "M_NOT_FOUND")
    # Who comes back remembers.
    await bob.join(room_id)
    assert (await bob.get(f"/rooms/{room_id}/messages", dir="b")).status_code == 200


@pytest.mark.behaviours("CS-MEM-08")
async def test_history_until_the_leave_stays_readable(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.send(room_id, "before")
    await bob.leave(room_id)
    await alice.send(room_id, "after")
    chunk = (await bob.get(f"/rooms/{room_id}/messages", dir="b")).json()["chunk"]
    said = [event["content"]["body"] for event in chunk if event["type"] == "m.room.message"]
    assert said == ["before"]


@pytest.mark.behaviours("CS-MEM-01")
async def test_membership_is_set_as_state_too(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room()
    assert (await put_member(alice, room_id, bob, "invite", reason="Come!")).status_code == 200
    assert (await put_member(bob, room_id, bob, "join", displayname="B.")).status_code == 200
    assert refusal(await put_member(bob, room_id, alice, "leave")) == (403, "M_FORBIDDEN")
    assert (await put_member(alice, room_id, bob, "ban")).status_code == 200
    assert refusal(await put_member(bob, room_id, bob, "join")) == (403, "M_FORBIDDEN")
    assert (await put_member(alice, room_id, bob, "leave")).status_code == 200
    assert refusal(await put_member(alice, room_id, bob, "join")) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("target", "content", "expected"),
    [
        ("@bob:localhost", {}, (400, "M_BAD_JSON")),
        ("@bob:localhost", {"membership": "guest"}, (403, "M_FORBIDDEN")),
        ("@bob:localhost", {"membership": 1}, (400, "M_BAD_JSON")),
        ("@bob:localhost", {"membership": "ban", "displayname": []}, (400, "M_BAD_JSON")),
        ("@bob:localhost", {"membership": "ban", "x": 0.5}, (400, "M_BAD_JSON")),
        ("@bob:localhost", {"membership": "ban", "x": 10**40}, (400, "M_BAD_JSON")),
        ("bob", {"membership": "ban"}, (400, "M_INVALID_PARAM")),
        ("%40bob%00:localhost", {"membership": "ban"}, (400, "M_INVALID_PARAM")),
        ("", {"membership": "ban"}, (400, "M_INVALID_PARAM")),
    ],
)
@pytest.mark.by_turns
async def test_membership_that_cannot_be_is_not_set(
    world: World, target: str, content: Any, expected: tuple[int, str]
) -> None:
    alice = await world.user("alice")
    await world.user("bob")
    room_id = await alice.create_room()
    assert refusal(await alice.put(f"/rooms/{room_id}/state/m.room.member/{target}", content)) == expected
