"""Bad weather between servers: requests are lost, late, twice, or answered with rubbish; afterwards all is there."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from homeserver.errors import Unreachable
from homeserver.outbound.transport import Call, Reply
from tests.federation.network import Network
from tests.federation.scenarios import part, room_of_both
from tests.federation.test_apart import all_bodies

HOUR = 3600
RUBBISH = [
    Reply(200, {}, b"<html>502</html>"),
    Reply(200, {}, b""),
    Reply(200, {}, b"[1]"),
    Reply(200, {}, b'{"pdus": '),
    Reply(302, {"location": "https://elsewhere.test"}, b""),
    Reply(400, {}, b'{"errcode": "M_BAD_JSON"}'),
    Reply(401, {}, b'{"errcode": "M_UNKNOWN_TOKEN"}'),
    Reply(403, {}, b'{"errcode": "M_FORBIDDEN"}'),
    Reply(404, {}, b"not found"),
    Reply(418, {}, b"{}"),
    Reply(429, {"retry-after": "-5"}, b'{"retry_after_ms": 1e308}'),
    Reply(500, {}, b"\xff\xfe"),
    Reply(503, {"retry-after": "NaN"}, b"{}"),
]


class Storm:
    """Every request meets a fate by lot; the same seed gives the same lots."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.fates: list[str] = []

    async def __call__(self, call: Call, deliver: Callable[[], Awaitable[Reply]]) -> Reply:
        fate = self._chance.choice(["lost", "unheard", "twice", "late", "rubbish", "rubbish for an answer", "well"])
        self.fates.append(fate)
        match fate:
            case "lost":
                raise Unreachable("The request was lost.")
            case "unheard":
                await deliver()
                raise Unreachable("The answer was lost.")
            case "twice":
                await asyncio.gather(deliver(), deliver())
            case "late":
                for _ in range(self._chance.randrange(200)):
                    await asyncio.sleep(0)  # Others overtake it.
            case "rubbish":
                return self._chance.choice(RUBBISH)
            case "rubbish for an answer":
                await deliver()
                return self._chance.choice(RUBBISH)
        return await deliver()


@pytest.mark.timeout(60)
@pytest.mark.trust("F24", "F25", "F26", "F29", "F30", "F47", "K8", "R1", "R2", "R4")
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.by_turns
async def test_after_the_storm_all_is_there_once(network: Network, seed: int) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await room_of_both(ann, bob)
    storm = network.weather = Storm(seed)
    chance = random.Random(-seed)
    said = []
    for number in range(12):
        for user in chance.sample([ann, bob], chance.randint(1, 2)):
            said.append(f"{user.user_id} {number}")
            await user.send(room_id, said[-1])  # Whatever the weather is, one can speak.
        network.clock.advance(chance.choice([0, 1, 60, HOUR]))
        for _ in range(chance.randrange(50)):
            await asyncio.sleep(0)
    network.weather = None
    network.clock.advance(2 * HOUR)
    for user in (ann, bob):
        said.append(f"{user.user_id} after")
        await user.send(room_id, said[-1])
    async with asyncio.timeout(40):
        for user in (ann, bob):
            while len(bodies := await all_bodies(user, room_id)) < len(said):
                network.clock.advance(HOUR)
                since = (await user.sync())["next_batch"]
                await user.sync(since, timeout=200)
            assert sorted(bodies) == sorted(said), storm.fates
    states = [(await user.get(f"/rooms/{part(room_id)}/state")).json() for user in (ann, bob)]
    here, there = ({event["event_id"] for event in state} for state in states)
    assert here == there
