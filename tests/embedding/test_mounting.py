"""The server inside another ASGI application: at any prefix, with its lifespan run by the host or not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from asgi_lifespan import LifespanManager
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message

from homeserver.app.application import Application
from homeserver.config.model import Config
from tests.client import client_of


@pytest.fixture
async def application(sqlite_url: str) -> AsyncIterator[Application]:
    application = Application(Config(database_url=sqlite_url))
    yield application
    await application.stop()


async def test_with_its_own_lifespan(application: Application) -> None:
    async with LifespanManager(application), client_of(application) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_without_any_lifespan_the_first_request_starts_it(application: Application) -> None:
    async with client_of(application) as client:
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("prefix", ["", "/chat", "/a/b%20c"])
async def test_mounted_at_a_prefix_without_lifespan(application: Application, prefix: str) -> None:
    host = Starlette(routes=[Mount(prefix.replace("%20", " "), application)])
    async with client_of(host) as client:
        assert (await client.get(f"{prefix}/_matrix/client/versions")).status_code == 200
        assert (await client.get(f"{prefix}/_matrix/nothing")).json()["errcode"] == "M_UNRECOGNIZED"


async def test_mounted_with_the_host_running_our_lifespan(application: Application) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with LifespanManager(application):
            yield

    host = Starlette(routes=[Mount("/chat", application)], lifespan=lifespan)
    async with LifespanManager(host), client_of(host) as client:
        assert (await client.get("/chat/health")).status_code == 200


async def test_a_server_whose_database_cannot_be_opened_says_so_at_start() -> None:
    application = Application(Config(database_url="sqlite+aiosqlite:////proc/nowhere/x.db"))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await application({"type": "lifespan"}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "nowhere" in sent[0]["message"]
