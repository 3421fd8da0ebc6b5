"""Keys for encryption: of devices, one-time, fallback, cross-signing, and who hears of changes; on both databases."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homeserver.config.model import Limits
from homeserver.errors import Forbidden
from homeserver.kit.randomness import Randomness
from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.signing import SigningKey
from homeserver.services.users.accounts import NewDevice
from tests.api.client.v3.test_account import confirmed
from tests.world import User, World, running, settings, until

Json = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A key that signs, and the id under which it does; cross-signing keys are named by their public part."""

    key: SigningKey
    name: str

    @property
    def public_key(self) -> str:
        return self.key.public_key


def device_key(user: User) -> Key:
    return Key(SigningKey.generate("1", Randomness().bytes(32)), user.device_id)


def cross_key() -> Key:
    key = SigningKey.generate("1", Randomness().bytes(32))
    return Key(key, key.public_key)


def signed(value: Json, user_id: str, *keys: Key) -> Json:
    core = {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
    given = {f"ed25519:{key.name}": key.key.sign(canonical_json(core)) for key in keys}
    signatures = value.get("signatures", {})
    return {**value, "signatures": {**signatures, user_id: {**signatures.get(user_id, {}), **given}}}


def identity(user: User, key: Key) -> Json:
    return signed(
        {
            "user_id": user.user_id,
            "device_id": user.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {f"ed25519:{user.device_id}": key.public_key, f"curve25519:{user.device_id}": "abc"},
        },
        user.user_id,
        key,
    )


def one_time(*names: str, fallback: bool = False) -> Json:
    extra = {"fallback": True} if fallback else {}
    return {f"signed_curve25519:{name}": {"key": f"key {name}", "signatures": {}, **extra} for name in names}


def cross_signing(user: User, usage: str, key: Key, *signers: Key) -> Json:
    public = {"user_id": user.user_id, "usage": [usage], "keys": {f"ed25519:{key.public_key}": key.public_key}}
    return signed(public, user.user_id, *signers)


async def upload(user: User, **body: Any) -> Json:
    answer = await user.post("/keys/upload", body)
    assert answer.status_code == 200, answer.text
    counts: Json = answer.json()["one_time_key_counts"]
    return counts


async def query(user: User, *others: User) -> Json:
    answer = await user.post("/keys/query", {"device_keys": {other.user_id: [] for other in others}})
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def claim(user: User, other: User) -> Json:
    wanted = {other.user_id: {other.device_id: "signed_curve25519"}}
    answer = await user.post("/keys/claim", {"one_time_keys": wanted})
    assert answer.status_code == 200, answer.text
    keys: Json = answer.json()["one_time_keys"].get(other.user_id, {}).get(other.device_id, {})
    return keys


@pytest.mark.behaviours("CS-E2E-03", "CS-E2E-04", "CS-DEV-04")
async def test_uploaded_keys_are_found_by_others_with_the_devices_name(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    keys = identity(alice, device_key(alice))
    assert await upload(alice, device_keys=keys, one_time_keys=one_time("a", "b")) == {"signed_curve25519": 2}
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "Alice's phone"})
    found = await query(bob, alice, bob)
    assert found["device_keys"][alice.user_id][alice.device_id] == {
        **keys,
        "unsigned": {"device_display_name": "Alice's phone"},
    }
    assert found["device_keys"][bob.user_id] == {}
    absent = await bob.post("/keys/query", {"device_keys": {alice.user_id: ["NOSUCH"], "@x:elsewhere.example": []}})
    assert absent.json()["device_keys"] == {alice.user_id: {}}
    assert "elsewhere.example" in absent.json()["failures"]


