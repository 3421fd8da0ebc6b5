"""Rooms in which a policy server says which events are fit."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.signing import SigningKey, sign_event, sign_pdu, verify_events
from homeserver.outbound.transport import Reply
from homeserver.services.rooms.receipts import Outcome
from tests.federation.foreign import bring_in
from tests.federation.network import Network, Peer, Seen
from tests.federation.test_joins import join_by, members_of
from tests.federation.test_queries import refusing, unreachable
from tests.federation.test_reads import Stage, q, stage
from tests.federation.test_restricted import restricted_room
from tests.room_graphs import key_of
from tests.services.rooms.test_branches import BOB, DAN
from tests.world import User, eventually

__all__ = ["stage"]

pytestmark = pytest.mark.anyio

SIGN = "/_matrix/policy/v1/sign"
KEY = SigningKey.generate("policy_server", b"p" * 32)
POLICY = {"via": "b.example", "public_keys": {"ed25519": KEY.public_key}}


def signature(seen: Seen) -> Any:
    """What a policy server answers that likes everything."""
    event = Event.parse(json.dumps(seen.content).encode(), "12")
    signatures = sign_event(event, "b.example", KEY).signatures["b.example"]
    return {"b.example": {"ed25519:policy_server": signatures["ed25519:policy_server"]}}


@dataclass
class Policed:
    """A room with people of `c.example`, and a policy server, `b.example`."""

    stage: Stage
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, answer: Callable[[Seen], Any]) -> None:
        def note(seen: Seen) -> Any:
            self.asked.append(seen.content)
            return answer(seen)

        self.stage.bobs.on("POST", SIGN, note)

    async def say(self, body: str) -> Any:
        path = f"/rooms/{q(self.stage.room)}/send/m.room.message/{body}"
        return await self.stage.alice.put(path, {"msgtype": "m.text", "body": body})

    async def stored(self, event_id: str) -> Event:
        return (await self.stage.scene.graph()).by_id[event_id]


@pytest.fixture
async def policed(stage: Stage) -> Policed:
    await stage.scene.join(DAN)
    policed = Policed(stage)
    policed.answer(signature)
    await stage.alice.set_state(stage.room, "m.room.policy", POLICY)
    assert not policed.asked
    return policed


def is_signed(event: Event) -> bool:
    return verify_events([(event, "b.example", "ed25519:policy_server", KEY.public_key)]) == [None]


@pytest.mark.behaviours("SS-POL-01", "SS-POL-02", "SS-POL-05", "CS-SEND-12")
async def test_own_events_are_signed_by_the_policy_server_before_they_are_sent(policed: Policed) -> None:
    alice, room = policed.stage.alice, policed.stage.room
    sent = [
        (await policed.say("hello")).json()["event_id"],
        await alice.set_state(room, "m.room.topic", {"topic": "Tea"}),
        await alice.set_state(room, "m.room.policy", POLICY, "other"),
    ]
    events = [await policed.stored(event_id) for event_id in sent]
    assert [one["type"] for one in policed.asked] == [event.type for event in events]
    for event in events:
        assert is_signed(event)
        assert "a.test" in event.signatures
    # The event that names it is for the room alone to decide, and without it the room has none.
    await alice.set_state(room, "m.room.policy", {**POLICY, "more": 1})
    assert len(policed.asked) == 3
    await alice.set_state(room, "m.room.policy", {})
    assert not is_signed(await policed.stored((await policed.say("bye")).json()["event_id"]))
    assert len(policed.asked) == 3


@pytest.mark.behaviours("SS-POL-01")
@pytest.mark.parametrize(
    "policy",
    [
        {"via": "b.example"},
        {"via": "b.example", "public_keys": {"ed25519": 5}},
        {"via": "b.example", "public_keys": [KEY.public_key]},
        {"via": ["b.example"], "public_keys": {"ed25519": KEY.public_key}},
        {"via": "not here.example", "public_keys": {"ed25519": KEY.public_key}},
        {"via": "d.example", "public_keys": {"ed25519": KEY.public_key}},
        {"via": "B.EXAMPLE", "public_keys": {"ed25519": KEY.public_key}},
    ],
)
@pytest.mark.by_turns
async def test_what_names_no_server_in_the_room_is_no_policy(policed: Policed, policy: Any) -> None:
    await policed.stage.alice.set_state(policed.stage.room, "m.room.policy", policy)
    assert (await policed.say("hello")).status_code == 200
    assert not policed.asked


@pytest.mark.trust("C31", "S7")
@pytest.mark.behaviours("SS-POL-03")
@pytest.mark.parametrize(
    ("answer", "status", "errcode"),
    [
        (refusing(400, "M_FORBIDDEN"), 400, "M_FORBIDDEN"),
        (refusing(403, "COM.EXAMPLE.SPAM"), 403, "COM.EXAMPLE.SPAM"),
        (refusing(404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"),
        (refusing(418, "M_FORBIDDEN"), 403, "M_FORBIDDEN"),
        (refusing(400, "no code"), 403, "M_FORBIDDEN"),
        (refusing(403, "M_UNKNOWN_TOKEN"), 403, "M_FORBIDDEN"),
        (refusing(404, "M_UNRECOGNIZED"), 403, "M_FORBIDDEN"),
        (refusing(401), 502, "M_UNKNOWN"),
        (refusing(500), 502, "M_UNKNOWN"),
        (refusing(429, "M_LIMIT_EXCEEDED"), 429, "M_LIMIT_EXCEEDED"),
        (unreachable, 502, "M_UNKNOWN"),
        (lambda seen: {}, 403, "M_FORBIDDEN"),
        (lambda seen: {"b.example": {"ed25519:policy_server": "nonsense"}}, 403, "M_FORBIDDEN"),
        (lambda seen: {"b.example": {"ed25519:policy_server": 5}}, 403, "M_FORBIDDEN"),
        (lambda seen: {"c.example": signature(seen)["b.example"]}, 403, "M_FORBIDDEN"),
        (lambda seen: Reply(200, {}, b"[]"), 502, "M_UNKNOWN"),
    ],
)
@pytest.mark.by_turns
async def test_own_event_that_is_not_signed_is_not_sent(
    policed: Policed, answer: Any, status: int, errcode: str
) -> None:
    policed.answer(answer)
    before = await policed.stage.scene.tips()
    refused = await policed.say("spam")
    assert (refused.status_code, refused.json()["errcode"]) == (status, errcode)
    assert "soft_logout" not in refused.json()
    assert await policed.stage.scene.tips() == before
    # Whoever decides over the room can do without.
    await policed.stage.alice.set_state(policed.stage.room, "m.room.policy", {})
    assert (await policed.say("spam")).status_code == 200


@pytest.mark.behaviours("SS-POL-03")
async def test_words_of_the_policy_server_reach_the_client(policed: Policed) -> None:
    error = b'{"errcode": "ORG.EXAMPLE_SPAM", "error": "That is spam.", "soft_logout": true}'
    policed.answer(lambda seen: Reply(400, {}, error))
    answer = await policed.say("spam")
    assert (answer.status_code, answer.json()) == (400, {"errcode": "ORG.EXAMPLE_SPAM", "error": "That is spam."})


@pytest.mark.behaviours("SS-POL-04", "SS-POL-05")
async def test_received_event_is_soft_failed_unless_the_policy_server_signs_it(policed: Policed) -> None:
    scene = policed.stage.scene
    graph = await scene.graph()
    signed = graph.say(DAN, "m.room.message", {"body": "signed"}, [graph.events[-1]])
    with_it = sign_event(signed, "b.example", KEY)
    assert await scene.outcomes(with_it) == [Outcome.ACCEPTED]
    assert not policed.asked
    unsigned = graph.say(DAN, "m.room.message", {"body": "unsigned"}, [signed])
    assert await scene.outcomes(unsigned) == [Outcome.ACCEPTED]
    assert len(policed.asked) == 1
    stored = await policed.stored(unsigned.event_id)
    assert is_signed(stored)
    assert "c.example" in stored.signatures
    policed.answer(refusing(400, "M_FORBIDDEN"))
    wrong = sign_event(
        graph.say(DAN, "m.room.message", {"body": "wrong"}, [unsigned]),
        "b.example",
        SigningKey.generate("policy_server", b"x" * 32),
    )
    more = graph.say(DAN, "m.room.message", {"body": "more"}, [unsigned])
    # What the rules do not allow is not allowed, whatever a policy server thinks.
    rejected = graph.say(DAN, "m.room.topic", {"topic": "mine"}, [unsigned], state_key="")
    outcomes = await scene.outcomes(wrong, more, rejected)
    assert outcomes == [Outcome.SOFT_FAILED, Outcome.SOFT_FAILED, Outcome.REJECTED]
    assert await scene.bodies() == ["signed", "unsigned"]
    assert await scene.tips() == {unsigned.event_id}
    # It is asked once about each.
    asked = len(policed.asked)
    assert await scene.outcomes(wrong, more) == [Outcome.SOFT_FAILED, Outcome.SOFT_FAILED]
    assert len(policed.asked) == asked


@pytest.mark.trust("C31")
async def test_dead_policy_server_is_not_waited_for_with_each_event(policed: Policed) -> None:
    policed.answer(unreachable)
    scene = policed.stage.scene
    graph = await scene.graph()
    tip, events = graph.events[-1], []
    for number in range(15):
        tip = graph.say(DAN, "m.room.message", {"body": f"{number}"}, [tip])
        events.append(tip)
    for event in events:
        assert await scene.outcomes(event) == [Outcome.SOFT_FAILED]
    assert len(policed.asked) == 1
    assert (await policed.say("mine")).status_code == 502
    assert len(policed.asked) == 1


async def test_many_who_speak_at_once_are_all_signed(policed: Policed) -> None:
    answers = await asyncio.gather(*(policed.say(f"{number}") for number in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    for answer in answers:
        assert is_signed(await policed.stored(answer.json()["event_id"]))
    assert len(policed.asked) == 10
    assert len(await policed.stage.scene.tips()) == 1


@pytest.mark.behaviours("SS-POL-06")
async def test_this_server_is_no_policy_server(stage: Stage) -> None:
    answer = await stage.bobs.call("a.test", "POST", SIGN, {"type": "m.room.message"})
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_UNRECOGNIZED")
    policy = {**POLICY, "via": "a.test"}
    await stage.alice.set_state(stage.room, "m.room.policy", policy)
    path = f"/rooms/{q(stage.room)}/send/m.room.message/t"
    assert (await stage.alice.put(path, {"msgtype": "m.text", "body": "x"})).status_code == 502


async def test_end_of_an_upgraded_room_is_signed(policed: Policed) -> None:
    answer = await policed.stage.alice.post(f"/rooms/{q(policed.stage.room)}/upgrade", {"new_version": "12"})
    assert answer.status_code == 200, answer.text
    [tombstone] = [event for event in await policed.stage.events() if event.type == "m.room.tombstone"]
    assert is_signed(tombstone)


async def test_event_that_ties_branches_together_is_signed(policed: Policed) -> None:
    graph = await policed.stage.scene.graph()
    start = graph.events[-1]
    branches = [graph.say(DAN, "m.room.message", {"body": f"{number}"}, [start]) for number in range(25)]
    assert set(await policed.stage.scene.outcomes(*branches)) == {Outcome.ACCEPTED}
    assert (await policed.say("here")).status_code == 200
    events = await policed.stage.events()
    assert len(await policed.stage.scene.tips()) == 1
    after = events[[event.event_id for event in events].index(start.event_id) + 1 :]
    own = [event for event in after if event.sender == policed.stage.alice.user_id]
    assert len(own) >= 2
    assert all(is_signed(event) for event in own)


async def member(user: User, room_id: str, of: User) -> dict[str, Any]:
    answer = await user.get(f"/rooms/{q(room_id)}/state/m.room.member/{q(of.user_id)}")
    content: dict[str, Any] = answer.json()
    return content


@pytest.mark.trust("C31", "R6")
async def test_room_whose_policy_server_is_dead_keeps_nobody_from_telling_other_rooms(policed: Policed) -> None:
    alice, stage = policed.stage.alice, policed.stage
    world = stage.scene.world
    carol, dave = await world.user("carol"), await world.user("dave")
    await dave.join(stage.room)
    other = await carol.create_room(preset="public_chat")
    for user in (alice, dave):
        await user.join(other)
    stage.bobs.on("PUT", "/_matrix/federation/v1/send/", lambda seen: {"pdus": {}})
    policed.answer(unreachable)

    async def rename(user: User, name: str) -> None:
        await user.put(f"/profile/{q(user.user_id)}/displayname", {"displayname": name})

    async def becomes(room_id: str, of: User, **expected: str) -> None:
        await eventually(lambda: member(carol, room_id, of), lambda found: expected.items() <= found.items())

    await rename(alice, "Alice")
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "dave"}, "password": "davedave"}
    session = (await dave.post("/account/deactivate")).json()["session"]
    assert (await dave.post("/account/deactivate", {"auth": {**auth, "session": session}})).status_code == 200
    await rename(carol, "Carol")
    await becomes(other, carol, displayname="Carol")
    await becomes(other, alice, displayname="Alice")
    await becomes(other, dave, membership="leave")
    # What is newer is not kept waiting for what could not be told.
    await rename(alice, "Alison")
    await becomes(other, alice, displayname="Alison")
    # And what could not be told is not forgotten.
    assert "displayname" not in await member(alice, stage.room, alice)
    policed.answer(signature)

    async def later(of: User) -> dict[str, Any]:
        stage.network.clock.advance(60)
        await rename(carol, f"Carol {stage.network.clock.now()}")
        return await member(alice, stage.room, of)

    await eventually(lambda: later(alice), lambda found: found.get("displayname") == "Alison")
    await eventually(lambda: later(dave), lambda found: found["membership"] == "leave")


def as_invited(peer: Peer) -> Callable[[Seen], Any]:
    """What the server of somebody answers who is invited: the event with its own signature alone."""

    def answer(seen: Seen) -> Any:
        event = seen.content["event"]
        signed = sign_pdu(json.dumps(event).encode(), "12", peer.name, key_of(peer.name))
        return {"event": event | {"signatures": signed.signatures}}

    return answer


@pytest.mark.behaviours("SS-POL-02", "SS-POL-03", "SS-INV-02")
@pytest.mark.parametrize("server", ["e.example", "b.example"])
async def test_invite_is_signed_by_the_policy_server_before_anybody_else_sees_it(policed: Policed, server: str) -> None:
    stage = policed.stage
    peer = stage.bobs if server == "b.example" else stage.network.peer(server)
    peer.on("PUT", "/_matrix/federation/v2/invite/", as_invited(peer))
    target = f"@zoe:{server}"
    error = b'{"errcode": "M_FORBIDDEN", "error": "Not them."}'
    policed.answer(lambda seen: Reply(400, {}, error))
    before = [event.event_id for event in await stage.events()]
    refused = await stage.alice.post(f"/rooms/{q(stage.room)}/invite", {"user_id": target})
    assert (refused.status_code, refused.json()["error"]) == (400, "Not them.")
    assert not [seen for seen in peer.seen if "/invite/" in seen.target]
    assert [event.event_id for event in await stage.events()] == before
    policed.answer(signature)
    policed.asked.clear()
    stage.network.clock.advance(1)  # Of the same event it is not asked twice.
    answer = await stage.alice.post(f"/rooms/{q(stage.room)}/invite", {"user_id": target})
    assert answer.status_code == 200, answer.text
    [shown] = [seen.content["event"] for seen in peer.seen if "/invite/" in seen.target]
    assert is_signed(Event.parse(json.dumps(shown).encode(), "12"))
    invite = (await stage.events())[-1]
    assert (invite.state_key, invite.membership) == (target, "invite")
    assert is_signed(invite)
    assert {"a.test", server} < {*invite.signatures, "ed25519"}
    assert "ed25519:1" in invite.signatures[server]
    assert len(policed.asked) == 1


@pytest.mark.behaviours("SS-POL-02", "SS-POL-03", "SS-JOIN-06")
async def test_join_that_another_server_allows_is_signed_by_the_policy_server_first(network: Network) -> None:
    a, b, policy = await network.server("a.test"), await network.server("b.test"), network.peer("b.example")
    ann, bob, ben = await a.user("ann"), await b.user("bob"), await b.user("ben")
    other = await ann.create_room(preset="public_chat")
    room_id = await restricted_room(ann, other, power_level_content_override={"invite": 50})
    for user in (bob, ben):
        assert (await join_by(user, other, "a.test")).status_code == 200
    await eventually(lambda: members_of(ann, other), lambda found: ben.user_id in found)
    await bring_in(policy, "a.test", other, BOB)
    await bring_in(policy, "a.test", room_id, BOB)
    assert (await join_by(bob, room_id, "a.test")).status_code == 200
    policy.on("POST", SIGN, lambda seen: Reply(400, {}, b'{"errcode": "M_FORBIDDEN", "error": "Not them."}'))
    await ann.set_state(room_id, "m.room.policy", POLICY)
    await eventually(
        lambda: bob.get(f"/rooms/{q(room_id)}/state/m.room.policy"), lambda answer: answer.status_code == 200
    )
    # Nobody on this server may let others in.
    answer = await join_by(ben, room_id)
    assert (answer.status_code, answer.json()["error"]) == (400, "Not them.")
    assert {seen.origin for seen in policy.seen if seen.target == SIGN} == {"b.test"}
    policy.on("POST", SIGN, signature)
    network.clock.advance(1)
    assert (await join_by(ben, room_id)).status_code == 200
    assert {seen.origin for seen in policy.seen if seen.target == SIGN} == {"b.test"}
