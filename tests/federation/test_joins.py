"""Joining rooms through other servers, in either seat."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_event
from homeserver.outbound.transport import Reply
from tests.federation.foreign import FEDERATION, ForeignRoom, bring_in, complete, hand_over, make, refusal
from tests.federation.network import Network
from tests.room_graphs import key_of
from tests.world import User, eventually

pytestmark = pytest.mark.anyio

VERSIONS = tuple(ROOM_VERSIONS)


async def join_by(user: User, room: str, *via: str, **body: Any) -> Any:
    return await user.call("POST", f"/join/{quote(room)}", body, params={"via": list(via)})


async def members_of(user: User, room_id: str) -> dict[str, str]:
    answer = await user.get(f"/rooms/{quote(room_id)}/members")
    assert answer.status_code == 200, answer.text
    return {event["state_key"]: event["content"]["membership"] for event in answer.json()["chunk"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("SS-JOIN-01", "SS-JOIN-04", "CS-MEM-03", "CS-MEM-10")
@pytest.mark.by_turns
async def test_user_joins_public_room_of_another_server(network: Network, version: str) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
    room_id = await ann.create_room(preset="public_chat", room_version=version, name="Here")
    answer = await join_by(bob, room_id, "a.test", reason="Hello.")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"room_id": room_id}
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "join"}
    assert await members_of(bob, room_id) == {ann.user_id: "join", bob.user_id: "join"}
    entry = (await bob.sync())["rooms"]["join"][room_id]
    told = {(event["type"], event.get("state_key")): event["content"] for event in entry["timeline"]["events"]}
    assert told["m.room.member", bob.user_id] == {"membership": "join", "displayname": "Bob", "reason": "Hello."}
    state = await bob.get(f"/rooms/{room_id}/state/m.room.name")
    assert state.json() == {"name": "Here"}


@pytest.mark.behaviours("CS-MEM-03")
async def test_alias_of_another_server_leads_into_its_room(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await ann.create_room(preset="public_chat", room_alias_name="den")
    assert (await join_by(bob, "#den:a.test")).json() == {"room_id": room_id}
    assert (await members_of(ann, room_id))[bob.user_id] == "join"


@pytest.mark.behaviours("CS-MEM-03")
async def test_second_user_of_a_server_joins_here(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob, ben = await a.user("ann"), await b.user("bob"), await b.user("ben")
    room_id = await ann.create_room(preset="public_chat")
    await join_by(bob, room_id, "a.test")
    network.cut("a.test")
    assert (await join_by(ben, room_id, "a.test")).status_code == 200
    assert await members_of(bob, room_id) == {user.user_id: "join" for user in (ann, bob, ben)}


async def test_servers_are_tried_one_after_the_other(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    p, q = network.peer("p.test"), network.peer("q.test")
    room = ForeignRoom.begin(p)
    room.host()
    q.on("GET", f"{FEDERATION}/v1/make_join/", lambda seen: refusal(404, "M_NOT_FOUND"))
    answer = await join_by(bob, room.room_id, "no name", "gone.test", "b.test", "q.test", "p.test")
    assert answer.status_code == 200, answer.text
    assert [event.sender for event in room.sent] == [bob.user_id]
    assert room.calls("make_join", "send_join") == ["make_join", "send_join"]


async def test_room_that_nobody_knows_is_not_found(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    for via in ((), ("b.test",)):
        answer = await join_by(bob, "!nowhere:b.test", *via)
        assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")
    answer = await join_by(bob, "!nowhere:gone.test", "gone.test")
    assert answer.status_code == 502


@pytest.mark.behaviours("SS-JOIN-07")
async def test_refusal_comes_through_to_the_user(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    private = await ann.create_room()
    answer = await join_by(bob, private, "a.test")
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    public = await ann.create_room(preset="public_chat")
    await ann.post(f"/rooms/{public}/ban", {"user_id": bob.user_id})
    answer = await join_by(bob, public, "a.test")
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    assert "rooms" not in await bob.sync()


@pytest.mark.behaviours("SS-JOIN-07", "CS-MEM-05")
@pytest.mark.parametrize("call", ["v1/make_join", "v2/send_join"])
@pytest.mark.parametrize(
    ("reply", "status", "errcode"),
    [
        (refusal(403, "M_FORBIDDEN"), 403, "M_FORBIDDEN"),
        (refusal(400, "M_INCOMPATIBLE_ROOM_VERSION", room_version="99"), 400, "M_INCOMPATIBLE_ROOM_VERSION"),
        (refusal(400, "M_UNABLE_TO_AUTHORISE_JOIN"), 400, "M_UNABLE_TO_AUTHORISE_JOIN"),
        (refusal(400, "M_INVALID_PARAM"), 502, "M_UNKNOWN"),
        (refusal(400, "M_MISSING_PARAM"), 502, "M_UNKNOWN"),
        (refusal(401, "M_UNAUTHORIZED"), 502, "M_UNKNOWN"),
        (refusal(403, "M_UNKNOWN_TOKEN", soft_logout=True), 502, "M_UNKNOWN"),
        (refusal(400, "<script>"), 502, "M_UNKNOWN"),
        (refusal(500, "M_FORBIDDEN"), 502, "M_UNKNOWN"),
        (Reply(200, {}, b"[]"), 502, "M_UNKNOWN"),
        (Reply(200, {}, b"{"), 502, "M_UNKNOWN"),
        (Reply(302, {"location": "https://elsewhere"}, b""), 502, "M_UNKNOWN"),
    ],
)
@pytest.mark.by_turns
async def test_what_becomes_of_an_error(network: Network, call: str, reply: Reply, status: int, errcode: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    room.peer.on("GET" if "make" in call else "PUT", f"{FEDERATION}/{call}/", lambda seen: reply)
    answer = await join_by(bob, room.room_id, "p.test")
    assert (answer.status_code, answer.json()["errcode"]) == (status, errcode), answer.text
    assert "soft_logout" not in answer.json()
    if errcode == "M_INCOMPATIBLE_ROOM_VERSION":
        assert answer.json()["room_version"] == "99"


def _with(**fields: Any) -> Any:
    return lambda event: event | fields


HOSTILE = {
    "another type": _with(type="m.room.power_levels", content={"users": {"@bob:b.test": 100}}),
    "another room": _with(room_id="!other:p.test"),
    "another sender": _with(sender="@ben:b.test"),
    "another state key": _with(state_key="@owner:p.test"),
    "no state key": lambda event: {key: value for key, value in event.items() if key != "state_key"},
    "another membership": _with(content={"membership": "leave"}),
    "no membership": _with(content={}),
    "membership of another kind": _with(content={"membership": ["join"]}),
    "no content": lambda event: {key: value for key, value in event.items() if key != "content"},
    "no event before it": _with(prev_events=[]),
    "too many events before it": _with(prev_events=["$" + "x" * 43] * 21),
    "too many events cited": _with(auth_events=["$" + "x" * 43] * 11),
    "something else before it": _with(prev_events=[{"x": 1}]),
    "a negative depth": _with(depth=-1),
    "an endless depth": _with(depth=2**70),
    "a depth of another kind": _with(depth="1"),
    "somebody else's user to authorise": _with(
        content={"membership": "join", "join_authorised_via_users_server": "@x:r.test"}
    ),
    "our user to authorise": _with(content={"membership": "join", "join_authorised_via_users_server": "@ben:b.test"}),
}


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-JOIN-02")
@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.by_turns
async def test_template_of_something_else_is_never_signed(network: Network, what: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    p, q = ForeignRoom.begin(network.peer("p.test")), network.peer("q.test")
    p.host()
    q.on(
        "GET",
        f"{FEDERATION}/v1/make_join/",
        lambda seen: {
            "room_version": "11",
            "event": HOSTILE[what](p.template(bob.user_id, {"membership": "join"})),
        },
    )
    answer = await join_by(bob, p.room_id, "q.test", "p.test")
    assert answer.status_code == 200, answer.text  # Another server did better.
    assert [seen.method for seen in q.seen if "send" in seen.target] == []


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-JOIN-02")
async def test_nothing_but_its_place_is_taken_from_a_template(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host(displayname="Fool", evil=True, third_party_invite={}, join_authorised_via_users_server=room.owner)
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    [event] = room.sent
    assert event.content == {"membership": "join", "join_authorised_via_users_server": room.owner}
    assert set(json.loads(event.pdu)) == {
        "auth_events",
        "content",
        "depth",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    }


@pytest.mark.trust("C30")
@pytest.mark.parametrize("version", ["99", "", 11, None, ["11"], {"11": 1}])
@pytest.mark.by_turns
async def test_template_of_a_version_that_is_none_is_discarded(network: Network, version: Any) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    template = room.template(bob.user_id, {"membership": "join"})
    room.peer.on("GET", f"{FEDERATION}/v1/make_join/", lambda seen: {"room_version": version, "event": template})
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 502
    assert room.calls("send_join") == []


async def test_room_whose_version_goes_without_saying_is_of_version_1(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), "1")
    room.host()
    template = room.template(bob.user_id, {"membership": "join"})
    room.peer.on("GET", f"{FEDERATION}/v1/make_join/", lambda seen: {"event": template})
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200


@pytest.mark.behaviours("SS-JOIN-08")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: answer | {"state": []},
        lambda answer: answer | {"state": [one for one in answer["state"] if one["type"] != "m.room.create"]},
        lambda answer: answer | {"state": [one | {"signatures": {}} for one in answer["state"]]},
        lambda answer: answer | {"state": answer["state"] * 2 + [{"type": 1}], "auth_chain": [1, None]},
        lambda answer: answer | {"state": {}},
        lambda answer: {},
    ],
)
@pytest.mark.by_turns
async def test_answer_that_does_not_hold_brings_nobody_in(network: Network, spoil: Any) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    room.peer.on("PUT", f"{FEDERATION}/v2/send_join/", lambda seen: spoil(room.welcome(seen)))
    answer = await join_by(bob, room.room_id, "p.test")
    assert answer.status_code in (200, 502), answer.text
    joined = (await bob.get("/joined_rooms")).json()["joined_rooms"]
    assert joined == ([room.room_id] if answer.status_code == 200 else [])
    state = await bob.get(f"/rooms/{room.room_id}/state/m.room.create/")
    assert state.status_code == (200 if joined else 403)


@pytest.mark.behaviours("SS-JOIN-01")
async def test_template_is_for_users_of_the_asking_server(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat")
    for user_id, expected in (("@x:q.test", 403), ("@y:a.test", 403), ("@x:p.test", 200)):
        assert (await make(p, "a.test", "join", room_id, user_id, *VERSIONS)).status_code == expected
    answer = await make(p, "a.test", "join", "!nowhere:a.test", "@x:p.test", *VERSIONS)
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")
    await ann.leave(room_id)
    answer = await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")


@pytest.mark.trust("C30")
@pytest.mark.behaviours("SS-JOIN-01")
async def test_version_that_was_not_named_is_refused(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat", room_version="11")
    for versions in ((), ("1", "10", "12"), ("011",)):
        answer = await make(p, "a.test", "join", room_id, "@x:p.test", *versions)
        assert answer.status_code == 400
        assert answer.json()["errcode"] == "M_INCOMPATIBLE_ROOM_VERSION"
        assert answer.json()["room_version"] == "11"
    old = await ann.create_room(preset="public_chat", room_version="1")
    assert (await make(p, "a.test", "join", old, "@x:p.test")).status_code == 200


@pytest.mark.behaviours("SS-ACL-01")
@pytest.mark.parametrize("membership", ["join", "knock", "leave"])
async def test_server_that_the_room_keeps_out_gets_nowhere(network: Network, membership: str) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat")
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)).json()
    await ann.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["P.test"]})
    answer = await make(p, "a.test", membership, room_id, "@x:p.test", *VERSIONS)
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    answer = await hand_over(p, "a.test", membership, room_id, complete(p, made))
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    invite = f"{FEDERATION}/v2/invite/{room_id}/$x"
    answer = await p.call("a.test", "PUT", invite, {"room_version": "12", "event": {}, "invite_room_state": []})
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-JOIN-03")
@pytest.mark.parametrize("version", ["1", "11", "12"])
@pytest.mark.parametrize(
    "changes",
    [
        {"type": "m.room.message"},
        {"type": "m.room.power_levels", "state_key": ""},
        {"content": {"membership": "leave"}},
        {"content": {"membership": "invite"}},
        {"content": {}},
        {"state_key": "@y:p.test"},
        {"state_key": "@ann:a.test"},
        {"state_key": None},
        {"sender": "@x:q.test", "state_key": "@x:q.test"},
        {"sender": "@ann:a.test", "state_key": "@ann:a.test"},
        {"room_id": "!other:a.test"},
        {"prev_events": []},
        {"prev_events": ["$" + "x" * 43]},
        {"auth_events": ["$" + "x" * 43]},
        {"depth": "1"},
    ],
)
@pytest.mark.by_turns
async def test_event_that_is_no_join_is_not_taken(network: Network, version: str, changes: dict[str, Any]) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat", room_version=version)
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)).json()
    if version == "1":
        changes = {
            key: [[one, {"sha256": "x"}] for one in value] if key.endswith("_events") else value
            for key, value in changes.items()
        }
    pdu = {key: value for key, value in (made["event"] | changes).items() if value is not None}
    if changes.get("depth") is None:
        event = complete(p, made, **changes)
        answer = await hand_over(p, "a.test", "join", room_id, event)
    else:
        target = f"{FEDERATION}/v2/send_join/{room_id}/$x"
        answer = await p.call("a.test", "PUT", target, pdu | {"hashes": {}, "signatures": {}})
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), answer.text
    assert await members_of(ann, room_id) == {ann.user_id: "join"}


@pytest.mark.behaviours("SS-JOIN-03")
async def test_join_must_be_signed_and_be_the_one_of_the_path(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat")
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)).json()
    event = complete(p, made)
    pdu = json.loads(event.pdu)
    target = f"{FEDERATION}/v2/send_join/{room_id}/{quote(event.event_id)}"
    forged = pdu | {"signatures": {"p.test": {key_of("p.test").key_id: key_of("q.test").sign(b"x")}}}
    bodies: list[Any] = [pdu | {"signatures": {}}, forged, {}]
    for body in (*bodies, pdu | {"content": {"membership": "join", "displayname": "X"}}):
        answer = await p.call("a.test", "PUT", target, body)
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")
    for raw in (b"[]", b"1", b"{}"):
        assert (await p.call("a.test", "PUT", target, raw)).status_code == 400
    answer = await hand_over(p, "a.test", "join", room_id, event, event_id="$other")
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")
    assert await members_of(ann, room_id) == {ann.user_id: "join"}
    assert (await p.call("a.test", "PUT", target, pdu)).status_code == 200
    # Whose answer was lost asks again.
    assert (await p.call("a.test", "PUT", target, pdu)).status_code == 200
    assert await members_of(ann, room_id) == {ann.user_id: "join", "@x:p.test": "join"}


@pytest.mark.behaviours("SS-JOIN-03")
async def test_join_must_come_from_the_server_of_the_user(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p, q = network.peer("p.test"), network.peer("q.test")
    room_id = await ann.create_room(preset="public_chat")
    made = (await make(q, "a.test", "join", room_id, "@x:q.test", *VERSIONS)).json()
    event = sign_event(complete(q, made), "p.test", key_of("p.test"))
    answer = await hand_over(p, "a.test", "join", room_id, event)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")
    assert await members_of(ann, room_id) == {ann.user_id: "join"}


@pytest.mark.behaviours("SS-JOIN-03")
async def test_user_who_may_not_join_does_not(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat")
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)).json()
    await ann.set_state(room_id, "m.room.join_rules", {"join_rule": "invite"})
    answer = await hand_over(p, "a.test", "join", room_id, complete(p, made))
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    answer = await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    assert await members_of(ann, room_id) == {ann.user_id: "join"}


@pytest.mark.behaviours("SS-JOIN-04")
@pytest.mark.parametrize("version", ["1", "9", "12"])
async def test_answer_to_a_join_has_the_state_before_it_and_what_that_stands_on(network: Network, version: str) -> None:
    a = await network.server("a.test")
    ann, amy = await a.user("ann"), await a.user("amy")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat", room_version=version, name="Old")
    await amy.join(room_id)
    await ann.set_state(room_id, "m.room.name", {"name": "New"})
    await ann.send(room_id, "Hello.")
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)).json()
    event = complete(p, made)
    answer = (await hand_over(p, "a.test", "join", room_id, event)).json()
    assert answer["members_omitted"] is False
    assert "event" not in answer
    state = [Event.parse(json.dumps(one).encode(), version) for one in answer["state"]]
    chain = [Event.parse(json.dumps(one).encode(), version) for one in answer["auth_chain"]]
    pairs = {(one.type, one.state_key): one for one in state}
    assert len(pairs) == len(state)
    assert ("m.room.member", "@x:p.test") not in pairs
    assert {key for kind, key in pairs if kind == "m.room.member"} == {ann.user_id, amy.user_id}
    assert pairs["m.room.name", ""].content == {"name": "New"}
    cited = {one for known in (*state, *chain, event) for one in known.auth_events}
    assert cited <= {one.event_id for one in chain}
    assert all(one.content_hash_matches() for one in (*state, *chain))


@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.parametrize("name", ["Crowd", None])
async def test_members_of_a_large_room_are_left_out_if_one_asks_for_it(network: Network, name: str | None) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p, q = network.peer("p.test"), network.peer("q.test")
    options = {} if name is None else {"name": name}
    room_id = await ann.create_room(preset="public_chat", room_version="10", **options)
    made = (await make(q, "a.test", "join", room_id, "@m0:q.test", *VERSIONS)).json()
    crowd = [
        complete(q, made, sender=f"@m{number}:q.test", state_key=f"@m{number}:q.test").pdu for number in range(101)
    ]
    receipts = await a.container.inbox.receive(room_id, crowd)  # type: ignore[arg-type] # A room id is text.
    assert {receipt.outcome.value for receipt in receipts} == {"accepted"}
    made = (await make(p, "a.test", "join", room_id, "@x:p.test", *VERSIONS)).json()
    event = complete(p, made)
    answer = (await hand_over(p, "a.test", "join", room_id, event, query="?omit_members=true")).json()
    assert answer["members_omitted"] is True
    assert answer["servers_in_room"] == ["a.test", "q.test"]
    told = [one for one in answer["state"] if one["type"] == "m.room.member"]
    assert len(told) == (0 if name else 5)
    in_state = {json.dumps(one, sort_keys=True) for one in answer["state"]}
    assert not in_state & {json.dumps(one, sort_keys=True) for one in answer["auth_chain"]}
    known = [Event.parse(json.dumps(one).encode(), "10") for one in answer["state"] + answer["auth_chain"]]
    assert {one for known_one in (*known, event) for one in known_one.auth_events} <= {one.event_id for one in known}
    whole = (await hand_over(p, "a.test", "join", room_id, event)).json()
    assert whole["members_omitted"] is False
    assert len([one for one in whole["state"] if one["type"] == "m.room.member"]) == 102


@pytest.mark.behaviours("SS-JOIN-04")
async def test_join_is_passed_on_to_the_other_servers(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    p = network.peer("p.test")
    p.on("PUT", f"{FEDERATION}/v1/send/", lambda seen: {"pdus": {}})
    room_id = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", room_id, "@x:p.test")
    await join_by(bob, room_id, "a.test")

    async def sent() -> list[str]:
        await ann.sync()
        bodies = [seen.content for seen in p.seen if seen.target.startswith(f"{FEDERATION}/v1/send/")]
        return [pdu["sender"] for body in bodies for pdu in body["pdus"] if pdu["type"] == "m.room.member"]

    await eventually(sent, lambda senders: senders == [bob.user_id])


async def test_invited_user_joins_a_room_of_which_little_is_known_yet(network: Network) -> None:
    b = await network.server("b.test")
    bob, ben = await b.user("bob"), await b.user("ben")
    room = ForeignRoom.begin(network.peer("p.test"), join_rule="invite")
    room.host()
    for user in (bob, ben):
        event = room.invite(user.user_id)
        await room.send_invite("b.test", event)
        room.take(event)

    def welcome(seen: Any) -> Any:
        answer = room.welcome(seen)
        kept = [one for one in answer["state"] if one["type"] != "m.room.member"]
        return answer | {"state": kept, "members_omitted": True, "servers_in_room": ["p.test"]}

    room.peer.on("PUT", f"{FEDERATION}/v2/send_join/", welcome)
    assert (await join_by(bob, room.room_id)).status_code == 200
    # That the user is invited is known to others only.
    answer = await join_by(ben, room.room_id)
    assert answer.status_code == 200, answer.text
    assert [event.sender for event in room.sent if event.membership == "join"] == [bob.user_id, ben.user_id]
    assert (await ben.get("/joined_rooms")).json()["joined_rooms"] == [room.room_id]
    bea = await b.user("bea")
    room.peer.on("GET", f"{FEDERATION}/v1/make_join/", lambda seen: refusal(403, "M_FORBIDDEN"))
    answer = await join_by(bea, room.room_id)
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