@pytest.mark.behaviours("CS-E2E-01", "CS-E2E-02")
async def test_each_one_time_key_is_claimed_once_in_order_and_then_the_fallback_key(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    await upload(alice, one_time_keys=one_time("b", "c"))
    await upload(alice, one_time_keys=one_time("a"), fallback_keys=one_time("f", fallback=True))
    first = await alice.sync()
    assert first["device_one_time_keys_count"] == {"signed_curve25519": 3}
    assert first["device_unused_fallback_key_types"] == ["signed_curve25519"]
    claimed = [list(await claim(bob, alice)) for _ in range(5)]
    assert claimed == [[f"signed_curve25519:{name}"] for name in "bcaff"]
    after = await alice.sync(first["next_batch"])
    assert after["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert after["device_unused_fallback_key_types"] == []
    await upload(alice, fallback_keys=one_time("f", fallback=True))  # The same one again stays used.
    assert (await alice.sync())["device_unused_fallback_key_types"] == []
    await upload(alice, fallback_keys=one_time("g", fallback=True))
    assert (await alice.sync())["device_unused_fallback_key_types"] == ["signed_curve25519"]


@pytest.mark.behaviours("CS-E2E-01")
async def test_many_who_claim_at_once_never_get_the_same_key(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    await upload(alice, one_time_keys=one_time(*map(str, range(20))))
    claimed = await asyncio.gather(*(claim(bob, alice) for _ in range(25)))
    got = [key for keys in claimed for key in keys]
    assert len(got) == len(set(got)) == 20


async def test_a_claim_wakes_the_device_that_waits(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    await upload(alice, one_time_keys=one_time("a"))
    since = (await alice.sync())["next_batch"]
    waiting = asyncio.ensure_future(alice.sync(since, timeout=60_000))
    await until(lambda: world.container.notifier.waits(alice.user_id))
    await claim(bob, alice)
    async with asyncio.timeout(5):
        assert (await waiting)["device_one_time_keys_count"] == {"signed_curve25519": 0}


async def test_a_key_cannot_change_under_its_name_but_be_uploaded_twice(world: World) -> None:
    alice = await world.user("alice")
    await upload(alice, one_time_keys=one_time("a"))
    assert await upload(alice, one_time_keys=one_time("a")) == {"signed_curve25519": 1}
    other = {"signed_curve25519:a": {"key": "another", "signatures": {}}}
    answer = await alice.post("/keys/upload", {"one_time_keys": other})
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("upload", {"device_keys": {"user_id": "@bob:localhost", "device_id": "X"}}),
        ("upload", {"device_keys": 3}),
        ("upload", {"one_time_keys": {"nocolon": "x"}}),
        ("upload", {"one_time_keys": {"a:b": 1.5}}),
        ("upload", {"one_time_keys": {"a:b": {"key": "\0"}}}),
        ("query", {}),
        ("query", {"device_keys": {"nobody": []}}),
        ("query", {"device_keys": {"@a:localhost": {}}}),
        ("claim", {"one_time_keys": {"@a:localhost": []}}),
        ("claim", {}),
        ("device_signing/upload", {"self_signing_key": {"user_id": "@alice:localhost"}}),
        ("device_signing/upload", {"master_key": {"user_id": "@alice:localhost", "usage": ["master"], "keys": {}}}),
        ("signatures/upload", {"@alice:localhost": []}),
    ],
)
@pytest.mark.by_turns
async def test_bad_keys_are_refused(world: World, path: str, body: Json) -> None:
    alice = await world.user("alice")
    answer = await alice.post(f"/keys/{path}", body)
    if body == {"one_time_keys": {"a:b": {"key": "\0"}}}:
        assert answer.status_code < 500
    else:
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.behaviours("CS-E2E-05", "CS-E2E-07", "CS-E2E-08", "CS-E2E-09", "CS-E2E-10", "CS-LOGIN-02")
async def test_cross_signing_is_set_up_signs_devices_and_other_users(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    device = device_key(alice)
    await upload(alice, device_keys=identity(alice, device))
    keys = {user.user_id: [cross_key() for _ in range(3)] for user in (alice, bob)}

    def bundle(user: User) -> Json:
        master, self_signing, user_signing = keys[user.user_id]
        return {
            "master_key": cross_signing(user, "master", master),
            "self_signing_key": cross_signing(user, "self_signing", self_signing, master),
            "user_signing_key": cross_signing(user, "user_signing", user_signing, master),
        }

    without_master = {"self_signing_key": bundle(alice)["self_signing_key"]}
    answer = await alice.post("/keys/device_signing/upload", without_master)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_MISSING_PARAM")
    unsigned = {**bundle(alice), "self_signing_key": cross_signing(alice, "self_signing", keys[alice.user_id][1])}
    answer = await alice.post("/keys/device_signing/upload", unsigned)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_SIGNATURE")
    for user in (alice, bob):
        assert (await user.post("/keys/device_signing/upload", bundle(user))).status_code == 200
        # The same keys again change nothing, so nobody need confirm them.
        assert (await user.post("/keys/device_signing/upload", bundle(user))).status_code == 200

    found = await query(bob, alice)
    assert found["master_keys"][alice.user_id]["keys"] == bundle(alice)["master_key"]["keys"]
    assert "self_signing_keys" in found
    assert "user_signing_keys" not in found
    assert alice.user_id in (await query(alice, alice))["user_signing_keys"]

    signed_device = signed(identity(alice, device), alice.user_id, keys[alice.user_id][1])
    forged = signed(identity(alice, device), alice.user_id, cross_key())
    answer = await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: forged}})
    assert answer.json()["failures"][alice.user_id][alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"
    answer = await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: signed_device}})
    assert answer.json() == {"failures": {}}
    seen = (await query(bob, alice))["device_keys"][alice.user_id][alice.device_id]
    assert len(seen["signatures"][alice.user_id]) == 2

    his_master = found_master = (await query(alice, bob))["master_keys"][bob.user_id]
    trusted = signed(found_master, alice.user_id, keys[alice.user_id][2])
    target = next(iter(his_master["keys"].values()))
    answer = await alice.post("/keys/signatures/upload", {bob.user_id: {target: trusted}})
    assert answer.json() == {"failures": {}}
    assert alice.user_id in (await query(alice, bob))["master_keys"][bob.user_id]["signatures"]
    assert alice.user_id not in (await query(bob, bob))["master_keys"][bob.user_id].get("signatures", {})

    named_like_a_key = NewDevice(keys[alice.user_id][0].public_key, None, refreshable=False)
    with pytest.raises(Forbidden):
        await world.container.accounts.login("alice", "alicealice", named_like_a_key)

    keys[alice.user_id] = [cross_key() for _ in range(3)]
    answer = await confirmed(alice, "POST", "/keys/device_signing/upload", bundle(alice), "alicealice")
    assert answer.status_code == 200
    changed = (await query(bob, alice))["device_keys"][alice.user_id][alice.device_id]
    assert f"ed25519:{alice.device_id}" in changed["signatures"][alice.user_id]


