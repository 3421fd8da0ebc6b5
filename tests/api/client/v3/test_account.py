"""Changing the password, ending the account, proving who one is; on both databases."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from homeserver.config.model import Limits, Passwords
from homeserver.errors import Forbidden, RequestError, Unauthenticated
from homeserver.matrix.identifiers import UserId
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import key_backups
from tests.world import User, World, running, settings


async def confirmed(user: User, method: str, path: str, body: dict[str, Any], password: str) -> httpx2.Response:
    """The answer after the caller has confirmed with the password."""
    first = await user.call(method, path, body)
    assert first.status_code == 401, first.text
    assert first.json()["flows"] == [{"stages": ["m.login.password"]}]
    identifier = {"type": "m.id.user", "user": user.user_id}
    auth = {
        "type": "m.login.password",
        "session": first.json()["session"],
        "identifier": identifier,
        "password": password,
    }
    return await user.call(method, path, {**body, "auth": auth})


async def login(world: World, name: str, password: str) -> httpx2.Response:
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": password}
    return await world.client.send("POST", "/_matrix/client/v3/login", json=body)


@pytest.mark.behaviours("CS-ACCT-01", "CS-ACCT-02")
@pytest.mark.parametrize("logout", [True, False])
async def test_a_new_password_logs_other_devices_out_unless_asked_not_to(world: World, logout: bool) -> None:
    alice = await world.user("alice")
    other = await world.user("alice", device_id="OTHER")
    body = {"new_password": "open sesame", "logout_devices": logout}
    wrong = await confirmed(alice, "POST", "/account/password", body, "a guess")
    assert (wrong.status_code, wrong.json()["errcode"]) == (401, "M_FORBIDDEN")
    assert (await confirmed(alice, "POST", "/account/password", body, "alicealice")).status_code == 200
    assert (await login(world, "alice", "alicealice")).status_code == 403
    assert (await alice.get("/account/whoami")).status_code == 200
    assert (await other.get("/account/whoami")).status_code == (401 if logout else 200)
    assert (await login(world, "alice", "open sesame")).status_code == 200


@pytest.mark.behaviours("CS-ACCT-04", "CS-ACCT-05", "CS-ACCT-07", "CS-LOGIN-04", "CS-MEM-08")
async def test_a_deactivated_account_is_gone_from_everywhere(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
    answer = await confirmed(bob, "POST", "/account/deactivate", {"erase": True}, "bobbob")
    assert answer.json() == {"id_server_unbind_result": "no-support"}
    assert (await bob.get("/account/whoami")).status_code == 401
    refused = await login(world, "bob", "bobbob")
    assert (refused.status_code, refused.json()["errcode"]) == (403, "M_FORBIDDEN")
    assert (await alice.get(f"/profile/{bob.user_id}")).json() == {}
    taken = await world.client.get("/_matrix/client/v3/register/available?username=bob")
    assert taken.json()["errcode"] == "M_USER_IN_USE"
    since = (await alice.get("/sync")).json()["next_batch"]
    while bob.user_id in (await alice.get(f"/rooms/{room_id}/joined_members")).json()["joined"]:
        since = (await alice.get("/sync", since=since, timeout=5000)).json()["next_batch"]


@pytest.mark.behaviours("CS-ACCT-07")
async def test_erasing_an_account_removes_what_it_kept(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "x", "signatures": {}}}
    for user in (alice, bob):
        assert (await user.post("/room_keys/version", backup)).status_code == 200
    await confirmed(bob, "POST", "/account/deactivate", {"erase": True}, "bobbob")
    assert await world.container.database.read(key_backups.find_version, UserId(bob.user_id), None) is None
    assert (await alice.get("/room_keys/version")).status_code == 200


@pytest.mark.behaviours("CS-UIA-07")
@pytest.mark.parametrize(
    ("identifier", "status"),
    [
        ({"type": "m.id.user", "user": "ALICE"}, 200),
        ({"type": "m.id.user", "user": "bob"}, 401),
        ({"type": "m.id.user", "user": ["alice"]}, 401),
        ({"type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org"}, 403),
        ({"type": "m.id.phone", "country": "GB", "phone": "07700900000"}, 403),
    ],
)
async def test_one_confirms_with_a_name_of_ones_own(world: World, identifier: dict[str, Any], status: int) -> None:
    alice = await world.user("alice")
    auth = {"type": "m.login.password", "identifier": identifier, "password": "alicealice"}
    answer = await alice.post("/account/password", {"new_password": "open sesame", "auth": auth})
    assert answer.status_code == status


@pytest.mark.behaviours("CS-UIA-09")
@pytest.mark.parametrize("stage", ["m.login.registration_token", "m.login.terms", "m.login.dummy"])
async def test_stages_of_a_registration_confirm_nothing_else(world: World, stage: str) -> None:
    token = await world.container.registration.add_token("letmein", uses=None, lifetime_ms=None)
    alice = await world.user("alice")
    session = (await alice.post("/account/deactivate")).json()["session"]
    answer = await alice.post("/account/deactivate", {"auth": {"type": stage, "session": session, "token": token}})
    assert (answer.status_code, answer.json()["errcode"]) == (401, "M_FORBIDDEN")
    assert "completed" not in answer.json()


async def test_many_addresses_together_may_not_guess_without_end(database_url: str, tmp_path: Path) -> None:
    config = msgspec.structs.replace(settings(database_url, str(tmp_path)), limits=Limits(rate_limits=True))
    async with running(config) as world:
        await world.user("alice")
        device = NewDevice(None, None, refreshable=False)

        async def guess(name: str) -> str:
            try:
                await world.container.accounts.login(name, "a guess", device)
            except RequestError as error:
                return type(error).__name__
            return "in"

        assert {await guess("alice") for _ in range(30)} == {"Forbidden"}
        assert await guess("@alice:localhost") == "LimitExceeded"
        # A name that nobody has meets the same limit, so that the limit does not tell who is here.
        assert {await guess("bob") for _ in range(30)} == {"Forbidden"}
        assert await guess("@bob:localhost") == "LimitExceeded"


@pytest.mark.behaviours("CS-ACCT-04")
async def test_nothing_that_is_under_way_outlives_the_end_of_an_account(database_url: str, tmp_path: Path) -> None:
    slow = Passwords(
        time_cost=1, memory_kib=65_536, minimum_length=1
    )  # So that the end comes while passwords are hashed.
    config = msgspec.structs.replace(settings(database_url, str(tmp_path)), passwords=slow)
    async with running(config) as world:
        accounts, device = world.container.accounts, NewDevice(None, None, refreshable=False)
        alice, bob, carol = await world.user("alice"), await world.user("bob"), await world.guest("carol")
        who = await world.container.sessions.requester(alice.token)
        under_way: list[tuple[User, Awaitable[Any]]] = [
            (alice, accounts.change_password(who, "open sesame", logout_devices=False)),
            (bob, accounts.login("bob", "bobbob", device)),
            (carol, accounts.upgrade_guest(UserId(carol.user_id), "open sesame", device)),
        ]
        for user, work in under_way:
            end = accounts.deactivate(UserId(user.user_id), erase=False)
            results: Any = await asyncio.gather(work, end, return_exceptions=True)
            assert isinstance(results[0], Unauthenticated | Forbidden)
            for password in ("open sesame", "alicealice", "bobbob"):
                assert (await login(world, user.user_id, password)).status_code == 403


@pytest.mark.behaviours("CS-ACCT-06")
async def test_who_comes_later_does_not_see_what_an_erased_user_said(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await bob.send(room_id, "Forget me.")
    await confirmed(bob, "POST", "/account/deactivate", {"erase": True}, "bobbob")
    carol = await world.user("carol")
    await carol.join(room_id)
    path = f"/rooms/{room_id}/event/{event_id}"
    assert (await carol.get(path)).json()["content"] == {}
    assert (await alice.get(path)).json()["content"]["body"] == "Forget me."


async def test_an_openid_token_names_its_server_and_only_oneself_gets_it(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    token = (await alice.post(f"/user/{alice.user_id}/openid/request_token")).json()
    assert (token["token_type"], token["matrix_server_name"]) == ("Bearer", "localhost")
    assert (await bob.post(f"/user/{alice.user_id}/openid/request_token")).status_code == 403


async def test_one_may_ask_where_one_is_logged_in_and_administrators_of_all(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    assert (await bob.get(f"/admin/whois/{alice.user_id}")).status_code == 403
    await alice.get("/account/whoami")
    answer = (await alice.get(f"/admin/whois/{alice.user_id}")).json()
    assert answer["devices"][alice.device_id]["sessions"][0]["connections"][0]["last_seen"] == world.clock.time


async def test_there_are_no_bridges_to_other_networks(world: World) -> None:
    alice = await world.user("alice")
    assert (await alice.get("/thirdparty/protocols")).json() == {}
    for kind in ("protocol", "location", "user"):
        answer = await alice.get(f"/thirdparty/{kind}/irc")
        assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")


async def test_capabilities_name_all_room_versions(world: World) -> None:
    alice = await world.user("alice")
    found = (await alice.get("/capabilities")).json()["capabilities"]
    assert found["m.room_versions"]["default"] == "12"
    assert len(found["m.room_versions"]["available"]) == 12


@pytest.mark.parametrize("path", ["/account/password", "/account/deactivate"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"auth": 3, "new_password": "x"}', b'{"new_password": 1}'])
@pytest.mark.by_turns
async def test_bad_bodies_are_refused(world: World, path: str, body: bytes) -> None:
    alice = await world.user("alice")
    headers = {"Authorization": f"Bearer {alice.token}"}
    answer = await world.client.send("POST", f"/_matrix/client/v3{path}", headers=headers, content=body)
    assert answer.status_code in (400, 401)


async def test_who_asks_too_often_is_told_when_to_come_back(database_url: str, tmp_path: Path) -> None:
    config = settings(database_url, str(tmp_path))
    limited = config.__class__(
        database_url=database_url, data_dir=str(tmp_path), passwords=config.passwords, limits=Limits(rate_limits=True)
    )
    async with running(limited) as world:
        await world.user("alice")
        answers = [await login(world, "alice", "a guess") for _ in range(25)]
        assert [answer.status_code for answer in answers[:20]] == [403] * 20
        refused = answers[-1]
        assert (refused.status_code, refused.json()["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert refused.json()["retry_after_ms"] > 0
        assert int(refused.headers["retry-after"]) >= 1


async def test_a_new_name_reaches_the_rooms(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})

    async def shown() -> Any:
        return (await alice.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")).json().get("displayname")

    since = (await alice.get("/sync")).json()["next_batch"]
    while await shown() != "Alice":
        since = (await alice.get("/sync", since=since, timeout=5000)).json()["next_batch"]
    other = await alice.create_room()
    state = (await alice.get(f"/rooms/{other}/state/m.room.member/{alice.user_id}")).json()
    assert state["displayname"] == "Alice"
