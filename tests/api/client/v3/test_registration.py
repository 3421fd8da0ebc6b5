"""Making accounts: open, by token, with terms, as a guest, and by scripts; on both databases."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from homeserver.config.model import Registration
from tests.world import World, running, settings

Start = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Start:
    """Starts a server with settings of registration."""

    @asynccontextmanager
    async def started(**registration: Any) -> AsyncIterator[World]:
        config = settings(database_url, str(tmp_path), registration=Registration(**registration))
        async with running(config) as world:
            yield world

    return started


async def post(world: World, body: Any, path: str = "/_matrix/client/v3/register") -> httpx2.Response:
    return await world.client.send("POST", path, json=body)


@pytest.mark.behaviours("CS-REG-06")
async def test_a_closed_server_takes_nobody(start: Start) -> None:
    async with start(open=False) as world:
        for answer in (
            await post(world, {"username": "alice", "password": "sesame street"}),
            await post(world, {}, "/_matrix/client/v3/register?kind=guest"),
            await world.client.get("/_matrix/client/v3/register/available?username=alice"),
            await world.client.get("/_matrix/client/v1/register/m.login.registration_token/validity?token=x"),
        ):
            assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")


async def test_a_token_lets_so_many_people_in_and_no_more(start: Start) -> None:
    async with start(token_required=True, terms_url="https://localhost/terms") as world:
        token = await world.container.registration.add_token("letmein", uses=1, lifetime_ms=60_000)
        validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token="
        assert (await world.client.get(validity + token)).json() == {"valid": True}
        assert (await world.client.get(validity + "other")).json() == {"valid": False}

        wanted = {"username": "alice", "password": "sesame street"}
        first = await post(world, wanted)
        assert first.status_code == 401
        assert first.json()["flows"] == [{"stages": ["m.login.terms", "m.login.registration_token"]}]
        assert first.json()["params"]["m.login.terms"]["policies"]
        session = first.json()["session"]
        second = await post(world, {**wanted, "auth": {"type": "m.login.terms", "session": session}})
        assert second.json()["completed"] == ["m.login.terms"]
        stage = {"type": "m.login.registration_token", "session": session}
        wrong = await post(world, {**wanted, "auth": {**stage, "token": "guess"}})
        assert (wrong.status_code, wrong.json()["errcode"]) == (401, "M_FORBIDDEN")
        done = await post(world, {**wanted, "auth": {**stage, "token": token}})
        assert done.json()["user_id"] == "@alice:localhost"
        assert (await world.client.get(validity + token)).json() == {"valid": False}


async def test_a_token_ends_with_its_time(start: Start) -> None:
    async with start(token_required=True) as world:
        token = await world.container.registration.add_token(None, uses=None, lifetime_ms=60_000)
        world.clock.time += 60_001
        auth = {"type": "m.login.registration_token", "token": token}
        answer = await post(world, {"username": "alice", "password": "sesame street", "auth": auth})
        assert (answer.status_code, answer.json()["errcode"]) == (401, "M_FORBIDDEN")


@pytest.mark.behaviours("CS-REG-03", "CS-REG-04")
async def test_a_guest_may_little_and_can_become_a_user(start: Start) -> None:
    async with start(guests=True) as world:
        guest = (await post(world, {"password": "ignored"}, "/_matrix/client/v3/register?kind=guest")).json()
        header = {"Authorization": f"Bearer {guest['access_token']}"}
        who = (await world.client.get("/_matrix/client/v3/account/whoami", headers=header)).json()
        assert who["is_guest"]
        refused = await world.client.send("POST", "/_matrix/client/v3/createRoom", headers=header, json={})
        assert (refused.status_code, refused.json()["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")

        name = guest["user_id"][1:].partition(":")[0]
        body = {"guest_access_token": guest["access_token"], "username": name, "password": "sesame street"}
        stranger = await post(world, {**body, "username": "somebody"})
        assert stranger.status_code == 403
        lost = await post(world, {**body, "guest_access_token": "guess"})
        assert (lost.status_code, lost.json()["errcode"]) == (403, "M_FORBIDDEN")
        first = await post(world, body)
        assert (first.status_code, first.json()["flows"]) == (401, [{"stages": ["m.login.dummy"]}])
        auth = {"type": "m.login.dummy", "session": first.json()["session"]}
        user = (await post(world, {**body, "auth": auth})).json()
        assert user["user_id"] == guest["user_id"]
        assert (await world.client.get("/_matrix/client/v3/account/whoami", headers=header)).status_code == 401
        header = {"Authorization": f"Bearer {user['access_token']}"}
        assert (await world.client.send("POST", "/_matrix/client/v3/createRoom", headers=header, json={})).is_success


@pytest.mark.behaviours("CS-REG-04")
async def test_a_guest_needs_a_token_like_everybody_to_become_a_user(start: Start) -> None:
    async with start(guests=True, token_required=True) as world:
        guest = (await post(world, {}, "/_matrix/client/v3/register?kind=guest")).json()
        name = guest["user_id"][1:].partition(":")[0]
        body = {"guest_access_token": guest["access_token"], "username": name, "password": "sesame street"}
        assert (await post(world, body)).json()["flows"] == [{"stages": ["m.login.registration_token"]}]
        stage = {"type": "m.login.registration_token"}
        assert (await post(world, {**body, "auth": {**stage, "token": "guess"}})).status_code == 401
        token = await world.container.registration.add_token(None, uses=1, lifetime_ms=None)
        user = (await post(world, {**body, "auth": {**stage, "token": token}})).json()
        assert user["user_id"] == guest["user_id"]
        assert not await world.container.registration.is_good_token(token)


async def test_scripts_register_with_the_shared_secret(start: Start) -> None:
    path = "/_synapse/admin/v1/register"
    async with start(open=False, shared_secret="tell nobody") as world:

        async def register(secret: str, nonce: str) -> httpx2.Response:
            text = "\0".join([nonce, "script", "sesame street", "admin"])
            mac = hmac.new(secret.encode(), text.encode(), hashlib.sha1).hexdigest()
            body = {"nonce": nonce, "username": "script", "password": "sesame street", "admin": True, "mac": mac}
            return await post(world, {**body, "displayname": "The script"}, path)

        nonce = (await world.client.get(path)).json()["nonce"]
        assert (await register("guess", nonce)).status_code == 403
        assert (await register("tell nobody", nonce)).status_code == 400  # A nonce is good once.
        nonce = (await world.client.get(path)).json()["nonce"]
        made = (await register("tell nobody", nonce)).json()
        assert (made["user_id"], made["home_server"]) == ("@script:localhost", "localhost")
        profile = await world.client.get("/_matrix/client/v3/profile/@script:localhost")
        assert profile.json() == {"displayname": "The script"}
        nonce = (await world.client.get(path)).json()["nonce"]
        world.clock.time += 60_001
        assert (await register("tell nobody", nonce)).status_code == 400


@pytest.mark.trust("C24")
@pytest.mark.parametrize(
    "bad", [{"nonce": "a\0b"}, {"username": "a\0b"}, {"password": "a\0admin"}, {"user_type": "\0"}, {"mac": "\ud800ä"}]
)
async def test_strange_values_of_scripts_are_refused(start: Start, bad: dict[str, str]) -> None:
    path = "/_synapse/admin/v1/register"
    async with start(shared_secret="tell nobody") as world:
        nonce = (await world.client.get(path)).json()["nonce"]
        body = {"nonce": nonce, "username": "script", "password": "sesame street", "mac": "00", **bad}
        content = json.dumps(body).encode()
        answer = await world.client.send("POST", path, content=content)
        assert answer.status_code in (400, 403)


async def test_without_a_shared_secret_scripts_cannot_register(start: Start) -> None:
    async with start() as world:
        assert (await world.client.get("/_synapse/admin/v1/register")).status_code == 400


@pytest.mark.behaviours("CS-REG-01", "CS-REG-02", "CS-REG-05")
async def test_the_dummy_stage_may_come_at_once_and_login_be_left_out(start: Start) -> None:
    async with start() as world:
        body = {"username": "Alice", "password": "sesame street", "inhibit_login": True}
        made = await post(world, {**body, "auth": {"type": "m.login.dummy"}})
        assert made.json() == {"user_id": "@alice:localhost"}
        taken = await post(world, body)
        assert (taken.status_code, taken.json()["errcode"]) == (400, "M_USER_IN_USE")
        bad = await post(world, {"username": "Ä ö", "password": "x"})
        assert (bad.status_code, bad.json()["errcode"]) == (400, "M_INVALID_USERNAME")
