"""Device lists between servers: kept in step, fetched when something was missed, and told to those who share a room."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, event

from homeserver.errors import Unreachable
from homeserver.matrix.identifiers import DeviceId, RoomId, ServerName, UserId
from homeserver.outbound.transport import Reply
from homeserver.storage import devices, e2e_keys, room_servers, rooms, stream_rows
from homeserver.storage.engine import WriteTx
from tests.api.client.v3.test_keys import Key, cross_key, cross_signing, device_key, identity, signed, upload
from tests.federation.network import Network, Seen
from tests.federation.test_e2e_keys import BOB, DEVICES, QUERY, keys_of, query
from tests.federation.test_edus import TXN_IDS
from tests.federation.test_outbound import Taker
from tests.federation.test_reads import Stage, stage
from tests.services.rooms.test_branches import DAN, Scene
from tests.world import User, eventually, until

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
        Taker(self.stage.bobs)
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
            told = self.in_between.pop()
            self.devices[told["device_id"]], self.stream_id = told["keys"], told["stream_id"]
            await self.tell(told)

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
@pytest.mark.parametrize("errcode", ["M_UNRECOGNIZED", "M_FORBIDDEN", "M_NOT_FOUND"])
async def test_list_is_empty_only_if_its_server_says_that_there_is_no_such_user(
    errcode: str, stage: Stage, bob: Bob
) -> None:
    await bob.get_in_step()
    dave = "@dave:b.example"
    await stage.scene.join(dave)
    await query(stage.alice, {dave: []})
    bob.pass_time()
    refusal = Reply(404, {}, json.dumps({"errcode": errcode, "error": "x"}).encode())
    stage.bobs.on("GET", DEVICES + quote(BOB, safe=""), lambda seen: refusal)
    bob.change("TABLET", "missed")
    gone = {"user_id": dave, "device_id": "D", "stream_id": 7, "prev_id": [6], "deleted": True}
    await bob.tell(bob.change("PHONE", "two"), gone)
    # One who is refused is in nobody's way.
    await until(lambda: bob.asked(DEVICES + quote(dave, safe="")) >= 1)
    before = bob.asked(QUERY)
    found = await query(stage.alice, {BOB: []})
    if errcode == "M_NOT_FOUND":
        assert found["device_keys"] == {}
    else:
        assert found["device_keys"][BOB].keys() == {"PHONE", "TABLET"}
        assert bob.asked(QUERY) == before + 1


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
        {**good, "user_id": "@stranger:b.example", "keys": keys_of("@stranger:b.example", "PHONE")},
        {**good, "user_id": "@stranger:b.example", "deleted": True},
        {**good, "user_id": stage.alice.user_id},
        {**good, "keys": keys_of(BOB, "OTHER")},
        {**good, "stream_id": 2**60},
        {**good, "stream_id": -1},
        {**good, "device_id": ""},
    )
    assert await changed(stage, since) == {}
    # Nothing is kept of those who are nobody here.
    kept = await stage.scene.world.container.database.read(e2e_keys.list_changed, after=0, upto=2**60)
    assert kept == {BOB}
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


@dataclass
class Told:
    """Alice on `a.test` in a room with bob of `b.example`; dan of `c.example` is elsewhere."""

    stage: Stage
    b: Taker
    c: Taker

    @property
    def alice(self) -> User:
        return self.stage.alice

    async def hears(self, taker: Taker, count: int) -> list[tuple[str, Json]]:
        """What a server was told of devices and keys, once there are so many."""
        await until(lambda: len(self.heard(taker)) >= count)
        return self.heard(taker)

    def heard(self, taker: Taker) -> list[tuple[str, Json]]:
        return [(kind, told) for kind, told in taker.edus if kind in ("m.device_list_update", "m.signing_key_update")]

    async def listed(self) -> Json:
        """What alice's server lists of her devices."""
        answer = await self.stage.bobs.call("a.test", "GET", DEVICES + quote(self.alice.user_id))
        body: Json = answer.json()
        return body


@pytest.fixture
def told(stage: Stage) -> Told:
    return Told(stage, Taker(stage.bobs), Taker(stage.others))


@pytest.mark.behaviours("SS-EDU-04", "CS-E2E-11")
async def test_servers_that_share_a_room_hear_of_every_change_in_one_sequence(told: Told) -> None:
    alice = told.alice
    keys = identity(alice, device_key(alice))
    await upload(alice, device_keys=keys)
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "Phone"})
    laptop = await told.stage.scene.world.user("alice", device_id="LAPTOP")
    laptop_keys = identity(laptop, device_key(laptop))
    await upload(laptop, device_keys=laptop_keys)
    listed = await told.listed()
    await laptop.post("/logout")
    heard = [content for _, content in await told.hears(told.b, 5)]
    numbers = [content.pop("stream_id") for content in heard]
    assert len(set(numbers)) == 5
    assert listed["stream_id"] == numbers[3]
    assert [content.pop("prev_id") for content in heard] == [[], *([number] for number in numbers[:4])]
    phone = {"user_id": alice.user_id, "device_id": alice.device_id, "keys": keys}
    assert heard == [
        phone,
        {**phone, "device_display_name": "Phone"},
        {"user_id": alice.user_id, "device_id": "LAPTOP"},  # It has no keys yet.
        {"user_id": alice.user_id, "device_id": "LAPTOP", "keys": laptop_keys},
        {"user_id": alice.user_id, "device_id": "LAPTOP", "deleted": True},
    ]
    assert told.heard(told.c) == []


