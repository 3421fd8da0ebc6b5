"""What is sent to other servers: everything, in order, once; and nothing stops it for others."""

import asyncio
import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.errors import Refused, Unreachable
from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.outbound.transport import Reply
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import destinations, events, outgoing, outgoing_edus
from homeserver.storage.destinations import Destination, Skipped
from homeserver.storage.outgoing_edus import TO_DEVICE, OutgoingEdu
from tests.federation.network import Network, Peer, Seen
from tests.services.rooms.test_branches import Scene
from tests.world import User, World, eventually, until

pytestmark = pytest.mark.anyio

SEND = "/_matrix/federation/v1/send/"
B, C = ServerName("b.example"), ServerName("c.example")
BOB, CAT, DAN = "@bob:b.example", "@cat:b.example", "@dan:c.example"
ADMIN = "/_synapse/admin/v1/federation/destinations"
MINUTE = 60.0
HOUR = 3600.0


@dataclass
class Taker:
    """A peer that takes transactions, unless it is told to be somehow else."""

    peer: Peer
    taken: list[tuple[str, Any]] = field(default_factory=list)
    """The transactions that it said it took: id and body."""
    offered: list[tuple[str, Any]] = field(default_factory=list)
    """All that came."""
    failure: Any = None
    """What it answers in place of that it took them: a reply, or an exception."""

    def __post_init__(self) -> None:
        self.peer.on("PUT", SEND, self.answer)

    def answer(self, seen: Seen) -> Any:
        transaction = seen.target.removeprefix(SEND), seen.content
        self.offered.append(transaction)
        failure = self.failure(seen.content) if callable(self.failure) else self.failure
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:
            return failure
        self.taken.append(transaction)
        return {"pdus": {}}

    @property
    def events(self) -> list[Any]:
        """The events that it took, in order."""
        return [pdu for _, body in self.taken for pdu in body["pdus"]]

    @property
    def bodies(self) -> list[str]:
        """What people said, in the order in which it came."""
        return [pdu["content"]["body"] for pdu in self.events if pdu["type"] == "m.room.message"]

    @property
    def edus(self) -> list[tuple[str, Any]]:
        return [(edu["edu_type"], edu["content"]) for _, body in self.taken for edu in body.get("edus", [])]


def message(server: ServerName, number: int, sender: str = "@alice:a.test") -> OutgoingEdu:
    """A message to devices of the server, which has this number in it."""
    return OutgoingEdu(server, TO_DEVICE, json.dumps({"n": number}).encode(), UserId(sender))


@dataclass
class Stage:
    """A room of alice's on `a.test`, with bob of `b.example` and dan of `c.example` in it."""

    network: Network
    world: World
    scene: Scene
    b: Taker
    c: Taker

    @property
    def alice(self) -> User:
        return self.scene.alice

    async def say(self, *bodies: str, room_id: str = "") -> None:
        for body in bodies:
            await self.alice.send(room_id or self.scene.room_id, body)

    async def another_room(self, *users: str) -> str:
        scene = Scene(self.world, self.alice, await self.alice.create_room(preset="public_chat"))
        for user in users:
            await scene.join(user)
        return scene.room_id

    async def restart(self) -> None:
        await self.network.stop("a.test")
        self.world = self.scene.world = await self.network.server("a.test")
        self.scene.alice.client = self.world.client

    async def destination(self, server: ServerName) -> Destination:
        found = await self.world.container.database.read(destinations.find, server)
        return found or Destination(server)

    async def has_failed(self, server: ServerName, times: int) -> None:
        """Wait until so many attempts to reach the server were in vain, and that is written down."""
        await eventually(lambda: self.destination(server), lambda row: row.failures >= times)

    async def has_delivered(self, server: ServerName) -> None:
        """Wait until it is written down that the server has everything."""

        looks = itertools.count(1)

        async def look() -> Destination:
            # It is written down within seconds; and a minute must not go by, which would be to be away.
            if next(looks) % 20 == 0:
                self.network.clock.advance(1)
            return await self.destination(server)

        await eventually(look, lambda row: row.delivered > 0 and row.txn is None)


@pytest.fixture
async def stage(network: Network) -> Stage:
    world = await network.server("a.test")
    alice = await world.user("alice")
    b, c = Taker(network.peer(B)), Taker(network.peer(C))
    scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    await scene.join(DAN)
    return Stage(network, world, scene, b, c)


