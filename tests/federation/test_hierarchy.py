"""Spaces whose rooms are on several servers."""

from functools import partial
from typing import Any

import pytest

from homeserver.outbound.transport import Reply
from tests.api.client.v3.test_hierarchy import ids, walk
from tests.federation.network import Network, Seen
from tests.federation.test_queries import refusing, unreachable
from tests.federation.test_reads import V1, Stage, q, stage
from tests.services.rooms.test_branches import DAN
from tests.world import User

__all__ = ["stage"]

pytestmark = pytest.mark.anyio

HIERARCHY = f"{V1}/hierarchy/"


async def add_child(user: User, space: str, child: str, *via: str, **more: Any) -> None:
    await user.set_state(space, "m.space.child", {"via": list(via), **more}, child)


async def make_space(user: User, **options: Any) -> str:
    return await user.create_room(creation_content={"type": "m.space"}, **{"preset": "public_chat", **options})


def room(room_id: str, **more: Any) -> dict[str, Any]:
    return {
        "room_id": room_id,
        "num_joined_members": 3,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
        **more,
    }


def child(room_id: str, *via: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "sender": "@x:p.test",
        "content": {"via": list(via), **more},
        "origin_server_ts": 1,
    }


def space(room_id: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "room": {**room(room_id, room_type="m.space"), "children_state": list(children)},
        "children": [],
        "inaccessible_children": [],
        **more,
    }


def _same(answer: Any, seen: Seen) -> Any:
    return answer


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-QRY-04")
async def test_server_is_told_of_the_rooms_that_it_could_get_into(stage: Stage) -> None:
    alice = stage.alice
    top = await make_space(alice)
    readable = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    rules: dict[str, dict[str, Any]] = {
        "public": {"preset": "public_chat"},
        "private": {"preset": "private_chat"},
        "readable": {"preset": "private_chat", "initial_state": [readable]},
        "restricted": {
            "initial_state": [
                {
                    "type": "m.room.join_rules",
                    "content": {
                        "join_rule": "restricted",
                        "allow": [{"type": "m.room_membership", "room_id": stage.room}],
                    },
                }
            ]
        },
    }
    made = {name: await alice.create_room(name=name, **options) for name, options in rules.items()}
    for child_id in (*made.values(), stage.room, "!unknown"):
        await add_child(alice, top, child_id, "a.test", suggested=child_id == made["public"])
    status, body = await stage.get(stage.bobs, f"/hierarchy/{q(top)}")
    assert status == 200
    assert {event["state_key"] for event in body["room"]["children_state"]} == {*made.values(), stage.room, "!unknown"}
    told = {one["room_id"] for one in body["children"]}
    # Bob is in the room that lets into the restricted one; nobody of the other server is.
    assert told == {made["public"], made["readable"], made["restricted"], stage.room}
    assert body["inaccessible_children"] == [made["private"]]
    _, body = await stage.get(stage.others, f"/hierarchy/{q(top)}")
    assert set(body["inaccessible_children"]) == {made["private"], made["restricted"]}
    await stage.scene.join(DAN)
    _, body = await stage.get(stage.others, f"/hierarchy/{q(top)}")
    assert body["inaccessible_children"] == [made["private"]]
    _, body = await stage.get(stage.bobs, f"/hierarchy/{q(top)}?suggested_only=true")
    assert [one["room_id"] for one in body["children"]] == [made["public"]]
    # What it could not get into is like what there is not.
    unknown = await stage.get(stage.bobs, "/hierarchy/%21unknown")
    assert unknown[0] == 404
    assert await stage.get(stage.bobs, f"/hierarchy/{q(made['private'])}") == unknown


@pytest.mark.behaviours("SS-QRY-04", "CS-SPACE-02")
async def test_space_goes_on_on_other_servers(network: Network) -> None:
    a, b, c = [await network.server(name) for name in ("a.test", "b.test", "c.test")]
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await c.user("carol")
    leaf = await carol.create_room(preset="public_chat", name="Leaf")
    inner = await make_space(carol, name="Inner")
    await add_child(carol, inner, leaf, "c.test")
    middle = await make_space(bob, name="Middle")
    plain = await bob.create_room(preset="public_chat", name="Plain")
    secret = await bob.create_room(preset="private_chat", name="Secret")
    for order, child_id in enumerate((plain, secret)):
        await add_child(bob, middle, child_id, "b.test", order=str(order))
    await add_child(bob, middle, inner, "gone.test", "c.test", order="9")
    top = await make_space(alice, name="Top")
    await add_child(alice, top, middle, "b.test")
    page = await walk(alice, top)
    assert ids(page) == [top, middle, plain, inner, leaf]
    assert [one["name"] for one in page["rooms"]] == ["Top", "Middle", "Plain", "Inner", "Leaf"]
    assert [one["num_joined_members"] for one in page["rooms"]] == [1] * 5
    assert [event["state_key"] for event in page["rooms"][1]["children_state"]] == [plain, secret, inner]
    # Page by page it comes to the same, and what was found is kept for a while.
    network.cut("b.test", "c.test")
    found, token = [], None
    while True:
        part = await walk(alice, top, limit=2, **({"from": token} if token else {}))
        found += ids(part)
        if (token := part.get("next_batch")) is None:
            break
    assert found == ids(page)
    assert ids(await walk(alice, top, max_depth=1)) == [top, middle]


