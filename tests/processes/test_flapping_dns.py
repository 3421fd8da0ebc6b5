"""The DNS fails, flaps and tells tales, twenty times: all that was said arrives where it should, and nowhere else."""

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest

from homeserver.config.model import Federation
from homeserver.errors import Unreachable
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import ServerName
from homeserver.matrix.request_signing import sign_request
from homeserver.outbound.http import HttpTransport, opened
from homeserver.outbound.resolver import CachingResolver, DnsResolver
from homeserver.outbound.transport import Reply
from homeserver.storage import destinations, server_keys
from tests import room_graphs
from tests.processes.asking import LOCAL, ask
from tests.processes.certificates import Authority
from tests.processes.tls_peers import Heard, TlsPeer, ok, tls_peer
from tests.services.rooms.test_branches import BOB, Scene
from tests.world import StoppedClock, World, running, settings

TIMES = 20
MESSAGES = 10
AT_ONCE = 8
PATIENCE_S = 60
HOUR = 3600
B = ServerName(BOB.partition(":")[2])
FEDERATION = "/_matrix/federation/v1"

FAILING = ["SERVFAIL", "timeout"]
WEATHERS = [*FAILING, "NXDOMAIN", "nowhere", "a stranger", "right", "right"]
STRANGER, NOBODY, RIGHT = "127.0.0.5", "127.0.0.3", "127.0.0.2"
REASONS = ["has no address", "took no connection", "does not prove", "could not be looked up"]


class NameServers(dns.asyncresolver.Resolver):
    """Those of the world, which say what the weather is."""

    def __init__(self, clock: StoppedClock, port: int, lifetime_s: int) -> None:
        super().__init__(configure=False)
        self.weather = "right"
        self.asked: Counter[str] = Counter()
        self._told: dict[str, float] = {}
        """When what is right was said, of each question to which nothing else was said since then."""
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._services = {"_matrix-fed._tcp.b.example.": f"10 5 {port} host.b.example."}

    async def resolve(self, *args: Any, **options: Any) -> Any:
        name, kind = args[0].to_text(), args[1]
        question = f"{name} {kind}"
        self.asked[question] += 1
        await asyncio.sleep(0)
        if self.weather == "SERVFAIL":
            raise dns.resolver.NoNameservers
        if self.weather == "timeout":
            raise dns.exception.Timeout
        self._told.pop(question, None)
        if self.weather == "NXDOMAIN":
            raise dns.resolver.NXDOMAIN
        address = {"nowhere": NOBODY, "a stranger": STRANGER}.get(self.weather, RIGHT)
        if address == RIGHT:
            self._told[question] = self._clock.monotonic()
        records = {"SRV": self._services, "A": {"host.b.example.": address}}.get(kind, {})
        answer = dns.message.make_response(dns.message.make_query(name, kind))
        answer.flags |= dns.flags.RA
        asked = answer.question[0]
        if name in records:
            answer.answer.append(dns.rrset.from_text(asked.name, self._lifetime_s, "IN", kind, records[name]))
        message: Any = dns.message.from_wire(answer.to_wire())
        return dns.resolver.Answer(asked.name, asked.rdtype, asked.rdclass, message)

    @property
    def is_known(self) -> bool:
        """Whether what was right must serve still, though it fails now: for an hour beyond its lifetime."""
        needed = ["_matrix-fed._tcp.b.example. SRV", "host.b.example. A", "host.b.example. AAAA"]
        is_fresh = all(self._clock.monotonic() - self._told.get(one, -HOUR) < HOUR for one in needed)
        return self.weather in FAILING and is_fresh


class Destination:
    """What arrives at the server that is looked for."""

    def __init__(self) -> None:
        self.pdus: list[Any] = []
        self._taken: set[str] = set()

    async def answer(self, heard: Heard, writer: asyncio.StreamWriter) -> bool:
        """Take a transaction. The next request is on a new connection, for which the way is looked for again."""
        _, target, _ = heard.line.split()
        if target.startswith(f"{FEDERATION}/send/") and target not in self._taken:
            self._taken.add(target)
            self.pdus += json.loads(heard.body)["pdus"]
        await ok(b'{"pdus": {}}', Connection="close")(heard, writer)
        return False

    @property
    def bodies(self) -> list[str]:
        """What was said, as it came."""
        return bodies_of(self.pdus)


