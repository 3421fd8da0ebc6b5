"""Keys of servers: published, fetched, vouched for, and what they are good for."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote

import pytest
import signedjson.key
import signedjson.sign
import unpaddedbase64

from homeserver.config.model import Federation, Limits, OldKey
from homeserver.consumers.housekeeping import Strangers
from homeserver.consumers.loop import running
from homeserver.errors import Unreachable
from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.identifiers import ServerName
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.server_keys import PublishedKey, publish
from homeserver.matrix.signing import SigningKey, sign_json, verify_json
from homeserver.outbound.keyring import KeyRing
from homeserver.outbound.transport import Call, Reply
from homeserver.storage import destinations
from tests.federation.foreign import ForeignRoom
from tests.federation.network import Network, Peer, Seen
from tests.matrix.authorization_grammar import NotInGrammar, read
from tests.room_graphs import key_of
from tests.world import eventually, until

pytestmark = pytest.mark.anyio

DAY = 24 * 60 * 60 * 1000
PROBE = "/_matrix/federation/v1/query/%6Eothing?a=%62&c=+d"
"""Somewhere that only servers may ask."""


async def is_believed(peer: Peer, target: str = PROBE) -> bool:
    answer = await peer.call("a.test", "GET", target)
    return answer.status_code != 401


@pytest.mark.behaviours("SS-KEY-01", "SS-KEY-02")
async def test_own_keys_are_published_and_signed_with_themselves(network: Network) -> None:
    a = await network.server("a.test")
    answer = await a.client.get("/_matrix/key/v2/server")
    document = answer.json()
    assert document["server_name"] == "a.test"
    assert document["valid_until_ts"] >= network.clock.now() + 3_600_000
    [(key_id, key)] = document["verify_keys"].items()
    verify_json(answer.content, "a.test", key_id, key["key"])


@pytest.mark.behaviours("SS-KEY-01", "SS-KEY-02")
async def test_former_keys_are_published_and_still_prove_old_events(network: Network) -> None:
    former = key_of("once.test")
    old = OldKey(key_id="ed25519:once", public_key=former.public_key, expired_ts=1_600_000_000_000)
    a = await network.server("a.test", federation=Federation(old_keys=(old,)))
    document = (await a.client.get("/_matrix/key/v2/server")).json()
    expected = {"ed25519:once": {"key": former.public_key, "expired_ts": 1_600_000_000_000}}
    assert document["old_verify_keys"] == expected
    key = key_of("a.test")
    own = {"ed25519:once": PublishedKey(former.public_key, 1_600_000_000_000)}
    ring = KeyRing(a.container.database, a.clock, a.container.federation, "a.test", key, old=own)
    found = await ring.find({("a.test", "ed25519:once"): 0, ("a.test", key.key_id): 0, ("a.test", "ed25519:none"): 0})
    assert {name[1]: one.public_key for name, one in found.items()} == {
        "ed25519:once": former.public_key,
        key.key_id: key.public_key,
    }


@pytest.mark.behaviours("SS-KEY-05")
async def test_notary_vouches_for_the_last_answer_of_a_server_that_is_gone(network: Network) -> None:
    a = await network.server("a.test")
    network.peer("p.test")
    first = (await a.client.get("/_matrix/key/v2/query/p.test")).json()["server_keys"]
    network.cut("p.test")
    network.clock.advance(30 * DAY / 1000)
    again = (await a.client.get("/_matrix/key/v2/query/p.test")).json()["server_keys"]
    assert [one["verify_keys"] for one in again] == [one["verify_keys"] for one in first]
    own = (await a.client.get("/_matrix/key/v2/server")).json()["verify_keys"]
    for key_id, key in own.items():
        verify_json(json.dumps(again[0]).encode(), "a.test", key_id, key["key"])


@pytest.mark.behaviours("SS-KEY-02", "SS-KEY-05")
async def test_notary_asks_again_when_half_of_the_lifetime_is_over_or_more_is_wanted(network: Network) -> None:
    a = await network.server("a.test")
    peer = network.peer("p.test")
    minute = 60

    async def asked(query: str = "") -> int:
        await a.client.get(f"/_matrix/key/v2/query/p.test{query}")
        return len(peer.seen)

    assert await asked() == 1
    network.clock.advance(25 * minute)  # Of an hour.
    assert await asked() == 1
    network.clock.advance(10 * minute)
    assert await asked() == 2
    # What is known is good for an hour from now.
    network.clock.advance(20 * minute)  # Nobody is asked twice in a short time.
    assert await asked(f"?minimum_valid_until_ts={network.clock.now() + 35 * minute * 1000}") == 2
    assert await asked(f"?minimum_valid_until_ts={network.clock.now() + 45 * minute * 1000}") == 3


@pytest.mark.behaviours("SS-KEY-05", "SS-KEY-06")
async def test_notary_knows_nothing_of_servers_that_never_answered(network: Network) -> None:
    a = await network.server("a.test")
    answer = await a.client.get("/_matrix/key/v2/query/nowhere.test")
    assert answer.json() == {"server_keys": []}
    answer = await a.client.send("POST", "/_matrix/key/v2/query", json={"server_keys": {}})
    assert answer.json() == {"server_keys": []}
    answer = await a.client.send("POST", "/_matrix/key/v2/query", json={"server_keys": {"a.test": {}}})
    assert [one["server_name"] for one in answer.json()["server_keys"]] == ["a.test"]


@pytest.mark.behaviours("SS-KEY-05")
async def test_a_notary_is_asked_about_all_who_are_silent_however_many(network: Network) -> None:
    notary = network.peer("n.test")
    a = await network.server("a.test", federation=Federation(notaries=("n.test",)))
    now = network.clock.now()

    def answer(seen: Seen) -> Any:
        told = list(seen.content["server_keys"])[:100]
        return {"server_keys": [vouched_for(name, "n.test", now) for name in told]}

    notary.on("POST", "/_matrix/key/v2/query", answer)
    wanted = {(name, key_of(name).key_id): now for name in (f"s{number}.test" for number in range(150))}
    assert (await a.container.keys.find(wanted)).keys() == wanted.keys()


@pytest.mark.behaviours("SS-KEY-05")
async def test_who_comes_while_a_notary_is_asked_waits_for_its_answer(network: Network) -> None:
    notary = network.peer("n.test")
    a = await network.server("a.test", federation=Federation(notaries=("n.test",)))
    now = network.clock.now()
    wanted = {("gone.test", key_of("gone.test").key_id): now}
    late: list[asyncio.Task[Any]] = []

    async def answer(seen: Seen) -> Any:
        late.append(asyncio.create_task(a.container.keys.find(wanted)))
        await asyncio.wait(late, timeout=0.3)
        return {"server_keys": [vouched_for("gone.test", "n.test", now)]}

    notary.on("POST", "/_matrix/key/v2/query", answer)
    assert (await a.container.keys.find(wanted)).keys() == wanted.keys()
    assert (await late[0]).keys() == wanted.keys()


@pytest.mark.trust("F29")
@pytest.mark.behaviours("SS-KEY-03", "SS-KEY-05")
async def test_a_notary_takes_back_nothing_of_what_a_server_has_said_later(network: Network) -> None:
    notary = network.peer("n.test")
    a = await network.server("a.test", federation=Federation(notaries=("n.test",)))
    now = network.clock.now()
    key, other = key_of("p.test"), key_of("other.test")
    answer: list[Any] = []
    notary.on("POST", "/_matrix/key/v2/query", lambda seen: {"server_keys": answer})

    def tell(valid_until_ts: int, *, former_until_ts: int) -> bytes:
        former = {"ed25519:former": PublishedKey(other.public_key, former_until_ts)}
        return publish("p.test", key, former, valid_until_ts=valid_until_ts)

    async def known_until(*key_ids: str, wanted: int = 0) -> list[int]:
        found = await a.container.keys.find({("p.test", key_id): wanted for key_id in key_ids})
        return [found["p.test", key_id].valid_until_ts for key_id in key_ids]

    peer = network.peer("p.test")
    told = tell(now + 5 * DAY, former_until_ts=now - 2 * DAY)
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: Reply(200, {}, told))
    assert await known_until(key.key_id, "ed25519:former") == [now + 5 * DAY, now - 2 * DAY]
    network.cut("p.test")
    for valid, former, expected in (
        (now + 2 * DAY, now - DAY, [now + 5 * DAY, now - 2 * DAY]),
        (now + 6 * DAY, now - 3 * DAY, [now + 6 * DAY, now - 3 * DAY]),
    ):
        network.clock.advance(3600)
        answer[:] = [json.loads(sign_json(tell(valid, former_until_ts=former), "n.test", key_of("n.test")))]
        asked = len(notary.seen)
        assert await known_until(key.key_id, wanted=now + 7 * DAY) == expected[:1]
        assert len(notary.seen) > asked
        assert await known_until(key.key_id, "ed25519:former") == expected
        documents = (await a.client.get("/_matrix/key/v2/query/p.test")).json()["server_keys"]
        assert [one["valid_until_ts"] for one in documents] == expected[:1]


@pytest.mark.behaviours("SS-KEY-03", "SS-KEY-05")
async def test_a_notary_is_told_until_when_keys_must_be_good(network: Network) -> None:
    notary = network.peer("n.test")
    a = await network.server("a.test", federation=Federation(notaries=("n.test",)))
    ann = await a.user("ann")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    assert (await ann.post(f"/join/{quote(room.room_id)}?server_name=p.test&via=p.test")).status_code == 200
    notary.on("POST", "/_matrix/key/v2/query", lambda seen: {"server_keys": []})
    now = network.clock.now()
    events = []
    for number, ts in enumerate((now + 2 * DAY, now + DAY, now + 1000 * DAY)):
        user = f"@{number}:{'r' if number == 2 else 'q'}.test"
        room.graph.clock = ts - 1000
        events.append(room.graph.build(user, "m.room.member", {"membership": "join"}, [room.tip], state_key=user))
    await room.peer.send("a.test", "1", *(event.pdu for event in events))
    asked: dict[str, Any] = {}
    for seen in notary.seen:
        if seen.method == "POST":
            asked |= seen.content["server_keys"]
    assert asked == {
        "q.test": {key_of("q.test").key_id: {"minimum_valid_until_ts": now + 2 * DAY}},
        # No key is believed for longer than that.
        "r.test": {key_of("r.test").key_id: {"minimum_valid_until_ts": now + 7 * DAY}},
    }


@pytest.mark.behaviours("SS-KEY-05")
async def test_a_notary_that_does_not_tell_its_own_keys_vouches_for_nobody(network: Network) -> None:
    notary = network.peer("n.test")
    a = await network.server("a.test", federation=Federation(notaries=("n.test",)))
    now = network.clock.now()
    notary.on("GET", "/_matrix/key/v2/server", lambda seen: Reply(500, {}, b"{}"))
    notary.on("POST", "/_matrix/key/v2/query", lambda seen: {"server_keys": [vouched_for("gone.test", "n.test", now)]})
    for name in ("gone.test", "away.test"):
        assert await a.container.keys.find({(name, key_of(name).key_id): now}) == {}


@pytest.mark.behaviours("SS-KEY-05")
async def test_servers_that_are_notaries_of_each_other_do_not_wait_for_each_other(network: Network) -> None:
    a = await network.server("a.test", federation=Federation(notaries=("b.test",)))
    b = await network.server("b.test", federation=Federation(notaries=("a.test",)))
    network.peer("p.test")
    wanted = {("p.test", key_of("p.test").key_id): network.clock.now()}
    assert (await b.container.keys.find(wanted)).keys() == wanted.keys()
    network.cut("p.test")
    network.clock.advance(600)
    async with asyncio.timeout(5):  # They would wait for each other twice as long.
        assert (await a.container.keys.find(wanted)).keys() == wanted.keys()
        nobody = {("q.test", key_of("q.test").key_id): network.clock.now()}
        found = await asyncio.gather(*(world.container.keys.find(nobody) for world in (a, b)))
    assert found == [{}, {}]


@pytest.mark.behaviours("SS-KEY-05")
async def test_notaries_are_asked_though_somebody_has_just_asked_for_the_keys(network: Network) -> None:
    notary = network.peer("n.test")
    a = await network.server("a.test", federation=Federation(notaries=("n.test",)))
    now = network.clock.now()
    notary.on("POST", "/_matrix/key/v2/query", lambda seen: {"server_keys": [vouched_for("gone.test", "n.test", now)]})
    assert (await a.client.get("/_matrix/key/v2/query/gone.test")).json() == {"server_keys": []}
    assert notary.seen == []
    wanted = {("gone.test", key_of("gone.test").key_id): now}
    assert (await a.container.keys.find(wanted)).keys() == wanted.keys()


@pytest.mark.trust("C10")
@pytest.mark.behaviours("SS-KEY-05")
async def test_a_notary_tells_all_that_it_knows_and_asks_few(network: Network) -> None:
    a = await network.server("a.test", limits=Limits(rate_limits=True))
    known = [f"s{number}.test" for number in range(300)]
    peers = [network.peer(name) for name in known]
    await a.container.keys.refresh({name: {} for name in known})

    async def told(*names: str) -> int:
        body: dict[str, Any] = {"server_keys": {name: {} for name in names}}
        answer = await a.client.send("POST", "/_matrix/key/v2/query", json=body)
        assert answer.status_code == 200, answer.text
        return len(answer.json()["server_keys"])

    for _ in range(10):
        assert await told(*known) == 300
    network.clock.advance(DAY / 1000)
    began = network.clock.monotonic()
    for _ in range(10):
        assert await told(*known) == 300
    elapsed = network.clock.monotonic() - began
    assert 200 <= sum(len(peer.seen) for peer in peers) - 300 <= 201 + 5 * elapsed


@pytest.mark.trust("C02", "C10")
@pytest.mark.behaviours("SS-KEY-05")
async def test_a_notary_tells_no_more_than_is_reasonable(network: Network) -> None:
    a = await network.server("a.test")
    names = [f"s{number}.evil.test" for number in range(60)]
    for name in names:
        tell_odd_keys(network.peer(name), more="x" * 31_000)
    network.peer("p.test")
    body: dict[str, Any] = {"server_keys": {name: {} for name in [*names, "p.test"]}}
    for _ in range(2):
        answer = await a.client.send("POST", "/_matrix/key/v2/query", json=body)
        assert answer.status_code == 200
        told = {one["server_name"] for one in answer.json()["server_keys"]}
        assert 30 < len(told) < 40
        assert "p.test" in told
        assert len(answer.content) < 1_100_000


@pytest.mark.trust("C02", "C10")
@pytest.mark.parametrize(("size", "is_good"), [(31_000, True), (33_000, False)])
async def test_keys_that_take_too_many_bytes_are_not_kept(network: Network, size: int, is_good: bool) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    tell_odd_keys(peer, more="x" * size)
    assert await is_believed(peer) == is_good


@pytest.mark.trust("C10")
@pytest.mark.behaviours("SS-KEY-05")
async def test_keys_of_too_many_servers_that_nobody_has_to_do_with_are_forgotten(network: Network) -> None:
    a = await network.server("a.test")
    database = a.container.database
    ann = await a.user("ann")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    assert (await ann.post(f"/join/{quote(room.room_id)}?server_name=p.test&via=p.test")).status_code == 200
    await ann.send(room.room_id, "Anybody here?")
    await eventually(lambda: database.read(destinations.find, ServerName("p.test")), lambda found: found is not None)
    names = ["p.test", *(f"s{number}.evil.test" for number in range(5))]
    for name in names[1:]:
        assert await is_believed(network.peer(name))
        network.clock.advance(1)
    network.cut(*names)

    async def told() -> list[str]:
        body: dict[str, Any] = {"server_keys": {name: {} for name in names}}
        answer = await a.client.send("POST", "/_matrix/key/v2/query", json=body)
        return [one["server_name"] for one in answer.json()["server_keys"]]

    assert sorted(await told()) == names
    async with running([Strangers(database, network.clock, keep=2).run], network.clock):
        await eventually(told, lambda found: sorted(found) == ["p.test", *names[-2:]])


@pytest.mark.behaviours("SS-KEY-05")
async def test_a_notary_that_is_busy_is_asked_again_when_it_says(network: Network) -> None:
    notary = network.peer("n.test")
    a = await network.server("a.test", federation=Federation(notaries=("n.test",)))
    now = network.clock.now()
    answers: list[Any] = [Reply(429, {"retry-after": "0"}, b"{}")] * 2
    answers.append({"server_keys": [vouched_for("gone.test", "n.test", now)]})
    notary.on("POST", "/_matrix/key/v2/query", lambda seen: answers.pop(0))
    wanted = {("gone.test", key_of("gone.test").key_id): now}
    assert (await a.container.keys.find(wanted)).keys() == wanted.keys()
    answers += [Reply(429, {"retry-after": "0"}, b"{}")] * 9
    assert await a.container.keys.find({("away.test", "ed25519:1"): now}) == {}
    assert len(answers) == 6


@pytest.mark.behaviours("SS-KEY-05")
@pytest.mark.trust("F24", "F29")
async def test_a_notary_that_is_busy_keeps_nobody_from_another(network: Network) -> None:
    busy, free = network.peer("busy.test"), network.peer("free.test")
    a = await network.server("a.test", federation=Federation(notaries=("busy.test", "free.test")))
    now = network.clock.now()
    busy.on("POST", "/_matrix/key/v2/query", lambda seen: Reply(429, {"retry-after": "10"}, b"{}"))
    told = {"server_keys": [vouched_for("gone.test", "free.test", now)]}
    free.on("POST", "/_matrix/key/v2/query", lambda seen: told)
    first = asyncio.create_task(a.container.keys.find({("away.test", "ed25519:1"): now}))
    await until(lambda: bool(busy.seen))
    wanted = {("gone.test", key_of("gone.test").key_id): now}
    async with asyncio.timeout(5):
        assert (await a.container.keys.find(wanted)).keys() == wanted.keys()
    assert not first.done()
    while not first.done():
        network.clock.advance(10)
        await asyncio.sleep(0)
    assert await first == {}


@pytest.mark.trust("C10", "F24", "S8")
async def test_who_has_this_server_ask_for_many_keys_waits_behind_those_who_want_few(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    room = ForeignRoom.begin(network.peer("p.test"))
    network.peer("q.test")
    room.say("m.room.member", {"membership": "join"}, sender="@cat:q.test", state_key="@cat:q.test")
    room.host()
    assert (await ann.post(f"/join/{quote(room.room_id)}?server_name=p.test&via=p.test")).status_code == 200
    asked: list[str] = []
    going = asyncio.Semaphore(0)

    async def silence(call: Call, go: Callable[[], Awaitable[Reply]]) -> Reply:
        asked.append(call.destination)
        if "evil" in call.destination:
            await going.acquire()
        return await go()

    network.weather = silence
    find = a.container.keys.find
    many = [find({(f"s{number}.evil.test", "ed25519:1"): 0}, asker="198.51.100.1") for number in range(300)]
    tasks = [asyncio.create_task(one) for one in many]
    await until(lambda: len(asked) == 256)
    # A server in a room with this one does not wait at all when its keys have to be fetched again.
    network.clock.advance(2 * 3600)
    key_id = key_of("q.test").key_id
    async with asyncio.timeout(5):
        found = await find({("q.test", key_id): network.clock.now()}, asker="192.0.2.7")
    assert found["q.test", key_id].valid_until_ts > network.clock.now()
    # One that is not comes next but one, though 44 others wait.
    network.peer("r.test")
    other = asyncio.create_task(find({("r.test", key_of("r.test").key_id): 0}, asker="203.0.113.9"))
    await asyncio.wait({other}, timeout=0.5)
    assert not other.done()
    going.release()
    going.release()
    async with asyncio.timeout(5):
        assert await other
    for _ in tasks:
        going.release()
    await asyncio.gather(*tasks)


@pytest.mark.behaviours("SS-KEY-06")
async def test_who_does_not_wait_leaves_little_behind(network: Network) -> None:
    a = await network.server("a.test")
    asked: list[str] = []
    is_over = asyncio.Event()

    async def silence(call: Call, go: Callable[[], Awaitable[Reply]]) -> Reply:
        asked.append(call.destination)
        await is_over.wait()
        raise Unreachable("It has said nothing.")

    network.weather = silence
    invented = {(f"s{number}.test", "ed25519:1"): 0 for number in range(1000)}
    for _ in range(2):
        assert await a.container.keys.find(invented, patience_s=0.1) == {}
    assert 0 < len(asked) < 100
    is_over.set()
    await a.container.keys.find({("last.test", "ed25519:1"): 0})
    assert "last.test" in asked[:100]
    await a.container.keys.find(invented)  # Who has the patience gets to know it of all.
    assert len(asked) == len(set(asked)) == 1001


@pytest.mark.trust("F24")
async def test_requests_do_not_wait_behind_events_for_keys(network: Network) -> None:
    a = await network.server("a.test")
    peer = network.peer("p.test")
    is_over = asyncio.Event()

    async def silence(call: Call, go: Callable[[], Awaitable[Reply]]) -> Reply:
        if call.destination != "p.test":
            await is_over.wait()
        return await go()

    network.weather = silence
    invented = {(f"s{number}.test", "ed25519:1"): 0 for number in range(200)}
    finding = asyncio.create_task(a.container.keys.find(invented))
    others: dict[str, Any] = {"server_keys": {f"o{number}.test": {} for number in range(90)}}
    vouching = asyncio.create_task(a.client.send("POST", "/_matrix/key/v2/query", json=others))
    async with asyncio.timeout(5):
        assert await is_believed(peer)
    assert not finding.done()
    is_over.set()
    assert await finding == {}
    assert (await vouching).json() == {"server_keys": []}


@pytest.mark.trust("F24")
async def test_events_do_not_wait_for_what_strangers_want_to_know(network: Network) -> None:
    a = await network.server("a.test")
    network.peer("p.test")
    is_over = asyncio.Event()

    async def silence(call: Call, go: Callable[[], Awaitable[Reply]]) -> Reply:
        if call.destination != "p.test":
            await is_over.wait()
        return await go()

    network.weather = silence
    others: dict[str, Any] = {"server_keys": {f"o{number}.test": {} for number in range(90)}}
    vouching = asyncio.create_task(a.client.send("POST", "/_matrix/key/v2/query", json=others))
    await asyncio.wait({vouching}, timeout=0.2)
    wanted = {("p.test", key_of("p.test").key_id): network.clock.now()}
    async with asyncio.timeout(5):
        assert (await a.container.keys.find(wanted)).keys() == wanted.keys()
    assert not vouching.done()
    is_over.set()
    assert (await vouching).json() == {"server_keys": []}


def vouched_for(name: str, notary: str, now: int) -> Any:
    """The keys of a server that is not there any more, as a notary tells them."""
    return json.loads(sign_json(publish(name, key_of(name), {}, valid_until_ts=now + DAY), notary, key_of(notary)))


@pytest.mark.behaviours("SS-AUTH-01")
async def test_request_signed_by_a_server_is_believed(network: Network) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    assert await is_believed(peer)
    assert await is_believed(peer)
    assert [seen.target for seen in peer.seen] == ["/_matrix/key/v2/server"]


@pytest.mark.behaviours("SS-KEY-04")
async def test_old_keys_sign_no_requests(network: Network) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    new = SigningKey.generate("2", b"2" * 32)
    old = {key_of("p.test").key_id: PublishedKey(key_of("p.test").public_key, network.clock.now() - DAY)}
    document = publish("p.test", new, old, valid_until_ts=network.clock.now() + DAY)
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: Reply(200, {}, document))
    assert not await is_believed(peer)


@pytest.mark.behaviours("SS-KEY-03")
async def test_keys_are_asked_for_again_when_their_time_is_over(network: Network) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    far = publish("p.test", key_of("p.test"), {}, valid_until_ts=network.clock.now() + 1000 * DAY)
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: Reply(200, {}, far))
    assert await is_believed(peer)
    network.clock.advance(8 * DAY / 1000)
    assert await is_believed(peer)
    assert len(peer.seen) == 2


@pytest.mark.trust("F29")
async def test_server_whose_keys_cannot_be_had_is_refused_and_not_asked_each_time(network: Network) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: Reply(500, {}, b"<html>"))
    for _ in range(5):
        assert not await is_believed(peer)
    assert len(peer.seen) == 1
    del peer.answers["GET", "/_matrix/key/v2/server"]
    network.clock.advance(61)
    assert await is_believed(peer)


@pytest.mark.trust("F35", "F29")
async def test_keys_are_had_when_a_clock_that_leaped_is_right_again(network: Network) -> None:
    await network.server("a.test")
    peers = [network.peer(name) for name in ("p.test", "q.test")]
    network.cut("q.test")
    for peer in peers:
        tell_keys_of_today(peer)
    network.clock.time += 365 * DAY
    assert [await is_believed(peer) for peer in peers] == [False, False]
    network.clock.time -= 365 * DAY
    network.heal("q.test")
    network.clock.advance(2 * DAY / 1000)
    for peer in peers:
        del peer.answers["GET", "/_matrix/key/v2/server"]
    assert [await is_believed(peer) for peer in peers] == [True, True]


def tell_keys_of_today(peer: Peer) -> None:
    """From now on it says of its keys that they are good until tomorrow, whatever day it is."""
    keys = publish(peer.name, key_of(peer.name), {}, valid_until_ts=peer.network.clock.now() + DAY)
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: Reply(200, {}, keys))


@pytest.mark.behaviours("SS-KEY-05")
async def test_a_notary_asks_again_for_what_was_fetched_by_a_clock_that_was_wrong(network: Network) -> None:
    a = await network.server("a.test")
    peer = network.peer("p.test")
    network.clock.time += 365 * DAY
    await a.client.get("/_matrix/key/v2/query/p.test")
    network.clock.time -= 365 * DAY
    network.clock.advance(61)
    told = (await a.client.get("/_matrix/key/v2/query/p.test")).json()["server_keys"]
    assert [one["valid_until_ts"] for one in told] == [network.clock.now() + 3_600_000]
    assert len(peer.seen) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: {**document, "server_name": "q.test"},
        lambda document: {**document, "signatures": {}},
        lambda document: {**document, "valid_until_ts": document["valid_until_ts"] + 1},
        lambda document: {**document, "valid_until_ts": "soon"},
        lambda document: {**document, "verify_keys": {"ed25519:1": {"key": "AAAA"}}},
        lambda document: [document],
    ],
)
async def test_keys_that_are_not_as_they_were_signed_are_not_kept(network: Network, spoil: Any) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    document = spoil(json.loads(peer.keys()))
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: document)
    assert not await is_believed(peer)


def tell_odd_keys(peer: Peer, **odd: Any) -> None:
    """From now on it publishes its keys with something odd beside them, signed as it should be."""
    document = json.loads(peer.keys()) | odd
    del document["signatures"]
    signed = sign_json(json.dumps(document).encode(), peer.name, key_of(peer.name))
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: Reply(200, {}, signed))


@pytest.mark.trust("C02", "C10")
@pytest.mark.behaviours("SS-KEY-03")
@pytest.mark.parametrize(
    "odd",
    [
        {"valid_until_ts": -(10**30)},
        {"valid_until_ts": 10**30},
        {"old_verify_keys": {"ed25519:old": {"key": "A" * 43, "expired_ts": -(10**30)}}},
        {"old_verify_keys": {"ed25519:old": {"key": "\0", "expired_ts": 1}}},
        {"old_verify_keys": {"ed25519:old": {"key": "A" * 100_000, "expired_ts": 1}}},
        {"more": 10**40},
    ],
    ids=["never", "always", "expired", "nul", "long", "more"],
)
async def test_odd_keys_of_one_server_are_no_matter_to_others(network: Network, odd: dict[str, Any]) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    evil = network.peer("evil.test")
    tell_odd_keys(evil, **odd)
    room = ForeignRoom.begin(network.peer("p.test"))
    room.say("m.room.member", {"membership": "join"}, sender="@eve:evil.test", state_key="@eve:evil.test")
    room.host()
    answer = await ann.post(f"/join/{quote(room.room_id)}?server_name=p.test&via=p.test")
    assert answer.status_code == 200, answer.text
    network.clock.advance(61)  # The keys may be asked for again.
    theirs = room.say("m.room.message", {"body": "I am here"}, sender="@eve:evil.test")
    ours = room.graph.say(room.owner, "m.room.message", {"body": "And I"}, [room.graph.by_id[theirs.prev_events[0]]])
    results = await room.peer.send("a.test", "1", theirs.pdu, ours.pdu)
    assert results[ours.event_id] == {}
    assert (await ann.get(f"/rooms/{quote(room.room_id)}/event/{quote(ours.event_id)}")).status_code == 200
    assert (await evil.call("a.test", "GET", PROBE)).status_code < 500
    told = await a.client.get("/_matrix/key/v2/query/evil.test")
    assert told.status_code == 200, told.text


@pytest.mark.trust("C01")
@pytest.mark.behaviours("SS-AUTH-03")
@pytest.mark.parametrize(
    "destination", ["b.test", "A.TEST", "a.test:8448", "a.test.", "", 'a.test",destination="a.test', None]
)
async def test_request_for_another_server_is_refused(network: Network, destination: str | None) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    header = sign_request(
        key_of("p.test"), origin="p.test", destination=destination or "", method="GET", target=PROBE, content=None
    )
    text = str(header)
    if destination is None:
        text = text.replace('destination="",', "")  # Signed for nobody, and said so to nobody.
    answer = await peer.call("a.test", "GET", PROBE, header=text)
    assert answer.status_code == 401
    assert answer.json()["errcode"] == "M_UNAUTHORIZED"


@pytest.mark.trust("C02")
@pytest.mark.behaviours("SS-AUTH-04")
@pytest.mark.parametrize(
    ("spell", "is_good"),
    [
        (lambda o, d, k, s: f'X-Matrix origin="{o}",destination="{d}",key="{k}",sig="{s}"', True),
        (lambda o, d, k, s: f"X-Matrix origin={o},destination={d},key={k},sig={s}", True),
        (lambda o, d, k, s: f'x-matrix  ORIGIN={o} , Destination="{d}"\t,\tkey="{k}",sig="{s}",more="1"', True),
        (lambda o, d, k, s: f'X-Matrix sig="{s}",key="\\{k}",origin={o},destination={d}', True),
        (lambda o, d, k, s: f'X-Matrix origin={o},origin={o},destination={d},key="{k}",sig="{s}"', False),
        (lambda o, d, k, s: f'X-Matrix origin={o},destination={d},key="{k}"', False),
        (lambda o, d, k, s: f'X-Matrix origin={o} destination={d} key="{k}" sig="{s}"', False),
        (lambda o, d, k, s: f'X-Matrix origin="{o},destination={d},key="{k}",sig="{s}"', False),
        (lambda o, d, k, s: f'X-Matrix origin={o},destination={d},key="ed25519:9",sig="{s}"', False),
        (lambda o, d, k, s: f'X-Matrix origin=a.test,destination={d},key="{k}",sig="{s}"', False),
        (lambda o, d, k, s: f'X-Matrix origin="x y",destination={d},key="{k}",sig="{s}"', False),
        (lambda o, d, k, s: f'X-Matrix origin={o},destination={d},key="{k}",sig="{s[:-2]}AA"', False),
        (lambda o, d, k, s: f'X-Matrix origin={o},destination={d},key="{k}",sig="{s}",x="{"y" * 65536}"', False),
        (lambda o, d, k, s: f"Bearer {s}", False),
        (lambda o, d, k, s: "X-Matrix", False),
        (lambda o, d, k, s: "", False),
    ],
)
@pytest.mark.by_turns
async def test_spelling_of_the_header(network: Network, spell: Any, is_good: bool) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    right = peer.sign("a.test", "GET", PROBE, None)
    header = spell("p.test", "a.test", right.key_id, right.signature)
    answer = await peer.call("a.test", "GET", PROBE, header=header)
    assert (answer.status_code != 401) == is_good, answer.text


@pytest.mark.behaviours("SS-AUTH-03")
@pytest.mark.trust("C01")
async def test_old_servers_name_nobody_and_are_believed(network: Network) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    key = key_of("p.test")
    signature = key.sign(canonical_json({"method": "GET", "origin": "p.test", "uri": PROBE}))
    old = f'X-Matrix origin=p.test,key="{key.key_id}",sig="{signature}"'
    assert (await peer.call("a.test", "GET", PROBE, header=old)).status_code != 401
    # What names us must have been signed so, and what was signed for us must say so.
    for header in (
        old + ',destination="a.test"',
        str(peer.sign("a.test", "GET", PROBE, None)).replace(",destination", ",x"),
    ):
        assert (await peer.call("a.test", "GET", PROBE, header=header)).status_code == 401


@pytest.mark.trust("C01", "C02")
@pytest.mark.parametrize("target", [PROBE.replace("%6E", "n"), PROBE.replace("+", "%20"), PROBE.partition("?")[0]])
async def test_what_is_signed_is_the_path_as_it_was_sent(network: Network, target: str) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    header = str(peer.sign("a.test", "GET", target, None))
    assert (await peer.call("a.test", "GET", PROBE, header=header)).status_code == 401
    for header in (str(peer.sign("a.test", "PUT", PROBE, None)), str(peer.sign("a.test", "GET", PROBE, b"{}"))):
        assert (await peer.call("a.test", "GET", PROBE, header=header)).status_code == 401
    assert await is_believed(peer)


QUERY = "/_matrix/federation/v1/user/keys/query"


@pytest.mark.trust("C02")
@pytest.mark.parametrize(
    ("signed", "sent", "is_good"),
    [
        (b'{"device_keys":{}}', b' {\n"device_keys" : { } }\r\n', True),
        (b'{"a":1,"device_keys":{}}', b'{"device_keys": {}, "a": 1}', True),
        (b'{"a":"\xc3\xa9","device_keys":{}}', b'{"a": "\\u00e9", "device_keys": {}}', True),
        (b'{"device_keys":{}}', b'{"device_keys":{},"a":1}', False),
        (b'{"device_keys":{}}', b"", False),
        (b'{"device_keys":{}}', b"{}", False),
        (b"{}", b"{}", True),
        (b"{}", b"", False),
        (b"{}", None, False),
        (None, b"{}", False),
        (None, b"", True),
        (None, b" \r\n\t", True),
        (None, None, True),
    ],
)
@pytest.mark.by_turns
async def test_what_is_signed_is_the_value_of_the_body(
    network: Network, signed: bytes | None, sent: bytes | None, is_good: bool
) -> None:
    await network.server("a.test")
    peer = network.peer("p.test")
    header = str(peer.sign("a.test", "POST", QUERY, signed))
    answer = await peer.call("a.test", "POST", QUERY, sent, header=header)
    assert answer.status_code < 500
    assert (answer.status_code != 401) == is_good, answer.text


@pytest.mark.trust("C02")
async def test_one_good_signature_of_several_is_enough(network: Network) -> None:
    a = await network.server("a.test")
    peer, other = network.peer("p.test"), network.peer("q.test")
    second = SigningKey.generate("2", b"2" * 32)
    keys = [key_of("p.test"), second]
    published = json.loads(peer.keys())
    published["verify_keys"] |= {second.key_id: {"key": second.public_key}}
    del published["signatures"]
    for key in keys:
        published = json.loads(sign_json(json.dumps(published).encode(), "p.test", key))
    peer.on("GET", "/_matrix/key/v2/server", lambda seen: published)
    good, by_second = (
        str(sign_request(key, origin="p.test", destination="a.test", method="GET", target=PROBE, content=None))
        for key in keys
    )
    bad = good[:-4] + 'AA"' if good.endswith('"') else good[:-3] + "AA"
    foreign = str(other.sign("a.test", "GET", PROBE, None))

    async def status(*headers: str) -> int:
        answer = await a.client.get(PROBE, headers=[("Authorization", header) for header in headers])
        return answer.status_code

    for believed in ([good], [by_second], [good, by_second], [bad, by_second], ["Bearer x", good]):
        assert await status(*believed) != 401, believed
    for refused in ([bad], [bad, bad], [good, foreign], [foreign, good], [good] * 5, ["X-Matrix", good]):
        assert await status(*refused) == 401, refused


@pytest.mark.trust("C01", "C02")
@pytest.mark.by_turns
async def test_headers_are_believed_as_a_second_reader_believes_them(network: Network) -> None:
    """Several headers at a time, for several servers and by several keys: the verdict is the one of the rules alone."""
    a = await network.server("a.test")
    known = {}
    for name in ("p.test", "q.test"):
        network.peer(name)
        public = unpaddedbase64.decode_base64(key_of(name).public_key)
        known[name] = signedjson.key.decode_verify_key_bytes(key_of(name).key_id, public)
    request = {"method": "GET", "uri": PROBE}

    def is_good(origin: str, destination: str | None, key_id: str, signature: str) -> bool:
        to = {} if destination is None else {"destination": destination}
        signed = {**request, **to, "origin": origin, "signatures": {origin: {key_id: signature}}}
        key = known.get(origin)
        if key is None or key_id != f"{key.alg}:{key.version}":
            return False
        try:
            signedjson.sign.verify_signed_json(signed, origin, key)
        except signedjson.sign.SignatureVerifyException:
            return False
        return True

    def verdict(headers: Sequence[str]) -> bool:
        try:
            said = [read(header) for header in headers if not header.startswith("Bearer")]
        except NotInGrammar:
            return False
        return (
            1 <= len(said) <= 4
            and len({origin for origin, *_ in said}) == 1
            and all(destination in (None, "a.test") for _, destination, _, _ in said)
            and any(is_good(*one) for one in said)
        )

    chance = random.Random(7)
    right = {
        (name, to): str(
            sign_request(key_of(name), origin=name, destination=to, method="GET", target=PROBE, content=None)
        )
        for name in known
        for to in ("a.test", "q.test")
    }

    def spell() -> str:
        header = chance.choice([right["p.test", "a.test"]] * 6 + list(right.values()))
        for old, new in (
            ('"', ""),
            (",", " ,\t"),
            (",", ",,"),
            (",", ";"),
            ("origin", "ORIGIN"),
            ("p.test", "P.TEST"),
            ("p.test", "p.test:8448"),
            ('="', '="\\'),
            ('destination="a.test",', ""),
            ('sig="', 'sig="A'),
            ("ed25519:", "ed25519:x"),
            ("X-Matrix", "x-matrix"),
            ("X-Matrix ", "X-Matrix more=1,"),
            ("X-Matrix ", "X-Matrix origin=p.test,"),
            ("X-Matrix", "Bearer"),
        ):
            if chance.random() < 0.04:
                header = header.replace(old, new)
        return header

    verdicts = []
    for _ in range(400):
        headers = [spell() for _ in range(chance.choice((0, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5)))]
        answer = await a.client.get(PROBE, headers=[("Authorization", header) for header in headers])
        verdicts.append(answer.status_code != 401)
        assert answer.status_code < 500
        assert verdicts[-1] == verdict(headers), headers
    assert 50 < sum(verdicts) < 350


@pytest.mark.trust("C02")
@pytest.mark.behaviours("SS-PDU-03")
@pytest.mark.parametrize(("more", "is_good"), [(9, True), (10, False), (500, False)])
async def test_an_event_says_by_few_keys_that_it_is_signed(network: Network, more: int, is_good: bool) -> None:
    ann = await (await network.server("a.test")).user("ann")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    assert (await ann.post(f"/join/{quote(room.room_id)}?server_name=p.test&via=p.test")).status_code == 200
    said = room.say("m.room.message", {"body": "Signed, signed, signed"})
    pdu = json.loads(said.pdu)
    pdu["signatures"]["p.test"] |= {f"ed25519:{number}x": "A" * 86 for number in range(more)}
    result = (await room.peer.send("a.test", "1", json.dumps(pdu).encode()))[said.event_id]
    assert (result == {}) == is_good, result
