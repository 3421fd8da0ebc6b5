"""The database is away for a while, or ends connections: everything goes on by itself afterwards."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from homeserver.outbound.transport import Call, Reply
from tests.federation.network import Network
from tests.federation.scenarios import Window, join
from tests.federation.test_in_part import joined_in_part
from tests.federation.test_outbound import BOB, B, C, Stage, stage
from tests.federation.test_silent_servers import becomes_whole
from tests.processes.postgres import Postgres
from tests.world import User, World, until

__all__ = ["stage"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.postgres,
    pytest.mark.parametrize("new_database", ["postgresql"], indirect=True),
]

Json = dict[str, Any]


def name_of(world: World) -> str:
    name = world.container.database.url.database
    assert name is not None
    return name


def end_connections(postgres: Postgres, world: World) -> None:
    """End all connections of a server to its database, whatever they are doing."""
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_of(world)}'")


def take_away(postgres: Postgres, world: World) -> None:
    """Let a server have no connection to its database."""
    postgres.execute(f'ALTER DATABASE "{name_of(world)}" ALLOW_CONNECTIONS false')
    end_connections(postgres, world)


def give_back(postgres: Postgres, world: World) -> None:
    """Let it have connections again."""
    postgres.execute(f'ALTER DATABASE "{name_of(world)}" ALLOW_CONNECTIONS true')


async def persistently(user: User, path: str, body: Json) -> Json:
    """The answer to what a client repeats while the server says that it is its own trouble."""
    while True:
        answer = await user.put(path, body)
        if answer.status_code != 503:
            assert answer.status_code == 200, answer.text
            found: Json = answer.json()
            return found
        is_trouble(answer)


def is_trouble(answer: httpx2.Response) -> None:
    """It is the server's own trouble, and worth a repetition."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0


async def say(user: User, room_id: str, body: str) -> str:
    path = f"/rooms/{quote(room_id)}/send/m.room.message/{next(user.transactions)}"
    sent = await persistently(user, path, {"msgtype": "m.text", "body": body})
    event_id: str = sent["event_id"]
    return event_id


async def whisper(user: User, to: str, text: str, *, device_id: str = "*") -> None:
    path = f"/sendToDevice/m.whisper/{next(user.transactions)}"
    await persistently(user, path, {"messages": {to: {device_id: {"text": text}}}})


def whispers(window: Window) -> list[str]:
    return [event["content"]["text"] for event in window.to_device]


