"""Whatever is sent to whatever endpoint, the answer is never a 5xx, and errors have the shape of the specification."""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints
from urllib.parse import quote

import msgspec
import pytest

from homeserver.api.tables import ENDPOINTS
from homeserver.http.bodies import JsonObject, Query
from homeserver.http.endpoint import Endpoint
from homeserver.matrix import identifiers
from tests.world import World

Json = dict[str, Any]

STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    2**53,
    2**80,
    1.5,
    "",
    "x",
    "a\0b",
    "\ud800",
    "@a:b",
    "x" * 70_000,
    [],
    [[]],
    {},
]
BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b'{"a": 1e999}',
    b'{"a": "\\ud800"}',
    b'{"a": 1, "a": 2}',
    b"[" * 100_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
]
PATHS = ["x", "", "%00", "%ff", "%ED%A0%80", "x" * 300, "..%2F..", "%2A"]


def endpoints() -> list[Endpoint]:
    """Each operation once; the older names of the same ones add nothing. /metrics and what waits are left out."""
    return [one for one in ENDPOINTS if "/r0/" not in one.path and one.path != "/metrics"]


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


@pytest.mark.trust("C24")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("endpoint", endpoints(), ids=name_of)
async def test_no_input_makes_the_server_fail(shared_world: "Shared", endpoint: Endpoint) -> None:
    world, values, token = shared_world.world, shared_world.values, await shared_world.token()
    for path, query, body in variants(endpoint, values):
        headers = {"Authorization": f"Bearer {token}"}
        url = path + (f"?{query}" if query else "")
        answer = await world.client._http.request(endpoint.method, url, headers=headers, content=body)
        said = f"{endpoint.method} {url[:200]} {(body or b'')[:200]!r}: {answer.status_code} {answer.text[:200]}"
        # Another server that is not there is no fault of this one (502).
        is_elsewhere = answer.status_code == 502
        assert answer.status_code < 500 or is_elsewhere or answer.json()["errcode"] == "M_NOT_YET_UPLOADED", said
        if answer.status_code >= 400 and answer.status_code != 401:
            error = answer.json()
            assert error["errcode"].startswith("M_"), said
            assert isinstance(error["error"], str), said
        if answer.status_code == 401:
            token = await shared_world.token()


def variants(endpoint: Endpoint, values: dict[Any, Any]) -> Iterator[tuple[str, str, bytes | None]]:
    """Paths, queries and bodies, each with one thing wrong with it."""
    hints = get_type_hints(endpoint.handler)
    good = {name: values.get(name) or values[hints.get(name, str)] for name in endpoint.parameters}
    path = _filled(endpoint, good)
    fields = _fields(endpoint.body) if endpoint.body is not None else {}
    plausible = {name: _plausible(kind, values) for name, kind in fields.items()}
    body = json.dumps(plausible).encode() if endpoint.body is not None else None
    for name in endpoint.parameters:
        for text in PATHS:
            yield _filled(endpoint, good | {name: None}, text), "", body
    queries = [kind for kind in hints.values() if isinstance(kind, type) and issubclass(kind, Query)]
    for query in queries:
        for info in msgspec.structs.fields(query):
            for text in ("", "x", "-1", "%00", "%ff", "9" * 30, "true", "s1_1", "{", "%7B%7D"):
                yield path, f"{info.encode_name}={text}", body
    if endpoint.body is None:
        return
    for raw in BODIES:
        yield path, "", raw
    for name in fields or {"msgtype": str, "body": str, "membership": str, "m.relates_to": dict}:
        for value in STRANGE:
            yield path, "", json.dumps(plausible | {name: value}).encode()


def _filled(endpoint: Endpoint, values: dict[Any, Any], strange: str = "") -> str:
    parts = []
    for part in endpoint.path.split("/"):
        if part.startswith("{"):
            value = values[part[1:-1]]
            parts.append(strange if value is None else quote(value, safe=""))
        else:
            parts.append(part)
    return "/".join(parts)


def _fields(kind: Any) -> dict[str, Any]:
    if issubclass(kind, JsonObject):
        return {}
    return {info.encode_name: info.type for info in msgspec.structs.fields(kind)}


def _plausible(kind: Any, values: dict[Any, Any]) -> Any:
    """A value of the kind, so that the server comes as far as possible before it meets what is wrong."""
    options = get_args(kind)
    if kind is str or str in options:
        return values["text"]
    if kind is bool or bool in options:
        return False
    if kind is int or int in options:
        return 1
    if type(None) in options:
        return None
    text = str(kind)
    if "Literal" in text:
        return next(iter(get_args(kind)), None)
    return [] if text.startswith("list") else {}


class Shared:
    """A server that all cases of one database share, and somebody who is always logged in."""

    def __init__(self, world: World, values: dict[Any, Any]) -> None:
        self.world = world
        self.values = values
        self._token = ""

    async def token(self) -> str:
        answer = await self.world.client._http.get(
            "/_matrix/client/v3/account/whoami", headers={"Authorization": f"Bearer {self._token}"}
        )
        if answer.status_code != 200:
            self.values["count"] += 1
            user = await self.world.user(f"user{self.values['count']}")
            self._token = user.token
        return self._token


@pytest.fixture
async def shared_world(world: World) -> Shared:
    alice = await world.user("alice")
    room_id = await alice.create_room(preset="public_chat", room_alias_name="den")
    event_id = await alice.send(room_id, "x")
    values: dict[Any, Any] = {
        "count": 0,
        "text": "text",
        str: "text",
        identifiers.UserId: alice.user_id,
        identifiers.RoomId: room_id,
        identifiers.EventId: event_id,
        identifiers.RoomAlias: "#den:localhost",
        identifiers.ServerName: "localhost",
        identifiers.DeviceId: alice.device_id,
        "room_id_or_alias": room_id,
        "server_name": "localhost",
        "event_type": "m.room.message",
        "kind": "override",
        "rel_type": "m.thread",
        "receipt_type": "m.read",
    }
    return Shared(world, values)
