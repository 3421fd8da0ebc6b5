"""Knocking on rooms of other servers, in either seat."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event, build_event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_pdu
from tests.federation.foreign import FEDERATION, ForeignRoom, complete, hand_over, make, refusal
from tests.federation.network import Network, Seen
from tests.federation.test_invites import again, invite, invites
from tests.federation.test_joins import HOSTILE, join_by, members_of
from tests.room_graphs import key_of
from tests.world import User, eventually

pytestmark = pytest.mark.anyio

VERSIONS = [name for name, version in ROOM_VERSIONS.items() if version.knock]


async def knock_by(user: User, room: str, *via: str, **body: Any) -> Any:
    return await user.call("POST", f"/knock/{quote(room)}", body, params={"via": list(via)})


async def knocks(user: User, since: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The stripped state of the rooms that the user has knocked on."""
    found = (await user.sync(since)).get("rooms", {}).get("knock", {})
    return {room_id: entry["knock_state"]["events"] for room_id, entry in found.items()}


async def knockable(user: User, **options: Any) -> str:
    room_id = await user.create_room(name="Door", **options)
    await user.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    return room_id


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("SS-KNOCK-01", "CS-MEM-06", "SS-INV-06")
async def test_knock_is_seen_and_answered_by_an_invite(network: Network, version: str) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await knockable(ann, room_version=version)
    answer = await knock_by(bob, room_id, "a.test", reason="Me!")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"room_id": room_id}
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "knock"}
    [(knocked_on, state)] = (await knocks(bob)).items()
    assert knocked_on == room_id
    told = {(event["type"], event["state_key"]): event["content"] for event in state}
    assert told["m.room.name", ""] == {"name": "Door"}
    assert ("m.room.create", "") in told
    assert told["m.room.member", bob.user_id] == {"membership": "knock", "reason": "Me!"}
    # Again, it is nothing new.
    assert (await knock_by(bob, room_id, "a.test")).status_code == 200
    assert (await invite(ann, room_id, bob.user_id)).status_code == 200
    assert await knocks(bob) == {}
    assert list(await invites(bob)) == [room_id]
    assert (await join_by(bob, room_id)).status_code == 200
    assert await members_of(bob, room_id) == {ann.user_id: "join", bob.user_id: "join"}


@pytest.mark.behaviours("SS-LEAVE-01", "CS-MEM-06", "CS-MEM-08")
async def test_knock_is_taken_back(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await knockable(ann)
    await knock_by(bob, room_id, "a.test")
    since = (await bob.sync())["next_batch"]
    await bob.leave(room_id)
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "leave"}
    assert list((await bob.sync(since))["rooms"]["leave"]) == [room_id]
    assert await knocks(bob) == {}


async def test_knock_that_is_turned_down_is_over(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await knockable(ann)
    await knock_by(bob, room_id, "a.test")
    since = (await bob.sync())["next_batch"]
    assert (await ann.post(f"/rooms/{quote(room_id)}/ban", {"user_id": bob.user_id})).status_code == 200
    found = await bob.sync(since, timeout=10_000)
    assert list(found["rooms"]["leave"]) == [room_id]
    assert await knocks(bob) == {}


async def test_knock_survives_a_restart(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), join_rule="knock")
    room.host()
    assert (await knock_by(bob, room.room_id, "p.test")).status_code == 200
    await network.stop("b.test")
    bob = await again(await network.server("b.test"), bob)
    assert list(await knocks(bob)) == [room.room_id]


