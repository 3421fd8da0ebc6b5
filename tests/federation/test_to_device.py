"""Messages from device to device between servers."""

import json
from typing import Any

import pytest
from sqlalchemy import func, select

from homeserver.matrix.identifiers import DeviceId, ServerName, UserId
from homeserver.services.users.to_device import MOST_ELSEWHERE, MOST_OF_SERVER, MOST_OF_STRANGER, MOST_WAITING
from homeserver.storage import destinations, outgoing_edus, stream_rows, to_device
from homeserver.storage.destinations import Destination
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.outgoing_edus import TO_DEVICE, OutgoingEdu
from homeserver.storage.to_device import Message, received_messages
from tests.federation.network import Network
from tests.federation.test_edus import TXN_IDS
from tests.federation.test_outbound import Taker
from tests.services.rooms.test_branches import Scene
from tests.statements import counted
from tests.world import User, World, eventually, until

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
BOB = "@bob:b.example"


@pytest.fixture
async def world(network: Network) -> World:
    network.peer("b.example")
    network.peer("c.example")
    return await network.server("a.test")


def message(user: str, device: str, content: Any = None, *, message_id: Any = "m1", sender: Any = BOB) -> Json:
    messages = {user: {device: {"text": "hi"} if content is None else content}}
    content = {"sender": sender, "type": "m.test", "message_id": message_id, "messages": messages}
    return {"edu_type": "m.direct_to_device", "content": content}


async def send(network: Network, *edus: Json, by: str = "b.example", txn_id: str | None = None) -> None:
    await network.peers[by].send("a.test", txn_id or f"d{next(TXN_IDS)}", edus=list(edus))


async def received(user: User, since: str | None = None) -> list[Json]:
    events: list[Json] = (await user.sync(since)).get("to_device", {}).get("events", [])
    return events


@pytest.mark.behaviours("SS-EDU-07")
async def test_message_reaches_the_device_or_all_devices(network: Network, world: World) -> None:
    phone = await world.user("alice")
    laptop = await world.user("alice", device_id="LAPTOP")
    await send(network, message(phone.user_id, "LAPTOP"), message(phone.user_id, "*", {"n": 2}, message_id="m2"))
    expected = {"sender": BOB, "type": "m.test", "content": {"n": 2}}
    assert await received(phone) == [expected]
    assert await received(laptop) == [{**expected, "content": {"text": "hi"}}, expected]


@pytest.mark.behaviours("SS-EDU-07")
@pytest.mark.trust("K10")
async def test_repeated_message_is_left_once_even_after_a_restart(network: Network, world: World) -> None:
    alice = await world.user("alice")
    again = message(alice.user_id, alice.device_id)
    await send(network, again, again)
    await send(network, again, txn_id="another")
    await network.stop("a.test")
    world = await network.server("a.test")
    alice.client = world.client
    await send(network, again, txn_id="restarted")
    assert len(await received(alice)) == 1
    # An id is one server's own.
    await send(network, message(alice.user_id, "*", sender="@eve:c.example"), by="c.example")
    assert len(await received(alice)) == 2


@pytest.mark.behaviours("SS-EDU-07", "SS-EDU-09")
async def test_messages_of_other_senders_or_to_nobody_here_are_dropped(network: Network, world: World) -> None:
    alice = await world.user("alice")
    everybody = (alice.user_id, "*")
    await send(
        network,
        message(*everybody, sender="@eve:c.example", message_id="1"),
        message(*everybody, sender=alice.user_id, message_id="2"),
        message(*everybody, sender="nobody", message_id="3"),
        message(*everybody, message_id="x" * 33),
        message(*everybody, message_id=7),
        message(*everybody, "text", message_id="4"),
        message(*everybody, {"long": "x" * 70_000}, message_id="5"),
        message("@nobody:a.test", "*", message_id="6"),
        message("@bob:b.example", "*", message_id="7"),
        message(alice.user_id, "NOSUCH", message_id="8"),
        message("\0", "\0", message_id="\0"),
    )
    assert await received(alice) == []
    # 32 code points, not bytes.
    await send(network, message(*everybody, message_id="\N{GRINNING FACE}" * 32))
    assert len(await received(alice)) == 1