@pytest.mark.behaviours("SS-EDU-06")
async def test_servers_hear_of_cross_signing_keys_and_of_devices_signed_by_them(told: Told) -> None:
    alice = told.alice
    keys = identity(alice, device_key(alice))
    await upload(alice, device_keys=keys)
    master, self_signing, user_signing = cross_key(), cross_key(), cross_key()
    signing = {
        "master_key": cross_signing(alice, "master", master),
        "self_signing_key": cross_signing(alice, "self_signing", self_signing, master),
        "user_signing_key": cross_signing(alice, "user_signing", user_signing, master),
    }
    assert (await alice.post("/keys/device_signing/upload", signing)).status_code == 200
    signed_keys = signed(keys, alice.user_id, self_signing)
    for _ in range(3):  # The same again is no news.
        answer = await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: signed_keys}})
        assert answer.json() == {"failures": {}}
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "Signed"})
    heard = (await told.hears(told.b, 4))[1:]
    assert heard[0] == (
        "m.signing_key_update",
        {
            "user_id": alice.user_id,
            "master_key": signing["master_key"],
            "self_signing_key": signing["self_signing_key"],
        },
    )
    kind, update = heard[1]
    assert (kind, update["keys"]) == ("m.device_list_update", signed_keys)
    assert heard[2][1]["device_display_name"] == "Signed"


@pytest.mark.behaviours("SS-EDU-04")
async def test_who_comes_to_a_room_is_introduced_to_servers_that_do_not_know_them(told: Told) -> None:
    world = told.stage.scene.world
    dora = await world.user("dora")
    await upload(dora, device_keys=identity(dora, device_key(dora)))
    await dora.join(told.stage.room)
    [(kind, content)] = await told.hears(told.b, 1)
    assert (kind, content["user_id"], content["device_id"]) == ("m.device_list_update", dora.user_id, dora.device_id)
    # They know her: another name, or another room with them, is nothing new; another server is.
    await dora.put(f"/profile/{dora.user_id}/displayname", {"displayname": "Dora"})
    other = Scene(world, told.alice, await told.alice.create_room(preset="public_chat"))
    await other.join(BOB)
    await other.join(DAN)
    await dora.join(other.room_id)
    await told.hears(told.c, 1)
    assert len(told.heard(told.b)) == 1
    # Whoever missed nothing goes on from what it was told.
    await dora.put(f"/devices/{dora.device_id}", {"display_name": "New"})
    [_, (_, update)] = await told.hears(told.b, 2)
    assert update["prev_id"] == content["prev_id"]


async def test_many_changes_at_once_are_told_by_the_last_alone(told: Told) -> None:
    alice, world = told.alice, told.stage.scene.world
    await upload(alice, device_keys=identity(alice, device_key(alice)))
    await told.hears(told.b, 1)
    device_ids = [DeviceId(f"D{number:02}") for number in range(25)]

    def fill(tx: WriteTx) -> None:
        for device_id in device_ids:
            devices.ensure(tx, UserId(alice.user_id), device_id, display_name=None, now=0)

    await world.container.database.write(fill)
    await world.container.devices.remove(await world.container.sessions.requester(alice.token), device_ids)
    [(_, before), (_, last)] = await told.hears(told.b, 2)
    assert last["deleted"]
    # What it follows nobody was told, so the list is fetched.
    assert last["prev_id"] != [before["stream_id"]]
    assert (await told.listed())["stream_id"] == last["stream_id"]


async def test_two_thousand_servers_are_told_by_one_statement(told: Told) -> None:
    alice, database = told.alice, told.stage.scene.world.container.database
    servers = {ServerName(f"s{number}.example") for number in range(2000)}
    nid = await database.read(rooms.find_nid, RoomId(told.stage.room))
    assert nid is not None

    def put(tx: WriteTx, servers: set[ServerName]) -> None:
        room_servers.replace(tx, nid, servers, stream_rows.advance(tx))

    before = await database.read(room_servers.list_open, nid)
    await database.write(put, servers)
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        if "outgoing_edus" in arguments[2] and arguments[2].startswith("INSERT"):
            statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        await upload(alice, device_keys=identity(alice, device_key(alice)))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(statements) <= 2  # On PostgreSQL a statement is sent in pages.
    await database.write(put, before)
