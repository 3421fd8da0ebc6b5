"""Typing, presence and receipts between servers."""

from itertools import count
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.services.rooms.receipts import Outcome
from tests.federation.network import Network
from tests.federation.test_outbound import Taker
from tests.federation.test_reads import Stage, stage
from tests.services.rooms.test_branches import BOB, DAN
from tests.world import User, until

__all__ = ["stage"]

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
TXN_IDS = count()
TYPES = [
    "m.typing",
    "m.presence",
    "m.receipt",
    "m.direct_to_device",
    "m.device_list_update",
    "m.signing_key_update",
]
NONSENSE: list[Any] = [None, 7, "text", [], {}, {"": {}}, [[[]]], "\0", 2**80, "x" * 100_000]


async def tell(stage: Stage, edu_type: str, *contents: Any, by: str = "b.example") -> None:
    """Have a peer tell this."""
    edus = [{"edu_type": edu_type, "content": content} for content in contents]
    for start in range(0, len(edus), 100):
        await stage.network.peers[by].send("a.test", f"t{next(TXN_IDS)}", edus=edus[start : start + 100])


async def ephemeral(user: User, room_id: str, kind: str, since: str | None = None) -> list[Json]:
    """The contents of one type that a sync shows of a room."""
    joined = (await user.sync(since)).get("rooms", {}).get("join", {})
    events = joined.get(room_id, {}).get("ephemeral", {}).get("events", [])
    return [event["content"] for event in events if event["type"] == kind]


def typing(stage: Stage, user_id: str = BOB, is_typing: Any = True) -> Json:
    return {"room_id": stage.room, "user_id": user_id, "typing": is_typing}


def receipt(stage: Stage, event_id: Any, user_id: str = BOB, *, kind: str = "m.read", ts: Any = 5, **more: Any) -> Json:
    return {stage.room: {kind: {user_id: {"event_ids": [event_id], "data": {"ts": ts, **more}}}}}


@pytest.mark.behaviours("SS-EDU-01")
async def test_typing_of_a_remote_user_in_the_room_is_shown_until_it_ends(stage: Stage) -> None:
    since = (await stage.alice.sync())["next_batch"]
    await tell(stage, "m.typing", typing(stage))
    shown = await stage.alice.sync(since)
    [event] = shown["rooms"]["join"][stage.room]["ephemeral"]["events"]
    assert event == {"type": "m.typing", "content": {"user_ids": [BOB]}}
    await tell(stage, "m.typing", typing(stage, is_typing=False))
    assert await ephemeral(stage.alice, stage.room, "m.typing", shown["next_batch"]) == [{"user_ids": []}]


@pytest.mark.behaviours("SS-EDU-01", "SS-EDU-09")
async def test_typing_of_others_or_of_those_elsewhere_is_dropped(stage: Stage) -> None:
    await tell(stage, "m.typing", typing(stage, stage.alice.user_id), typing(stage, "@nobody:b.example"))
    await tell(stage, "m.typing", typing(stage, BOB), typing(stage, DAN), by="c.example")
    await tell(stage, "m.typing", {**typing(stage), "room_id": "!unknown:a.test"})
    assert await ephemeral(stage.alice, stage.room, "m.typing") == []


@pytest.mark.behaviours("SS-EDU-01")
async def test_typing_and_receipts_of_a_server_that_the_room_keeps_out_are_dropped(stage: Stage) -> None:
    said = await stage.alice.send(stage.room, "hello")
    acl = {"allow": ["*"], "deny": ["B.example"], "allow_ip_literals": True}
    await stage.alice.set_state(stage.room, "m.room.server_acl", acl)
    await tell(stage, "m.typing", typing(stage))
    await tell(stage, "m.receipt", receipt(stage, said))
    assert await ephemeral(stage.alice, stage.room, "m.typing") == []
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == []


