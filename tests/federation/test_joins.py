"""Joining rooms through other servers, in either seat."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.federation.network import Network
from tests.world import User

pytestmark = pytest.mark.anyio


async def join_by(user: User, room_id: str, *via: str) -> Any:
    return await user.call("POST", f"/join/{quote(room_id)}", {}, params={"via": list(via)})


async def members_of(user: User, room_id: str) -> dict[str, str]:
    answer = await user.get(f"/rooms/{quote(room_id)}/members")
    return {event["state_key"]: event["content"]["membership"] for event in answer.json()["chunk"]}


@pytest.mark.parametrize("version", ["1", "3", "8", "10", "11", "12"])
@pytest.mark.behaviours("SS-JOIN-01", "SS-JOIN-04", "CS-MEM-03")
async def test_user_joins_public_room_of_another_server(network: Network, version: str) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await ann.create_room(preset="public_chat", room_version=version, name="Here")
    answer = await join_by(bob, room_id, "a.test")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"room_id": room_id}
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "join"}
    assert await members_of(bob, room_id) == {ann.user_id: "join", bob.user_id: "join"}
    synced = await bob.sync()
    assert room_id in synced["rooms"]["join"]
