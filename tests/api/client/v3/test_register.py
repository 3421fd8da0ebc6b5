"""Making accounts over HTTP; on both databases."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from homeserver.app.application import Application
from homeserver.config.model import Config, Passwords, Registration
from tests.client import Client, client_of

CHEAP = Passwords(time_cost=1, memory_kib=8)


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    application = Application(Config(database_url=database_url, passwords=CHEAP))
    async with client_of(application) as client:
        yield client
    await application.stop()


async def post(client: Client, body: Any, query: str = "") -> httpx2.Response:
    return await client.send("POST", f"/_matrix/client/v3/register{query}", json=body)


async def register(client: Client, **body: Any) -> httpx2.Response:
    """Go through the dummy stage with this body."""
    body = {"username": "alice", "password": "sesame street"} | body
    session = (await post(client, body)).json()["session"]
    return await post(client, body | {"auth": {"type": "m.login.dummy", "session": session}})


@pytest.mark.behaviours("CS-UIA-01")
async def test_register_without_auth_never_succeeds_and_says_what_is_needed(client: Client) -> None:
    for body in ({"username": "alice", "password": "sesame street"}, {}):
        response = await post(client, body)
        assert response.status_code == 401
        assert response.json()["flows"] == [{"stages": ["m.login.dummy"]}]
        assert response.json()["session"]


async def test_register_makes_an_account_that_is_logged_in(client: Client) -> None:
    answer = (await register(client, device_id="PHONE")).json()
    assert (answer["user_id"], answer["device_id"]) == ("@alice:localhost", "PHONE")
    headers = {"Authorization": f"Bearer {answer['access_token']}"}
    who = await client.get("/_matrix/client/v3/account/whoami", headers=headers)
    assert who.json()["user_id"] == "@alice:localhost"


@pytest.mark.behaviours("CS-REG-05")
async def test_register_with_inhibit_login_gives_neither_token_nor_device(client: Client) -> None:
    assert (await register(client, inhibit_login=True)).json() == {"user_id": "@alice:localhost"}


@pytest.mark.behaviours("CS-REG-01")
async def test_register_maps_capitals_and_invents_a_name_where_there_is_none(client: Client) -> None:
    assert (await register(client, username="ALICE")).json()["user_id"] == "@alice:localhost"
    assert (await register(client, username=None)).json()["user_id"].endswith(":localhost")


@pytest.mark.behaviours("CS-REG-01", "CS-REG-02")
@pytest.mark.parametrize("name", ["", "a b", "ä", "a:b", "a\0", "x" * 250])
async def test_register_refuses_an_impossible_name_before_any_stage(client: Client, name: str) -> None:
    response = await post(client, {"username": name})
    assert (response.status_code, response.json()["errcode"]) == (400, "M_INVALID_USERNAME")


@pytest.mark.behaviours("CS-REG-02", "ID-05")
async def test_register_refuses_a_taken_name_before_any_stage(client: Client) -> None:
    await register(client)
    assert (await post(client, {"username": "Alice"})).json()["errcode"] == "M_USER_IN_USE"
    available = await client.get("/_matrix/client/v3/register/available?username=alice")
    assert (available.status_code, available.json()["errcode"]) == (400, "M_USER_IN_USE")
    assert (await client.get("/_matrix/client/v3/register/available?username=bob")).json() == {"available": True}


async def test_a_session_lets_one_account_be_made_and_no_more(client: Client) -> None:
    body = {"username": "alice", "password": "sesame street"}
    session = (await post(client, body)).json()["session"]
    auth = {"type": "m.login.dummy", "session": session}
    assert (await post(client, body | {"auth": auth})).status_code == 200
    assert (await post(client, body | {"username": "bob", "auth": auth})).status_code == 401


@pytest.mark.behaviours("CS-UIA-03")
async def test_a_stage_that_is_not_offered_is_refused_in_the_same_session(client: Client) -> None:
    session = (await post(client, {})).json()["session"]
    response = await post(client, {"auth": {"type": "m.login.sso", "session": session}})
    assert response.status_code == 401
    assert (response.json()["session"], response.json()["errcode"]) == (session, "M_FORBIDDEN")


@pytest.mark.behaviours("CS-UIA-04", "CS-ACCT-03")
async def test_a_short_or_missing_password_is_a_standard_error(client: Client) -> None:
    assert (await register(client, password="short")).json()["errcode"] == "M_WEAK_PASSWORD"
    assert (await register(client, password=None)).json()["errcode"] == "M_BAD_JSON"


@pytest.mark.behaviours("CS-REG-06")
@pytest.mark.parametrize(
    "settings", [{"server_name": "example.org"}, {"registration": Registration(open=False)}, {"host": "0.0.0.0"}]
)
async def test_register_is_forbidden_where_it_is_not_open(sqlite_url: str, settings: dict[str, Any]) -> None:
    application = Application(Config(database_url=sqlite_url, passwords=CHEAP, **settings))
    async with client_of(application) as client:
        response = await post(client, {"username": "alice"})
        assert (response.status_code, response.json()["errcode"]) == (403, "M_FORBIDDEN")
    await application.stop()


@pytest.mark.behaviours("CS-REG-06")
async def test_register_of_guests_is_forbidden(client: Client) -> None:
    assert (await post(client, {}, "?kind=guest")).status_code == 403
    assert (await post(client, {}, "?kind=robot")).status_code == 400


@pytest.mark.trust("C24")
async def test_a_nul_in_stored_text_is_refused_and_nothing_is_kept(client: Client) -> None:
    response = await register(client, initial_device_display_name="Jungle\0Phone")
    assert (response.status_code, response.json()["errcode"]) == (400, "M_INVALID_PARAM")
    assert (await register(client, initial_device_display_name="Jungle Phone")).status_code == 200


@pytest.mark.trust("C20", "R6")
async def test_the_name_of_a_device_is_short_however_it_gets_it(client: Client) -> None:
    short, long = "\N{GRINNING FACE}" * 100, "\N{GRINNING FACE}" * 101
    assert (await register(client, initial_device_display_name=long)).status_code == 400
    assert (await register(client, initial_device_display_name=short)).status_code == 200
    login = {"type": "m.login.password", "user": "alice", "password": "sesame street"}

    async def name(method: str, path: str, body: Any, token: str = "") -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = await client.send(method, f"/_matrix/client/v3{path}", headers=headers, json=body)
        assert answer.status_code == 200 or answer.json()["errcode"] == "M_INVALID_PARAM"
        return answer.status_code

    assert await name("POST", "/login", login | {"initial_device_display_name": long}) == 400
    assert await name("POST", "/login", login | {"initial_device_display_name": short}) == 200
    session = (await client.send("POST", "/_matrix/client/v3/login", json=login | {"device_id": "D"})).json()
    assert await name("PUT", "/devices/D", {"display_name": long}, session["access_token"]) == 400
    assert await name("PUT", "/devices/D", {"display_name": short}, session["access_token"]) == 200


@pytest.mark.trust("C24")
async def test_a_nul_in_a_session_or_token_is_no_server_error(client: Client) -> None:
    auth = {"type": "m.login.dummy", "session": "a\0b"}
    assert (await post(client, {"auth": auth})).status_code == 400
    refresh = await client.send("POST", "/_matrix/client/v3/refresh", json={"refresh_token": "a\0b"})
    assert refresh.status_code == 401
