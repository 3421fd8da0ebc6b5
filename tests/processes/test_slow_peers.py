"""Servers that take what is sent to them and never answer, over real TLS: nobody else waits for them."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.config.model import Federation
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.outbound.http import opened
from homeserver.storage import server_keys
from tests.outbound.names import Names
from tests.processes.certificates import Authority
from tests.processes.tls_peers import TlsPeer, dripping, never, ok, tls_peer
from tests.room_graphs import server_keys as keys_of
from tests.services.rooms.test_branches import Scene
from tests.world import User, World, running, settings

LIVE = "live.test"
TAKEN = ok(b'{"pdus":{},"displayname":"Lisa"}')


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Stage:
    """A server, and a room of alice's in which a user of each of the peers is."""

    world: World
    alice: User
    room_id: str


@asynccontextmanager
async def stage(
    authority: Authority, database_url: str, folder: Path, peers: dict[str, TlsPeer], *, connections: int = 500
) -> AsyncIterator[Stage]:
    federation = Federation(
        addresses={name: peer.address for name, peer in peers.items()},
        ca_files=(str(authority.file),),
        connections=connections,
    )
    config = settings(database_url, str(folder), server_name="a.test", federation=federation)
    async with (
        opened(federation, Clock(), Randomness(), Metrics(), Names()) as transport,
        running(config, transport=transport) as world,
    ):
        alice = await world.user("alice")
        await world.container.database.write(server_keys.put_many, keys_of(list(peers)))
        scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
        for name in peers:
            await scene.join(f"@somebody:{name}")
        yield Stage(world, alice, scene.room_id)


def transactions(peer: TlsPeer) -> list[list[str]]:
    """What was said in each of the transactions that came."""
    sent = [json.loads(heard.body)["pdus"] for heard in peer.heard if "/_matrix/federation/v1/send/" in heard.line]
    return [[pdu["content"]["body"] for pdu in pdus if pdu["type"] == "m.room.message"] for pdus in sent]


def said(peer: TlsPeer) -> Sequence[str]:
    return [body for bodies in transactions(peer) for body in bodies]


@pytest.mark.trust("F24")
async def test_servers_that_never_answer_keep_nobody_waiting(
    authority: Authority, database_url: str, tmp_path: Path
) -> None:
    drops = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", every_s=1.0)
    async with AsyncExitStack() as stack:
        peers = {}
        for number, (name, answer) in enumerate({LIVE: TAKEN, "mute.test": never, "drops.test": drops}.items(), 2):
            context = authority.issue(name).server_context()
            peers[name] = await stack.enter_async_context(tls_peer(context, answer, host=f"127.0.0.{number}"))
        mute, drops_peer = peers["mute.test"], peers["drops.test"]
        on = await stack.enter_async_context(stage(authority, database_url, tmp_path, peers))
        await on.alice.send(on.room_id, "first")
        for peer in (mute, drops_peer):
            await peer.until(lambda peer: "first" in said(peer))
        bodies = [f"message {number}" for number in range(30)]
        for body in bodies:
            await on.alice.send(on.room_id, body)
        await peers[LIVE].until(lambda peer: len(said(peer)) == 31)
        assert said(peers[LIVE]) == ["first", *bodies]
        # The slow ones are still at the first transaction, on one connection each.
        assert transactions(mute) == transactions(drops_peer) == [["first"]]
        assert (mute.open_now, drops_peer.open_now) == (1, 1)


@pytest.mark.trust("F24", "R6")
async def test_however_many_never_answer_there_is_room_for_who_asks(
    authority: Authority, database_url: str, tmp_path: Path
) -> None:
    names = [f"mute{number}.test" for number in range(12)]
    async with (
        tls_peer(authority.issue(LIVE).server_context(), TAKEN, host="127.0.0.3") as live,
        tls_peer(authority.issue(*names).server_context(), never) as mute,
        stage(authority, database_url, tmp_path, dict.fromkeys(names, mute) | {LIVE: live}, connections=10) as on,
    ):
        await on.alice.send(on.room_id, "hello")
        await mute.until(lambda peer: len(transactions(peer)) >= 4)
        # Those that take long do not count among those that go on at once, up to a bound.
        for _ in range(3):
            on.world.clock.advance(6)
            profile = await on.alice.get(f"/profile/{quote(f'@lisa:{LIVE}')}")
            assert profile.json()["displayname"] == "Lisa"
        await mute.until(lambda peer: len(transactions(peer)) >= 8)
        await on.alice.send(on.room_id, "nobody here waits either")
        assert (await on.alice.get(f"/profile/{quote(f'@luke:{LIVE}')}")).json()["displayname"] == "Lisa"
        assert len(transactions(mute)) == mute.open_now == 8