@pytest.mark.behaviours("SS-EDU-03")
async def test_receipt_of_a_remote_user_is_shown_and_goes_only_forward(stage: Stage) -> None:
    first, second = [await stage.alice.send(stage.room, text) for text in ("one", "two")]
    await tell(stage, "m.receipt", receipt(stage, first))
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == [{first: {"m.read": {BOB: {"ts": 5}}}}]
    await tell(stage, "m.receipt", receipt(stage, second, ts=6), receipt(stage, first, ts=7))
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == [{second: {"m.read": {BOB: {"ts": 6}}}}]
    # What is not listed stays: of another thread, and of other users.
    await tell(stage, "m.receipt", receipt(stage, first, ts=8, thread_id="main"))
    [shown] = await ephemeral(stage.alice, stage.room, "m.receipt")
    assert shown[second] == {"m.read": {BOB: {"ts": 6}}}
    assert shown[first] == {"m.read": {BOB: {"ts": 8, "thread_id": "main"}}}


@pytest.mark.behaviours("SS-EDU-03")
async def test_receipt_may_come_before_its_event(stage: Stage) -> None:
    await tell(stage, "m.receipt", receipt(stage, "$later"))
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == [{"$later": {"m.read": {BOB: {"ts": 5}}}}]
    said = await stage.alice.send(stage.room, "hello")
    await tell(stage, "m.receipt", receipt(stage, said, ts=6))
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == [{said: {"m.read": {BOB: {"ts": 6}}}}]


def shown_threads(content: Json) -> dict[str, list[str]]:
    """The threads in which bob has read, by the events that he read."""
    return {event_id: [told["thread_id"] for told in one["m.read"].values()] for event_id, one in content.items()}


