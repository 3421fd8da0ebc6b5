"""Inviting users of other servers, and being invited by them."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId
from homeserver.matrix.signing import sign_pdu
from tests.federation.foreign import FEDERATION, ForeignRoom, bring_in, refusal
from tests.federation.network import Network, Seen
from tests.federation.test_joins import VERSIONS, join_by, members_of
from tests.room_graphs import Graph, key_of
from tests.world import User, World, eventually

pytestmark = pytest.mark.anyio


async def invite(user: User, room_id: str, target: str, **more: Any) -> Any:
    return await user.post(f"/rooms/{quote(room_id)}/invite", {"user_id": target} | more)


async def invites(user: User, since: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The stripped state of the rooms to which there are invites."""
    found = (await user.sync(since)).get("rooms", {}).get("invite", {})
    return {room_id: entry["invite_state"]["events"] for room_id, entry in found.items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("SS-INV-01", "SS-INV-02", "CS-MEM-01")
@pytest.mark.by_turns
async def test_invited_user_sees_the_room_and_comes_in(network: Network, version: str) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    await ann.put(f"/profile/{ann.user_id}/displayname", {"displayname": "Ann"})
    before = (await bob.sync())["next_batch"]
    room_id = await ann.create_room(room_version=version, name="Here")
    answer = await invite(ann, room_id, bob.user_id, reason="Please.")
    assert answer.status_code == 200, answer.text
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "invite"}
    [(invited_to, state)] = (await invites(bob, before)).items()
    assert invited_to == room_id
    told = {(event["type"], event["state_key"]): event for event in state}
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} < {kind for kind, _ in told}
    assert told["m.room.member", bob.user_id]["content"] == {"membership": "invite", "reason": "Please."}
    assert told["m.room.member", ann.user_id]["content"]["displayname"] == "Ann"
    assert set(state[0]) == {"type", "state_key", "sender", "content"}
    # The server of whoever sent the invite is asked, without its being named.
    assert (await bob.post(f"/rooms/{quote(room_id)}/join")).status_code == 200
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "join"}
    synced = await bob.sync()
    assert list(synced["rooms"]) == ["join"]


