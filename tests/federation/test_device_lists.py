"""Device lists between servers: kept in step, fetched when something was missed, and told to those who share a room."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from homeserver.errors import Unreachable
from tests.api.client.v3.test_keys import Key, cross_key, signed
from tests.federation.network import Network, Seen
from tests.federation.test_e2e_keys import BOB, DEVICES, QUERY, keys_of, query
from tests.federation.test_edus import TXN_IDS
from tests.federation.test_reads import Stage, stage
from tests.world import eventually

__all__ = ["stage"]

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


@dataclass
class Bob:
    """Bob of `b.example`, whose server tells of his devices what this says."""

    stage: Stage
    stream_id: int = 100
    devices: dict[str, Json] = field(default_factory=dict)
    cross_signing: dict[str, Json] = field(default_factory=dict)
    is_off: bool = False
    in_between: list[Json] = field(default_factory=list)
    """What his server tells between being asked and answering."""

    def __post_init__(self) -> None:
        self.stage.bobs.on("POST", QUERY, self._queried)
        self.stage.bobs.on("GET", DEVICES, self._listed)

    async def _queried(self, seen: Seen) -> Json:
        keys = {"device_keys": {BOB: dict(self.devices)}}
        keys |= {f"{name}s": {BOB: key} for name, key in self.cross_signing.items()}
        await self._answer()
        return keys

    async def _listed(self, seen: Seen) -> Json:
        devices = [{"device_id": device_id, "keys": keys} for device_id, keys in self.devices.items()]
        told = {"user_id": BOB, "stream_id": self.stream_id, "devices": devices, **self.cross_signing}
        await self._answer()
        return told

    async def _answer(self) -> None:
        if self.is_off:
            raise Unreachable("It is off.")
        while self.in_between:
            await self.tell(self.in_between.pop())

    def asked(self, path: str) -> int:
        """How often his server was asked for this."""
        return sum(seen.target.startswith(path) for seen in self.stage.bobs.seen)

    def change(self, device_id: str, key: str | None) -> Json:
        """Another key of a device, or its end; what his server tells of it."""
        self.stream_id += 1
        told = {"user_id": BOB, "device_id": device_id, "stream_id": self.stream_id, "prev_id": [self.stream_id - 1]}
        if key is None:
            del self.devices[device_id]
            return {**told, "deleted": True}
        self.devices[device_id] = keys_of(BOB, device_id, key)
        return {**told, "keys": self.devices[device_id], "device_display_name": device_id.lower()}

    async def tell(self, *contents: Json, edu_type: str = "m.device_list_update", by: str = "b.example") -> None:
        edus = [{"edu_type": edu_type, "content": content} for content in contents]
        await self.stage.network.peers[by].send("a.test", f"l{next(TXN_IDS)}", edus=edus)

    async def seen(self) -> dict[str, str]:
        """The keys of bob's devices that alice is told."""
        found = await query(self.stage.alice, {BOB: []})
        assert found["failures"] == {}
        return {name: keys["keys"][f"ed25519:{name}"] for name, keys in found["device_keys"].get(BOB, {}).items()}

    async def get_in_step(self) -> None:
        """Have his list known here, by its number."""
        await self.seen()
        await self.tell(self.change("PHONE", "one"))
        self.pass_time()
        await self.tell(self.change("PHONE", "one"))
        await self.fetched(1)
        self.pass_time()

    def pass_time(self) -> None:
        """Let so much time pass that the list may be fetched again."""
        self.stage.network.clock.time += 6_000

    async def fetched(self, times: int) -> None:
        """Wait until his whole list was fetched so many times, and is in step."""
        await eventually(self.stage.alice.sync, lambda _: self.asked(DEVICES) >= times)

        async def again() -> int:
            before = self.asked(QUERY)
            await self.seen()
            return self.asked(QUERY) - before

        await eventually(again, lambda asked: asked == 0)


@pytest.fixture
def bob(stage: Stage) -> Bob:
    return Bob(stage, devices={"PHONE": keys_of(BOB, "PHONE", "zero")})


async def changed(stage: Stage, since: str) -> Json:
    lists: Json = (await stage.alice.sync(since)).get("device_lists", {})
    return lists


@pytest.mark.behaviours("SS-EDU-05", "CS-E2E-04")
async def test_list_is_asked_for_once_as_long_as_it_is_in_step(bob: Bob) -> None:
    assert await bob.seen() == {"PHONE": "zero"}
    assert await bob.seen() == {"PHONE": "zero"}
    assert (bob.asked(QUERY), bob.asked(DEVICES)) == (1, 0)