@pytest.mark.behaviours("SS-EDU-03")
@pytest.mark.trust("C22")
async def test_receipt_in_a_thread_may_come_before_its_event(stage: Stage) -> None:
    root = await stage.alice.send(stage.room, "root")
    graph = await stage.scene.graph()
    content = {"body": "reply", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    reply = graph.say(BOB, "m.room.message", content, [graph.by_id[root]])
    await tell(stage, "m.receipt", receipt(stage, reply.event_id, thread_id=root))
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == [
        {reply.event_id: {"m.read": {BOB: {"ts": 5, "thread_id": root}}}}
    ]
    assert await stage.scene.outcomes(reply) == [Outcome.ACCEPTED]
    # Of what may be in a thread once it comes the last alone is kept, beside what is in one by now.
    for number in range(3):
        await tell(stage, "m.receipt", receipt(stage, f"$later{number}", thread_id=f"$thread{number}"))
    [content] = await ephemeral(stage.alice, stage.room, "m.receipt")
    assert shown_threads(content) == {reply.event_id: [root], "$later2": ["$thread2"]}


@pytest.mark.behaviours("SS-EDU-03", "SS-EDU-09")
async def test_receipts_of_others_of_other_kinds_or_of_other_rooms_are_dropped(stage: Stage) -> None:
    said = await stage.alice.send(stage.room, "hello")
    elsewhere = await stage.alice.send(await stage.alice.create_room(), "hidden")
    wrong = [
        receipt(stage, said, stage.alice.user_id),
        receipt(stage, said, "@nobody:b.example"),
        receipt(stage, said, kind="m.read.private"),
        receipt(stage, said, kind="m.seen"),
        receipt(stage, elsewhere),
        receipt(stage, said, thread_id="$thread"),
        {stage.room: {"m.read": {BOB: {"event_ids": [said, said], "data": {"ts": 1}}}}},
        {stage.room: {"m.read": {BOB: {"event_ids": [], "data": {"ts": 1}}}}},
        {"!unknown:b.example": receipt(stage, said)[stage.room]},
    ]
    await tell(stage, "m.receipt", *wrong)
    await tell(stage, "m.receipt", receipt(stage, said), receipt(stage, said, DAN), by="c.example")
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == []


@pytest.mark.behaviours("SS-EDU-03")
async def test_one_bad_receipt_does_not_spoil_the_others(stage: Stage) -> None:
    said = await stage.alice.send(stage.room, "hello")
    await stage.scene.join("@ben:b.example")
    content = receipt(stage, said)
    content[stage.room]["m.read"] |= {"@ben:b.example": 7, "nonsense": {}, stage.alice.user_id: {"event_ids": [said]}}
    unknown = {"!unknown:b.example": content[stage.room]}
    await tell(stage, "m.receipt", {"nonsense": 1, "!x:y": [], **unknown, **content})
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == [{said: {"m.read": {BOB: {"ts": 5}}}}]


def present(user_id: str, presence: Any = "online", **more: Any) -> Json:
    return {"push": [{"user_id": user_id, "presence": presence, "last_active_ago": 1000, **more}]}


async def seen(user: User, since: str | None = None) -> dict[str, Json]:
    """What a sync shows of others' presence."""
    events = (await user.sync(since)).get("presence", {}).get("events", [])
    return {event["sender"]: event["content"] for event in events if event["sender"] != user.user_id}


@pytest.mark.behaviours("SS-EDU-02")
async def test_presence_of_a_remote_user_is_shown_to_those_who_share_a_room(stage: Stage) -> None:
    dora = await stage.scene.world.user("dora")
    await tell(stage, "m.presence", present(BOB, status_msg="Here", currently_active=True))
    shown = await seen(stage.alice)
    assert shown[BOB] == {
        "presence": "online",
        "last_active_ago": 1000,
        "currently_active": True,
        "status_msg": "Here",
    }
    assert await seen(dora) == {}
    path = f"/presence/{quote(BOB)}/status"
    assert (await stage.alice.get(path)).json()["presence"] == "online"
    assert (await dora.get(path)).status_code == 403
    since = (await stage.alice.sync())["next_batch"]
    await tell(stage, "m.presence", present(BOB, "offline"))
    assert (await seen(stage.alice, since))[BOB]["presence"] == "offline"


@pytest.mark.behaviours("SS-EDU-02", "SS-EDU-09")
async def test_presence_of_others_users_or_of_strangers_is_dropped(stage: Stage) -> None:
    await tell(stage, "m.presence", present(stage.alice.user_id, "unavailable"), present("@stranger:b.example"))
    await tell(stage, "m.presence", present(BOB), by="c.example")
    await tell(stage, "m.presence", present(BOB, "everywhere"), present(BOB, 7), {"push": [7, None, [], {}]})
    assert await seen(stage.alice) == {}
    good = present(BOB)
    await tell(stage, "m.presence", {"push": [*NONSENSE, *good["push"]]})
    assert await seen(stage.alice) != {}
    # What was told of a stranger is not kept for later either.
    await stage.scene.join("@stranger:b.example")
    status = await stage.alice.get(f"/presence/{quote('@stranger:b.example')}/status")
    assert status.json() == {"presence": "offline"}


@pytest.mark.behaviours("SS-EDU-02")
async def test_remote_user_of_whom_nothing_is_heard_has_gone(stage: Stage) -> None:
    await tell(stage, "m.presence", present(BOB))
    since = (await stage.alice.sync())["next_batch"]
    stage.network.clock.time += 31 * 60_000
    await stage.scene.world.container.presence.sweep()
    assert (await seen(stage.alice, since))[BOB]["presence"] == "offline"


@pytest.mark.behaviours("SS-EDU-09")
@pytest.mark.parametrize(
    "edu_type",
    ["m.typing", "m.presence", "m.receipt", "m.direct_to_device", "m.device_list_update", "m.signing_key_update"],
)
async def test_nonsense_of_every_type_is_dropped_and_the_rest_is_taken(edu_type: str, stage: Stage) -> None:
    shapes = [
        typing(stage),
        present(BOB),
        receipt(stage, "$event"),
        {"sender": BOB, "type": "x", "message_id": "1", "messages": {stage.alice.user_id: {"*": {"a": 1}}}},
        {"user_id": BOB, "device_id": "D", "stream_id": 1, "prev_id": [], "keys": {}, "deleted": False},
        {"user_id": BOB, "master_key": {}, "self_signing_key": {"keys": {"a": "b"}, "usage": ["self_signing"]}},
    ]
    bent = [{**shape, name: wrong} for shape in shapes for name in shape for wrong in NONSENSE[:9]]
    await tell(stage, edu_type, *bent)
    await tell(stage, edu_type, *NONSENSE)
    # No handler was surprised by what it got.
    assert stage.scene.world.container.metrics.edus_received.labels(edu_type, "failed")._value.get() == 0
    # The peer's other words are taken as before, and the server is whole.
    await tell(stage, "m.typing", typing(stage))
    assert await ephemeral(stage.alice, stage.room, "m.typing") == [{"user_ids": [BOB]}]


async def test_huge_contents_are_dropped(network: Network, stage: Stage) -> None:
    users = {f"@u{number}:b.example": {"event_ids": ["$x"], "data": {"ts": 1}} for number in range(20_000)}
    await tell(stage, "m.receipt", {stage.room: {"m.read": users}})
    await tell(stage, "m.presence", {"push": [present(f"@u{number}:b.example")["push"][0] for number in range(20_000)]})
    assert await ephemeral(stage.alice, stage.room, "m.receipt") == []
    assert await seen(stage.alice) == {}


@pytest.fixture
def b(stage: Stage) -> Taker:
    return Taker(stage.bobs)


@pytest.fixture
def c(stage: Stage) -> Taker:
    return Taker(stage.others)


def told(taker: Taker, kind: str) -> list[Json]:
    return [content for edu_type, content in taker.edus if edu_type == kind]


@pytest.mark.behaviours("SS-EDU-01")
async def test_servers_in_the_room_hear_who_types_and_ceases(stage: Stage, b: Taker, c: Taker) -> None:
    path = f"/rooms/{quote(stage.room)}/typing/{quote(stage.alice.user_id)}"
    await stage.alice.put(path, {"typing": True, "timeout": 30_000})
    await until(lambda: bool(told(b, "m.typing")))
    # Going on is not told each time.
    await stage.alice.put(path, {"typing": True, "timeout": 30_000})
    await stage.alice.put(path, {"typing": False})
    await until(lambda: len(told(b, "m.typing")) >= 2)
    assert told(b, "m.typing") == [typing(stage, stage.alice.user_id), typing(stage, stage.alice.user_id, False)]
    # What other servers have told is not told on.
    await tell(stage, "m.typing", typing(stage), typing(stage, is_typing=False))
    await stage.alice.put(path, {"typing": True, "timeout": 1})
    await until(lambda: len(told(b, "m.typing")) >= 4)
    assert {one["user_id"] for one in told(b, "m.typing")} == {stage.alice.user_id}
    assert c.edus == []


@pytest.mark.behaviours("SS-EDU-03")
async def test_servers_in_the_room_hear_of_public_receipts_alone(stage: Stage, b: Taker, c: Taker) -> None:
    first, second = [await stage.alice.send(stage.room, text) for text in ("one", "two")]
    room = f"/rooms/{quote(stage.room)}"
    await stage.alice.post(f"{room}/receipt/m.read.private/{quote(second)}")
    await stage.alice.post(f"{room}/receipt/m.fully_read/{quote(second)}")
    await stage.alice.post(f"{room}/receipt/m.read/{quote(second)}")
    await stage.alice.post(f"{room}/receipt/m.read/{quote(first)}")  # Going back is no news.
    await stage.alice.post(f"{room}/receipt/m.read/{quote(first)}", {"thread_id": "main"})
    await until(lambda: len(told(b, "m.receipt")) >= 2)
    now = stage.network.clock.now()
    assert told(b, "m.receipt") == [
        receipt(stage, second, stage.alice.user_id, ts=now),
        receipt(stage, first, stage.alice.user_id, ts=now, thread_id="main"),
    ]
    assert c.edus == []


@pytest.mark.behaviours("SS-EDU-02")
async def test_servers_that_share_a_room_hear_of_presence(stage: Stage, b: Taker, c: Taker) -> None:
    dora = await stage.scene.world.user("dora")
    for user in (dora, stage.alice):
        await user.put(f"/presence/{quote(user.user_id)}/status", {"presence": "online", "status_msg": "Here"})
    await until(lambda: bool(told(b, "m.presence")))
    told_last = told(b, "m.presence")[-1]
    assert told_last == present(stage.alice.user_id, last_active_ago=0, currently_active=True, status_msg="Here")
    assert {one["user_id"] for content in told(b, "m.presence") for one in content["push"]} == {stage.alice.user_id}
    # Who stays is told again before it would be forgotten there.
    count = len(told(b, "m.presence"))
    stage.network.clock.time += 26 * 60_000
    await stage.alice.sync()
    await stage.scene.world.container.presence.sweep()
    await until(lambda: len(told(b, "m.presence")) > count)
    assert c.edus == []