@pytest.mark.behaviours("SS-PDU-10", "SS-TXN-03")
async def test_own_events_go_to_every_server_in_the_room(stage: Stage) -> None:
    elsewhere = await stage.another_room(DAN)
    await stage.say("one", "two")
    await stage.say("for c", room_id=elsewhere)
    await stage.say("three")
    await until(lambda: len(stage.b.bodies) == 3 and len(stage.c.bodies) == 4)
    assert stage.b.bodies == ["one", "two", "three"]
    assert stage.c.bodies == ["one", "two", "for c", "three"]
    [(_, first), *_] = stage.b.taken
    assert first["origin"] == "a.test"
    assert first["origin_server_ts"] == stage.network.clock.now()
    # What others say they send themselves.
    graph = await stage.scene.graph()
    said = graph.say(BOB, "m.room.message", {"body": "mine"}, [graph.events[-1]])
    await stage.scene.receive(said)
    await stage.say("after")
    await until(lambda: "after" in stage.c.bodies)
    assert "mine" not in stage.c.bodies


@pytest.mark.behaviours("SS-PDU-10")
async def test_who_is_removed_is_told_and_hears_no_more(stage: Stage) -> None:
    room = f"/rooms/{quote(stage.scene.room_id)}"
    assert (await stage.alice.post(f"{room}/ban", {"user_id": BOB})).status_code == 200
    await stage.say("after")
    await until(lambda: "after" in stage.c.bodies)
    await until(lambda: len(stage.b.events) == 1)
    [banned] = stage.b.events
    assert (banned["state_key"], banned["content"]["membership"]) == (BOB, "ban")


@pytest.mark.behaviours("CS-ACL-02")
async def test_events_are_sent_to_servers_that_the_acl_denies(stage: Stage) -> None:
    await stage.alice.set_state(stage.scene.room_id, "m.room.server_acl", {"allow": ["*"], "deny": [B]})
    await stage.say("to all the same")
    await until(lambda: stage.b.bodies == ["to all the same"])


@pytest.mark.behaviours("SS-TXN-01")
@pytest.mark.trust("F32")
async def test_transactions_are_bounded_and_one_at_a_time(stage: Stage) -> None:
    stage.b.failure = Unreachable("down")
    await stage.say("first")
    await stage.has_failed(B, 1)
    await stage.say(*(str(number) for number in range(70)))
    edus = [message(B, number) for number in range(230)]
    await stage.world.container.database.write(outgoing_edus.add_many, edus)
    # What was written down before is known to the sender when what came after it is.
    await stage.say("last")
    await until(lambda: "last" in stage.c.bodies)
    stage.b.failure = None
    stage.network.clock.advance(MINUTE)
    await until(lambda: len(stage.b.edus) == 230)
    assert stage.b.bodies == ["first", *(str(number) for number in range(70)), "last"]
    assert [content["n"] for _, content in stage.b.edus] == list(range(230))
    sizes = [(len(body["pdus"]), len(body["edus"])) for _, body in stage.b.taken]
    assert max(sizes) == (50, 100)
    assert all(pdus <= 50 and edus <= 100 for pdus, edus in sizes)
    assert len({txn_id for txn_id, _ in stage.b.taken}) == len(sizes)
    await eventually(lambda: stage.world.container.database.read(outgoing_edus.count_waiting), lambda left: left == {})


@pytest.mark.behaviours("SS-TXN-03")
@pytest.mark.trust("F26", "K8")
async def test_the_same_transaction_is_sent_until_it_is_taken(stage: Stage) -> None:
    stage.b.failure = Unreachable("the answer was lost")
    await stage.say("one")
    await stage.has_failed(B, 1)
    await stage.say("two")
    stage.network.clock.advance(10)
    await stage.has_failed(B, 2)
    # Even by another process of this server.
    await stage.restart()
    stage.b.failure = None
    stage.network.clock.advance(HOUR)
    await until(lambda: stage.b.bodies == ["one", "two"])
    ids = [txn_id for txn_id, _ in stage.b.offered]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    contents = [body["pdus"] for _, body in stage.b.offered]
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.trust("K7", "I8")
async def test_what_was_not_sent_before_the_end_is_sent_after_the_start(stage: Stage) -> None:
    stage.network.cut(B)
    await stage.say("one")
    await stage.network.stop("a.test")
    stage.network.heal(B)
    stage.network.clock.advance(HOUR)
    stage.world = await stage.network.server("a.test")
    await until(lambda: stage.b.bodies == ["one"])
    await until(lambda: stage.c.bodies == ["one"])


