"""Pages on which stages are done and people log in, without a browser; on both databases."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import httpx2
import msgspec
import pytest

from homeserver.config.model import Limits, Registration
from homeserver.errors import LimitExceeded
from homeserver.services.auth.interactive import LIFETIME_MS, AuthData
from tests.world import World, running, settings

PAGE = "/_matrix/client/v3/auth/{}/fallback/web?session={}"
TERMS, TOKEN, PASSWORD = "m.login.terms", "m.login.registration_token", "m.login.password"


async def register(world: World, **more: Any) -> httpx2.Response:
    body = {"username": "alice", "password": "sesame street", **more}
    return await world.client.send("POST", "/_matrix/client/v3/register", json=body)


@pytest.mark.behaviours("CS-UIA-02", "CS-UIA-05", "CS-UIA-06", "CS-UIA-08", "CS-UIA-10")
async def test_stages_are_done_on_pages_and_picked_up_by_the_client(database_url: str, tmp_path: Path) -> None:
    registration = Registration(token_required=True, terms_url="https://localhost/terms?a=1&b=2")
    async with running(settings(database_url, str(tmp_path), registration=registration)) as world:
        token = await world.container.registration.add_token("letmein", uses=1, lifetime_ms=None)
        session = (await register(world)).json()["session"]

        async def submit(stage: str, **form: str) -> httpx2.Response:
            return await world.client.send("POST", PAGE.format(stage, session), data={"go": "on", **form})

        terms = await world.client.get(PAGE.format(TERMS, session))
        assert terms.headers["content-type"] == "text/html; charset=utf-8"
        assert "https://localhost/terms?a=1&amp;b=2" in terms.text
        assert "<label for=" in (await world.client.get(PAGE.format(TOKEN, session))).text
        early = await submit(TOKEN, token=token)
        assert (early.status_code, "not the next one" in early.text) == (400, True)
        assert "onAuthDone" in (await submit(TERMS)).text
        assert "onAuthDone" in (await submit(TERMS)).text
        assert (await register(world, auth={"session": session})).json()["completed"] == [TERMS]
        wrong = await submit(TOKEN, token="<guess>")
        assert (wrong.status_code, 'role="alert"' in wrong.text, "<guess>" in wrong.text) == (400, True, False)
        assert "onAuthDone" in (await submit(TOKEN, token=token)).text
        assert (await register(world, auth={"session": session})).json()["user_id"] == "@alice:localhost"
        assert not await world.container.registration.is_good_token(token)
        assert (await submit(TERMS)).status_code == 400  # The session is over.


@pytest.mark.parametrize("stage", ["m.login.sso", "x", TERMS])
async def test_stages_without_a_page_are_not_found(world: World, stage: str) -> None:
    answer = await world.client.get(PAGE.format(stage, "x"))
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_UNRECOGNIZED")


@pytest.mark.behaviours("CS-UIA-01", "CS-UIA-05", "CS-UIA-06", "CS-UIA-08")
async def test_an_operation_is_confirmed_with_the_password_on_a_page(world: World) -> None:
    alice = await world.user("alice")
    other = await world.user("alice", device_id="<b>PHONE")
    path = f"/devices/{quote(other.device_id, safe='')}"
    session = (await alice.call("DELETE", path, {})).json()["session"]
    page = PAGE.format(PASSWORD, session)
    shown = (await world.client.get(page)).text
    assert "delete the device &lt;b&gt;PHONE" in shown
    assert 'value="@alice:localhost"' in shown
    assert 'autocomplete="current-password"' in shown

    for form in ({}, {"go": "on"}, {"go": "on", "password": "alicealice "}, {"password": "<guess>", "user": "alice"}):
        wrong = await world.client.send("POST", page, data=form)
        assert ("onAuthDone" in wrong.text, "<guess>" in wrong.text) == (False, False)
    assert (await alice.call("DELETE", path, {"auth": {"session": session}})).status_code == 401
    done = await world.client.send("POST", page, data={"go": "on", "password": "alicealice"})
    assert "onAuthDone" in done.text
    # It is confirmed for that user and that operation.
    for user, elsewhere in ((alice, "/devices/OTHER"), (await world.user("bob"), path)):
        assert (await user.call("DELETE", elsewhere, {"auth": {"session": session}})).status_code == 401
    assert (await alice.call("DELETE", path, {"auth": {"session": session}})).status_code == 200
    assert (await other.get("/account/whoami")).status_code == 401
    assert "out of date" in (await world.client.send("POST", page, data={"password": "alicealice"})).text


async def test_there_is_nothing_to_confirm_without_a_session_that_asks_for_it(world: World) -> None:
    registering = (await register(world)).json()["session"]
    alice = await world.user("alice")
    late = (await alice.post("/account/deactivate")).json()["session"]
    world.clock.time += LIFETIME_MS
    for session in (registering, late, "x", "%00", ""):
        page = PAGE.format(PASSWORD, session)
        for answer in (await world.client.get(page), await world.client.send("POST", page, data={"password": "x"})):
            assert (answer.status_code, "out of date" in answer.text, "alice" in answer.text) == (400, True, False)


async def test_the_password_of_a_page_may_not_be_guessed_without_end(database_url: str, tmp_path: Path) -> None:
    config = msgspec.structs.replace(settings(database_url, str(tmp_path)), limits=Limits(rate_limits=True))
    async with running(config) as world:
        alice = await world.user("alice")
        session = (await alice.post("/account/deactivate")).json()["session"]
        asked = await world.container.confirmation.find(session)
        assert asked is not None
        auth = AuthData(type=PASSWORD, session=session, password="a guess")
        with pytest.raises(LimitExceeded):
            for _ in range(40):
                assert await world.container.confirmation.complete_stage(asked, auth) == "The password is wrong."


async def test_no_page_can_be_put_into_another(world: World) -> None:
    for path in (PAGE.format("m.login.dummy", "x"), "/_matrix/static/client/login/"):
        policy = (await world.client.get(path)).headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy


async def test_nothing_of_a_request_becomes_part_of_the_page(world: World) -> None:
    answer = await world.client.get(PAGE.format("m.login.dummy", "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"))
    assert re.findall(r"<script>.{0,9}", answer.text) == []
    assert (await world.client.send("POST", PAGE.format("m.login.dummy", "%00"), data={})).status_code in (200, 400)


async def test_the_login_page_does_a_whole_login_and_names_its_fields(world: World) -> None:
    answer = await world.client.get("/_matrix/static/client/login/?device_id=PHONE")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    labels = set(re.findall(r'<label for="(\w+)"', answer.text))
    assert labels == {"user", "password"} == set(re.findall(r'<input id="(\w+)"', answer.text))
    assert "window.matrixLogin.onLogin(" in answer.text
    assert "PHONE" not in answer.text  # It is for the script, which sends it on.
    # The script logs in at this server, below whatever path it is mounted.
    [target] = re.findall(r'fetch\("(.*?)"', answer.text)
    assert urljoin("/below/_matrix/static/client/login/", target) == "/below/_matrix/client/v3/login"
