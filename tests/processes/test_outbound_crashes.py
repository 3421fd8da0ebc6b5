"""The server is killed while it sends to another: what was acknowledged arrives there, in the same transactions."""

import asyncio
import http.client
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.storage import server_keys
from tests import room_graphs
from tests.processes import running, server
from tests.processes.certificates import Authority
from tests.processes.crashes import KILLS, is_running
from tests.processes.launcher import Launcher, launching
from tests.processes.talking import Connection
from tests.processes.tls_peers import TlsPeer, ok, tls_peer
from tests.services.rooms.test_branches import BOB, Scene
from tests.world import running as running_world
from tests.world import settings

B = BOB.partition(":")[2]
_SEND = "/_matrix/federation/v1/send/"
_MOST_PASSINGS = 3


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as launcher:
        yield launcher


class Sending:
    """A server that dies again and again, with somebody who talks on it."""

    def __init__(self, launcher: Launcher, folder: Path, database_url: str, more: dict[str, str]) -> None:
        self._launcher = launcher
        self._folder = folder
        self._url = database_url
        self._more = more
        self._port = server.free_port()
        self._number = 0
        self.token = ""
        self.room_id = ""
        self.acknowledged: list[int] = []

    def start(self, crash_point: str = "") -> int:
        more = {"HOMESERVER_HOST": server.HOST, "HOMESERVER_PORT": str(self._port), **self._more}
        more |= {"HOMESERVER_LIMITS_RATE_LIMITS": "false", "HOMESERVER_CRASH_POINT": crash_point}
        log = self._folder / "server.log"
        pid = self._launcher.start(["serve"], server.environment(self._folder, self._url, **more), log)
        probe = server.Server(self._folder, self._url, self._port)
        deadline = time.monotonic() + 30
        while not probe.is_healthy():
            # It may die before anybody talks: what was under way is sent at once.
            if time.monotonic() > deadline or not is_running(pid):
                return pid
            time.sleep(running.CHECK_EVERY)
        return pid

    def talk_until_dead(self) -> None:
        """Say numbers until nobody answers."""
        connection = Connection(server.HOST, self._port, self.token)
        try:
            while True:
                self._number += 1
                content = {"msgtype": "m.text", "body": str(self._number)}
                connection.call("PUT", f"/rooms/{quote(self.room_id)}/send/m.room.message/t{self._number}", content)
                self.acknowledged.append(self._number)
        except (OSError, http.client.HTTPException):
            pass

    def kill(self, point: str, passing: int) -> None:
        self.start(f"{point}:{passing}")
        self.talk_until_dead()
        assert self._launcher.wait() == -9

    def stop(self, pid: int) -> None:
        running.end(pid)
        assert self._launcher.wait() == 0

    def fsck(self) -> None:
        output = self._folder / "fsck.log"
        self._launcher.start(["fsck"], server.environment(self._folder, self._url), output)
        assert self._launcher.wait() == 0, output.read_text()


def taken(peer: TlsPeer) -> list[tuple[str, list[int]]]:
    """The transactions that came, with the numbers that were said in them."""
    found = []
    for heard in peer.heard:
        method, target, _ = heard.line.split()
        if method == "PUT" and target.startswith(_SEND):
            pdus = json.loads(heard.body)["pdus"]
            numbers = [int(pdu["content"]["body"]) for pdu in pdus if pdu["type"] == "m.room.message"]
            found.append((target.removeprefix(_SEND), numbers))
    return found


@pytest.mark.timeout(600)
@pytest.mark.trust("R1", "I8")
@pytest.mark.parametrize("point", [pytest.param(point, marks=pytest.mark.trust(point)) for point in ("K5", "K7", "K8")])
async def test_killed_at_this_point_another_server_gets_everything_once(
    point: str, launcher: Launcher, database_url: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    async with running_world(settings(database_url, str(tmp_path))) as world:
        await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
        alice = await world.user("alice")
        scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
        await scene.join(BOB)
    context = authority.issue(B).server_context()
    async with tls_peer(context, ok(b'{"pdus":{}}')) as peer:
        more = {
            "HOMESERVER_FEDERATION_ADDRESSES": json.dumps({B: peer.address}),
            "HOMESERVER_FEDERATION_CA_FILES": json.dumps([str(authority.file)]),
        }
        sending = Sending(launcher, tmp_path, database_url, more)
        sending.token, sending.room_id = alice.token, scene.room_id
        chance = random.Random(point)
        for _ in range(KILLS):
            await asyncio.to_thread(sending.kill, point, chance.randint(1, _MOST_PASSINGS))
        pid = await asyncio.to_thread(sending.start)
        wanted = set(sending.acknowledged)
        async with asyncio.timeout(30):
            await peer.until(lambda peer: wanted <= {number for _, numbers in taken(peer) for number in numbers})
        await asyncio.to_thread(sending.stop, pid)
    await asyncio.to_thread(sending.fsck)
    assert len(wanted) >= KILLS // 2
    contents: dict[str, list[int]] = {}
    for txn_id, numbers in taken(peer):
        assert contents.setdefault(txn_id, numbers) == numbers
    # Each event is in one transaction, and the transactions are in the order of what was said.
    order = [number for numbers in contents.values() for number in numbers]
    assert order == sorted(set(order))
    if point == "K8":
        assert len(taken(peer)) > len(contents)
