"""A client of the whole application, in the test's own event loop; every answer is held to the specification's data."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from starlette.types import ASGIApp

from tests.spec import openapi


class Client:
    """Sends requests to an ASGI application."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """The answer; its body has been checked where the specification describes it."""
        response = await self._http.request(method, path, **options)
        if (
            response.headers.get("content-type", "").startswith("application/json")
            and response.request.method != "HEAD"
        ):
            raw_path = response.request.url.raw_path.decode("ascii").split("?")[0]
            openapi.check_response(method, raw_path, response.status_code, response.json())
        return response

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.send("GET", path, **options)


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[Client]:
    """A client, without running the application's lifespan."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield Client(http)