@pytest.mark.behaviours("SS-EDU-05", "CS-E2E-11")
async def test_updates_that_follow_are_applied_and_told_to_clients(stage: Stage, bob: Bob) -> None:
    await bob.get_in_step()
    asked = len(stage.bobs.seen)
    since = (await stage.alice.sync())["next_batch"]
    await bob.tell(bob.change("PHONE", "two"), bob.change("LAPTOP", "new"))
    assert await changed(stage, since) == {"changed": [BOB]}
    assert await bob.seen() == {"PHONE": "two", "LAPTOP": "new"}
    found = await query(stage.alice, {BOB: ["LAPTOP"]})
    assert found["device_keys"][BOB]["LAPTOP"]["unsigned"] == {"device_display_name": "laptop"}
    since = (await stage.alice.sync())["next_batch"]
    last = bob.change("PHONE", None)
    await bob.tell(last)
    assert await changed(stage, since) == {"changed": [BOB]}
    # The same again changes nothing.
    since = (await stage.alice.sync())["next_batch"]
    await bob.tell(last)
    assert await changed(stage, since) == {}
    assert await bob.seen() == {"LAPTOP": "new"}
    assert len(stage.bobs.seen) == asked


@pytest.mark.behaviours("SS-EDU-05")
async def test_after_a_gap_the_whole_list_is_fetched_and_goes_on_from_there(bob: Bob) -> None:
    await bob.get_in_step()
    bob.change("TABLET", "missed")
    await bob.tell(bob.change("PHONE", "two"))
    await bob.fetched(2)
    assert await bob.seen() == {"PHONE": "two", "TABLET": "missed"}
    queried = bob.asked(QUERY)
    await bob.tell(bob.change("PHONE", "three"))
    assert await bob.seen() == {"PHONE": "three", "TABLET": "missed"}
    assert (bob.asked(QUERY), bob.asked(DEVICES)) == (queried, 2)


@pytest.mark.behaviours("SS-EDU-05")
async def test_answer_that_is_older_than_an_update_is_not_kept(bob: Bob) -> None:
    old = bob.change("PHONE", "old")
    # The server has answered when the update is made, but the update comes first.
    newer = {**old, "stream_id": 500, "prev_id": [499], "keys": keys_of(BOB, "PHONE", "new")}
    bob.in_between = [newer]
    assert await bob.seen() == {"PHONE": "old"}
    bob.devices["PHONE"], bob.stream_id = keys_of(BOB, "PHONE", "new"), 500
    assert await bob.seen() == {"PHONE": "new"}
    await bob.fetched(0)


@pytest.mark.trust("C20")
async def test_list_that_cannot_be_fetched_is_fetched_later_even_after_a_restart(
    network: Network, stage: Stage, bob: Bob
) -> None:
    await bob.get_in_step()
    bob.is_off = True
    bob.change("TABLET", "missed")
    await bob.tell(bob.change("PHONE", "two"))
    found = await query(stage.alice, {BOB: []})
    assert (found["device_keys"], list(found["failures"])) == ({}, ["b.example"])
    await network.stop("a.test")
    bob.is_off = False
    network.clock.time += 3_600_000
    stage.alice.client = (await network.server("a.test")).client
    since = (await stage.alice.sync())["next_batch"]
    await bob.fetched(2)
    assert await bob.seen() == {"PHONE": "two", "TABLET": "missed"}
    assert (await stage.alice.get("/keys/changes", **{"from": since})).status_code == 200


@pytest.mark.trust("C20")
async def test_flood_of_updates_with_gaps_makes_few_fetches(network: Network, bob: Bob) -> None:
    await bob.get_in_step()
    before = bob.asked(DEVICES)
    for _ in range(5):
        flood = []
        for number in range(40):
            bob.stream_id += 10
            flood.append(bob.change("PHONE", f"{number}"))
        await bob.tell(*flood)
    await asyncio.sleep(0)
    assert await bob.seen() == {"PHONE": "39"}
    assert bob.asked(DEVICES) - before <= 2


@pytest.mark.behaviours("SS-EDU-09")
async def test_updates_of_strangers_or_about_others_are_dropped(stage: Stage, bob: Bob) -> None:
    await bob.get_in_step()
    since = (await stage.alice.sync())["next_batch"]
    asked = len(stage.bobs.seen)
    good = bob.change("PHONE", "two")
    await bob.tell(good, by="c.example")
    await bob.tell(
        {**good, "user_id": "@stranger:b.example"},
        {**good, "user_id": stage.alice.user_id},
        {**good, "keys": keys_of(BOB, "OTHER")},
        {**good, "stream_id": 2**60},
        {**good, "stream_id": -1},
        {**good, "device_id": ""},
    )
    assert await changed(stage, since) == {}
    assert await bob.seen() == {"PHONE": "one"}
    assert len(stage.bobs.seen) == asked


