"""Pages on which stages of a registration are done; on both databases."""

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from homeserver.config.model import Registration
from tests.world import World, running, settings

PAGE = "/_matrix/client/v3/auth/{}/fallback/web?session={}"
TERMS, TOKEN = "m.login.terms", "m.login.registration_token"


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


@pytest.mark.parametrize("stage", ["m.login.password", "m.login.sso", "x", TERMS])
async def test_stages_without_a_page_are_not_found(world: World, stage: str) -> None:
    answer = await world.client.get(PAGE.format(stage, "x"))
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_UNRECOGNIZED")


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
