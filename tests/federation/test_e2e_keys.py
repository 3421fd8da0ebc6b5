"""Keys for end-to-end encryption: what other servers are told, and what is asked of them."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.errors import Unreachable
from homeserver.outbound.transport import Reply
from tests.api.client.v3.test_keys import cross_key, cross_signing, device_key, identity, one_time, signed, upload
from tests.federation.network import Network, Peer, Seen
from tests.federation.scenarios import Window, eventually, room_of_both
from tests.world import User, World, until

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
V1 = "/_matrix/federation/v1"
QUERY = V1 + "/user/keys/query"
CLAIM = V1 + "/user/keys/claim"
DEVICES = V1 + "/user/devices/"
BOB = "@bob:b.example"


@pytest.fixture
async def world(network: Network) -> World:
    network.peer("b.example")
    return await network.server("a.test")


@pytest.fixture
def peer(network: Network, world: World) -> Peer:
    return network.peers["b.example"]


async def ask(peer: Peer, method: str, path: str, content: Any = None) -> Json:
    answer = await peer.call("a.test", method, path, content)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def keys_of(user_id: str, device_id: str, key: str = "abc", **more: Any) -> Json:
    """Keys of a device, as its server tells them."""
    return {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"ed25519:{device_id}": key},
        "signatures": {user_id: {f"ed25519:{device_id}": "signed"}},
        **more,
    }


async def query(user: User, wanted: Json, **more: Any) -> Json:
    answer = await user.post("/keys/query", {"device_keys": wanted, **more})
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


@pytest.mark.behaviours("SS-EDU-08")
async def test_servers_are_told_devices_and_keys_of_local_users(world: World, peer: Peer) -> None:
    alice, dora = await world.user("alice"), await world.user("dora")
    master, self_signing, user_signing = cross_key(), cross_key(), cross_key()
    keys = identity(alice, device_key(alice))
    await upload(alice, device_keys=keys)
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "Phone"})
    signing = {
        "master_key": cross_signing(alice, "master", master),
        "self_signing_key": cross_signing(alice, "self_signing", self_signing, master),
        "user_signing_key": cross_signing(alice, "user_signing", user_signing, master),
    }
    assert (await alice.post("/keys/device_signing/upload", signing)).status_code == 200
    listed = await ask(peer, "GET", DEVICES + quote(alice.user_id))
    assert listed == {
        "user_id": alice.user_id,
        "stream_id": listed["stream_id"],
        "devices": [{"device_id": alice.device_id, "keys": keys, "device_display_name": "Phone"}],
        "master_key": signing["master_key"],
        "self_signing_key": signing["self_signing_key"],
    }
    wanted = {alice.user_id: [], dora.user_id: ["NOSUCH"], "@nobody:a.test": [], BOB: [], "nonsense": []}
    assert await ask(peer, "POST", QUERY, {"device_keys": wanted}) == {
        "device_keys": {
            alice.user_id: {alice.device_id: {**keys, "unsigned": {"device_display_name": "Phone"}}},
            dora.user_id: {},
        },
        "master_keys": {alice.user_id: signing["master_key"]},
        "self_signing_keys": {alice.user_id: signing["self_signing_key"]},
    }


@pytest.mark.behaviours("SS-EDU-08")
@pytest.mark.parametrize("user_id", ["@nobody:a.test", BOB, "nonsense", "\0"])
async def test_devices_of_those_who_are_not_here_are_not_found(user_id: str, world: World, peer: Peer) -> None:
    answer = await peer.call("a.test", "GET", DEVICES + quote(user_id, safe=""))
    assert answer.status_code in (400, 404)


@pytest.mark.behaviours("SS-EDU-08", "CS-E2E-01")
async def test_servers_claim_each_key_once_in_order_and_then_the_fallback(world: World, peer: Peer) -> None:
    alice = await world.user("alice")
    await upload(alice, one_time_keys=one_time("b"))
    await upload(alice, one_time_keys=one_time("a"), fallback_keys=one_time("f", fallback=True))
    wanted = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519", "NOSUCH": "signed_curve25519"}}}
    claimed = [await ask(peer, "POST", CLAIM, wanted) for _ in range(4)]
    names = [list(one["one_time_keys"][alice.user_id][alice.device_id]) for one in claimed]
    assert names == [[f"signed_curve25519:{name}"] for name in "baff"]
    nothing = {"one_time_keys": {BOB: {"D": "signed_curve25519"}, alice.user_id: {alice.device_id: "other"}}}
    assert await ask(peer, "POST", CLAIM, nothing) == {"one_time_keys": {}}


@pytest.mark.behaviours("SS-EDU-08")
@pytest.mark.parametrize("content", [{}, {"one_time_keys": 7}, {"one_time_keys": {"@a:b": {"D": 7}}}, [], 7])
async def test_claims_and_queries_of_the_wrong_shape_are_refused(content: Any, world: World, peer: Peer) -> None:
    for path in (CLAIM, QUERY):
        assert (await peer.call("a.test", "POST", path, content)).status_code == 400


async def test_keys_of_two_servers_are_found_and_claimed(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    keys = identity(bob, device_key(bob))
    await upload(bob, device_keys=keys, one_time_keys=one_time("k"))
    await bob.put(f"/devices/{bob.device_id}", {"display_name": "Bob's"})
    found = await query(alice, {bob.user_id: [], alice.user_id: []})
    assert found["device_keys"] == {
        bob.user_id: {bob.device_id: {**keys, "unsigned": {"device_display_name": "Bob's"}}},
        alice.user_id: {},
    }
    assert found["failures"] == {}
    wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    claimed = (await alice.post("/keys/claim", wanted)).json()
    assert claimed["one_time_keys"] == {bob.user_id: {bob.device_id: one_time("k")}}
    assert (await alice.post("/keys/claim", wanted)).json()["one_time_keys"] == {}


async def two(network: Network) -> tuple[World, World, User, User]:
    """Two servers, with alice on one and bob on the other."""
    a, b = await network.server("a.test"), await network.server("b.test")
    return a, b, await a.user("alice"), await b.user("bob")


def taken(world: World, edu_type: str) -> float:
    """How often this was told and taken."""
    count: float = world.container.metrics.edus_received.labels(edu_type, "taken")._value.get()
    return count


@pytest.mark.behaviours("SS-EDU-04")
async def test_who_joins_through_another_server_is_introduced_there(network: Network) -> None:
    a, _, alice, bob = await two(network)
    keys = identity(bob, device_key(bob))
    await upload(bob, device_keys=keys)
    await room_of_both(alice, bob)
    await until(lambda: taken(a, "m.device_list_update") == 1)
    assert (await query(alice, {bob.user_id: []}))["device_keys"][bob.user_id] == {
        bob.device_id: {**keys, "unsigned": {}}
    }


@pytest.mark.behaviours("SS-EDU-06", "CS-E2E-10")
async def test_people_on_two_servers_verify_each_other(network: Network) -> None:
    a, _, alice, bob = await two(network)
    await room_of_both(alice, bob)
    masters, user_signing = {}, {}
    for user in (alice, bob):
        masters[user.user_id], user_signing[user.user_id] = cross_key(), cross_key()
        signing = {
            "master_key": cross_signing(user, "master", masters[user.user_id]),
            "user_signing_key": cross_signing(user, "user_signing", user_signing[user.user_id], masters[user.user_id]),
        }
        assert (await user.post("/keys/device_signing/upload", signing)).status_code == 200
    await until(lambda: taken(a, "m.signing_key_update") == 1)
    found = (await query(alice, {bob.user_id: []}))["master_keys"][bob.user_id]
    verified = signed(found, alice.user_id, user_signing[alice.user_id])
    answer = await alice.post("/keys/signatures/upload", {bob.user_id: {masters[bob.user_id].public_key: verified}})
    assert answer.json() == {"failures": {}}
    assert (await query(alice, {bob.user_id: []}))["master_keys"][bob.user_id] == verified
    # It is for alice alone, on either server.
    dora = await a.user("dora")
    assert (await query(dora, {bob.user_id: []}))["master_keys"][bob.user_id] == found
    assert (await query(bob, {bob.user_id: []}))["master_keys"][bob.user_id] == found


@pytest.mark.behaviours("CS-E2E-11", "CS-E2E-12")
async def test_clients_hear_of_remote_users_who_come_change_and_go(network: Network) -> None:
    _, _, alice, bob = await two(network)
    window = Window(alice)
    await window.look()
    room_id = await room_of_both(alice, bob)
    await window.until(lambda one: bob.user_id in one.devices_changed)
    window.devices_changed.clear()
    await upload(bob, device_keys=identity(bob, device_key(bob)))
    await window.until(lambda one: bob.user_id in one.devices_changed)
    assert bob.device_id in (await query(alice, {bob.user_id: []}))["device_keys"][bob.user_id]
    since = window.since
    await bob.leave(room_id)

    async def left() -> bool:
        body = (await alice.sync(since)).get("device_lists", {})
        return body.get("left") == [bob.user_id]

    await eventually(alice, left)


def off(seen: Seen) -> Any:
    raise Unreachable("It is off.")


def refuse(seen: Seen) -> Any:
    return Reply(401, {}, b'{"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": true}')


@pytest.mark.behaviours("CS-E2E-04")
@pytest.mark.parametrize("answer", [off, refuse, lambda seen: {"device_keys": 7, "one_time_keys": 7}, lambda seen: []])
async def test_server_that_does_not_answer_well_is_a_failure_and_the_others_are_told(
    answer: Any, world: World, peer: Peer
) -> None:
    alice = await world.user("alice")
    peer.on("POST", V1, answer)
    found = await query(alice, {BOB: [], alice.user_id: []}, timeout=100)
    assert found["device_keys"] == {alice.user_id: {}}
    assert found["failures"]["b.example"]["errcode"] == "M_UNREACHABLE"
    claimed = await alice.post("/keys/claim", {"one_time_keys": {BOB: {"D": "signed_curve25519"}}})
    assert claimed.status_code == 200
    assert claimed.json()["one_time_keys"] == {}
    assert "b.example" in claimed.json()["failures"]


async def test_each_server_is_asked_for_its_own_users_once(network: Network, world: World) -> None:
    alice = await world.user("alice")
    wanted: Json = {}
    for number in range(5):
        other = network.peer(f"s{number}.example")
        other.on("POST", QUERY, lambda seen: {"device_keys": {}})
        wanted |= {f"@u:s{number}.example": [], f"@v:s{number}.example": ["D"]}
    assert (await query(alice, wanted))["failures"] == {}
    for number in range(5):
        [asked] = [seen.content for seen in network.peers[f"s{number}.example"].seen if seen.target == QUERY]
        assert asked == {"device_keys": {f"@u:s{number}.example": [], f"@v:s{number}.example": ["D"]}}


@pytest.mark.trust("C20")
async def test_keys_of_a_hostile_server_are_shown_only_as_far_as_they_are_good(world: World, peer: Peer) -> None:
    alice = await world.user("alice")
    eve = "@eve:b.example"
    good = keys_of(BOB, "GOOD")
    bad = {
        "OTHER": keys_of(BOB, "ELSE"),
        "FOREIGN": keys_of(eve, "FOREIGN"),
        "UNSIGNED": {name: value for name, value in keys_of(BOB, "UNSIGNED").items() if name != "signatures"},
        "NUMBER": keys_of(BOB, "NUMBER", number=1.5),
        "HUGE": keys_of(BOB, "HUGE", "x" * 40_000),
        "": keys_of(BOB, ""),
        "\0": keys_of(BOB, "\0"),
    }
    strange = {**good, "signatures": {**good["signatures"], eve: {"ed25519:E": "x"}, alice.user_id: {"ed25519:A": "x"}}}
    named = {**strange, "unsigned": {"device_display_name": "n" * 5000, "other": 1}}
    peer.on(
        "POST",
        QUERY,
        lambda seen: {
            "device_keys": {BOB: {"GOOD": named, **bad}, eve: {"D": keys_of(eve, "D")}, alice.user_id: {"X": good}},
            "master_keys": {BOB: {"user_id": eve, "usage": ["master"], "keys": {"ed25519:m": "m"}}},
            "self_signing_keys": {BOB: {"user_id": BOB, "usage": ["self_signing"], "keys": {"ed25519:s": "s"}}},
            "user_signing_keys": {BOB: {"user_id": BOB, "usage": ["user_signing"], "keys": {"ed25519:u": "u"}}},
        },
    )
    found = await query(alice, {BOB: []})
    assert found == {
        "device_keys": {BOB: {"GOOD": {**good, "unsigned": {"device_display_name": "n" * 100}}}},
        "failures": {},
    }
    assert (await query(alice, {BOB: ["NOSUCH"]}))["device_keys"] == {}


@pytest.mark.trust("C21")
async def test_keys_of_all_devices_of_a_large_room_are_claimed_at_once(world: World, peer: Peer) -> None:
    alice = await world.user("alice")
    keys = one_time("k")

    def give(seen: Seen) -> Json:
        return {"one_time_keys": {user: dict.fromkeys(of, keys) for user, of in seen.content["one_time_keys"].items()}}

    peer.on("POST", CLAIM, give)
    here = {f"@u{number}:a.test": {"D": "signed_curve25519"} for number in range(1500)}
    there = {f"@u{number}:b.example": dict.fromkeys("ABCDEFG", "signed_curve25519") for number in range(300)}
    await upload(alice, one_time_keys=keys)
    own = {alice.user_id: {alice.device_id: "signed_curve25519"}}
    claimed = (await alice.post("/keys/claim", {"one_time_keys": here | there | own})).json()
    assert claimed["failures"] == {}
    assert claimed["one_time_keys"] == {user: dict.fromkeys(of, keys) for user, of in (there | own).items()}
    sizes = [sum(map(len, seen.content["one_time_keys"].values())) for seen in peer.seen if seen.target == CLAIM]
    assert sorted(sizes) == [100, 1000, 1000]
    answer = await alice.post("/keys/claim", {"one_time_keys": {BOB: dict.fromkeys(map(str, range(10_001)), "x")}})
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")


async def test_claimed_keys_are_those_that_were_asked_for(world: World, peer: Peer) -> None:
    alice = await world.user("alice")
    keys = one_time("k")
    given = {**keys, "other:k": {"key": "x"}, "signed_curve25519:n": 7, "signed_curve25519:l": {"key": "x" * 50_000}}
    peer.on("POST", CLAIM, lambda seen: {"one_time_keys": {BOB: {"D": given, "E": keys}, alice.user_id: {"D": keys}}})
    claimed = (await alice.post("/keys/claim", {"one_time_keys": {BOB: {"D": "signed_curve25519"}}})).json()
    assert claimed == {"one_time_keys": {BOB: {"D": keys}}, "failures": {}}
