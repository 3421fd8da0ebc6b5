"""What other servers may read of rooms here: events, state, and what these rest on."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.services.rooms.receipts import Outcome
from tests.federation.network import Network, Peer
from tests.federation.test_partial_joins import arrive
from tests.room_graphs import CREATOR
from tests.services.rooms.test_branches import BOB, DAN, Scene
from tests.world import User

pytestmark = pytest.mark.anyio

V1 = "/_matrix/federation/v1"


@dataclass
class Stage:
    """A public room of alice's on `a.test`, with bob of the peer `b.example` in it; `c.example` is elsewhere."""

    network: Network
    scene: Scene
    bobs: Peer
    others: Peer

    @property
    def alice(self) -> User:
        return self.scene.alice

    @property
    def room(self) -> str:
        return self.scene.room_id

    async def get(self, peer: Peer, path: str) -> tuple[int, Any]:
        answer = await peer.call("a.test", "GET", V1 + path)
        return answer.status_code, answer.json()

    async def error(self, peer: Peer, path: str) -> tuple[int, str]:
        status, body = await self.get(peer, path)
        return status, body["errcode"]

    async def events(self) -> list[Event]:
        return (await self.scene.graph()).events


@pytest.fixture
async def stage(network: Network) -> Stage:
    a = await network.server("a.test")
    alice = await a.user("alice")
    bobs, others = network.peer("b.example"), network.peer("c.example")
    scene = Scene(a, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    return Stage(network, scene, bobs, others)


def q(text: str) -> str:
    return quote(text, safe="")


async def test_event_is_given_to_servers_in_the_room(stage: Stage) -> None:
    said = await stage.alice.send(stage.room, "hello")
    status, body = await stage.get(stage.bobs, f"/event/{q(said)}")
    assert status == 200
    assert (body["origin"], body["origin_server_ts"]) == ("a.test", stage.network.clock.now())
    [pdu] = body["pdus"]
    assert Event.parse(json.dumps(pdu).encode(), "12", said).content == {"msgtype": "m.text", "body": "hello"}
    assert "unsigned" not in pdu


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-04")
async def test_event_of_a_room_that_is_not_theirs_is_like_an_unknown_one(stage: Stage) -> None:
    said = await stage.alice.send(stage.room, "hello")
    hidden = await stage.get(stage.others, f"/event/{q(said)}")
    unknown = await stage.get(stage.others, "/event/%24unknown")
    assert hidden == unknown
    assert hidden[0] == 404
    assert (await stage.error(stage.bobs, "/event/nonsense"))[0] == 400


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-04")
async def test_event_that_nobody_of_the_server_may_see_is_redacted(stage: Stage) -> None:
    await stage.alice.set_state(stage.room, "m.room.history_visibility", {"history_visibility": "joined"})
    said = await stage.alice.send(stage.room, "a secret")
    await stage.scene.join(DAN)
    assert (await stage.get(stage.bobs, f"/event/{q(said)}"))[1]["pdus"][0]["content"]["body"] == "a secret"
    status, body = await stage.get(stage.others, f"/event/{q(said)}")
    assert status == 200
    assert body["pdus"][0]["content"] == {}
    pdu = json.dumps(body["pdus"][0]).encode()
    assert Event.parse(pdu, "12").event_id == said


@pytest.mark.behaviours("SS-BF-03")
async def test_state_is_that_before_the_event_with_its_auth_chain(stage: Stage) -> None:
    first = await stage.alice.set_state(stage.room, "m.room.topic", {"topic": "one"})
    second = await stage.alice.set_state(stage.room, "m.room.topic", {"topic": "two"})
    graph = await stage.scene.graph()
    expected = {event.event_id for event in graph.before([graph.by_id[first]]).values()}
    assert first in expected
    path = f"/state/{q(stage.room)}?event_id={q(second)}"
    status, body = await stage.get(stage.bobs, path)
    assert status == 200
    parsed = {name: [Event.parse(json.dumps(pdu).encode(), "12").event_id for pdu in body[name]] for name in body}
    assert set(parsed["pdus"]) == expected
    chain = {one for event_id in expected for one in graph.by_id[event_id].auth_events} | {graph.create.event_id}
    assert set(parsed["auth_chain"]) == chain
    status, ids = await stage.get(stage.bobs, path.replace("/state/", "/state_ids/"))
    assert {name: set(of_name) for name, of_name in ids.items()} == {
        "pdu_ids": expected,
        "auth_chain_ids": chain,
    }


@pytest.mark.behaviours("SS-BF-03")
async def test_state_before_the_create_event_is_empty(stage: Stage) -> None:
    create = (await stage.events())[0].event_id
    status, body = await stage.get(stage.bobs, f"/state/{q(stage.room)}?event_id={q(create)}")
    assert (status, body["pdus"]) == (200, [])


@pytest.mark.behaviours("SS-BF-03")
async def test_event_auth_is_what_the_event_rests_on(stage: Stage) -> None:
    said = await stage.alice.send(stage.room, "hello")
    graph = await stage.scene.graph()
    status, body = await stage.get(stage.bobs, f"/event_auth/{q(stage.room)}/{q(said)}")
    assert status == 200
    ids = [Event.parse(json.dumps(pdu).encode(), "12").event_id for pdu in body["auth_chain"]]
    direct = graph.by_id[said].auth_events
    assert set(direct) < set(ids)
    assert graph.create.event_id in ids
    # Each stands behind what it rests on.
    assert all(ids.index(cited) < ids.index(one) for one in ids for cited in graph.by_id[one].auth_events)


OF_ROOM = ["/state/{room}?event_id={event}", "/state_ids/{room}?event_id={event}", "/event_auth/{room}/{event}"]
AT_TIME = "/timestamp_to_event/{room}?ts=1700000000000&dir=b"


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-03", "SS-ACL-01")
@pytest.mark.parametrize("path", [*OF_ROOM, AT_TIME])
async def test_room_that_is_not_theirs_is_like_an_unknown_one(stage: Stage, path: str) -> None:
    said = await stage.alice.send(stage.room, "hello")
    unknown = await stage.get(stage.others, path.format(room="%21unknown", event=q(said)))
    assert unknown[0] == 403
    assert await stage.get(stage.others, path.format(room=q(stage.room), event=q(said))) == unknown
    # Who was invited, or was there once, is not in it.
    await stage.scene.join(DAN)
    assert (await stage.get(stage.others, path.format(room=q(stage.room), event=q(said))))[0] == 200
    await stage.alice.post(f"/rooms/{q(stage.room)}/kick", {"user_id": DAN})
    assert await stage.get(stage.others, path.format(room=q(stage.room), event=q(said))) == unknown


@pytest.mark.behaviours("SS-ACL-01")
@pytest.mark.parametrize("path", [*OF_ROOM, AT_TIME])
async def test_server_that_the_room_keeps_out_reads_nothing(stage: Stage, path: str) -> None:
    said = await stage.alice.send(stage.room, "hello")
    target = path.format(room=q(stage.room), event=q(said))
    assert (await stage.get(stage.bobs, target))[0] == 200
    acl = {"allow": ["*"], "deny": ["B.EXAMPLE"]}
    await stage.alice.set_state(stage.room, "m.room.server_acl", acl)
    assert await stage.error(stage.bobs, target) == (403, "M_FORBIDDEN")
    assert await stage.error(stage.bobs, f"/event/{q(said)}") == (404, "M_NOT_FOUND")


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-03")
@pytest.mark.parametrize("path", OF_ROOM)
async def test_event_of_another_room_is_like_an_unknown_one(stage: Stage, path: str) -> None:
    elsewhere = await stage.alice.send(await stage.alice.create_room(preset="public_chat"), "elsewhere")
    graph = await stage.scene.graph()
    rejected = graph.say(BOB, "m.room.topic", {"topic": "mine"}, [graph.events[-1]], state_key="")
    assert await stage.scene.outcomes(rejected) == [Outcome.REJECTED]
    unknown = await stage.get(stage.bobs, path.format(room=q(stage.room), event="%24unknown"))
    assert unknown[0] == 404
    for event_id in (elsewhere, rejected.event_id):
        assert await stage.get(stage.bobs, path.format(room=q(stage.room), event=q(event_id))) == unknown
    assert (await stage.get(stage.bobs, f"/event/{q(rejected.event_id)}"))[0] == 404


@pytest.mark.behaviours("SS-BF-05")
async def test_event_nearest_to_a_time_is_one_that_the_server_may_see(stage: Stage) -> None:
    clock = stage.network.clock
    clock.time += 10_000
    await stage.alice.set_state(stage.room, "m.room.history_visibility", {"history_visibility": "joined"})
    clock.time += 10_000
    hidden, hidden_ts = await stage.alice.send(stage.room, "before"), clock.now()
    clock.time += 10_000
    await stage.scene.join(DAN)
    seen, seen_ts = await stage.alice.send(stage.room, "after"), clock.now()
    clock.time += 10_000

    async def nearest(peer: Peer, ts: int, direction: str) -> Any:
        path = f"/timestamp_to_event/{q(stage.room)}?ts={ts}&dir={direction}"
        status, body = await stage.get(peer, path)
        return body["event_id"] if status == 200 else (status, body["errcode"])

    assert await nearest(stage.bobs, hidden_ts, "f") == hidden
    assert await nearest(stage.bobs, clock.now(), "b") == seen
    assert await nearest(stage.others, seen_ts, "b") == seen
    assert await nearest(stage.others, hidden_ts, "f") != hidden
    assert await nearest(stage.bobs, clock.now(), "f") == (404, "M_NOT_FOUND")
    assert await nearest(stage.bobs, 0, "b") == (404, "M_NOT_FOUND")
    assert await nearest(stage.bobs, 0, "x") == (400, "M_INVALID_PARAM")


STRANGE = [
    "%00",
    "%24%00",
    "%ED%A0%80",
    "%FF",
    "x" * 300,
    "%24" + "%F0%9F%98%80" * 100,
    "%21",
    "9" * 40,
    "-1",
    "..%2F..",
    "%E2%80%AE",
]


@pytest.mark.trust("C24", "C26", "R8")
@pytest.mark.parametrize(
    "path",
    [
        "/event/{x}",
        "/event_auth/{x}/{x}",
        "/event_auth/{room}/{x}",
        "/state/{x}?event_id={x}",
        "/state/{room}?event_id={x}",
        "/state_ids/{room}?event_id={x}",
        "/timestamp_to_event/{x}?ts=1&dir=f",
        "/timestamp_to_event/{room}?ts={x}&dir={x}",
        "/hierarchy/{x}?suggested_only={x}",
        "/publicRooms?limit={x}&since={x}",
        "/query/directory?room_alias={x}",
        "/query/directory?room_alias=%23{x}:a.test",
        "/query/profile?user_id={x}",
        "/query/profile?user_id=%40{x}:a.test&field={x}",
        "/query/{x}",
        "/media/download/{x}?timeout_ms={x}",
        "/media/thumbnail/{x}?width={x}&height={x}&method={x}&animated={x}",
        "/openid/userinfo?access_token={x}",
    ],
)
async def test_no_input_of_a_server_makes_this_one_fail(stage: Stage, path: str) -> None:
    for strange in STRANGE:
        status, body = await stage.get(stage.bobs, path.format(x=strange, room=q(stage.room)))
        assert status < 500, body
        if status != 200:
            assert body["errcode"].startswith("M_")


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-03", "SS-BF-04")
async def test_what_is_known_in_part_is_not_told_as_if_it_were_all(network: Network) -> None:
    scene = await arrive(network)
    others = network.peer("c.example")
    said = await scene.alice.send(scene.room, "Hello.")
    visibility = {"history_visibility": "joined"}
    hidden = scene.graph.say(CREATOR, "m.room.history_visibility", visibility, [scene.join], state_key="")
    secret = scene.graph.say(CREATOR, "m.room.message", {"body": "for those here"}, [hidden])
    assert await scene.receive(hidden, secret) == ["accepted", "accepted"]

    async def status(path: str) -> int:
        return (await others.call("localhost", "GET", V1 + path)).status_code

    state = f"/state_ids/{q(scene.room)}?event_id={q(said)}"
    assert await status(state) == 404
    assert await status(f"/event_auth/{q(scene.room)}/{q(said)}") == 200
    assert await status(f"/event/{q(said)}") == 200
    # Nobody of theirs is known to have been there, and nobody is known not to have.
    assert await status(f"/event/{q(secret.event_id)}") == 404
    await scene.become_whole()
    assert await status(state) == 200
    assert await status(f"/event/{q(secret.event_id)}") == 200
