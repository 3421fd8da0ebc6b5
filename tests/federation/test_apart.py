"""Two servers of ours that could not reach each other for a while."""

import asyncio

import pytest

from tests.federation.network import Network
from tests.federation.scenarios import Window, good, part, room_of_both
from tests.world import User

pytestmark = pytest.mark.anyio

HOUR = 3600


async def all_bodies(user: User, room_id: str) -> list[str]:
    """What was said in the room, the oldest first, as far as the user's server has it."""
    found: list[str] = []
    token = ""
    while True:
        query = f"?dir=f&limit=100{'&from=' + part(token) if token else ''}"
        page = await good(user.get(f"/rooms/{part(room_id)}/messages{query}"))
        found += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
        if "end" not in page or not page["chunk"]:
            return found
        token = page["end"]


@pytest.mark.timeout(60)
@pytest.mark.trust("F30", "F31", "R4", "I14")
async def test_after_an_outage_both_have_all_that_was_said_on_either_side(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await room_of_both(ann, bob)
    network.cut("b.test")
    for number in range(60):
        await ann.send(room_id, f"a{number}")
    for number in range(10):
        await bob.send(room_id, f"b{number}")
    await ann.set_state(room_id, "m.room.topic", {"topic": "apart"})
    network.heal("b.test")
    network.clock.advance(2 * HOUR)
    here, there = await ann.send(room_id, "here again"), await bob.send(room_id, "there again")
    async with asyncio.timeout(15):
        await Window(bob).sees(room_id, here)
        await Window(ann).sees(room_id, there)
    said = {*(f"a{n}" for n in range(60)), *(f"b{n}" for n in range(10)), "here again", "there again"}
    for user in (ann, bob):
        while set(bodies := await all_bodies(user, room_id)) != said:
            await user.sync()
        assert len(bodies) == len(said)
        assert [body for body in bodies if body[0] == "a"] == [f"a{n}" for n in range(60)]
        topic = await good(user.get(f"/rooms/{part(room_id)}/state/m.room.topic"))
        assert topic == {"topic": "apart"}