@pytest.mark.behaviours("SS-TXN-06")
@pytest.mark.trust("F30", "F31")
async def test_after_an_outage_the_newest_event_of_each_room_comes_first(stage: Stage) -> None:
    rooms = [stage.scene.room_id, *[await stage.another_room(BOB) for _ in range(3)]]
    stage.network.cut(B)
    for number in range(40):
        for index, room_id in enumerate(rooms):
            await stage.say(f"{index}:{number}", room_id=room_id)
    await stage.say("last")
    await until(lambda: "last" in stage.c.bodies)
    await stage.has_failed(B, 1)
    stage.network.clock.advance(2 * HOUR)
    stage.network.heal(B)
    await until(lambda: len(stage.b.bodies) >= 5)
    await stage.say("live")
    await until(lambda: "live" in stage.b.bodies)
    # First the transaction that was under way.
    under_way = len(stage.b.taken[0][1]["pdus"])
    assert stage.b.bodies[under_way:] == ["1:39", "2:39", "3:39", "last", "live"]
    # C was there all the time.
    await until(lambda: len(stage.c.bodies) == 42)


@pytest.mark.behaviours("SS-TXN-06")
@pytest.mark.trust("F24")
async def test_a_server_that_fails_is_left_alone_longer_and_longer(stage: Stage) -> None:
    stage.b.failure = Unreachable("down")
    await stage.say("one")
    await until(lambda: len(stage.b.offered) == 1)
    await stage.say("two")
    await until(lambda: "two" in stage.c.bodies)
    assert len(stage.b.offered) == 1
    attempts = 1
    for _ in range(12):
        row = await stage.destination(B)
        await stage.has_failed(B, attempts)
        row = await stage.destination(B)
        assert row.next_retry_ts is not None and row.failing_since_ts is not None
        wait_ms = row.next_retry_ts - stage.network.clock.now()
        assert 1_600 <= wait_ms <= max(2_400, 1.2 * (stage.network.clock.now() - row.failing_since_ts) / 4)
        before = len(stage.b.offered)
        stage.network.clock.advance(wait_ms / 1000 - 1)
        await stage.world.container.database.ping()
        assert len(stage.b.offered) == before
        stage.network.clock.advance(2)
        attempts += 1
    assert {txn_id for txn_id, body in stage.b.offered if body["pdus"]} == {stage.b.offered[0][0]}


@pytest.mark.behaviours("SS-TXN-06")
@pytest.mark.trust("F30")
async def test_a_sign_of_life_ends_the_wait(stage: Stage) -> None:
    stage.network.cut(B)
    await stage.say("one")
    for number in range(1, 10):
        await stage.has_failed(B, number)
        stage.network.clock.advance(2 * HOUR)
    stage.network.heal(B)
    assert stage.b.bodies == []
    answer = await stage.b.peer.call("a.test", "GET", "/_matrix/federation/v1/query/profile?user_id=%40alice%3Aa.test")
    assert answer.status_code != 401
    await until(lambda: stage.b.bodies == ["one"])


@pytest.mark.trust("F25")
@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, {}, b"<html>"),
        Reply(200, {}, b""),
        Reply(200, {}, b"[]"),
        Reply(302, {"location": "https://elsewhere.test"}, b""),
        Reply(418, {}, b'{"errcode": "M_UNKNOWN_TOKEN"}'),
        Reply(500, {}, b"\xff\xfe"),
        Reply(500, {}, b'{"errcode": "M_\\u0000", "error": "\\u0000\\u001b[2J\\ud83d\\ude00"}'),
        Reply(429, {"retry-after": "99999999999999999999"}, b"{}"),
        Reply(429, {"retry-after": "-5"}, b'{"retry_after_ms": -1e308}'),
        Reply(429, {}, b'{"retry_after_ms": 1e308}'),
        Reply(429, {"retry-after": "NaN"}, b'{"retry_after_ms": "NaN"}'),
    ],
)
@pytest.mark.by_turns
async def test_garbage_is_a_failure_like_any_other(stage: Stage, reply: Reply) -> None:
    stage.b.failure = reply
    await stage.say("one")
    await stage.has_failed(B, 1)
    row = await stage.destination(B)
    assert row.next_retry_ts is not None
    assert 1_000 <= row.next_retry_ts - stage.network.clock.now() <= HOUR * 1000
    await until(lambda: stage.c.bodies == ["one"])
    stage.b.failure = None
    stage.network.clock.advance(HOUR)
    await until(lambda: stage.b.bodies == ["one"])


