from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from homeserver.errors import RequestError
from homeserver.http import failures
from homeserver.http.bodies import Body, Empty, Query
from homeserver.http.endpoint import NOBODY, Endpoint, bind


class Greeting(Body, frozen=True):
    name: str
    times: int = 1


class Paging(Query, frozen=True):
    limit: int
    kinds: tuple[str, ...] = ()


@dataclass
class Service:
    greeting: str


@dataclass
class Services:
    service: Service


async def greet(who: str, body: Greeting, query: Paging, service: Service) -> dict[str, Any]:
    return {"text": f"{service.greeting} {body.name} from {who}", "times": body.times, "kinds": list(query.kinds)}


async def nothing() -> Empty:
    return Empty()


GREET = Endpoint("POST", "/greet/{who}", greet, auth=NOBODY, limit=None, body=Greeting)


async def send(body: bytes, query: str = "limit=1", cap: int = 1000) -> httpx2.Response:
    bound = bind(GREET, lambda request: Services(Service("Hello")), {Service: "service"}, cap)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path: Mapping[str, str] = {"who": "me"}
        try:
            response = await bound(Request(scope, receive), path)
        except RequestError as error:
            response = failures.answer(error)
        await response(scope, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://x") as client:
        return await client.post(f"/greet/me?{query}", content=body)


async def test_bind_gives_each_argument_from_its_place() -> None:
    response = await send(b'{"name": "you", "more": 1}', "limit=2&kinds=a&kinds=b")
    assert response.json() == {"text": "Hello you from me", "times": 1, "kinds": ["a", "b"]}


@pytest.mark.behaviours("CS-API-06", "CS-API-04")
@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b"{", "M_NOT_JSON"),
        (b"\xff", "M_NOT_JSON"),
        (b'{"name": "\\ud800"}', "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b'{"name": 1}', "M_BAD_JSON"),
        (b'{"name": "a", "times": 1.5}', "M_BAD_JSON"),
        (b'{"more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "M_BAD_JSON"),
        (b"{}", "M_MISSING_PARAM"),
        (b"", "M_MISSING_PARAM"),
    ],
)
async def test_bad_bodies_are_refused_with_the_error_of_the_specification(body: bytes, errcode: str) -> None:
    response = await send(body, cap=1_000_000)
    assert (response.status_code, response.json()["errcode"]) == (400, errcode)
    assert response.json()["error"]


async def test_a_body_over_the_cap_is_too_large() -> None:
    assert (await send(b" " * 1001)).status_code == 413


@pytest.mark.parametrize(("query", "errcode"), [("", "M_MISSING_PARAM"), ("limit=x", "M_INVALID_PARAM")])
async def test_bad_queries_are_refused(query: str, errcode: str) -> None:
    response = await send(b'{"name": "a"}', query)
    assert (response.status_code, response.json()["errcode"]) == (400, errcode)


def test_an_endpoint_whose_handler_takes_another_body_is_refused() -> None:
    with pytest.raises(TypeError, match="takes no `body"):
        Endpoint("POST", "/x", nothing, auth=NOBODY, limit=None, body=Greeting)
    with pytest.raises(TypeError, match="not declared"):
        Endpoint("POST", "/greet/{who}", greet, auth=NOBODY, limit=None, body=None)


def test_bind_refuses_an_argument_that_nobody_provides() -> None:
    with pytest.raises(TypeError, match="nothing provides"):
        bind(GREET, lambda request: None, {}, 1000)
