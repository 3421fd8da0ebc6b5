"""What a server refuses for ever, twenty times: it may be anything, anywhere in the queue, and refused in any way."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from homeserver.errors import Unreachable
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.transport import Reply
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import destinations, outgoing_edus
from tests.federation.network import Network
from tests.federation.test_outbound import ADMIN, BOB, DAN, B, C, Stage, Taker
from tests.services.rooms.test_branches import Scene
from tests.world import World

TIMES = 20
HOUR = 3600
PATIENCE_S = 20

# Where in what is sent the poison is, what it is, and how it is refused: no two seeds are alike.
PLACES = ["first", "last", "middle", "only one"]
KINDS = ["message", "state", "data"]
FAILURES = [
    Reply(400, {}, b'{"errcode": "M_BAD_JSON", "error": "No."}'),
    Reply(500, {}, b"<html>"),
    Unreachable("It hangs up."),
]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # As the server does.


def numbers(body: Any) -> list[int]:
    """What a transaction has in it of what the test has sent: each thing has a number."""
    data = [edu["content"] for edu in body.get("edus", []) if edu["edu_type"] == "m.direct_to_device"]
    return [
        *(pdu["content"]["n"] for pdu in body["pdus"]),
        *(content["n"] for one in data for devices in one["messages"].values() for content in devices.values()),
    ]


def arrived(taker: Taker) -> list[int]:
    """All that a peer has taken, in order."""
    return [number for _, body in taker.taken for number in numbers(body)]


async def public_room(network: Network) -> Stage:
    """A room of alice's, with people of two peers in it."""
    world = await network.server("a.test")
    alice = await world.user("alice")
    b, c = Taker(network.peer(B)), Taker(network.peer(C))
    scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    await scene.join(DAN)
    return Stage(network, world, scene, b, c)


async def put(stage: Stage, room_id: str, kind: str, number: int) -> None:
    """Send something, which is acknowledged."""
    match kind:
        case "message":
            await stage.alice.send(room_id, {"msgtype": "m.text", "body": "-", "n": number})
        case "state":
            await stage.alice.set_state(room_id, "m.room.topic", {"topic": f"Number {number}", "n": number})
        case _:
            body = {"messages": {BOB: {"PHONE": {"n": number}}}}
            answer = await stage.alice.put(f"/sendToDevice/org.example.ping/n{number}", body)
            assert answer.status_code == 200, answer.text


async def words_of(stage: Stage) -> list[str]:
    """What administrators are told of the peer."""
    device = NewDevice(None, None, refreshable=False)
    _, session = await stage.world.container.accounts.register("root", "rootroot", device, is_admin=True)
    assert session is not None
    headers = {"Authorization": f"Bearer {session.tokens.access_token}"}
    answer = await stage.world.client.send("GET", f"{ADMIN}/{B}", headers=headers)
    assert answer.status_code == 200, answer.text
    words: list[str] = answer.json()["words"]
    return words


async def step(world: World, server: ServerName) -> float:
    """Let time go on to the next attempt to reach a server that fails, or a bit; how far it jumped.

    It never jumps while an attempt is under way, which in real time takes less than the wait that comes after it.
    """
    row = await world.container.database.read(destinations.find, server)
    ahead_ms = 0 if row is None or row.next_retry_ts is None else row.next_retry_ts - world.clock.now()
    jump = ahead_ms / 1000 + 1 if row is not None and row.failures and ahead_ms > 0 else 0.0
    world.clock.advance(jump or 0.25)
    await world.container.database.ping()
    await asyncio.sleep(0)
    return jump


async def has_come(stage: Stage, wanted: set[int]) -> None:
    """Let time pass until the peer has this, and nothing waits for it any more."""
    database = stage.world.container.database
    async with asyncio.timeout(PATIENCE_S):
        while not wanted <= set(arrived(stage.b)) or await database.read(outgoing_edus.count_all) > 0:
            await step(stage.world, B)
        while (await stage.destination(B)).txn is not None:
            await step(stage.world, B)


@pytest.mark.timeout(120)
@pytest.mark.trust("F27")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seed", range(TIMES))
async def test_one_thing_that_is_refused_for_ever_stops_nothing_else(network: Network, seed: int) -> None:
    chance = random.Random(seed)
    place, kind = PLACES[seed % 4], KINDS[seed // 4 % 3]
    failure = FAILURES[seed % 3]
    stage = await public_room(network)
    rooms = [stage.scene.room_id, *[await stage.another_room(BOB, DAN) for _ in range(chance.randrange(3))]]
    count = 1 if place == "only one" else chance.randint(10, 60)
    poison = {"first": 0, "last": count - 1, "only one": 0}.get(place, chance.randrange(1, max(2, count - 1)))
    plan = [(chance.choice(rooms), chance.choice(KINDS)) for _ in range(count)]
    plan[poison] = (chance.choice(rooms), kind)

    def refuses(body: Any) -> Any:
        return failure if poison in numbers(body) else None

    # Some of it waits already when the peer can be reached; the rest comes while it takes and refuses.
    waiting = chance.choice([0, count // 2, count])
    stage.b.failure = Unreachable("down") if waiting else refuses
    for number, (room_id, what) in enumerate(plan):
        if number == waiting:
            stage.b.failure = refuses
        await put(stage, room_id, what, number)
    stage.b.failure = refuses
    if chance.random() < 0.25:
        await stage.restart()
    wanted = set(range(count)) - {poison}
    async with asyncio.timeout(PATIENCE_S):
        while not await stage.world.container.database.read(destinations.list_skipped, B, limit=10):
            await step(stage.world, B)
    await has_come(stage, wanted)
    # It goes on with what comes later, in the room of the poison too.
    for number, later in enumerate([*KINDS, kind], count):
        await put(stage, plan[poison][0], later, number)
    wanted |= set(range(count, count + 4))
    await has_come(stage, wanted)
    assert Counter(arrived(stage.b)) == Counter(wanted)
    # One thing is noted, and no more; the other peer was never kept waiting, and has all the events.
    words = await words_of(stage)
    assert [("was left out" in sentence) for sentence in words].count(True) == 1, words
    assert "It lacks nothing." in words
    events = [number for number, (_, what) in enumerate(plan) if what != "data"]
    events += [count + number for number, what in enumerate([*KINDS, kind]) if what != "data"]
    assert arrived(stage.c) == events