@pytest.mark.behaviours("SS-KNOCK-01")
async def test_room_that_takes_no_knocks_refuses_them(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    for room_id in (await ann.create_room(), await ann.create_room(preset="public_chat", room_version="6")):
        answer = await knock_by(bob, room_id, "a.test")
        assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    assert await knocks(bob) == {}
    answer = await knock_by(bob, "!nowhere:a.test", "a.test")
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")


@pytest.mark.trust("C30")
async def test_version_that_was_not_named_is_refused(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await knockable(ann, room_version="10")
    for versions in ((), ("7",)):
        answer = await make(p, "a.test", "knock", room_id, "@x:p.test", *versions)
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
        assert answer.json()["room_version"] == "10"


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-KNOCK-01")
@pytest.mark.parametrize("what", [what for what in HOSTILE if "authorise" not in what])
@pytest.mark.by_turns
async def test_template_of_something_else_is_never_signed(network: Network, what: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), join_rule="knock")
    room.host()
    template = HOSTILE[what](room.template(bob.user_id, {"membership": "knock"}))
    room.peer.on("GET", f"{FEDERATION}/v1/make_knock/", lambda seen: {"room_version": "11", "event": template})
    assert (await knock_by(bob, room.room_id, "p.test")).status_code == 502
    assert room.calls("send_knock") == []


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-KNOCK-01")
@pytest.mark.parametrize(
    "changes",
    [
        {"type": "m.room.message"},
        {"content": {"membership": "join"}},
        {"content": {"membership": "invite"}},
        {"state_key": "@y:p.test"},
        {"state_key": None},
        {"sender": "@x:q.test", "state_key": "@x:q.test"},
        {"room_id": "!other:a.test"},
        {"prev_events": ["$" + "x" * 43]},
    ],
)
@pytest.mark.by_turns
async def test_event_that_is_no_knock_is_not_taken(network: Network, changes: dict[str, Any]) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await knockable(ann)
    made = (await make(p, "a.test", "knock", room_id, "@x:p.test", *ROOM_VERSIONS)).json()
    answer = await hand_over(p, "a.test", "knock", room_id, complete(p, made, **changes))
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), answer.text
    assert await members_of(ann, room_id) == {ann.user_id: "join"}


@pytest.mark.behaviours("SS-KNOCK-01")
async def test_answer_to_a_knock_has_whole_events_and_the_create_event(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await knockable(ann, room_version="12")
    made = (await make(p, "a.test", "knock", room_id, "@x:p.test", *ROOM_VERSIONS)).json()
    answer = await hand_over(p, "a.test", "knock", room_id, complete(p, made))
    told = [Event.parse(json.dumps(one).encode(), "12") for one in answer.json()["knock_room_state"]]
    assert {one.room_id for one in told} == {room_id}
    assert {"m.room.create", "m.room.join_rules", "m.room.name"} <= {one.type for one in told}


@pytest.mark.behaviours("SS-KNOCK-01")
async def test_state_that_does_not_hold_is_not_shown(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), join_rule="knock")
    room.host()
    good = room.stripped()
    name = next(one for one in good if one["type"] == "m.room.name")
    rest = [one for one in good if one["type"] != "m.room.name"]
    bad = [name | {"signatures": {}}, {"type": "m.room.topic"}, 1, name | {"content": {"name": "Lie"}}]
    room.peer.on("PUT", f"{FEDERATION}/v1/send_knock/", lambda seen: {"knock_room_state": [*rest, *bad]})
    assert (await knock_by(bob, room.room_id, "p.test")).status_code == 200
    [state] = (await knocks(bob)).values()
    told = {event["type"]: event["content"] for event in state}
    # What is not as it was hashed is redacted, and nothing is left of a name.
    assert told.get("m.room.name", {}) == {}
    assert {"m.room.create", "m.room.member"} < set(told)
    assert "m.room.topic" not in told