@pytest.mark.behaviours("CS-MEM-02", "SS-INV-05")
async def test_invite_again_is_nothing_new(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob, ben = await a.user("ann"), await b.user("bob"), await b.user("ben")
    room_id = await ann.create_room(preset="public_chat")
    for _ in range(2):
        assert (await invite(ann, room_id, bob.user_id)).status_code == 200
    await join_by(bob, room_id)
    assert (await invite(ann, room_id, bob.user_id)).status_code == 403
    # A server that is in the room takes its invite once, with the room's events.
    since = (await ben.sync())["next_batch"]
    assert (await invite(ann, room_id, ben.user_id)).status_code == 200
    found = await ben.sync(since, timeout=10_000)
    assert list(found["rooms"]["invite"]) == [room_id]
    assert await members_of(bob, room_id) == {ann.user_id: "join", bob.user_id: "join", ben.user_id: "invite"}
    assert (await ben.sync(found["next_batch"])).get("rooms") is None


async def test_invite_survives_a_restart(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    assert (await room.send_invite("b.test", room.invite(bob.user_id))).status_code == 200
    await network.stop("b.test")
    b = await network.server("b.test")
    bob = await again(b, bob)
    assert list(await invites(bob)) == [room.room_id]
    room.take(room.invite(bob.user_id))
    assert (await join_by(bob, room.room_id)).status_code == 200
    assert await invites(bob) == {}


async def again(world: World, user: User) -> User:
    """The same user of a server that was started again."""
    return User(world.client, user.user_id, user.device_id, user.token)


@pytest.mark.behaviours("CS-MEM-08")
async def test_invite_may_be_rejected(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await ann.create_room()
    await invite(ann, room_id, bob.user_id)
    since = (await bob.sync())["next_batch"]
    await bob.leave(room_id)
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "leave"}
    left = await bob.sync(since)
    assert list(left["rooms"]) == ["leave"]
    [event] = left["rooms"]["leave"][room_id]["timeline"]["events"]
    assert (event["type"], event["state_key"], event["content"]) == (
        "m.room.member",
        bob.user_id,
        {"membership": "leave"},
    )
    assert "rooms" not in await bob.sync()
    assert "rooms" not in await bob.sync(left["next_batch"])
    # And again, from the beginning.
    await invite(ann, room_id, bob.user_id)
    assert list(await invites(bob)) == [room_id]
    assert (await bob.post(f"/rooms/{room_id}/forget")).status_code == 400
    await bob.leave(room_id)
    assert (await bob.post(f"/rooms/{room_id}/forget")).status_code == 200


async def test_ignored_users_invites_are_not_shown(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    await bob.put(f"/user/{bob.user_id}/account_data/m.ignored_user_list", {"ignored_users": {room.owner: {}}})
    assert (await room.send_invite("b.test", room.invite(bob.user_id))).status_code == 200
    assert await invites(bob) == {}


@pytest.mark.behaviours("CS-INVP-01", "SS-INV-03")
async def test_user_who_wants_no_invites_gets_none(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    await bob.put(f"/user/{bob.user_id}/account_data/m.invite_permission_config", {"default_action": "block"})
    room_id = await ann.create_room()
    for answer in (
        await invite(ann, room_id, bob.user_id),
        await ann.put(f"/rooms/{room_id}/state/m.room.member/{bob.user_id}", {"membership": "invite"}),
        await ann.post("/createRoom", {"invite": [bob.user_id]}),
    ):
        assert (answer.status_code, answer.json()["errcode"]) == (403, "M_INVITE_BLOCKED")
    assert await members_of(ann, room_id) == {ann.user_id: "join"}
    assert await invites(bob) == {}
    assert (await ann.get("/joined_rooms")).json()["joined_rooms"] == [room_id]


@pytest.mark.behaviours("SS-INV-03")
async def test_invites_of_those_who_are_not_are_refused(network: Network) -> None:
    a, _ = await network.server("a.test"), await network.server("b.test")
    ann = await a.user("ann")
    room_id = await ann.create_room()
    answer = await invite(ann, room_id, "@nobody:b.test")
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    answer = await invite(ann, room_id, "@x:gone.test")
    assert answer.status_code == 502


async def test_direct_room_is_made_with_its_invite_or_not_at_all(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await ann.create_room(preset="trusted_private_chat", is_direct=True, invite=[bob.user_id])
    [state] = (await invites(bob)).values()
    own = next(event for event in state if event["state_key"] == bob.user_id)
    assert own["content"] == {"membership": "invite", "is_direct": True}
    assert (await join_by(bob, room_id)).status_code == 200
    answer = await ann.post("/createRoom", {"invite": [bob.user_id, "@x:gone.test"]})
    assert answer.status_code == 502
    assert (await ann.get("/joined_rooms")).json()["joined_rooms"] == [room_id]


@pytest.mark.trust("R6")
async def test_a_room_begins_with_hundreds_of_invites_some_at_a_time(network: Network) -> None:
    ann = await (await network.server("a.test")).user("ann")
    p = network.peer("p.test")
    under_way: list[str] = []
    most = 0

    async def sign(seen: Seen) -> Any:
        nonlocal most
        under_way.append(seen.target)
        most = max(most, len(under_way))
        for _ in range(20):
            await asyncio.sleep(0)
        under_way.remove(seen.target)
        signed = sign_pdu(json.dumps(seen.content["event"]).encode(), "12", "p.test", key_of("p.test"))
        return {
            "event": seen.content["event"] | {"signatures": seen.content["event"]["signatures"] | signed.signatures}
        }

    p.on("PUT", f"{FEDERATION}/v2/invite/", sign)
    invited = [f"@u{number}:p.test" for number in range(150)]
    room_id = await ann.create_room(invite=invited)
    assert await members_of(ann, room_id) == dict.fromkeys(invited, "invite") | {ann.user_id: "join"}
    assert 1 < most <= 50


@pytest.mark.trust("R6", "S8")
async def test_where_there_will_be_no_room_nobody_else_is_invited_to_it(network: Network) -> None:
    ann = await (await network.server("a.test")).user("ann")
    p = network.peer("p.test")
    p.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: refusal(403, "M_FORBIDDEN"))
    answer = await ann.post("/createRoom", {"invite": [f"@u{number}:p.test" for number in range(150)]})
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    assert len([seen for seen in p.seen if "/invite/" in seen.target]) <= 50
    assert (await ann.get("/joined_rooms")).json()["joined_rooms"] == []


@pytest.mark.behaviours("SS-INV-04")
@pytest.mark.parametrize(("version", "expected"), [("1", 200), ("2", 200), ("3", 404), ("12", 404)])
async def test_older_servers_are_invited_the_older_way(network: Network, version: str, expected: int) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")

    def old(seen: Seen) -> Any:
        assert seen.content["unsigned"]["invite_room_state"]
        signed = sign_pdu(json.dumps(seen.content).encode(), version, "p.test", key_of("p.test"))
        both = seen.content["signatures"] | signed.signatures
        return [200, {"event": seen.content | {"signatures": both}}]

    p.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: refusal(404, "M_NOT_FOUND"))
    p.on("PUT", f"{FEDERATION}/v1/invite/", old)
    room_id = await ann.create_room(room_version=version)
    answer = await invite(ann, room_id, "@x:p.test")
    assert answer.status_code == expected, answer.text
    asked = [seen.target.split("/")[3] for seen in p.seen if "/invite/" in seen.target]
    assert asked == (["v2", "v1"] if expected == 200 else ["v2"])
    if expected == 200:
        assert await members_of(ann, room_id) == {ann.user_id: "join", "@x:p.test": "invite"}


@pytest.mark.trust("S4")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: {},
        lambda event: {"event": None},
        lambda event: {"event": []},
        lambda event: {"event": event},
        lambda event: {"event": event | {"signatures": {"p.test": {}}}},
        lambda event: {"event": event | {"signatures": {"p.test": {"ed25519:1": "AAAA"}}}},
        lambda event: {"event": event | {"signatures": {"p.test": []}}},
    ],
)
@pytest.mark.by_turns
async def test_invite_that_was_not_signed_is_not_sent(network: Network, spoil: Any) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    p.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: spoil(seen.content["event"]))
    room_id = await ann.create_room()
    assert (await invite(ann, room_id, "@x:p.test")).status_code == 502
    assert await members_of(ann, room_id) == {ann.user_id: "join"}