@pytest.mark.behaviours("SS-EDU-05", "CS-E2E-12")
async def test_list_is_asked_for_again_when_no_room_was_shared_for_a_while(stage: Stage, bob: Bob) -> None:
    await bob.get_in_step()
    graph = await stage.scene.graph()
    gone = graph.say(BOB, "m.room.member", {"membership": "leave"}, [graph.events[-1]], state_key=BOB)
    since = (await stage.alice.sync())["next_batch"]
    await stage.scene.receive(gone)
    assert await changed(stage, since) == {"left": [BOB]}
    # Nobody tells of this.
    bob.change("PHONE", "two")
    since = (await stage.alice.sync())["next_batch"]
    await stage.scene.join(BOB)
    assert await changed(stage, since) == {"changed": [BOB]}
    assert await bob.seen() == {"PHONE": "two"}


@pytest.mark.behaviours("SS-EDU-05")
async def test_list_is_asked_for_again_when_this_server_was_out_of_the_room(stage: Stage, bob: Bob) -> None:
    await bob.get_in_step()
    dora = await stage.scene.world.user("dora")
    await dora.join(stage.room)
    await stage.alice.leave(stage.room)
    await stage.alice.join(stage.room)
    queried = bob.asked(QUERY)
    # Somebody was there all the time.
    assert await bob.seen() == {"PHONE": "one"}
    assert bob.asked(QUERY) == queried + 1
    assert await bob.seen() == {"PHONE": "one"}
    assert bob.asked(QUERY) == queried + 1


def vouching(usage: str, key: Key, *signers: Key) -> Json:
    public = {"user_id": BOB, "usage": [usage], "keys": {f"ed25519:{key.public_key}": key.public_key}}
    return signed(public, BOB, *signers) if signers else public


@pytest.mark.behaviours("SS-EDU-06")
async def test_cross_signing_keys_follow_what_the_server_tells(stage: Stage, bob: Bob) -> None:
    first, second, self_signing = cross_key(), cross_key(), cross_key()
    bob.cross_signing = {"master_key": vouching("master", first)}
    await bob.get_in_step()
    asked = len(stage.bobs.seen)
    since = (await stage.alice.sync())["next_batch"]
    told = {"user_id": BOB, "self_signing_key": vouching("self_signing", self_signing, first)}
    await bob.tell(told, edu_type="m.signing_key_update")
    assert await changed(stage, since) == {"changed": [BOB]}
    found = await query(stage.alice, {BOB: []})
    assert found["master_keys"] == {BOB: vouching("master", first)}
    assert found["self_signing_keys"] == {BOB: told["self_signing_key"]}
    # What is signed by somebody else is not taken; another master key ends what the one before has signed.
    since = (await stage.alice.sync())["next_batch"]
    await bob.tell(
        {"user_id": BOB, "self_signing_key": vouching("self_signing", cross_key(), second)},
        {"user_id": BOB, "master_key": vouching("self_signing", second)},
        {"user_id": stage.alice.user_id, "master_key": vouching("master", second)},
        {"user_id": "@stranger:b.example", "master_key": vouching("master", second)},
        edu_type="m.signing_key_update",
    )
    assert await changed(stage, since) == {}
    assert (await query(stage.alice, {BOB: []}))["self_signing_keys"] == {BOB: told["self_signing_key"]}
    await bob.tell({"user_id": BOB, "master_key": vouching("master", second)}, edu_type="m.signing_key_update")
    found = await query(stage.alice, {BOB: []})
    assert found["master_keys"] == {BOB: vouching("master", second)}
    assert "self_signing_keys" not in found
    assert len(stage.bobs.seen) == asked


@pytest.mark.trust("C20")
async def test_only_so_many_devices_of_a_user_are_kept(stage: Stage, bob: Bob) -> None:
    bob.devices = {f"D{number:05}": keys_of(BOB, f"D{number:05}") for number in range(10_050)}
    assert len(await bob.seen()) == 10_000
    bob.devices = {}
    bob.pass_time()
    await bob.tell(bob.change("LAST", "new"))
    await bob.fetched(1)
    assert await bob.seen() == {"LAST": "new"}