@pytest.mark.trust("F26")
@pytest.mark.parametrize(
    "results", [{}, [], {"$x": {"error": "no"}}, {"$x": "no"}, {"$x": {"error": {"a": ["deep"]}}}, None]
)
async def test_a_transaction_that_was_taken_is_not_sent_again_whatever_became_of_its_events(
    stage: Stage, results: Any
) -> None:
    stage.b.peer.on("PUT", SEND, lambda seen: {"pdus": results})
    await stage.say("one")
    await stage.has_delivered(B)
    stage.b.peer.on("PUT", SEND, stage.b.answer)
    await stage.say("two")
    await until(lambda: stage.b.bodies == ["two"])


@pytest.mark.trust("F27")
@pytest.mark.parametrize("failure", [Reply(400, {}, b'{"errcode": "M_BAD_JSON"}'), Unreachable("it breaks")])
async def test_an_event_that_is_always_refused_is_found_and_left_out(stage: Stage, failure: Any) -> None:
    stage.b.failure = Unreachable("down")
    await stage.say("first")
    await stage.has_failed(B, 1)
    await stage.say(*(str(number) for number in range(20)))

    def refuses(body: Any) -> Any:
        return failure if any(pdu["content"]["body"] == "13" for pdu in body["pdus"]) else None

    stage.b.failure = refuses

    async def look() -> int:
        stage.network.clock.advance(1)
        await stage.world.container.database.ping()
        return len(stage.b.bodies)

    await eventually(look, lambda count: count == 20)
    assert stage.b.bodies == ["first", *(str(number) for number in range(20) if number != 13)]
    skipped = await stage.world.container.database.read(destinations.list_skipped, B, limit=10)
    assert len(skipped) == 1
    await stage.say("live")
    await until(lambda: stage.b.bodies[-1] == "live")


@pytest.mark.trust("F27")
async def test_data_that_is_always_refused_is_left_out_too(stage: Stage) -> None:
    def refuses(body: Any) -> Any:
        return Reply(500, {}, b"{}") if any(edu["content"]["n"] == 3 for edu in body["edus"]) else None

    stage.b.failure = refuses
    edus = [message(B, number) for number in range(8)]
    await stage.world.container.database.write(outgoing_edus.add_many, edus)
    await stage.has_failed(B, 1)
    stage.network.clock.advance(MINUTE)

    async def look() -> int:
        stage.network.clock.advance(1)
        await stage.world.container.database.ping()
        return len(stage.b.edus)

    await eventually(look, lambda count: count == 7)
    assert [content["n"] for _, content in stage.b.edus] == [0, 1, 2, 4, 5, 6, 7]

    async def skipped() -> list[Skipped]:
        return await stage.world.container.database.read(destinations.list_skipped, B, limit=10)

    await eventually(skipped, lambda found: len(found) == 1)
    await eventually(lambda: stage.world.container.database.read(outgoing_edus.count_waiting), lambda left: left == {})


@pytest.mark.trust("F27")
async def test_a_server_that_refuses_everything_is_sent_everything_later(stage: Stage) -> None:
    stage.b.failure = Reply(500, {}, b"{}")
    await stage.say("one")
    for failures in range(1, 8):
        await stage.has_failed(B, failures)
        stage.network.clock.advance(2 * HOUR)
    stage.b.failure = None
    stage.network.clock.advance(2 * HOUR)
    await until(lambda: stage.b.bodies == ["one"])
    assert await stage.world.container.database.read(destinations.list_skipped, B, limit=10) == []