@pytest.mark.behaviours("CS-E2E-06", "CS-E2E-11", "CS-E2E-12", "CS-SYNC-16", "CS-DEV-03")
async def test_those_who_share_a_room_hear_of_changed_keys_and_of_who_comes_and_goes(world: World) -> None:
    alice, bob, eve = [await world.user(name) for name in ("alice", "bob", "eve")]
    room_id = await alice.create_room(preset="public_chat")
    start = (await alice.sync())["next_batch"]
    assert "device_lists" not in await alice.sync()
    await bob.join(room_id)
    joined = await alice.sync(start)
    assert joined["device_lists"] == {"changed": [bob.user_id]}
    seen_by_bob = await bob.sync(start)
    assert alice.user_id in seen_by_bob["device_lists"]["changed"]
    await upload(bob, device_keys=identity(bob, device_key(bob)))
    await upload(eve, device_keys=identity(eve, device_key(eve)))
    uploaded = await alice.sync(joined["next_batch"])
    assert uploaded["device_lists"] == {"changed": [bob.user_id]}
    changes = await alice.get("/keys/changes", **{"from": start, "to": uploaded["next_batch"]})
    assert changes.json() == {"changed": [bob.user_id], "left": []}
    await bob.leave(room_id)
    left = await alice.sync(uploaded["next_batch"])
    assert left["device_lists"] == {"left": [bob.user_id]}


@pytest.mark.behaviours("CS-DEV-01", "CS-DEV-02")
async def test_devices_are_listed_named_and_removed_with_the_password(world: World) -> None:
    alice = await world.user("alice")
    phone = await world.user("alice", device_id="PHONE")
    bob = await world.user("bob")
    await upload(phone, device_keys=identity(phone, device_key(phone)))
    listed = (await alice.get("/devices")).json()["devices"]
    assert {device["device_id"] for device in listed} == {alice.device_id, "PHONE"}
    assert (await alice.put("/devices/PHONE", {"display_name": "Phone"})).status_code == 200
    assert (await alice.get("/devices/PHONE")).json()["display_name"] == "Phone"
    for missing in (await alice.get("/devices/NONE"), await alice.put("/devices/NONE", {"display_name": "x"})):
        assert (missing.status_code, missing.json()["errcode"]) == (404, "M_NOT_FOUND")
    assert (await confirmed(alice, "DELETE", "/devices/PHONE", {}, "alicealice")).status_code == 200
    assert (await phone.get("/account/whoami")).status_code == 401
    assert (await query(bob, alice))["device_keys"][alice.user_id] == {}
    gone = await confirmed(alice, "POST", "/delete_devices", {"devices": ["PHONE", "NONE"]}, "alicealice")
    assert gone.status_code == 200