@pytest.mark.trust("S3")
async def test_room_elsewhere_is_shown_to_those_who_could_come_in(network: Network) -> None:
    a = await network.server("a.test")
    alice, bob = await a.user("alice"), await a.user("bob")
    peer = network.peer("p.test")
    club = await alice.create_room(preset="private_chat")
    top = await make_space(alice)
    names = ("open", "closed", "knock", "readable", "club", "noted", "strange")
    for order, name in enumerate(names):
        await add_child(alice, top, f"!{name}", "p.test", order=str(order))
    rooms = {
        "!open": room("!open"),
        "!closed": room("!closed", join_rule="invite"),
        "!knock": room("!knock", join_rule="knock"),
        "!readable": room("!readable", join_rule="private", world_readable=True),
        "!club": room("!club", join_rule="restricted", allowed_room_ids=[club]),
        "!strange": room("!strange", join_rule="org.example.rule"),
    }
    for room_id, summary in rooms.items():
        answer = {**space("!x"), "room": summary}
        peer.on("GET", HIERARCHY + q(room_id), partial(_same, answer))
    seen_by_alice = ids(await walk(alice, top))
    assert seen_by_alice == [top, "!open", "!knock", "!readable", "!club"]
    assert ids(await walk(bob, top)) == [top, "!open", "!knock", "!readable"]


@pytest.mark.trust("R6", "C24")
@pytest.mark.parametrize(
    "answer",
    [
        refusing(401),
        refusing(404, "M_NOT_FOUND"),
        unreachable,
        lambda seen: Reply(200, {}, b"<html>"),
        lambda seen: [],
        lambda seen: {"room": "x", "children": []},
        lambda seen: space("!other"),
        lambda seen: {**space("!there"), "children": "x"},
        lambda seen: {"room": {**room("!there"), "num_joined_members": "many"}},
    ],
)
@pytest.mark.by_turns
async def test_nonsense_about_a_space_is_left_out_and_not_sought_again(network: Network, answer: Any) -> None:
    a = await network.server("a.test")
    alice, peer = await a.user("alice"), network.peer("p.test")
    top = await make_space(alice)
    await add_child(alice, top, "!there", "p.test")
    peer.on("GET", HIERARCHY, answer)
    for _ in range(3):
        assert ids(await walk(alice, top)) == [top]
    assert len(peer.seen) == 1


@pytest.mark.trust("R6")
async def test_spaces_without_end_come_to_one(network: Network) -> None:
    a = await network.server("a.test")
    alice, peer = await a.user("alice"), network.peer("p.test")

    def endless(seen: Any) -> Any:
        number = int(seen.target.partition("hierarchy/%21")[2].partition("?")[0])
        below = [child(f"!{number + step}", "p.test") for step in (1, 2, 3)]
        nonsense: list[Any] = [{}, 5, child("x", "p.test"), {**child("!y"), "content": {"via": "p.test"}}, child("!z")]
        return space(f"!{number}", *below, *nonsense)

    peer.on("GET", HIERARCHY, endless)
    top = await make_space(alice)
    await add_child(alice, top, "!1", "p.test")
    page = await walk(alice, top, limit=10)
    assert len(ids(page)) == 10
    assert page["rooms"][1]["children_state"] == [child(f"!{number}", "p.test") for number in (2, 3, 4)]
    assert len(peer.seen) < 40


@pytest.mark.behaviours("CS-SUM-01")
async def test_room_of_another_server_is_shown_in_short_to_those_who_could_come_in(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await bob.create_room(preset="public_chat", name="Den", room_alias_name="den")
    secret = await bob.create_room(preset="private_chat")
    answer = await alice.get(f"/v1/room_summary/{q('#den:b.test')}")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["name"], body["join_rule"], body["membership"]) == ("Den", "public", "leave")
    assert body["room_id"] == room_id
    network.cut("b.test")
    assert (await a.client.get(f"/_matrix/client/v1/room_summary/{q(room_id)}?via=b.test")).json()["name"] == "Den"
    network.heal("b.test")
    # Without a server to ask there is none, and of one that nobody gets into nothing is told.
    for path in (q(secret) + "?via=b.test", "%21unknown", "%21unknown?via=nowhere.test&via=not%20a%20name"):
        refused = await alice.get(f"/v1/room_summary/{path}")
        assert (refused.status_code, refused.json()["errcode"]) == (404, "M_NOT_FOUND")