def fill(tx: WriteTx, user: User, count: int, server: str) -> None:
    """Have so many messages of a server wait for the device."""
    first = stream_rows.advance(tx, count) - count + 1
    who = (UserId(user.user_id), DeviceId(user.device_id))
    to_device.add_many(tx, [Message(first + n, *who, "{}", ServerName(server)) for n in range(count)])


async def waiting(world: World, user: User) -> dict[str, int]:
    """How many messages wait for the device, by server."""
    who = (UserId(user.user_id), DeviceId(user.device_id))
    found = await world.container.database.read(to_device.count_waiting, [who])
    return {str(server): count for server, (count, _) in found[who].items()}


async def share_a_room(network: Network, world: World, user: User, *servers: str) -> None:
    """Have these servers be in a room of the user's."""
    scene = Scene(world, user, await user.create_room(preset="public_chat"))
    for server in servers:
        if server not in network.peers:
            network.peer(server)
        await scene.join(f"@somebody:{server}")


@pytest.mark.trust("C19")
async def test_one_server_fills_no_more_than_its_share_of_an_inbox(network: Network, world: World) -> None:
    alice = await world.user("alice")
    await share_a_room(network, world, alice, "b.example", "c.example", "d.example")
    await world.container.database.write(fill, alice, MOST_OF_SERVER - 2, "b.example")
    flood = [message(alice.user_id, "*", {"n": number}, message_id=f"b{number}") for number in range(20)]
    await send(network, *flood)
    await send(network, message(alice.user_id, "*", sender="@eve:c.example"), by="c.example")
    assert await waiting(world, alice) == {"b.example": MOST_OF_SERVER, "c.example": 1}
    # Of all that waits, the oldest go of those of whom there are most.
    await world.container.database.write(fill, alice, MOST_WAITING - MOST_OF_SERVER - 1, "d.example")
    more = [message(alice.user_id, "*", message_id=f"{n}", sender="@eve:c.example") for n in range(5)]
    await send(network, *more, by="c.example")
    assert await waiting(world, alice) == {
        "b.example": MOST_OF_SERVER - 3,
        "c.example": 6,
        "d.example": MOST_OF_SERVER - 3,
    }


@pytest.mark.trust("C19", "R5")
async def test_whoever_has_many_names_does_not_push_out_what_others_have_sent(network: Network, world: World) -> None:
    alice = await world.user("alice")
    await share_a_room(network, world, alice, "b.example", "c.example", "e1.example", "e2.example")
    await send(network, message(alice.user_id, "*", {"n": 1}))
    await world.container.database.write(fill, alice, MOST_OF_SERVER, "e1.example")
    await world.container.database.write(fill, alice, MOST_OF_SERVER - 1, "e2.example")
    eve = network.peers["e2.example"]
    for number in range(3):
        edu = message(alice.user_id, "*", sender="@eve:e2.example", message_id=f"{number}")
        await eve.send("a.test", f"e{number}", edus=[edu])
    assert (await waiting(world, alice)) == {
        "b.example": 1,
        "e1.example": MOST_OF_SERVER - 1,
        "e2.example": MOST_OF_SERVER,
    }
    await send(network, message(alice.user_id, "*", sender="@c:c.example"), by="c.example")
    assert (await waiting(world, alice))["b.example"] == 1
    assert (await waiting(world, alice))["c.example"] == 1
    assert sum((await waiting(world, alice)).values()) == MOST_WAITING