async def test_servers_are_tried_one_after_the_other(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room, q = ForeignRoom.begin(network.peer("p.test"), join_rule="knock"), network.peer("q.test")
    room.host()
    q.on("GET", f"{FEDERATION}/v1/make_knock/", lambda seen: refusal(404, "M_NOT_FOUND"))
    assert (await knock_by(bob, room.room_id, "gone.test", "q.test", "p.test")).status_code == 200
    assert [event.membership for event in room.sent] == ["knock"]


@pytest.mark.behaviours("SS-LEAVE-01", "CS-MEM-06")
async def test_knock_and_invite_that_anybody_of_the_room_ends_are_over(network: Network) -> None:
    a, b, c = [await network.server(name) for name in ("a.test", "b.test", "c.test")]
    ann, bob, cat = await a.user("ann"), await b.user("bob"), await c.user("cat")
    room_id = await knockable(ann, invite=[cat.user_id])
    assert (await join_by(cat, room_id, "a.test")).status_code == 200
    levels = (await ann.get(f"/rooms/{quote(room_id)}/state/m.room.power_levels")).json()
    await ann.set_state(room_id, "m.room.power_levels", levels | {"users": {cat.user_id: 50}})
    await knock_by(bob, room_id, "a.test")
    assert list(await knocks(bob)) == [room_id]
    await eventually(lambda: members_of(cat, room_id), lambda found: found.get(bob.user_id) == "knock")
    path = f"/rooms/{quote(room_id)}/state/m.room.power_levels"
    await eventually(lambda: cat.get(path), lambda answer: cat.user_id in answer.json().get("users", {}))
    assert (await cat.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})).status_code == 200
    await eventually(lambda: knocks(bob), lambda found: not found)
    await eventually(lambda: members_of(ann, room_id), lambda found: found[bob.user_id] == "leave")
    assert (await invite(ann, room_id, bob.user_id)).status_code == 200
    await eventually(lambda: members_of(cat, room_id), lambda found: found[bob.user_id] == "invite")
    assert (await cat.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})).status_code == 200
    await eventually(lambda: invites(bob), lambda found: not found)


@pytest.mark.trust("S1")
async def test_knock_is_not_ended_by_those_who_know_nothing_of_it(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), join_rule="knock")
    room.host()
    other = network.peer("q.test")
    assert (await knock_by(bob, room.room_id, "p.test")).status_code == 200
    knock = room.tip
    mallory = "@mallory:q.test"

    def end(cited: list[Event]) -> Event:
        return build_event(
            room.version,
            server_name="q.test",
            key=key_of("q.test"),
            room_id=room.room_id,
            type="m.room.member",
            sender=mallory,
            state_key=bob.user_id,
            content=b'{"membership":"leave"}',
            origin_server_ts=room.graph.clock,
            depth=knock.depth + 1,
            prev_events=[knock],
            auth_events=cited,
        )

    await other.send("b.test", "1", end([room.graph.create]).pdu)
    assert list(await knocks(bob)) == [room.room_id]
    await other.send("b.test", "2", end([room.graph.create, knock]).pdu)
    assert await knocks(bob) == {}


@pytest.mark.behaviours("SS-KNOCK-01", "SS-LEAVE-01")
@pytest.mark.trust("R2")
async def test_knock_and_leave_that_are_handed_over_again_are_answered_as_before(network: Network) -> None:
    a, p = await network.server("a.test"), network.peer("p.test")
    ann = await a.user("ann")
    room_id = await knockable(ann)
    made = (await make(p, "a.test", "knock", room_id, "@x:p.test", *VERSIONS)).json()
    knock = complete(p, made)
    assert (await hand_over(p, "a.test", "knock", room_id, knock)).status_code == 200
    p.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: {"event": countersigned(seen)})
    assert (await invite(ann, room_id, "@x:p.test")).status_code == 200
    assert (await hand_over(p, "a.test", "knock", room_id, knock)).status_code == 200
    leave = complete(p, (await make(p, "a.test", "leave", room_id, "@x:p.test")).json())
    for _ in range(2):
        answer = await hand_over(p, "a.test", "leave", room_id, leave)
        assert (answer.status_code, answer.json()) == (200, {})
    assert await members_of(ann, room_id) == {ann.user_id: "join", "@x:p.test": "leave"}
    # Who was put out since is told so.
    await ann.post(f"/rooms/{quote(room_id)}/ban", {"user_id": "@x:p.test"})
    assert (await hand_over(p, "a.test", "knock", room_id, knock)).status_code == 403


def countersigned(seen: Seen) -> Any:
    event = seen.content["event"]
    version = seen.content["room_version"]
    signed = sign_pdu(json.dumps(event).encode(), version, "p.test", key_of("p.test"))
    return event | {"signatures": signed.signatures | event["signatures"]}