@pytest.mark.trust("F33")
async def test_ephemeral_data_goes_along_and_is_forgotten_for_who_is_down(stage: Stage) -> None:
    ephemeral = stage.world.container.ephemeral
    ephemeral.put([B, C, ServerName("a.test")], "m.typing", "!room", b'{"typing":true}')
    await until(lambda: stage.b.edus == stage.c.edus == [("m.typing", {"typing": True})])
    stage.b.failure = Unreachable("down")
    await stage.say("one")
    for failures in (1, 2, 3):
        await stage.has_failed(B, failures)
        stage.network.clock.advance(MINUTE)
    await stage.has_failed(B, 4)
    for number in range(3):
        ephemeral.put([B, C], "m.typing", "!room", json.dumps({"n": number}).encode())
    await until(lambda: ("m.typing", {"n": 2}) in stage.c.edus)
    stage.b.failure = None
    stage.network.clock.advance(HOUR)
    await until(lambda: stage.b.bodies == ["one"])
    ephemeral.put([B], "m.typing", "!room", b'{"n":3}')
    await until(lambda: len(stage.b.edus) == 2)
    assert stage.b.edus[-1] == ("m.typing", {"n": 3})


@pytest.mark.behaviours("SS-JOIN-04")
async def test_what_this_server_let_in_is_sent_to_the_others(stage: Stage) -> None:
    graph = await stage.scene.graph()
    joined = graph.say(CAT, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=CAT)
    await stage.scene.receive(joined)
    position = (await stage.world.container.database.read(_positions, joined.event_id))[0]
    await stage.world.container.database.write(outgoing.forward, position, B)
    await until(lambda: len(stage.c.events) == 1)
    assert stage.c.events[0]["state_key"] == CAT
    await stage.say("after")
    await until(lambda: stage.b.bodies == ["after"])
    assert len(stage.b.events) == 1


@pytest.mark.trust("F24", "R5")
async def test_a_slow_server_keeps_nobody_waiting(stage: Stage) -> None:
    stage.network.peers.pop(B)
    # It takes a request, and never answers.
    stage.network.clients[B] = _Silent()  # type: ignore[assignment]
    for number in range(5):
        await stage.say(str(number))
    await until(lambda: len(stage.c.bodies) == 5)
    del stage.network.clients[B]


class _Silent:
    async def send(self, *_: Any, **__: Any) -> Any:
        raise TimeoutError


def _positions(tx: Any, event_id: str) -> list[int]:
    return list(events.find_positions(tx, [event_id]).values())  # type: ignore[list-item]


@pytest.mark.trust("C14")
async def test_administrators_are_told_how_it_goes(stage: Stage) -> None:
    stage.b.failure = Unreachable("There is nobody.")
    await stage.say("one", "two")
    await stage.has_failed(B, 1)
    await until(lambda: stage.c.bodies == ["one", "two"])
    await stage.has_delivered(C)
    stage.network.clock.advance(MINUTE)
    await stage.has_failed(B, 2)
    device = NewDevice(None, None, refreshable=False)
    _, session = await stage.world.container.accounts.register("root", "rootroot", device, is_admin=True)
    assert session is not None

    async def ask(method: str, path: str = "", token: str = session.tokens.access_token) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        answer = await stage.world.client.send(method, ADMIN + path, headers=headers)
        return answer.status_code, answer.json()

    status, page = await ask("GET")
    assert status == 200
    assert [one["destination"] for one in page["destinations"]] == [B, C]
    b, c = page["destinations"]
    assert b["failures"] >= 2
    assert b["backlog"] == {"events": 2, "rooms": 1, "others": 0}
    assert b["words"][0].startswith("It has not taken what is sent to it for 1 minute; it was tried ")
    assert "There is nobody." in b["words"][1]
    assert b["words"][-1] == "It lacks 2 events of 1 room."
    assert c["words"][0].startswith("It took something 1 minute")
    assert c["words"][1:] == ["It lacks nothing."]
    assert (await ask("GET", "?from=1&limit=1"))[1]["destinations"] == [c]
    assert (await ask("GET", "?destination=B.EX"))[1]["total"] == 1
    # It may have been tried again meanwhile.
    assert (await ask("GET", f"/{B}"))[1]["words"][1::2] == b["words"][1::2]
    assert (await ask("GET", "/unknown.test"))[0] == 404
    stage.b.failure = None
    assert await ask("POST", f"/{B}/reset_connection") == (200, {})
    await until(lambda: stage.b.bodies == ["one", "two"])
    for method, path in (("GET", ""), ("GET", f"/{B}"), ("POST", f"/{B}/reset_connection")):
        assert (await ask(method, path, stage.alice.token))[0] == 403


