"""Whatever is written comes back as it was, or is refused: nothing is cut, changed, or breaks the server."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.world import User, World

Write = Callable[[User, str, str], Awaitable[httpx2.Response]]
Read = Callable[[User, str, str], Awaitable[Any]]

CONTROLS = "".join(map(chr, [*range(1, 32), 127, *range(128, 160)]))
TEXTS = {
    "controls": f"a{CONTROLS}b",
    "no characters": "a\ufffe\uffff\ufdd0\U0001ffff",
    "wide": "\U0001f9d1\u200d\U0001f680 \U00010330",
    "marks": "\u202eevil\u202c \u200b\ufeff e\u0301 \u2028\u2029",
    "escapes": "\\u0000 \\ \" ' %00 ${x} {{x}} \\x00 ; --",
    "spaces": "  \t two  \r\n ",
}
NUL = "a\0b"


def state(room_id: str, type_: str, key: str = "") -> str:
    return f"/rooms/{quote(room_id)}/state/{quote(type_, safe='')}/{quote(key, safe='')}"


def put_state(type_: str, name: str) -> tuple[Write, Read]:
    async def read(user: User, room: str, text: str) -> Any:
        return (await user.get(state(room, type_))).json().get(name)

    return lambda user, room, text: user.put(state(room, type_), {name: text}), read


def put_at(path: str, name: str) -> tuple[Write, Read]:
    async def read(user: User, room: str, text: str) -> Any:
        return (await user.get(path.format(user=user))).json().get(name)

    return lambda user, room, text: user.put(path.format(user=user), {name: text}), read


async def read_type(user: User, room: str, text: str) -> Any:
    return text if (await user.get(state(room, text))).json() == {"x": 1} else None


async def read_key(user: User, room: str, text: str) -> Any:
    return text if (await user.get(state(room, "m.test", text))).json() == {"x": 1} else None


def say(user: User, room: str, text: str) -> Awaitable[httpx2.Response]:
    path = f"/rooms/{quote(room)}/send/m.room.message/t{next(user.transactions)}"
    return user.put(path, {"msgtype": "m.text", "body": text})


async def read_last(user: User, room: str, text: str) -> Any:
    page = (await user.get(f"/rooms/{quote(room)}/messages", dir="b", limit="1")).json()
    return page["chunk"][0]["content"].get("body")


async def read_pusher(user: User, room: str, text: str) -> Any:
    return (await user.get("/pushers")).json()["pushers"][0]["device_display_name"]


def put_pusher(user: User, room: str, text: str) -> Awaitable[httpx2.Response]:
    data = {"url": "https://push.test/_matrix/push/v1/notify"}
    body = {"kind": "http", "app_id": "a", "pushkey": "k", "app_display_name": "A", "lang": "en", "data": data}
    return user.post("/pushers/set", body | {"device_display_name": text})


def put_status(user: User, room: str, text: str) -> Awaitable[httpx2.Response]:
    return user.put(f"/presence/{user.user_id}/status", {"presence": "online", "status_msg": text})


def put_rule(user: User, room: str, text: str) -> Awaitable[httpx2.Response]:
    return user.put("/pushrules/global/content/mine", {"pattern": text, "actions": ["notify"]})


async def read_rule(user: User, room: str, text: str) -> Any:
    return (await user.get("/pushrules/global/content/mine")).json()["pattern"]


PLACES: dict[str, tuple[Write, Read]] = {
    "a message": (say, read_last),
    "a room's name": put_state("m.room.name", "name"),
    "a topic": put_state("m.room.topic", "topic"),
    "guest access": put_state("m.room.guest_access", "guest_access"),
    "a tombstone": put_state("m.room.tombstone", "replacement_room"),
    "a type of state": (lambda user, room, text: user.put(state(room, text), {"x": 1}), read_type),
    "a key of state": (lambda user, room, text: user.put(state(room, "m.test", text), {"x": 1}), read_key),
    "a display name": put_at("/profile/{user.user_id}/displayname", "displayname"),
    "a field of a profile": put_at("/profile/{user.user_id}/org.example.field", "org.example.field"),
    "a device's name": put_at("/devices/{user.device_id}", "display_name"),
    "account data": put_at("/user/{user.user_id}/account_data/org.example.x", "text"),
    "a status": (put_status, put_at("/presence/{user.user_id}/status", "status_msg")[1]),
    "a pusher": (put_pusher, read_pusher),
    "a push rule": (put_rule, read_rule),
}


@pytest.mark.trust("C24", "R8")
@pytest.mark.parametrize("place", PLACES)
async def test_text_comes_back_as_it_was_or_is_refused(world: World, place: str) -> None:
    write, read = PLACES[place]
    alice = await world.user("alice")
    room_id = await alice.create_room()
    for name, text in {**TEXTS, "NUL": NUL}.items():
        answer = await write(alice, room_id, text)
        assert answer.status_code in (200, 400), (name, answer.text)
        if answer.status_code == 200:
            assert await read(alice, room_id, text) == text, name
        else:
            assert name in ("NUL", "controls", "spaces", "marks", "no characters"), answer.text
            assert answer.json()["errcode"].startswith("M_")
    assert (await alice.get("/sync")).status_code == 200