async def test_nothing_but_the_signature_is_taken_of_what_comes_back(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")

    def answer(seen: Seen) -> Any:
        event = seen.content["event"]
        signed = sign_pdu(json.dumps(event).encode(), "11", "p.test", key_of("p.test"))
        changed = event | {"content": {"membership": "join"}, "type": "m.room.power_levels", "unsigned": {"x": 1}}
        return {"event": changed | {"signatures": signed.signatures | {"a.test": {}}}}

    p.on("PUT", f"{FEDERATION}/v2/invite/", answer)
    room_id = await ann.create_room(room_version="11")
    # The event is signed as it was sent: what was changed in the answer beside the signature does not count.
    assert (await invite(ann, room_id, "@x:p.test")).status_code == 200
    assert await members_of(ann, room_id) == {ann.user_id: "join", "@x:p.test": "invite"}


@pytest.mark.behaviours("SS-INV-02")
async def test_invited_server_is_told_whole_events(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    p.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: refusal(403, "M_FORBIDDEN"))
    room_id = await ann.create_room(room_version="12", name="Here", topic="This.")
    answer = await invite(ann, room_id, "@x:p.test")
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    [body] = [seen.content for seen in p.seen if "/invite/" in seen.target]
    assert body["room_version"] == "12"
    told = [Event.parse(json.dumps(one).encode(), "12") for one in body["invite_room_state"]]
    assert {one.room_id for one in told} == {room_id}
    assert all(one.content_hash_matches() for one in told)
    assert {"m.room.create", "m.room.name", "m.room.topic"} < {one.type for one in told}


BAD = [
    {"type": "m.room.message"},
    {"type": "m.room.power_levels"},
    {"content": {"membership": "join"}},
    {"content": {"membership": "leave"}},
    {"content": {"membership": "ban"}},
    {"content": {}},
    {"sender": "@owner:q.test"},
    {"sender": "@bob:b.test"},
    {"state_key": "@owner:p.test"},
    {"state_key": "@x:q.test"},
    {"state_key": "bob"},
    {"state_key": ""},
    {"state_key": None},
    {"room_id": "!other:p.test"},
    {"prev_events": []},
]


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-INV-01")
@pytest.mark.parametrize("changes", BAD)
@pytest.mark.parametrize("version", ["1", "11", "12"])
@pytest.mark.by_turns
async def test_nothing_is_signed_that_is_no_invite_of_ours(
    network: Network, version: str, changes: dict[str, Any]
) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), version)
    fields = json.loads(room.invite(bob.user_id).pdu) | changes
    pdu = {key: value for key, value in fields.items() if value is not None}
    event = sign_pdu(json.dumps(pdu).encode(), version, "p.test", key_of("p.test"))
    answer = await room.send_invite("b.test", event)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), answer.text
    assert "b.test" not in answer.json().get("signatures", {})
    assert await invites(bob) == {}


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-INV-01")
async def test_invite_must_be_signed_by_its_server_and_be_the_one_of_the_path(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    event = room.invite(bob.user_id)
    pdu = json.loads(event.pdu)
    by_another = json.loads(sign_pdu(event.pdu, "11", "q.test", key_of("q.test")).pdu)
    network.peer("q.test")
    bodies: list[Any] = [
        pdu | {"signatures": {}},
        by_another,
        pdu | {"content": {"membership": "invite", "displayname": "X"}},
        {},
    ]
    for bad in bodies:
        answer = await room.send_invite("b.test", event, event=bad)
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), answer.text
    # By a third-party invite somebody may be named as the sender whose server has not signed: not to us.
    third = {"membership": "invite", "third_party_invite": {"signed": {"mxid": bob.user_id, "token": "t"}}}
    by_proof = sign_pdu(json.dumps(pdu | {"content": third}).encode(), "11", "p.test", key_of("p.test"))
    unsigned = json.loads(by_proof.pdu) | {"signatures": {}}
    answer = await room.send_invite("b.test", by_proof, event=unsigned)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), answer.text
    bodies = [[], 1, "x", None]
    for bad in bodies:
        assert (await room.send_invite("b.test", event, event=bad)).status_code == 400
    answer = await room.peer.call("b.test", "PUT", f"{FEDERATION}/v2/invite/{room.room_id}/$x", {"room_version": "11"})
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_MISSING_PARAM")
    assert await invites(bob) == {}
    answer = await room.send_invite("b.test", event)
    signed = answer.json()["event"]
    assert set(signed["signatures"]) == {"b.test", "p.test"}
    # Only the signature is added.
    assert {key: value for key, value in signed.items() if key != "signatures"} == {
        key: value for key, value in pdu.items() if key != "signatures"
    }


