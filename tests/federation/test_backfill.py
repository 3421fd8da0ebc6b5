"""History that other servers ask for, and history that is fetched from them."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.services.rooms.receipts import Outcome
from tests.federation.network import Network, Peer
from tests.federation.test_reads import V1, Stage
from tests.services.rooms.test_branches import BOB, DAN, Scene

pytestmark = pytest.mark.anyio


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


def ids_of(pdus: list[Any]) -> list[str]:
    return [Event.parse(json.dumps(pdu).encode(), "12").event_id for pdu in pdus]


async def backfill(stage: Stage, peer: Peer, asked: list[str], limit: int) -> list[str]:
    path = f"/backfill/{q(stage.room)}?limit={limit}" + "".join(f"&v={q(one)}" for one in asked)
    status, body = await stage.get(peer, path)
    assert status == 200, body
    assert (body["origin"], body["origin_server_ts"]) == ("a.test", stage.network.clock.now())
    return ids_of(body["pdus"])


async def missing(stage: Stage, peer: Peer, earliest: list[str], latest: list[str], **more: int) -> list[str]:
    content = {"earliest_events": earliest, "latest_events": latest, **more}
    answer = await peer.call("a.test", "POST", f"{V1}/get_missing_events/{q(stage.room)}", content)
    assert answer.status_code == 200, answer.text
    return ids_of(answer.json()["events"])


@pytest.mark.behaviours("SS-BF-01")
async def test_backfill_gives_the_events_and_those_before_them(stage: Stage) -> None:
    said = [await stage.alice.send(stage.room, f"{number}") for number in range(5)]
    everything = [event.event_id for event in await stage.events()]
    assert await backfill(stage, stage.bobs, [said[3]], 3) == [said[3], said[2], said[1]]
    assert await backfill(stage, stage.bobs, [said[4]], 100) == everything[::-1]
    assert await backfill(stage, stage.bobs, [said[1], said[3]], 2) == [said[3], said[2]]
    assert await backfill(stage, stage.bobs, ["$unknown", "", "x" * 300], 10) == []
    assert await backfill(stage, stage.bobs, [said[3]], 0) == []


@pytest.mark.behaviours("SS-BF-01", "SS-BF-02")
async def test_branches_are_walked_on_every_side(stage: Stage) -> None:
    graph = await stage.scene.graph()
    base = graph.events[-1]
    left = graph.say(BOB, "m.room.message", {"body": "left"}, [base])
    right = [graph.say(BOB, "m.room.message", {"body": "right"}, [base])]
    right.append(graph.say(BOB, "m.room.message", {"body": "more"}, [right[0]]))
    merge = graph.say(BOB, "m.room.message", {"body": "merge"}, [left, right[1]])
    assert set(await stage.scene.outcomes(left, *right, merge)) == {Outcome.ACCEPTED}
    got = await backfill(stage, stage.bobs, [merge.event_id], 5)
    assert got[:2] == [merge.event_id, right[1].event_id]
    assert set(got[2:4]) == {left.event_id, right[0].event_id}
    assert got[4] == base.event_id
    got = await missing(stage, stage.bobs, [base.event_id], [merge.event_id])
    assert set(got[:2]) == {left.event_id, right[0].event_id}
    assert got[2:] == [right[1].event_id]
    # One step is taken on each branch before the second one.
    got = await missing(stage, stage.bobs, [], [merge.event_id], limit=2)
    assert set(got) == {left.event_id, right[1].event_id}


@pytest.mark.behaviours("SS-BF-02")
async def test_missing_events_lie_between_others(stage: Stage) -> None:
    said = [await stage.alice.send(stage.room, f"{number}") for number in range(15)]
    assert await missing(stage, stage.bobs, [said[1]], [said[5]]) == said[2:5]
    assert await missing(stage, stage.bobs, [], [said[14]]) == said[4:14]
    assert await missing(stage, stage.bobs, [said[1]], [said[5]], limit=2) == said[3:5]
    assert await missing(stage, stage.bobs, [said[5]], [said[5]]) == []
    depth = (await stage.scene.graph()).by_id[said[3]].depth
    assert await missing(stage, stage.bobs, [], [said[5]], min_depth=depth) == said[3:5]
    for wrong in ({"limit": -1}, {"limit": "1"}, {"earliest_events": "x"}, {"min_depth": 1.5}):
        content = {"earliest_events": [], "latest_events": [], **wrong}
        answer = await stage.bobs.call("a.test", "POST", f"{V1}/get_missing_events/{q(stage.room)}", content)
        assert answer.status_code == 400


@pytest.mark.trust("C29")
@pytest.mark.behaviours("SS-PDU-05")
async def test_soft_failed_events_are_given_only_to_those_who_refer_to_them(stage: Stage) -> None:
    await stage.scene.join(DAN)
    before = (await stage.events())[-1]
    await stage.alice.post(f"/rooms/{q(stage.room)}/ban", {"user_id": BOB})
    graph = await stage.scene.graph()
    ban = graph.events[-1]
    evasion = graph.say(BOB, "m.room.message", {"body": "still here"}, [before])
    assert await stage.scene.outcomes(evasion) == [Outcome.SOFT_FAILED]
    rejected = graph.build(DAN, "m.room.power_levels", {"users": {DAN: 100}}, [ban], state_key="")
    assert await stage.scene.outcomes(rejected) == [Outcome.REJECTED]
    said = await stage.alice.send(stage.room, "quiet now")
    assert evasion.event_id not in await backfill(stage, stage.others, [said], 100)
    graph = await stage.scene.graph()
    follower = graph.say(DAN, "m.room.message", {"body": "I heard it"}, [evasion, graph.by_id[said]])
    assert await stage.scene.outcomes(follower) == [Outcome.ACCEPTED]
    assert evasion.event_id in await backfill(stage, stage.others, [follower.event_id], 100)
    assert evasion.event_id in await missing(stage, stage.others, [said], [follower.event_id])
    # What was rejected is given to nobody.
    assert await backfill(stage, stage.others, [rejected.event_id], 1) == [ban.event_id]


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-04")
async def test_what_nobody_of_the_server_may_see_is_redacted(stage: Stage) -> None:
    await stage.alice.set_state(stage.room, "m.room.history_visibility", {"history_visibility": "joined"})
    said = await stage.alice.send(stage.room, "a secret")
    await stage.scene.join(DAN)
    path = f"/backfill/{q(stage.room)}?v={q(said)}&limit=1"
    assert (await stage.get(stage.bobs, path))[1]["pdus"][0]["content"]["body"] == "a secret"
    [pdu] = (await stage.get(stage.others, path))[1]["pdus"]
    assert pdu["content"] == {}
    assert ids_of([pdu]) == [said]


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-04", "SS-ACL-01")
async def test_history_is_for_servers_in_the_room_alone(stage: Stage) -> None:
    said = await stage.alice.send(stage.room, "hello")
    gap = {"earliest_events": [], "latest_events": [said]}
    for room in (stage.room, "!unknown"):
        assert await stage.error(stage.others, f"/backfill/{q(room)}?v={q(said)}&limit=1") == (403, "M_FORBIDDEN")
        answer = await stage.others.call("a.test", "POST", f"{V1}/get_missing_events/{q(room)}", gap)
        assert answer.status_code == 403
    elsewhere = await stage.alice.create_room()
    other = await stage.alice.send(elsewhere, "not yours")
    assert await backfill(stage, stage.bobs, [other], 10) == []
    await stage.alice.set_state(stage.room, "m.room.server_acl", {"allow": ["*"], "deny": ["b.example"]})
    assert await stage.error(stage.bobs, f"/backfill/{q(stage.room)}?v={q(said)}&limit=1") == (403, "M_FORBIDDEN")
    assert await stage.error(stage.bobs, f"/backfill/{q(stage.room)}?v={q(said)}") == (400, "M_MISSING_PARAM")
