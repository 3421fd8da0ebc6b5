"""Restricted rooms: coming in by being in another room, with a server that lets one in."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from tests.federation.foreign import FEDERATION, ForeignRoom, bring_in, complete, hand_over, make
from tests.federation.network import Network
from tests.federation.test_joins import join_by, members_of
from tests.world import User, eventually

pytestmark = pytest.mark.anyio

AUTHORISED = "join_authorised_via_users_server"


def rules(*room_ids: str, join_rule: str = "restricted") -> dict[str, Any]:
    allow = [{"type": "m.room_membership", "room_id": room_id} for room_id in room_ids]
    return {"join_rule": join_rule, "allow": allow}


async def restricted_room(user: User, *room_ids: str, **options: Any) -> str:
    room_id = await user.create_room(**{"room_version": "11"} | options)
    await user.set_state(room_id, "m.room.join_rules", rules(*room_ids))
    return room_id


async def member(user: User, room_id: str, of: str) -> dict[str, Any]:
    answer = await user.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(of)}", format="event")
    assert answer.status_code == 200, answer.text
    event: dict[str, Any] = answer.json()
    return event


@pytest.mark.parametrize("version", ["8", "10", "12"])
@pytest.mark.behaviours("SS-JOIN-06", "CS-MEM-04")
async def test_member_of_the_other_room_comes_in(network: Network, version: str) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    other = await ann.create_room(preset="public_chat")
    room_id = await restricted_room(ann, "!unknown:q.test", other, room_version=version)
    answer = await join_by(bob, room_id, "a.test")
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")
    await join_by(bob, other, "a.test")
    answer = await join_by(bob, room_id, "a.test")
    assert answer.status_code == 200, answer.text
    for user in (ann, bob):
        assert (await member(user, room_id, bob.user_id))["content"][AUTHORISED] == ann.user_id


@pytest.mark.behaviours("SS-JOIN-06")
async def test_somebody_who_meets_no_condition_is_forbidden(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    other = await ann.create_room(preset="public_chat")
    room_id = await restricted_room(ann, other)
    answer = await join_by(bob, room_id, "a.test")
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    # An invite is enough.
    assert (await ann.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id})).status_code == 200
    assert (await join_by(bob, room_id, "a.test")).status_code == 200
    assert AUTHORISED not in (await member(ann, room_id, bob.user_id))["content"]


@pytest.mark.behaviours("SS-JOIN-06")
async def test_server_without_anybody_who_may_invite_sends_one_elsewhere(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    other = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", other, "@x:p.test")
    room_id = await restricted_room(ann, other, power_level_content_override={"invite": 50, "users_default": 0})
    amy = await a.user("amy")
    await ann.invite(room_id, amy)
    await amy.join(room_id)
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *ROOM_VERSIONS)).json()
    assert made["event"]["content"][AUTHORISED] == ann.user_id
    await ann.leave(room_id)
    answer = await make(p, "a.test", "join", room_id, "@x:p.test", *ROOM_VERSIONS)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_UNABLE_TO_GRANT_JOIN")
    answer = await hand_over(p, "a.test", "join", room_id, complete(p, made))
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_UNABLE_TO_GRANT_JOIN")


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-JOIN-06")
async def test_nothing_is_signed_for_somebody_who_meets_no_condition(network: Network) -> None:
    a = await network.server("a.test")
    ann, amy = await a.user("ann"), await a.user("amy")
    p = network.peer("p.test")
    other = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", other, "@x:p.test")
    room_id = await restricted_room(ann, other)
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *ROOM_VERSIONS)).json()
    content = made["event"]["content"]
    assert content == {"membership": "join", AUTHORISED: ann.user_id}
    for changes, status in (
        ({"sender": "@y:p.test", "state_key": "@y:p.test"}, 403),
        ({"content": {"membership": "join", AUTHORISED: amy.user_id}}, 400),
        ({"content": {"membership": "join", AUTHORISED: "@nobody:a.test"}}, 400),
        ({"content": {"membership": "join", AUTHORISED: "@x:p.test"}}, 403),
        ({"content": {"membership": "join", AUTHORISED: "@z:q.test"}}, 400),
        ({"content": {"membership": "join", AUTHORISED: 1}}, 403),
        ({"content": {"membership": "join"}}, 403),
    ):
        answer = await hand_over(p, "a.test", "join", room_id, complete(p, made, **changes))
        assert answer.status_code == status, (changes, answer.text)
        assert "signatures" not in answer.text
    assert await members_of(ann, room_id) == {ann.user_id: "join"}
    # Who has left the other room since may not come either.
    leave = (await make(p, "a.test", "leave", other, "@x:p.test")).json()
    await hand_over(p, "a.test", "leave", other, complete(p, leave))
    answer = await hand_over(p, "a.test", "join", room_id, complete(p, made))
    assert answer.status_code == 403, answer.text
    await bring_in(p, "a.test", other, "@x:p.test")
    answer = await hand_over(p, "a.test", "join", room_id, complete(p, made))
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["event"]["signatures"]) == {"a.test", "p.test"}
    # An answer that was lost is given again.
    again = await hand_over(p, "a.test", "join", room_id, complete(p, made))
    assert again.json()["event"] == answer.json()["event"]


@pytest.mark.behaviours("SS-JOIN-06")
async def test_user_is_let_in_by_another_server_of_the_room(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob, ben = await a.user("ann"), await b.user("bob"), await b.user("ben")
    other = await ann.create_room(preset="public_chat")
    room_id = await restricted_room(ann, other, power_level_content_override={"invite": 50})
    for user in (bob, ben):
        assert (await join_by(user, other, "a.test")).status_code == 200
    assert (await join_by(bob, room_id, "a.test")).status_code == 200
    await eventually(lambda: members_of(ann, other), lambda found: ben.user_id in found)
    # Nobody on this server may let others in.
    answer = await join_by(ben, room_id)
    assert answer.status_code == 200, answer.text
    for user in (ann, bob):
        assert (await member(user, room_id, ben.user_id))["content"][AUTHORISED] == ann.user_id
    # Where nobody else is reached, that is all there is to say.
    bea = await b.user("bea")
    await join_by(bea, other, "a.test")
    await eventually(lambda: members_of(ann, other), lambda found: bea.user_id in found)
    network.cut("a.test")
    assert (await join_by(bea, room_id)).status_code == 502


@pytest.mark.trust("S4")
@pytest.mark.parametrize("spoil", ["none", "unsigned", "another", "null"])
async def test_join_that_the_other_server_did_not_sign_is_none(network: Network, spoil: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host(**{AUTHORISED: room.owner})

    def welcome(seen: Any) -> Any:
        answer = room.welcome(seen)
        event = answer.pop("event")
        if spoil == "unsigned":
            answer["event"] = seen.content
        if spoil == "another":
            answer["event"] = event | {"content": {"membership": "join"}, "signatures": {"p.test": {"ed25519:1": "AA"}}}
        if spoil == "null":
            answer["event"] = None
        return answer

    room.peer.on("PUT", f"{FEDERATION}/v2/send_join/", welcome)
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 502
    assert (await bob.get("/joined_rooms")).json()["joined_rooms"] == []


async def test_only_the_signature_is_taken_of_what_comes_back(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host(**{AUTHORISED: room.owner})

    def welcome(seen: Any) -> Any:
        answer = room.welcome(seen)
        answer["event"]["content"]["displayname"] = "Fool"
        answer["event"]["signatures"]["b.test"] = {}
        return answer

    room.peer.on("PUT", f"{FEDERATION}/v2/send_join/", welcome)
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    assert (await member(bob, room.room_id, bob.user_id))["content"] == {"membership": "join", AUTHORISED: room.owner}


async def test_join_that_follows_what_is_not_known_here_waits_for_it(network: Network) -> None:
    b = await network.server("b.test")
    bob, ben = await b.user("bob"), await b.user("ben")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    rule = room.say("m.room.join_rules", rules("!unknown:p.test"), state_key="")
    await room.peer.send("b.test", "rule", rule.pdu)
    missed = room.say("m.room.message", {"body": "This was not delivered."})
    room.host(**{AUTHORISED: room.owner})
    room.peer.on("POST", f"{FEDERATION}/v1/get_missing_events/", lambda seen: {"events": [json.loads(missed.pdu)]})
    answer = await join_by(ben, room.room_id)
    assert answer.status_code == 200, answer.text
    assert await members_of(ben, room.room_id) == dict.fromkeys((room.owner, bob.user_id, ben.user_id), "join")


@pytest.mark.trust("C27", "R8")
async def test_join_that_our_signature_makes_too_large_is_refused(network: Network) -> None:
    a = await network.server("a.test")
    ann, p = await a.user("ann"), network.peer("p.test")
    other = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", other, "@x:p.test")
    room_id = await restricted_room(ann, other)
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *ROOM_VERSIONS)).json()

    def join(reason: str) -> Event:
        return complete(p, made, content=made["event"]["content"] | {"reason": reason})

    event = join("x" * (65_536 - len(join("").pdu)))
    assert len(event.pdu) == 65_536
    answer = await hand_over(p, "a.test", "join", room_id, event)
    assert (answer.status_code, answer.json()["errcode"]) == (413, "M_TOO_LARGE")
    assert await members_of(ann, room_id) == {ann.user_id: "join"}


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-JOIN-06")
async def test_nobody_comes_in_by_a_room_that_this_server_has_left(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    other = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", other, "@x:p.test")
    room_id = await restricted_room(ann, other)
    made = await make(p, "a.test", "join", room_id, "@x:p.test", *ROOM_VERSIONS)
    assert made.status_code == 200, made.text
    await ann.leave(other)
    # By what is known here the user is still in it, but nobody would have told if it were not so.
    for answer in (
        await make(p, "a.test", "join", room_id, "@x:p.test", *ROOM_VERSIONS),
        await hand_over(p, "a.test", "join", room_id, complete(p, made.json())),
    ):
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")
    assert await members_of(ann, room_id) == {ann.user_id: "join"}