@pytest.mark.trust("C30")
@pytest.mark.behaviours("SS-INV-03")
@pytest.mark.parametrize(
    ("version", "errcode"),
    [
        ("99", "M_INCOMPATIBLE_ROOM_VERSION"),
        ("", "M_INCOMPATIBLE_ROOM_VERSION"),
        (11, "M_BAD_JSON"),
        (None, "M_BAD_JSON"),
        (["11"], "M_BAD_JSON"),
    ],
)
@pytest.mark.by_turns
async def test_invite_to_a_version_that_is_none_is_refused(network: Network, version: Any, errcode: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    answer = await room.send_invite("b.test", room.invite(bob.user_id), room_version=version)
    assert (answer.status_code, answer.json()["errcode"]) == (400, errcode)
    if errcode == "M_INCOMPATIBLE_ROOM_VERSION":
        assert answer.json()["room_version"] == version
    assert await invites(bob) == {}


def other_create(room: ForeignRoom) -> Any:
    """The create event of another room of the same server."""
    graph = Graph(room.version, "!another:p.test")
    content = {"room_version": room.version, "creator": room.owner}
    return json.loads(graph.build(room.owner, "m.room.create", content, [], state_key="").pdu)


STATES: dict[str, Any] = {
    "nothing": lambda room, state: [],
    "no create event": lambda room, state: [one for one in state if one["type"] != "m.room.create"],
    "stripped events": lambda room, state: [
        {key: one[key] for key in ("type", "state_key", "sender", "content")} for one in state
    ],
    "an event without a signature": lambda room, state: [*state[:-1], state[-1] | {"signatures": {}}],
    "an event with a wrong signature": lambda room, state: [
        *state[:-1],
        state[-1] | {"signatures": {"p.test": {key_of("p.test").key_id: "AAAA"}}},
    ],
    "an event of another room": lambda room, state: [*state[:-1], state[-1] | {"room_id": "!other:p.test"}],
    "another room's create event": lambda room, state: [
        *[one for one in state if one["type"] != "m.room.create"],
        other_create(room),
    ],
    "something that is no event": lambda room, state: [*state, {"type": 1}],
    "something else": lambda room, state: [*state, 1, None, "x"],
    "too much": lambda room, state: state * 30,
    "a message": lambda room, state: [*state, json.loads(room.say("m.room.message", {"body": "x"}).pdu)],
}


@pytest.mark.trust("C30")
@pytest.mark.behaviours("SS-INV-02")
@pytest.mark.parametrize("what", STATES)
@pytest.mark.by_turns
async def test_state_that_comes_with_an_invite_is_checked(network: Network, what: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), "12")
    invited = room.invite(bob.user_id)
    answer = await room.send_invite("b.test", invited, invite_room_state=STATES[what](room, room.stripped()))
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), answer.text
    assert await invites(bob) == {}


