from collections.abc import AsyncIterator

import pytest

from homeserver.app.application import Application
from homeserver.config.model import Config
from tests.client import Client, client_of


@pytest.fixture
async def client(sqlite_url: str) -> AsyncIterator[Client]:
    application = Application(Config(database_url=sqlite_url, public_base_url="https://matrix.example.org"))
    async with client_of(application) as client:
        yield client
    await application.stop()


@pytest.mark.behaviours("CS-DISC-06", "CS-API-01")
async def test_versions_needs_no_token_and_lists_the_specification(client: Client) -> None:
    response = await client.get("/_matrix/client/versions")
    assert "v1.19" in response.json()["versions"]
    assert response.headers["content-type"] == "application/json"


@pytest.mark.behaviours("CS-DISC-01", "CS-DISC-02")
async def test_well_known_gives_the_public_address(client: Client) -> None:
    response = await client.get("/.well-known/matrix/client")
    assert response.json() == {"m.homeserver": {"base_url": "https://matrix.example.org"}}
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.behaviours("CS-DISC-01")
async def test_well_known_without_a_public_address_is_not_found(sqlite_url: str) -> None:
    application = Application(Config(database_url=sqlite_url))
    async with client_of(application) as client:
        assert (await client.get("/.well-known/matrix/client")).status_code == 404
    await application.stop()


@pytest.mark.behaviours("CS-API-13", "CS-API-14")
@pytest.mark.trust("C36")
@pytest.mark.parametrize("path", ["/_matrix/client/versions", "/_matrix/client/v3/nothing"])
async def test_options_is_answered_on_every_path(client: Client, path: str) -> None:
    response = await client.send("OPTIONS", path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE, OPTIONS"


@pytest.mark.behaviours("CS-API-05", "CS-API-04")
async def test_unknown_path_and_wrong_method_are_unrecognized(client: Client) -> None:
    for method, path, status in (("GET", "/_matrix/client/v3/no", 404), ("POST", "/_matrix/client/versions", 405)):
        response = await client.send(method, path)
        assert (response.status_code, response.json()["errcode"]) == (status, "M_UNRECOGNIZED")
        assert response.json()["error"]


async def test_metrics_tell_of_requests_by_declared_path(client: Client) -> None:
    await client.get("/_matrix/client/versions?access_token=hidden")
    text = (await client.get("/metrics")).text
    assert 'endpoint="/_matrix/client/versions"' in text
    assert "hidden" not in text