@pytest.mark.trust("C19", "R5", "R6")
async def test_strangers_have_little_room_and_count_as_one(network: Network, world: World) -> None:
    alice = await world.user("alice")
    await share_a_room(network, world, alice, "b.example", "d.example", "f.example")
    for start in (0, 100):
        flood = [
            message(alice.user_id, "*", {"n": n}, message_id=f"{n}", sender="@eve:c.example")
            for n in range(start, start + 100)
        ]
        await send(network, *flood, by="c.example")
    assert await waiting(world, alice) == {"c.example": MOST_OF_STRANGER}
    # They leave before anybody else does who has no more than all of them.
    for number in range(30):
        await world.container.database.write(fill, alice, MOST_OF_STRANGER, f"s{number}.example")
    await world.container.database.write(fill, alice, 2000, "b.example")
    full = MOST_WAITING - 2000 - 31 * MOST_OF_STRANGER
    await world.container.database.write(fill, alice, full // 6, "d.example")
    for number in range(5):
        await world.container.database.write(fill, alice, full // 6, f"k{number}.example")
        await share_a_room(network, world, alice, f"k{number}.example")
    while sum((await waiting(world, alice)).values()) < MOST_WAITING:
        await world.container.database.write(fill, alice, 1, "d.example")
    await send(network, message(alice.user_id, "*", {"n": 1}, message_id="last"))
    found = await waiting(world, alice)
    assert found["b.example"] == 2001
    assert sum(count for server, count in found.items() if server[0] in "cs") == 31 * MOST_OF_STRANGER - 1


@pytest.mark.trust("C19", "R6")
async def test_of_messages_to_nobody_here_there_is_no_trace(network: Network, world: World) -> None:
    alice = await world.user("alice")
    await send(network, message("@nobody:a.test", "*"), message(alice.user_id, "NOSUCH", message_id="m2"))

    def count(tx: ReadTx) -> int:
        return int(tx.connection.execute(select(func.count()).select_from(received_messages)).scalar_one())

    assert await world.container.database.read(count) == 0
    await send(network, message(alice.user_id, "*", message_id="m3"))
    assert await world.container.database.read(count) == 1


@pytest.mark.trust("C19")
async def test_flood_comes_in_parts_of_a_hundred(network: Network, world: World) -> None:
    alice = await world.user("alice")
    await share_a_room(network, world, alice, "b.example")
    for start in (0, 100):
        flood = [message(alice.user_id, "*", {"n": n}, message_id=f"{n}") for n in range(start, start + 100)]
        await send(network, *flood)
    first = await alice.sync()
    assert len(first["to_device"]["events"]) == 100
    second = await alice.sync(first["next_batch"])
    assert [event["content"]["n"] for event in second["to_device"]["events"]] == list(range(100, 200))


@pytest.fixture
def taker(network: Network, world: World) -> Taker:
    return Taker(network.peers["b.example"])


async def put(user: User, txn_id: str, messages: Json) -> None:
    answer = await user.put(f"/sendToDevice/m.test/{txn_id}", {"messages": messages})
    assert answer.status_code == 200, answer.text


def told(taker: Taker) -> list[Json]:
    """The messages that a server was told."""
    return [content for kind, content in taker.edus if kind == "m.direct_to_device"]


@pytest.mark.behaviours("SS-EDU-07")
async def test_messages_to_remote_users_are_sent_once_to_each_server(
    network: Network, world: World, taker: Taker
) -> None:
    alice, dora = await world.user("alice"), await world.user("dora")
    others = Taker(network.peers["c.example"])
    messages = {
        BOB: {"*": {"n": 1}, "PHONE": {"n": 2}},
        "@ben:b.example": {"PHONE": {"n": 3}},
        "@eve:c.example": {"*": {"n": 4}},
        dora.user_id: {"*": {"n": 5}},
    }
    await put(alice, "one", messages)
    await put(alice, "one", messages)
    await put(alice, "two", {BOB: {"*": {}}})
    await until(lambda: len(told(taker)) >= 2 and len(told(others)) >= 1)
    first, second = told(taker)
    assert first["message_id"] != second["message_id"]
    assert 0 < len(first.pop("message_id")) <= 32
    assert second.pop("message_id")
    mine = {name: messages[name] for name in (BOB, "@ben:b.example")}
    assert first == {"sender": alice.user_id, "type": "m.test", "messages": mine}
    assert second["messages"] == {BOB: {"*": {}}}
    assert [content["messages"] for content in told(others)] == [{"@eve:c.example": {"*": {"n": 4}}}]
    assert [event["content"] for event in await received(dora)] == [{"n": 5}]


@pytest.mark.timeout(60)
@pytest.mark.trust("C19", "R6")
async def test_messages_to_ten_thousand_users_are_sent_at_once_and_no_more(
    network: Network, world: World, taker: Taker
) -> None:
    alice = await world.user("alice")
    messages: Json = {f"@u{number}:b.example": {"*": {"n": number}} for number in range(10_000)}
    with counted() as sent:
        await put(alice, "many", messages)
    assert len(sent) < 30
    await until(lambda: sum(len(content["messages"]) for content in told(taker)) == 10_000)
    assert all(len(json.dumps(content)) < 100_000 for content in told(taker))
    here: Json = {f"@u{number}:a.test": {"*": {}} for number in range(10_000)}
    with counted() as sent:
        await put(alice, "nobody", here)
    assert len(sent) < 30
    one_more = {"messages": messages | {alice.user_id: {"*": {}}}}
    answer = await alice.put("/sendToDevice/m.test/too_many", one_more)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")
    assert await received(alice) == []


@pytest.mark.behaviours("SS-EDU-07")
@pytest.mark.trust("K10")
async def test_messages_to_a_server_that_is_down_are_sent_when_it_is_back(
    network: Network, world: World, taker: Taker
) -> None:
    alice = await world.user("alice")
    network.cut("b.example")
    await put(alice, "one", {BOB: {"*": {"n": 1}}})
    await network.stop("a.test")
    network.heal("b.example")
    await network.server("a.test")
    await until(lambda: bool(told(taker)))
    assert [content["messages"] for content in told(taker)] == [{BOB: {"*": {"n": 1}}}]


async def test_much_for_one_server_is_sent_in_parts(network: Network, world: World, taker: Taker) -> None:
    alice = await world.user("alice")
    devices = {f"D{number}": {"text": f"{number}" * 10_000} for number in range(9)}
    await put(alice, "one", {BOB: devices})
    await until(lambda: sum(len(content["messages"][BOB]) for content in told(taker)) == 9)
    assert all(len(json.dumps(content)) < 100_000 for content in told(taker))
    assert len({content["message_id"] for content in told(taker)}) == len(told(taker)) > 1
    together: Json = {}
    for content in told(taker):
        together |= content["messages"][BOB]
    assert together == devices


@pytest.mark.behaviours("SS-TXN-01", "SS-EDU-07")
async def test_message_is_taken_with_all_that_another_server_may_send_together(network: Network, world: World) -> None:
    alice = await world.user("alice")
    large = {"edu_type": "org.example.large", "content": {"text": "x" * 100_000}}
    await send(network, *[large] * 99, message(alice.user_id, "*"))
    assert len(await received(alice)) == 1


@pytest.mark.behaviours("SS-TXN-01", "SS-EDU-07")
async def test_a_hundred_large_messages_are_not_sent_at_once(network: Network, world: World, taker: Taker) -> None:
    alice = await world.user("alice")
    contents = [json.dumps({"n": number, "text": "x" * 60_000}).encode() for number in range(100)]
    large = [OutgoingEdu(B, TO_DEVICE, content, UserId(alice.user_id)) for content in contents]
    await world.container.database.write(outgoing_edus.add_many, large)
    await until(lambda: len(told(taker)) == 100)
    assert [content["n"] for content in told(taker)] == list(range(100))
    assert max(len(json.dumps(body)) for _, body in taker.offered) < 5_000_000


B = ServerName("b.example")
DAY = 24 * 3600.0


async def waits_for_b(world: World) -> int:
    """How much data waits for the server."""
    return (await world.container.database.read(outgoing_edus.count_waiting)).get(B, 0)


async def have_waiting(world: World, user: User, count: int) -> None:
    """Have so many pieces of data with messages of a user wait for the server."""
    edus = [OutgoingEdu(B, TO_DEVICE, b'{"messages":{}}', UserId(user.user_id))] * count
    await world.container.database.write(outgoing_edus.add_many, edus)


async def fails(network: Network, world: World, sender: User) -> None:
    """Cut the server off, and wait until that is known; a message waits for it then."""

    async def look() -> Destination | None:
        return await world.container.database.read(destinations.find, B)

    network.cut(B)
    await put(sender, f"first{next(TXN_IDS)}", {BOB: {"*": {}}})
    await eventually(look, lambda row: row is not None and row.failures > 0)


@pytest.mark.timeout(60)  # It sends a great many.
@pytest.mark.behaviours("SS-EDU-07")
@pytest.mark.trust("C19", "F32", "R1", "R6")
async def test_no_more_is_taken_of_whose_messages_fill_what_is_kept_for_a_server_that_fails(
    network: Network, world: World, taker: Taker
) -> None:
    alice, dora = await world.user("alice"), await world.user("dora")
    others = Taker(network.peers["c.example"])
    await fails(network, world, alice)
    await have_waiting(world, alice, MOST_ELSEWHERE - 2)
    # This one has two parts.
    too_much = {BOB: {"ONE": {"text": "x" * 40_000}, "TWO": {"text": "x" * 40_000}}}
    both = {"messages": {BOB: {"*": {"n": 1}}, "@eve:c.example": {"*": {}}, dora.user_id: {"*": {}}}}
    assert (await alice.put("/sendToDevice/m.test/large", {"messages": too_much})).status_code == 429
    await put(alice, "last", {BOB: {"*": {"n": 0}}})
    for _ in range(2):
        refused = await alice.put("/sendToDevice/m.test/full", both)
        assert (refused.status_code, refused.json()["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert 0 < refused.json()["retry_after_ms"] <= 60_000
        assert refused.headers["retry-after"]
    # What was taken is taken; others are not kept from anything, nor is the user from sending elsewhere.
    await put(alice, "last", {BOB: {"*": {"n": 0}}})
    assert await waits_for_b(world) == MOST_ELSEWHERE
    await put(dora, "hers", {BOB: {"*": {"n": 2}}})
    await put(alice, "elsewhere", {"@eve:c.example": {"*": {"n": 3}}, dora.user_id: {"*": {"n": 4}}})
    await until(lambda: len(told(others)) == 1)
    assert told(others)[0]["messages"] == {"@eve:c.example": {"*": {"n": 3}}}
    assert [event["content"] for event in await received(dora)] == [{"n": 4}]
    # Nothing is dropped meanwhile, and there is room again when the server is back.
    network.clock.advance(29 * DAY)
    assert (await alice.put("/sendToDevice/m.test/full", both)).status_code == 429
    network.heal(B)
    network.clock.advance(DAY)
    await eventually(lambda: waits_for_b(world), lambda count: count == 0)
    assert len(told(taker)) == MOST_ELSEWHERE + 1
    await put(alice, "full", both["messages"])
    await until(lambda: any(content["messages"] == {BOB: {"*": {"n": 1}}} for content in told(taker)))


@pytest.mark.trust("C19", "F32", "R5")
async def test_a_server_that_is_gone_for_good_keeps_nobody_from_sending(network: Network, world: World) -> None:
    alice = await world.user("alice")
    await fails(network, world, alice)
    await have_waiting(world, alice, MOST_ELSEWHERE)
    everybody = {BOB: {"*": {}}, alice.user_id: {"*": {"n": 1}}}
    assert (await alice.put("/sendToDevice/m.test/one", {"messages": everybody})).status_code == 429
    network.clock.advance(31 * DAY)
    await put(alice, "one", everybody)
    assert [event["content"] for event in await received(alice)] == [{"n": 1}]

    async def pass_time() -> int:
        network.clock.advance(61)
        return await waits_for_b(world)

    # And the one that is under way.
    await eventually(pass_time, lambda count: count == 501)


@pytest.mark.trust("C19", "R5")
async def test_a_server_that_is_only_slow_is_sent_everything(network: Network, world: World, taker: Taker) -> None:
    alice = await world.user("alice")
    network.peers[B].awake.clear()
    await have_waiting(world, alice, MOST_ELSEWHERE)
    await put(alice, "one", {BOB: {"*": {"n": 1}}})
    assert await waits_for_b(world) == MOST_ELSEWHERE + 1
    network.peers[B].awake.set()
