"""Logging in and out, refreshing tokens, whoami; on both databases."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from homeserver.app.application import Application
from homeserver.config.model import Config, Passwords
from homeserver.kit.clock import Clock
from tests.client import Client, client_of


class StoppedClock(Clock):
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.time = 1_700_000_000_000

    def now(self) -> int:
        return self.time


@dataclass
class World:
    client: Client
    clock: StoppedClock

    async def call(self, method: str, path: str, token: str | None = None, body: Any = None) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.client.send(method, f"/_matrix/client/v3{path}", headers=headers, json=body)

    async def login(self, password: str = "sesame street", **more: Any) -> httpx2.Response:
        identifier = {"type": "m.id.user", "user": "alice"}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
        return await self.call("POST", "/login", body=body)

    async def whoami(self, token: str) -> httpx2.Response:
        return await self.call("GET", "/account/whoami", token)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    clock = StoppedClock()
    settings = Config(database_url=database_url, passwords=Passwords(time_cost=1, memory_kib=8))
    application = Application(settings, clock=clock)
    container = await application.start()
    await container.accounts.register("alice", "sesame street", None)
    async with client_of(application) as client:
        yield World(client, clock)
    await application.stop()


@pytest.mark.behaviours("CS-LOGIN-01")
async def test_login_makes_a_device_and_a_token_that_says_who_one_is(world: World) -> None:
    answer = (await world.login()).json()
    assert answer["user_id"] == "@alice:localhost"
    who = await world.whoami(answer["access_token"])
    assert who.json() == {"user_id": "@alice:localhost", "device_id": answer["device_id"], "is_guest": False}


async def test_login_by_full_user_id_and_by_the_older_keys_works(world: World) -> None:
    body = {"type": "m.login.password", "user": "@alice:localhost", "password": "sesame street"}
    assert (await world.call("POST", "/login", body=body)).status_code == 200


@pytest.mark.trust("C06")
@pytest.mark.parametrize("user", ["alice", "nobody", "@nobody:localhost", "a\0b", "@alice:elsewhere", ""])
@pytest.mark.by_turns
async def test_login_with_anything_wrong_is_forbidden_in_the_same_words(world: World, user: str) -> None:
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": "wrong"}
    response = await world.call("POST", "/login", body=body)
    assert response.status_code == 403
    assert response.json() == {"errcode": "M_FORBIDDEN", "error": "The user name or the password is wrong."}


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"type": "m.login.magic"}, "M_UNKNOWN"),
        ({"type": "m.login.password"}, "M_BAD_JSON"),
        ({}, "M_MISSING_PARAM"),
    ],
)
async def test_login_in_a_way_that_is_not_offered_is_refused(world: World, body: Any, errcode: str) -> None:
    response = await world.call("POST", "/login", body=body)
    assert (response.status_code, response.json()["errcode"]) == (400, errcode)


@pytest.mark.behaviours("CS-LOGIN-05")
@pytest.mark.parametrize(
    "identifier",
    [
        {"type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org"},
        {"type": "m.id.phone", "country": "GB", "phone": "07700900000"},
    ],
)
async def test_login_with_an_address_that_nobody_is_known_by_is_forbidden(world: World, identifier: Any) -> None:
    response = await world.call(
        "POST", "/login", body={"type": "m.login.password", "identifier": identifier, "password": "sesame"}
    )
    assert (response.status_code, response.json()["errcode"]) == (403, "M_FORBIDDEN")


async def test_login_with_a_device_id_that_cannot_be_is_refused(world: World) -> None:
    for device_id in ("", "x" * 256, "a\0b"):
        assert (await world.login(device_id=device_id)).json()["errcode"] == "M_INVALID_PARAM"


@pytest.mark.behaviours("CS-TOK-03")
async def test_login_with_a_known_device_ends_the_tokens_that_it_had(world: World) -> None:
    first = (await world.login(device_id="PHONE")).json()["access_token"]
    second = (await world.login(device_id="PHONE")).json()["access_token"]
    assert (await world.whoami(first)).json()["errcode"] == "M_UNKNOWN_TOKEN"
    assert (await world.whoami(second)).status_code == 200


@pytest.mark.behaviours("CS-TOK-09", "CS-TOK-05")
async def test_logout_ends_this_session_only(world: World) -> None:
    first, second = [(await world.login()).json()["access_token"] for _ in range(2)]
    assert (await world.call("POST", "/logout", first)).json() == {}
    gone = await world.whoami(first)
    assert (gone.status_code, gone.json()["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert gone.json().get("soft_logout", False) is False
    assert (await world.whoami(second)).status_code == 200


@pytest.mark.behaviours("CS-TOK-09")
async def test_logout_all_ends_every_session(world: World) -> None:
    tokens = [(await world.login()).json()["access_token"] for _ in range(3)]
    assert (await world.call("POST", "/logout/all", tokens[0])).json() == {}
    assert [(await world.whoami(token)).status_code for token in tokens] == [401, 401, 401]


@pytest.mark.behaviours("CS-API-07")
async def test_a_missing_and_an_unknown_token_are_told_apart(world: World) -> None:
    missing = await world.call("GET", "/account/whoami")
    assert (missing.status_code, missing.json()["errcode"]) == (401, "M_MISSING_TOKEN")
    assert (await world.whoami("nonsense")).json()["errcode"] == "M_UNKNOWN_TOKEN"


@pytest.mark.behaviours("CS-TOK-01")
async def test_a_token_in_the_query_is_accepted(world: World) -> None:
    token = (await world.login()).json()["access_token"]
    assert (await world.call("GET", f"/account/whoami?access_token={token}")).status_code == 200


@pytest.mark.behaviours("CS-TOK-04")
async def test_an_expired_token_is_a_soft_logout_and_can_be_refreshed(world: World) -> None:
    answer = (await world.login(refresh_token=True)).json()
    world.clock.time += answer["expires_in_ms"]
    expired = await world.whoami(answer["access_token"])
    assert (expired.status_code, expired.json()["soft_logout"]) == (401, True)
    fresh = (await world.call("POST", "/refresh", body={"refresh_token": answer["refresh_token"]})).json()
    assert (await world.whoami(fresh["access_token"])).json()["device_id"] == answer["device_id"]


@pytest.mark.behaviours("CS-TOK-06", "CS-TOK-07", "CS-TOK-02")
async def test_a_refresh_token_works_until_what_it_gave_is_used(world: World) -> None:
    old = (await world.login(refresh_token=True)).json()
    lost = (await world.call("POST", "/refresh", body={"refresh_token": old["refresh_token"]})).json()
    again = (await world.call("POST", "/refresh", body={"refresh_token": old["refresh_token"]})).json()
    assert lost["access_token"] != again["access_token"]
    assert (await world.whoami(old["access_token"])).status_code == 200
    assert (await world.whoami(again["access_token"])).status_code == 200
    used = await world.call("POST", "/refresh", body={"refresh_token": old["refresh_token"]})
    assert (used.status_code, used.json()["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert (await world.whoami(old["access_token"])).status_code == 401


@pytest.mark.behaviours("CS-TOK-06")
async def test_using_the_new_refresh_token_ends_the_old_pair(world: World) -> None:
    old = (await world.login(refresh_token=True)).json()
    second = (await world.call("POST", "/refresh", body={"refresh_token": old["refresh_token"]})).json()
    third = await world.call("POST", "/refresh", body={"refresh_token": second["refresh_token"]})
    assert third.status_code == 200
    assert (await world.whoami(old["access_token"])).status_code == 401