@pytest.mark.behaviours("CS-TD-01", "CS-TD-02", "CS-TD-04", "CS-SYNC-15", "CS-SYNC-22")
async def test_messages_to_devices_come_in_order_once_received_and_a_hundred_at_a_time(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    tablet = await world.user("bob", device_id="TABLET")
    since = (await bob.sync())["next_batch"]
    for number in range(102):
        body = {"messages": {bob.user_id: {bob.device_id: {"number": number}}}}
        assert (await alice.put(f"/sendToDevice/m.test/t{number}", body)).status_code == 200
    await alice.put("/sendToDevice/m.test/t0", {"messages": {bob.user_id: {bob.device_id: {"number": "again"}}}})
    first = await bob.sync(since)
    numbers = [event["content"]["number"] for event in first["to_device"]["events"]]
    assert numbers == list(range(100))
    assert first["to_device"]["events"][0]["sender"] == alice.user_id
    repeated = await bob.sync(since)  # The answer was lost: all of it comes again.
    assert repeated["to_device"] == first["to_device"]
    second = await bob.sync(first["next_batch"])
    assert [event["content"]["number"] for event in second["to_device"]["events"]] == [100, 101]
    assert "to_device" not in await bob.sync(second["next_batch"])
    assert "to_device" not in await bob.sync()  # What was received is gone.
    await alice.put("/sendToDevice/m.test/all", {"messages": {bob.user_id: {"*": {"number": "all"}}}})
    for device in (bob, tablet):
        assert [e["content"] for e in (await device.sync())["to_device"]["events"]] == [{"number": "all"}]
    unknown: Json = {"messages": {"@nobody:localhost": {"*": {}}, bob.user_id: {"NOSUCH": {}}}}
    assert (await alice.put("/sendToDevice/m.test/none", unknown)).status_code == 200


@pytest.mark.behaviours("CS-E2E-04")
async def test_users_nobody_knows_are_missing_from_the_answer(world: World) -> None:
    alice = await world.user("alice")
    wanted: Json = {alice.user_id: [], "@nobody:localhost": []}
    answer = await alice.post("/keys/query", {"device_keys": wanted})
    assert answer.json()["device_keys"] == {alice.user_id: {}}


@pytest.mark.behaviours("CS-E2E-02")
async def test_a_fallback_key_is_replaced_under_the_same_name_and_is_one_of_its_algorithm(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    await upload(alice, fallback_keys=one_time("f", fallback=True))
    await claim(bob, alice)
    other = {"signed_curve25519:f": {"key": "another", "signatures": {}, "fallback": True}}
    await upload(alice, fallback_keys=other)
    assert (await alice.sync())["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert await claim(bob, alice) == other
    answer = await alice.post("/keys/upload", {"fallback_keys": one_time("g", "h", fallback=True)})
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.behaviours("CS-E2E-01")
async def test_the_same_keys_uploaded_many_times_at_once_are_there_once(world: World) -> None:
    alice = await world.user("alice")
    keys = one_time(*map(str, range(10)))
    counts = await asyncio.gather(*(upload(alice, one_time_keys=keys) for _ in range(10)))
    assert counts == [{"signed_curve25519": 10}] * 10


@pytest.mark.behaviours("CS-E2E-07")
async def test_of_many_first_uploads_at_once_one_is_kept_and_the_others_need_the_password(world: World) -> None:
    alice = await world.user("alice")
    bodies = [{"master_key": cross_signing(alice, "master", cross_key())} for _ in range(6)]
    answers = await asyncio.gather(*(alice.post("/keys/device_signing/upload", body) for body in bodies))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 401, 403}
    kept = bodies[statuses.index(200)]["master_key"]
    assert (await query(alice, alice))["master_keys"][alice.user_id]["keys"] == kept["keys"]
    changed = {**kept, "more": "than before"}
    assert (await alice.post("/keys/device_signing/upload", {"master_key": changed})).status_code == 401


@pytest.mark.behaviours("CS-E2E-08", "CS-E2E-09")
async def test_no_device_is_named_like_a_cross_signing_key(world: World) -> None:
    alice = await world.user("alice")
    key = SigningKey.generate("1", Randomness().bytes(32))
    await world.user("alice", device_id=key.public_key)
    body = {"master_key": cross_signing(alice, "master", Key(key, key.public_key))}
    answer = await alice.post("/keys/device_signing/upload", body)
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    master = cross_key()
    body = {"master_key": cross_signing(alice, "master", master)}
    assert (await alice.post("/keys/device_signing/upload", body)).status_code == 200
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": "alicealice",
        "device_id": master.public_key,
    }
    refused = await world.client.send("POST", "/_matrix/client/v3/login", json=login)
    assert (refused.status_code, refused.json()["errcode"]) == (403, "M_FORBIDDEN")


@pytest.mark.behaviours("CS-E2E-10")
async def test_of_several_signatures_the_good_ones_are_kept_and_the_bad_ones_told(world: World) -> None:
    alice = await world.user("alice")
    device, master, self_signing = device_key(alice), cross_key(), cross_key()
    keys = identity(alice, device)
    await upload(alice, device_keys=keys)
    bundle = {
        "master_key": cross_signing(alice, "master", master),
        "self_signing_key": cross_signing(alice, "self_signing", self_signing, master),
    }
    assert (await alice.post("/keys/device_signing/upload", bundle)).status_code == 200
    stranger = cross_key()
    both = {**signed(keys, alice.user_id, self_signing, stranger), "unsigned": {"age": 1.5}}
    answer = await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: both}})
    assert answer.json()["failures"][alice.user_id][alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"
    found = (await query(alice, alice))["device_keys"][alice.user_id][alice.device_id]["signatures"][alice.user_id]
    assert found.keys() == {f"ed25519:{alice.device_id}", f"ed25519:{self_signing.name}"}
    by_device = signed(bundle["master_key"], alice.user_id, device)
    given = {alice.user_id: {master.public_key: by_device, "NOSUCH": keys}}
    answer = await alice.post("/keys/signatures/upload", given)
    assert answer.json()["failures"][alice.user_id].keys() == {"NOSUCH"}
    shown = (await query(alice, alice))["master_keys"][alice.user_id]
    assert shown["signatures"][alice.user_id].keys() == {f"ed25519:{alice.device_id}"}
    # New keys: nothing is left of what the old ones signed.
    master, self_signing = cross_key(), cross_key()
    bundle = {
        "master_key": cross_signing(alice, "master", master),
        "self_signing_key": cross_signing(alice, "self_signing", self_signing, master),
    }
    assert (await confirmed(alice, "POST", "/keys/device_signing/upload", bundle, "alicealice")).status_code == 200
    found = (await query(alice, alice))["device_keys"][alice.user_id][alice.device_id]["signatures"][alice.user_id]
    assert found.keys() == {f"ed25519:{alice.device_id}"}


@pytest.mark.parametrize(
    "signatures", [[1], "x", 5, None, {"@alice:localhost": 5}, {"@alice:localhost": {"ed25519:x": 5}}, {}]
)
@pytest.mark.behaviours("CS-E2E-10")
@pytest.mark.by_turns
async def test_what_is_no_signature_fails_by_itself(world: World, signatures: Any) -> None:
    alice = await world.user("alice")
    master, self_signing = cross_key(), cross_key()
    bundle = {
        "master_key": cross_signing(alice, "master", master),
        "self_signing_key": cross_signing(alice, "self_signing", self_signing, master),
    }
    await alice.post("/keys/device_signing/upload", bundle)
    keys = identity(alice, device_key(alice))
    await upload(alice, device_keys=keys)
    given = {alice.user_id: {alice.device_id: {**keys, "signatures": signatures}, "X": 3}}
    answer = await alice.post("/keys/signatures/upload", given)
    assert answer.status_code == 200, answer.text
    assert answer.json()["failures"][alice.user_id].keys() == {alice.device_id, "X"}
    if signatures != {}:
        assert (
            await alice.post("/keys/upload", {"device_keys": {**keys, "signatures": signatures}})
        ).status_code == 400
        body = {"master_key": {**cross_signing(alice, "master", cross_key()), "signatures": signatures}}
        assert (await alice.post("/keys/device_signing/upload", body)).status_code == 400


@pytest.mark.behaviours("CS-E2E-05")
async def test_signatures_of_strangers_upon_a_master_key_are_not_shown(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    master = cross_signing(alice, "master", cross_key())
    master["signatures"] = {"@eve:localhost": {"ed25519:x": "abc"}, alice.user_id: {"ed25519:y": "abc"}}
    assert (await alice.post("/keys/device_signing/upload", {"master_key": master})).status_code == 200
    for user in (alice, bob):
        shown = (await query(user, alice))["master_keys"][alice.user_id]
        assert shown["signatures"].keys() == {alice.user_id}


@pytest.mark.behaviours("CS-E2E-12")
async def test_who_was_never_in_a_room_does_not_learn_who_is(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="private_chat")
    start = (await bob.sync())["next_batch"]
    await alice.invite(room_id, bob)
    invited = await bob.sync(start)
    assert "device_lists" not in invited
    await bob.leave(room_id)
    declined = await bob.sync(invited["next_batch"])
    assert "device_lists" not in declined
    await alice.invite(room_id, bob)
    await bob.join(room_id)
    joined = await bob.sync(declined["next_batch"])
    assert joined["device_lists"] == {"changed": [alice.user_id]}
    await bob.leave(room_id)
    assert (await bob.sync(joined["next_batch"]))["device_lists"] == {"left": [alice.user_id]}
    # In and out between two syncs.
    assert (await bob.sync(declined["next_batch"]))["device_lists"] == {"left": [alice.user_id]}


@pytest.mark.behaviours("CS-DEV-01", "CS-DEV-03", "CS-TD-01")
async def test_what_belonged_to_a_device_goes_with_it(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    phone = await world.user("alice", device_id="PHONE")
    await upload(phone, one_time_keys=one_time("a"), fallback_keys=one_time("f", fallback=True))
    for sender in (bob, phone):
        body = {"messages": {alice.user_id: {"*": {"from": sender.device_id}}}}
        assert (await sender.put("/sendToDevice/m.test/t", body)).status_code == 200
    assert (await phone.post("/logout")).status_code == 200
    assert await claim(bob, phone) == {}
    phone = await world.user("alice", device_id="PHONE")
    first = await phone.sync()
    assert "to_device" not in first
    assert first["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert first["device_unused_fallback_key_types"] == []
    # The transaction ids of the device that was are free.
    again: Json = {"messages": {bob.user_id: {bob.device_id: {"number": 1}}}}
    assert (await phone.put("/sendToDevice/m.test/t", again)).status_code == 200
    assert [event["content"] for event in (await bob.sync())["to_device"]["events"]] == [{"number": 1}]


async def test_devices_are_removed_however_many_are_named(world: World) -> None:
    alice = await world.user("alice")
    body = {"devices": ["PHONE", *map(str, range(40_000))]}
    assert (await confirmed(alice, "POST", "/delete_devices", body, "alicealice")).status_code == 200
    assert (await alice.get("/account/whoami")).status_code == 200
    assert (await alice.post("/delete_devices", {})).status_code == 400
    assert (await alice.post("/delete_devices", {"devices": [1]})).status_code == 400
    assert (await alice.put(f"/devices/{alice.device_id}", {"display_name": "x" * 101})).status_code == 400
    assert (await alice.put(f"/devices/{alice.device_id}", {})).status_code == 200


@pytest.mark.behaviours("CS-TD-02")
async def test_a_device_gets_one_message_of_a_transaction_its_own_before_that_for_all(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    tablet = await world.user("bob", device_id="TABLET")
    body = {"messages": {bob.user_id: {"*": {"for": "all"}, "TABLET": {"for": "the tablet"}}}}
    answers = await asyncio.gather(*(alice.put("/sendToDevice/m.test/t", body) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert [event["content"] for event in (await bob.sync())["to_device"]["events"]] == [{"for": "all"}]
    assert [event["content"] for event in (await tablet.sync())["to_device"]["events"]] == [{"for": "the tablet"}]


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"messages": {"bob": {}}}, {"messages": {"@b:localhost": {"X": 1}}}]
)
async def test_bad_messages_to_devices_are_refused(world: World, body: Json) -> None:
    alice = await world.user("alice")
    assert (await alice.put("/sendToDevice/m.test/t", body)).status_code == 400


@pytest.mark.trust("C20")
async def test_a_device_that_changes_its_keys_again_and_again_meets_a_limit(database_url: str, tmp_path: Path) -> None:
    config = msgspec.structs.replace(settings(database_url, str(tmp_path)), limits=Limits(rate_limits=True))
    async with running(config) as world:
        alice = await world.user("alice")
        keys = identity(alice, device_key(alice))
        for _ in range(50):  # The same again is no change.
            await upload(alice, device_keys=keys)
        answers = [
            (await alice.post("/keys/upload", {"device_keys": identity(alice, device_key(alice))})).status_code
            for _ in range(50)
        ]
        assert answers[0] == 200
        assert answers[-1] == 429
        await upload(alice, one_time_keys=one_time("a"))
