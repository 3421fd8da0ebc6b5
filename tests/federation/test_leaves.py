"""Leaving rooms that this server is not in, and letting users of other servers leave."""

from typing import Any

import pytest

from homeserver.matrix.room_versions import ROOM_VERSIONS
from tests.federation.foreign import FEDERATION, ForeignRoom, bring_in, complete, hand_over, make, refusal
from tests.federation.network import Network
from tests.federation.test_invites import invites
from tests.federation.test_joins import HOSTILE, members_of
from tests.world import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", ["1", "3", "6", "11", "12"])
@pytest.mark.behaviours("SS-LEAVE-01")
async def test_invite_is_rejected_through_the_server_that_sent_it(network: Network, version: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), version)
    room.host()
    event = room.invite(bob.user_id)
    await room.send_invite("b.test", event)
    room.take(event)
    answer = await bob.post(f"/rooms/{room.room_id}/leave", {"reason": "No."})
    assert answer.status_code == 200, answer.text
    assert room.sent[-1].content == {"membership": "leave", "reason": "No."}
    assert room.calls("make_leave", "send_leave") == ["make_leave", "send_leave"]
    assert await invites(bob) == {}


@pytest.mark.behaviours("SS-LEAVE-01", "CS-MEM-08")
@pytest.mark.parametrize("version", ["1", "11", "12"])
@pytest.mark.parametrize("trouble", ["gone", "forbidden", "nonsense", "refused at last"])
@pytest.mark.by_turns
async def test_invite_is_gone_whatever_its_server_says(network: Network, version: str, trouble: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), version)
    room.host()
    await room.send_invite("b.test", room.invite(bob.user_id))
    since = (await bob.sync())["next_batch"]
    if trouble == "gone":
        network.cut("p.test")
    elif trouble == "forbidden":
        room.peer.on("GET", f"{FEDERATION}/v1/make_leave/", lambda seen: refusal(403, "M_FORBIDDEN"))
    elif trouble == "nonsense":
        room.peer.on("GET", f"{FEDERATION}/v1/make_leave/", lambda seen: [])
    else:
        room.peer.on("PUT", f"{FEDERATION}/v2/send_leave/", lambda seen: refusal(500, "M_UNKNOWN"))
    await bob.leave(room.room_id)
    left = (await bob.sync(since))["rooms"]["leave"][room.room_id]
    assert [event["content"] for event in left["timeline"]["events"]] == [{"membership": "leave"}]
    assert await invites(bob) == {}
    # There is nothing more to leave.
    await bob.leave(room.room_id)


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-LEAVE-01")
@pytest.mark.parametrize("what", [what for what in HOSTILE if "authorise" not in what])
@pytest.mark.by_turns
async def test_template_of_something_else_is_never_signed(network: Network, what: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    await room.send_invite("b.test", room.invite(bob.user_id))
    asked_for = "join" if what == "another membership" else "leave"
    template = HOSTILE[what](room.template(bob.user_id, {"membership": asked_for}))
    if what == "another membership":
        template["content"] = {"membership": "join"}
    room.peer.on("GET", f"{FEDERATION}/v1/make_leave/", lambda seen: {"room_version": "11", "event": template})
    await bob.leave(room.room_id)
    assert room.calls("send_leave") == []
    assert await invites(bob) == {}


@pytest.mark.behaviours("SS-LEAVE-01")
async def test_user_of_another_server_leaves(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", room_id, "@x:p.test")
    for user_id, status in (("@x:q.test", 403), ("@nobody:p.test", 403), ("@x:p.test", 200)):
        assert (await make(p, "a.test", "leave", room_id, user_id)).status_code == status
    made = (await make(p, "a.test", "leave", room_id, "@x:p.test")).json()
    answer = await hand_over(p, "a.test", "leave", room_id, complete(p, made))
    assert (answer.status_code, answer.json()) == (200, {})
    assert await members_of(ann, room_id) == {ann.user_id: "join", "@x:p.test": "leave"}
    answer = await make(p, "a.test", "leave", room_id, "@x:p.test")
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    answer = await make(p, "a.test", "leave", "!nowhere:a.test", "@x:p.test")
    assert answer.status_code in (403, 404)


@pytest.mark.trust("S4")
@pytest.mark.behaviours("SS-LEAVE-01")
@pytest.mark.parametrize(
    "changes",
    [
        {"type": "m.room.message"},
        {"content": {"membership": "join"}},
        {"content": {"membership": "ban"}},
        {"state_key": "@ann:a.test"},
        {"state_key": None},
        {"sender": "@ann:a.test", "state_key": "@ann:a.test"},
        {"room_id": "!other:a.test"},
        {"prev_events": ["$" + "x" * 43]},
    ],
)
@pytest.mark.by_turns
async def test_event_that_is_no_leave_is_not_taken(network: Network, changes: dict[str, Any]) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", room_id, "@x:p.test")
    made = (await make(p, "a.test", "leave", room_id, "@x:p.test", *ROOM_VERSIONS)).json()
    answer = await hand_over(p, "a.test", "leave", room_id, complete(p, made, **changes))
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM"), answer.text
    assert await members_of(ann, room_id) == {ann.user_id: "join", "@x:p.test": "join"}


async def test_users_of_other_servers_are_put_out_and_kept_out(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat")
    await bring_in(p, "a.test", room_id, "@x:p.test")
    for action, membership in (("kick", "leave"), ("ban", "ban"), ("unban", "leave")):
        answer = await ann.post(f"/rooms/{room_id}/{action}", {"user_id": "@x:p.test"})
        assert answer.status_code == 200, answer.text
        assert (await members_of(ann, room_id))["@x:p.test"] == membership
        if membership == "ban":
            answer = await make(p, "a.test", "join", room_id, "@x:p.test", *ROOM_VERSIONS)
            assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")


async def test_account_that_is_closed_leaves_its_invites(network: Network) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"))
    room.host()
    event = room.invite(bob.user_id)
    await room.send_invite("b.test", event)
    room.take(event)
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": "bobbob"}
    answer = await bob.post("/account/deactivate", {"auth": auth})
    assert answer.status_code == 200, answer.text
    await until(lambda: [one.membership for one in room.sent[1:]] == ["leave"])