@pytest.mark.behaviours("SS-INV-02")
@pytest.mark.parametrize("what", STATES)
@pytest.mark.by_turns
async def test_older_rooms_state_is_taken_as_far_as_it_is_good(network: Network, what: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), "11")
    invited = room.invite(bob.user_id)
    answer = await room.send_invite("b.test", invited, invite_room_state=STATES[what](room, room.stripped()))
    assert answer.status_code == 200, answer.text
    [state] = (await invites(bob)).values()
    told = {event["type"] for event in state}
    assert "m.room.member" in told
    assert all(set(event) == {"type", "state_key", "sender", "content"} for event in state)
    if what in ("stripped events", "an event without a signature", "something else"):
        assert {"m.room.create", "m.room.join_rules"} < told
    if what.startswith("an event"):
        assert "m.room.name" not in told


@pytest.mark.behaviours("SS-INV-04")
@pytest.mark.parametrize("version", ["1", "2"])
async def test_invite_comes_the_older_way(network: Network, version: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), version)
    event = room.invite(bob.user_id)
    target = f"{FEDERATION}/v1/invite/{quote(room.room_id)}/{quote(event.event_id, safe='')}"
    body = json.loads(event.pdu) | {"unsigned": {"invite_room_state": room.stripped()}}
    for bad in (body | {"unsigned": []}, body | {"unsigned": {"invite_room_state": {}}}):
        assert (await room.peer.call("b.test", "PUT", target, bad)).status_code == 400
    answer = await room.peer.call("b.test", "PUT", target, body)
    assert answer.status_code == 200, answer.text
    status, signed = answer.json()
    assert status == 200
    assert set(signed["event"]["signatures"]) == {"b.test", "p.test"}
    assert list(await invites(bob)) == [room.room_id]


@pytest.mark.behaviours("SS-INV-04")
@pytest.mark.trust("C30")
async def test_newer_rooms_invites_do_not_come_the_older_way(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), "11")
    event = room.invite(bob.user_id)
    target = f"{FEDERATION}/v1/invite/{quote(room.room_id)}/{quote(event.event_id, safe='')}"
    answer = await room.peer.call("b.test", "PUT", target, json.loads(event.pdu))
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.behaviours("SS-PDU-10")
async def test_invite_is_withdrawn(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await ann.create_room()
    await invite(ann, room_id, bob.user_id)
    since = (await bob.sync())["next_batch"]
    assert (await ann.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})).status_code == 200
    found = await bob.sync(since, timeout=10_000)
    assert list(found["rooms"]["leave"]) == [room_id]
    assert await invites(bob) == {}