async def test_who_is_known_to_be_down_is_not_waited_for(stage: Stage) -> None:
    stage.network.cut(B)
    await stage.say("one")
    for failures in (1, 2, 3):
        await stage.has_failed(B, failures)
        if failures < 3:
            stage.network.clock.advance(MINUTE)
    client = stage.world.container.federation
    with pytest.raises(Unreachable, match="is down, as it was a moment ago"):
        await client.query_profile(B, UserId(BOB))
    # After a while it is worth a try: then nobody has to wait for the next transaction either.
    stage.network.heal(B)
    stage.network.clock.advance(61)
    with pytest.raises(Refused):
        await client.query_profile(B, UserId(BOB))
    stage.b.peer.on("GET", "/_matrix/federation/v1/query/profile", lambda seen: {})
    assert await client.query_profile(B, UserId(BOB)) == {}
    await until(lambda: stage.b.bodies == ["one"])


@pytest.mark.trust("F31")
async def test_after_having_been_away_this_server_gives_a_sign_of_life(stage: Stage) -> None:
    await stage.say("one")
    await stage.has_delivered(B)
    await stage.has_delivered(C)
    offered = len(stage.b.offered)
    await stage.restart()
    await stage.say("two")
    await until(lambda: stage.b.bodies == ["one", "two"])
    # It was not away for long, so nobody has given it up.
    assert all(body["pdus"] for _, body in stage.b.offered)
    await stage.has_delivered(B)
    await stage.has_delivered(C)
    await stage.network.stop("a.test")
    stage.network.clock.advance(HOUR)
    stage.world = await stage.network.server("a.test")
    await until(lambda: len(stage.b.taken) == offered + 2 and len(stage.c.taken) == offered + 2)
    assert stage.b.taken[-1][1]["pdus"] == []


@pytest.mark.trust("F32", "R8")
async def test_a_server_that_is_always_busy_and_keeps_up_has_no_old_backlog(stage: Stage) -> None:
    may_take = asyncio.Semaphore(0)

    async def take(seen: Seen) -> Any:
        if seen.content["pdus"]:  # What else comes, as presence, comes when it likes.
            await may_take.acquire()
        return stage.b.answer(seen)

    stage.b.peer.on("PUT", SEND, take)
    await stage.say("0")
    await until(lambda: any(one.content and one.content.get("pdus") for one in stage.b.peer.seen))
    for number in range(1, 6):
        stage.network.clock.advance(MINUTE)
        # There is something new whenever it has taken something.
        await stage.say(str(number))
        await until(lambda count=number: len(stage.c.bodies) == count + 1)  # type: ignore[misc]
        may_take.release()
        await until(lambda count=number: len(stage.b.bodies) == count)  # type: ignore[misc]
    text = (await stage.world.client.get("/metrics")).text
    [age] = re.findall(r'homeserver_federation_oldest_backlog_seconds{state="live"} (\S+)', text)
    assert 0 < float(age) <= MINUTE * 1.5
    may_take.release()


@pytest.mark.trust("F32", "R8")
async def test_the_backlog_is_seen_by_state_and_not_by_server(stage: Stage) -> None:
    async def seen(metric: str) -> dict[str, float]:
        text = (await stage.world.client.get("/metrics")).text
        assert B not in text
        return {state: float(value) for state, value in re.findall(rf'{metric}{{state="([a-z ]+)"}} (\S+)', text)}

    await stage.say("one")
    await until(lambda: stage.b.bodies == stage.c.bodies == ["one"])
    assert await seen("federation_destinations") == {"live": 2, "catching up": 0, "backing off": 0}
    stage.b.failure = Unreachable("down")
    await stage.say("two")
    await stage.has_failed(B, 1)
    stage.network.clock.advance(HOUR)
    await stage.world.container.database.write(outgoing_edus.add_many, [message(B, 1)])
    await stage.has_failed(B, 2)
    assert await seen("federation_destinations") == {"live": 1, "catching up": 0, "backing off": 1}
    ages = await seen("federation_oldest_backlog_seconds")
    assert ages["backing off"] >= HOUR
    assert ages["live"] < MINUTE

    async def waiting() -> bool:
        stage.network.clock.advance(MINUTE + 1)
        return "homeserver_federation_edus_waiting 1.0" in (await stage.world.client.get("/metrics")).text

    await eventually(waiting, lambda found: found)
    stage.b.failure = None
    stage.network.clock.advance(HOUR)
    await until(lambda: stage.b.bodies == ["one", "two"])
    await eventually(lambda: seen("federation_destinations"), lambda states: states["live"] == 2)