class Trial:
    """A server that talks to another in such weather."""

    def __init__(
        self, world: World, scene: Scene, names: NameServers, transport: HttpTransport, there: Destination
    ) -> None:
        self.world = world
        self.names = names
        self.said: list[str] = []
        self._scene = scene
        self._transport = transport
        self._there = there
        self._began = world.clock.monotonic()
        self._jumps: list[float] = []
        self._tasks, self._threads = len(asyncio.all_tasks()), threads()

    async def say(self) -> None:
        """Whatever the DNS says, one can speak."""
        self.said.append(str(len(self.said)))
        await self._scene.alice.send(self._scene.room_id, self.said[-1])

    async def ask(self) -> int:
        """Some ask for something at once: so many get it. The others are told what is wrong.

        Who could go by what was known before does.
        """
        is_known, answered = self.names.is_known, 0
        asking = [ask(self._transport, B, timeout_s=PATIENCE_S) for _ in range(AT_ONCE)]
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(answer, Reply):
                answered += 1
                continue
            assert isinstance(answer, Unreachable), answer
            assert any(reason in str(answer) for reason in REASONS), answer
            assert not is_known, (self.names.weather, answer)
        assert len(asyncio.all_tasks()) <= self._tasks + 3 * AT_ONCE
        assert threads() == self._threads
        return answered

    def let_pass(self, seconds: float) -> None:
        """So much time goes by at once."""
        self.world.clock.advance(seconds)
        if seconds:
            self._jumps.append(seconds)

    async def settle(self, *, is_to_arrive: bool) -> None:
        """Let time pass until all has arrived; or else until the sender waits for its next attempt."""
        async with asyncio.timeout(PATIENCE_S):
            while self.said[-1] not in self._there.bodies:
                row = await self.world.container.database.read(destinations.find, B)
                retry_ts = 0 if row is None or not row.failures else row.next_retry_ts or 0
                ahead_s = (retry_ts - self.world.clock.now()) / 1000
                if ahead_s <= 0:
                    self.world.clock.advance(0.25)  # An attempt is under way, or about to be.
                elif is_to_arrive:
                    self.let_pass(ahead_s + 1)
                else:
                    return
                await asyncio.sleep(0)

    async def is_whole(self) -> None:
        """What arrived did so once and in order. What was not sent, as it was hours ago, is to be had."""
        arrived = self._there.bodies
        assert arrived == sorted(set(arrived), key=int)
        newest = Event.parse(json.dumps(self._there.pdus[-1]).encode(), "12").event_id
        target = f"{FEDERATION}/get_missing_events/{quote(self._scene.room_id)}"
        body = json.dumps({"earliest_events": [], "latest_events": [newest], "limit": 2 * MESSAGES}).encode()
        key = room_graphs.key_of(B)
        signed = sign_request(key, origin=B, destination="localhost", method="POST", target=target, content=body)
        headers = {"Authorization": str(signed), "Content-Type": "application/json"}
        answer = await self.world.client.send("POST", target, headers=headers, content=body)
        assert answer.status_code == 200, answer.text
        assert {*arrived, *bodies_of(answer.json()["events"])} == set(self.said)

    def questions_are_few(self) -> None:
        """Once after each jump in time, and at most every five seconds in between."""
        between_s = self.world.clock.monotonic() - self._began - sum(self._jumps)
        assert max(self.names.asked.values()) <= 2 + len(self._jumps) + between_s / 5, self.names.asked


def bodies_of(pdus: list[Any]) -> list[str]:
    """What is said in them."""
    return [pdu["content"]["body"] for pdu in pdus if pdu["type"] == "m.room.message"]


def threads() -> set[str]:
    """The threads of this process, but for those of its database."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("sqlite-")}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # As the server does.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def trial(
    authority: Authority, database_url: str, folder: Path, lifetime_s: int
) -> AsyncIterator[tuple[Trial, TlsPeer]]:
    """It, and the server which the DNS leads to when it tells tales."""
    clock, there = StoppedClock(), Destination()
    good, bad = authority.issue(B), authority.issue("stranger.example")
    federation = Federation(ca_files=(str(authority.file),), allowed_ranges=LOCAL)
    async with (
        tls_peer(good.server_context(), there.answer, RIGHT) as peer,
        tls_peer(bad.server_context(), there.answer, STRANGER, peer.port) as stranger,
    ):
        names = NameServers(clock, peer.port, lifetime_s)
        resolver = CachingResolver(DnsResolver(names, folder / "no hosts"), clock)
        async with (
            opened(federation, clock, Randomness(), Metrics(), resolver) as transport,
            running(settings(database_url, str(folder)), clock=clock, transport=transport) as world,
        ):
            await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
            alice = await world.user("alice")
            scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
            await scene.join(BOB)
            yield Trial(world, scene, names, transport, there), stranger
            await world.fsck()


@pytest.mark.timeout(240)
@pytest.mark.trust("F28")
@pytest.mark.by_turns
@pytest.mark.parametrize("seed", range(TIMES))
async def test_a_dns_that_flaps_loses_nothing_and_is_not_asked_more(
    authority: Authority, database_url: str, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    async with trial(authority, database_url, tmp_path, chance.choice([5, 60, 600])) as (it, stranger):
        for _ in range(MESSAGES):
            it.names.weather = chance.choice(WEATHERS)
            await it.say()
            await it.ask()
            await it.settle(is_to_arrive=False)
            it.let_pass(chance.choice([0, 1, 10, 60, 300, HOUR]))
        it.names.weather = "right"
        await it.settle(is_to_arrive=True)
        it.let_pass(HOUR)
        assert await it.ask() == AT_ONCE
        it.questions_are_few()
        await it.is_whole()
    assert stranger.bytes_read == 0  # Who does not prove the name is told nothing.
