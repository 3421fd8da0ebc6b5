"""Where the server says that it is found."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from homeserver.app.application import Application
from homeserver.config.model import Config, Contact, WellKnown
from tests.client import Client, client_of

KEY = "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s"


@asynccontextmanager
async def serving(url: str, settings: WellKnown) -> AsyncIterator[Client]:
    application = Application(Config(database_url=url, well_known=settings))
    async with client_of(application) as client:
        yield client
    await application.stop()


@pytest.mark.parametrize(
    ("settings", "path", "expected"),
    [
        (WellKnown(server="matrix.example.org:443"), "server", {"m.server": "matrix.example.org:443"}),
        (
            WellKnown(contacts=(Contact(matrix_id="@a:example.org"), Contact(email_address="b@example.org"))),
            "support",
            {
                "contacts": [
                    {"role": "m.role.admin", "matrix_id": "@a:example.org"},
                    {"role": "m.role.admin", "email_address": "b@example.org"},
                ]
            },
        ),
        (WellKnown(support_page="https://example.org/"), "support", {"support_page": "https://example.org/"}),
        (WellKnown(policy_server_key=KEY), "policy_server", {"public_keys": {"ed25519": KEY}}),
    ],
)
@pytest.mark.behaviours("CS-DISC-04", "CS-DISC-05")
async def test_well_known_files_say_what_the_settings_say(
    sqlite_url: str, settings: WellKnown, path: str, expected: dict[str, Any]
) -> None:
    async with serving(sqlite_url, settings) as client:
        response = await client.get(f"/.well-known/matrix/{path}")
        assert (response.status_code, response.json()) == (200, expected)
        assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["server", "support", "policy_server"])
@pytest.mark.behaviours("CS-DISC-04", "CS-DISC-05")
async def test_well_known_files_without_settings_are_not_found(sqlite_url: str, path: str) -> None:
    async with serving(sqlite_url, WellKnown()) as client:
        assert (await client.get(f"/.well-known/matrix/{path}")).status_code == 404