@pytest.mark.trust("S4")
async def test_nobody_else_withdraws_an_invite(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room, q = ForeignRoom.begin(network.peer("p.test")), network.peer("q.test")
    before, invited = room.tip, room.invite(bob.user_id)
    await room.send_invite("b.test", invited)
    room.take(invited)
    # Who is not in the room cannot cite the invite.
    for sender, peer, content in (
        ("@x:q.test", q, {"membership": "leave"}),
        (room.owner, q, {"membership": "leave"}),
        (room.owner, room.peer, {"membership": "join"}),
    ):
        event = room.graph.build(sender, "m.room.member", content, [before], state_key=bob.user_id)
        await peer.send("b.test", f"t{sender}{len(content)}{peer.name}", event.pdu)
        assert list(await invites(bob)) == [room.room_id]
    event = room.graph.build(room.owner, "m.room.member", {"membership": "leave"}, [room.tip], state_key=bob.user_id)
    spoiled = json.dumps(json.loads(event.pdu) | {"signatures": {}}).encode()
    await room.peer.send("b.test", "spoiled", spoiled)
    assert list(await invites(bob)) == [room.room_id]
    results = await room.peer.send("b.test", "good", event.pdu)
    assert results == {event.event_id: {}}
    assert await invites(bob) == {}


async def test_room_that_was_left_is_left_for_the_invite_to_it(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await ann.create_room(preset="public_chat")
    await join_by(bob, room_id, "a.test")
    await bob.leave(room_id)
    everything: Any = {"filter": {"room": {"include_leave": True}}}
    assert list((await bob.sync(**everything))["rooms"]["leave"]) == [room_id]
    await eventually(lambda: members_of(ann, room_id), lambda found: found[bob.user_id] == "leave")
    assert (await invite(ann, room_id, bob.user_id)).status_code == 200
    rooms = (await bob.sync(**everything))["rooms"]
    assert list(rooms) == ["invite"]
    assert (await join_by(bob, room_id)).status_code == 200
    assert list((await bob.sync(**everything))["rooms"]) == ["join"]
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "join"}
    assert await members_of(bob, room_id) == {ann.user_id: "join", bob.user_id: "join"}


async def test_invite_of_a_room_one_is_in_by_another_user(network: Network) -> None:
    b = await network.server("b.test")
    bob, ben = await b.user("bob"), await b.user("ben")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    await room.send_invite("b.test", room.invite(ben.user_id))
    room.take(room.invite(ben.user_id))
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    # What the room says is newer than the invite that came before this server was in it.
    assert list(await invites(ben)) == [room.room_id]
    assert (await join_by(ben, room.room_id)).status_code == 200
    assert await invites(ben) == {}
    assert set((await members_of(bob, room.room_id)).values()) == {"join"}


async def test_peer_that_is_in_the_room_can_be_brought_in(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    room_id = await ann.create_room(preset="public_chat")
    await bring_in(network.peer("p.test"), "a.test", room_id, "@x:p.test")
    assert await members_of(ann, room_id) == {ann.user_id: "join", "@x:p.test": "join"}


@pytest.mark.behaviours("CS-INVP-02")
async def test_invites_that_came_before_are_not_shown_to_who_wants_none(network: Network) -> None:
    b = await network.server("b.test")
    bob, ben = await b.user("bob"), await b.user("ben")
    room = ForeignRoom.begin(network.peer("p.test"))
    await room.send_invite("b.test", room.invite(bob.user_id))
    here = await ben.create_room()
    await ben.invite(here, bob)
    assert set(await invites(bob)) == {here, room.room_id}
    permission = f"/user/{bob.user_id}/account_data/m.invite_permission_config"
    await bob.put(permission, {"default_action": "block"})
    assert await invites(bob) == {}
    await bob.put(permission, {})
    assert set(await invites(bob)) == {here, room.room_id}


async def invited_by(network: Network, name: str, user: User, numbers: range, **more: Any) -> list[int]:
    """The statuses of the answers to as many invites of a peer, each to another room."""
    room = ForeignRoom.begin(network.peers.get(name) or network.peer(name))
    pdu = json.loads(room.invite(user.user_id).pdu)
    found = []
    for number in numbers:
        room_id = f"!{number}:{name}"
        event = sign_pdu(json.dumps(pdu | {"room_id": room_id}).encode(), "11", name, key_of(name))
        target = f"{FEDERATION}/v2/invite/{quote(room_id)}/{quote(event.event_id, safe='')}"
        body = {"room_version": "11", "event": json.loads(event.pdu)} | more
        found.append((await room.peer.call("b.test", "PUT", target, body)).status_code)
    return found


@pytest.mark.trust("C22")
async def test_server_fills_no_sync_with_invites(network: Network) -> None:
    b = await network.server("b.test")
    bob, ben = await b.user("bob"), await b.user("ben")
    assert set(await invited_by(network, "p.test", bob, range(200))) == {200}
    # Another port is the same host; another server's invites come through, and so do those for others.
    assert await invited_by(network, "p.test:8449", bob, range(2)) == [403, 403]
    assert await invited_by(network, "p.test", ben, range(1)) == [200]
    assert await invited_by(network, "q.test", bob, range(1)) == [200]
    # One that is there already may come again, and one that is turned down makes room for another.
    assert await invited_by(network, "p.test", bob, range(199, 201)) == [200, 403]
    assert len(await invites(bob)) == 201
    assert (await bob.post(f"/rooms/{quote('!0:p.test')}/leave")).status_code == 200
    assert await invited_by(network, "p.test", bob, range(200, 202)) == [200, 403]


@pytest.mark.trust("C22")
async def test_ends_of_invites_do_not_pile_up(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    p = network.peer("p.test")
    assert set(await invited_by(network, "p.test", bob, range(105))) == {200}
    pdu = json.loads(ForeignRoom.begin(p).invite(bob.user_id).pdu) | {"content": {"membership": "leave"}}
    for start in (0, 50, 100):
        ends = [
            sign_pdu(json.dumps(pdu | {"room_id": f"!{number}:p.test"}).encode(), "11", "p.test", key_of("p.test")).pdu
            for number in range(start, min(start + 50, 105))
        ]
        assert set(map(str, (await p.send("b.test", f"ends{start}", *ends)).values())) == {"{}"}
    assert await invites(bob) == {}
    everything: Any = {"filter": {"room": {"include_leave": True}}}
    left = (await bob.sync(**everything))["rooms"]["leave"]
    assert set(left) == {f"!{number}:p.test" for number in range(5, 105)}


@pytest.mark.trust("C22")
async def test_of_what_is_told_of_a_room_the_short_is_kept(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    long = [
        {"type": kind, "state_key": "", "sender": room.owner, "content": {"topic": "x" * 30_000}}
        for kind in ("m.room.topic", "m.room.other", "m.room.third")
    ]
    event = room.invite(bob.user_id)
    assert (await room.send_invite("b.test", event, invite_room_state=[*long, *room.stripped()])).status_code == 200
    [state] = (await invites(bob)).values()
    told = {one["type"] for one in state}
    assert {"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"} < told
    assert len(json.dumps(state)) < 40_000
    # What is long itself is no invite.
    answer = await room.send_invite("b.test", room.invite(bob.user_id, reason="x" * 20_000))
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")


async def test_purged_room_leaves_no_invite_behind(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await alice.create_room(preset="private_chat")
    await alice.invite(room_id, bob)
    await bob.join(room_id)
    purge = b.container.purge
    purge_id = await purge.start(RoomId(room_id), is_forced=True)
    await eventually(lambda: purge.find(purge_id), lambda job: job.ended_ts is not None)
    assert room_id not in await invites(bob)


@pytest.mark.trust("C27", "R8")
async def test_invite_that_our_signature_makes_too_large_is_refused(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    invite = json.loads(room.invite(bob.user_id).pdu)

    def padded(size: int) -> Event:
        return sign_pdu(json.dumps(invite | {"padding": "x" * size}).encode(), "11", "p.test", key_of("p.test"))

    event = padded(65_536 - len(padded(0).pdu))
    assert len(event.pdu) == 65_536
    answer = await room.send_invite("b.test", event)
    assert (answer.status_code, answer.json()["errcode"]) == (413, "M_TOO_LARGE")
    assert await invites(bob) == {}