@pytest.mark.timeout(60)
@pytest.mark.trust("F04", "R1", "R2", "R7")
async def test_connections_that_are_ended_cost_nothing(network: Network, postgres: Postgres) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await join(bob, room_id, alice)
    window = Window(bob)
    sent = []
    for number in range(10):
        # One is idle, the other in the middle of something.
        end_connections(postgres, a if number % 2 else b)
        # What only reads is read again.
        assert (await alice.get(f"/rooms/{quote(room_id)}/messages", dir="b")).status_code == 200
        async with asyncio.TaskGroup() as tasks:
            saying = tasks.create_task(say(alice, room_id, f"{number}"))
            tasks.create_task(whisper(alice, bob.user_id, f"{number}"))
            tasks.create_task(asyncio.to_thread(end_connections, postgres, b if number % 2 else a))
        sent.append(saying.result())
        network.clock.advance(10)
    await window.until(lambda seen: len(whispers(seen)) >= len(sent) and sent[-1] in seen.ids(room_id))
    assert [event_id for event_id in window.ids(room_id) if event_id in sent] == sent
    assert sorted(whispers(window)) == [f"{number}" for number in range(10)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("away", ["a.test", "b.test"])
@pytest.mark.trust("F05", "R7", "R8")
async def test_after_half_a_minute_without_a_database_everything_goes_on(
    network: Network, postgres: Postgres, away: str
) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await join(bob, room_id, alice)
    world, user = (a, alice) if away == "a.test" else (b, bob)
    window = Window(bob)
    await window.sees(room_id, await say(alice, room_id, "before"))
    take_away(postgres, world)
    async with asyncio.TaskGroup() as tasks:
        saying = tasks.create_task(say(alice, room_id, "meanwhile"))
        tasks.create_task(whisper(alice, bob.user_id, "meanwhile"))
        for _ in range(6):
            network.clock.advance(5)
            is_trouble(await user.get("/sync"))
            is_trouble(
                await user.put(
                    f"/rooms/{quote(room_id)}/typing/{quote(user.user_id)}", {"typing": True, "timeout": 9000}
                )
            )
            is_trouble(await user.put(f"/profile/{quote(user.user_id)}/displayname", {"displayname": "Later"}))
        give_back(postgres, world)
    # Whoever waited for the end of it goes on within some seconds.
    for _ in range(5):
        network.clock.advance(10)
        await asyncio.sleep(0)
    await window.sees(room_id, saying.result())
    await window.until(lambda seen: whispers(seen) == ["meanwhile"])
    renamed = await user.put(f"/profile/{quote(user.user_id)}/displayname", {"displayname": "Later"})
    assert renamed.status_code == 200
    other = Window(alice if user is bob else bob)

    def has_name(seen: Window) -> bool:
        told = [*seen.events.get(room_id, []), *seen.state.get(room_id, [])]
        return any(one["content"].get("displayname") == "Later" for one in told)

    await other.until(has_name)


@pytest.mark.trust("F05", "R5", "R7")
async def test_what_was_about_to_be_sent_without_a_database_is_sent_later(stage: Stage, postgres: Postgres) -> None:
    network, world, alice = stage.network, stage.world, stage.alice
    called = []

    async def weather(call: Call, carry: Callable[[], Awaitable[Reply]]) -> Reply:
        called.append(call.destination)
        return await carry()

    network.weather = weather
    for name in (B, C):
        network.peers[name].awake.clear()
    await stage.say("first")
    await until(lambda: {B, C} <= set(called))
    # While the first is under way, an event waits for either, and data for one.
    await stage.say("second")
    await whisper(alice, BOB, "second", device_id="PHONE")
    for _ in range(20):
        assert (await alice.get("/sync")).status_code == 200
    take_away(postgres, world)
    for name in (B, C):
        network.peers[name].awake.set()
    for _ in range(5):
        is_trouble(await alice.get("/sync"))
    give_back(postgres, world)
    for _ in range(5):
        network.clock.advance(2)
        await asyncio.sleep(0)
    await until(lambda: stage.b.bodies == stage.c.bodies == ["first", "second"])
    await until(lambda: "m.direct_to_device" in [kind for kind, _ in stage.b.edus])
    # The servers did nothing wrong, and are as they were.
    report = await stage.destination(B)
    assert report.failures == 0


@pytest.mark.timeout(60)
@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.trust("F05", "R1", "R7")
async def test_what_others_deliver_meanwhile_is_not_acknowledged_and_rooms_become_whole_later(
    network: Network, postgres: Postgres
) -> None:
    world, bob, room = await joined_in_part(network)
    said = room.say("m.room.message", {"msgtype": "m.text", "body": "Hello."})
    body = {"origin": "p.test", "origin_server_ts": 1, "pdus": [json.loads(said.pdu)], "edus": []}
    take_away(postgres, world)
    for _ in range(6):
        network.clock.advance(5)
        is_trouble(await room.peer.call("b.test", "PUT", "/_matrix/federation/v1/send/meanwhile", body))
    give_back(postgres, world)
    before = [one for one in room.state.values() if one.state_key != bob.user_id]
    answer = {"pdus": [json.loads(one.pdu) for one in before], "auth_chain": [json.loads(room.sent[0].pdu)]}
    room.peer.on("GET", "/_matrix/federation/v1/state/", lambda seen: answer)
    # It is delivered again, as the servers do that were not told it had arrived.
    assert (await room.peer.send("b.test", "meanwhile", said.pdu))[said.event_id] == {}
    await Window(bob).sees(room.room_id, said.event_id)
    await becomes_whole(network, world)
