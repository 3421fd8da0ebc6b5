"""What servers ask each other for their users: aliases, profiles, published rooms, who somebody is."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.errors import Unreachable
from homeserver.outbound.transport import Reply
from tests.federation.network import Network, Seen
from tests.federation.test_reads import V1, Stage, q, stage
from tests.world import User

__all__ = ["stage"]

pytestmark = pytest.mark.anyio

RELAYED = {401, 403, 404, 429, 500}
"""What a peer may answer, to see what becomes of it."""


def refusing(status: int, errcode: str = "M_UNKNOWN_TOKEN") -> Callable[[Seen], Reply]:
    body = b'{"errcode": "%s", "error": "You are logged out.", "soft_logout": true}' % errcode.encode()
    return lambda seen: Reply(status, {}, body)


def unreachable(seen: Seen) -> Any:
    raise Unreachable("It is off.")


async def told(user: User, path: str) -> tuple[int, str]:
    answer = await user.get(path)
    return answer.status_code, answer.json().get("errcode", "")


@pytest.mark.behaviours("SS-QRY-01")
async def test_directory_query_tells_own_aliases_and_the_servers_in_the_room(stage: Stage) -> None:
    await stage.alice.put(f"/directory/room/{q('#here:a.test')}", {"room_id": stage.room})
    path = f"/query/directory?room_alias={q('#here:a.test')}"
    status, body = await stage.get(stage.others, path)
    assert (status, body) == (200, {"room_id": stage.room, "servers": ["a.test", "b.example"]})
    assert await stage.error(stage.others, "/query/directory?room_alias=%23no:a.test") == (404, "M_NOT_FOUND")
    # Of others' aliases it says nothing, and asks nobody.
    stage.bobs.on("GET", V1 + "/query/directory", lambda seen: {"room_id": stage.room, "servers": []})
    assert await stage.error(stage.others, "/query/directory?room_alias=%23x:b.example") == (404, "M_NOT_FOUND")
    assert await stage.error(stage.others, "/query/directory?room_alias=x") == (400, "M_INVALID_PARAM")
    assert await stage.error(stage.others, "/query/directory") == (400, "M_MISSING_PARAM")
    assert await stage.error(stage.others, "/query/anything?x=y") == (404, "M_NOT_FOUND")


async def test_alias_of_another_server_is_resolved_there(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room = await bob.create_room(preset="public_chat", room_alias_name="there")
    answer = await alice.get(f"/directory/room/{q('#there:b.test')}")
    assert answer.json() == {"room_id": room, "servers": ["b.test"]}
    assert await told(alice, f"/directory/room/{q('#nowhere:b.test')}") == (404, "M_NOT_FOUND")
    network.cut("b.test")
    assert await told(alice, f"/directory/room/{q('#there:b.test')}") == (502, "M_UNKNOWN")
    assert await told(alice, f"/directory/room/{q('#no:where.test')}") == (502, "M_UNKNOWN")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"room_id": "nonsense", "servers": []},
        {"room_id": "!\0", "servers": []},
        {"room_id": "!" + "x" * 300, "servers": []},
        {"room_id": 1, "servers": []},
        {"room_id": "!x", "servers": "a.test"},
        Reply(200, {}, b"<html>"),
        Reply(200, {}, b"\xff"),
        Reply(200, {}, b"[" * 100_000),
        *(refusing(status)(Seen("", "", "", None)) for status in RELAYED - {404}),
    ],
)
@pytest.mark.by_turns
async def test_nonsense_about_an_alias_is_no_trouble_of_the_client(network: Network, answer: Any) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    network.peer("p.test").on("GET", V1 + "/query/directory", lambda seen: answer)
    assert await told(alice, f"/directory/room/{q('#x:p.test')}") == (502, "M_UNKNOWN")


async def test_servers_of_an_alias_are_few_and_have_names(network: Network) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    servers = ["ok.test", "not a name", "", "x/y", *(f"{number}.test" for number in range(1000))]
    network.peer("p.test").on("GET", V1 + "/query/directory", lambda seen: {"room_id": "!x", "servers": servers})
    found = (await alice.get(f"/directory/room/{q('#x:p.test')}")).json()["servers"]
    assert found[:2] == ["ok.test", "0.test"]
    assert len(found) <= 50


async def test_canonical_alias_may_be_one_of_another_server_that_says_so(network: Network) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    room = await alice.create_room(preset="public_chat")
    peer = network.peer("p.test")
    path = f"/rooms/{q(room)}/state/m.room.canonical_alias/"
    peer.on("GET", V1 + "/query/directory", lambda seen: {"room_id": room, "servers": []})
    assert (await alice.put(path, {"alt_aliases": ["#x:p.test"]})).status_code == 200
    peer.on("GET", V1 + "/query/directory", lambda seen: {"room_id": "!other", "servers": []})
    assert (await alice.put(path, {"alt_aliases": ["#y:p.test"]})).json()["errcode"] == "M_BAD_ALIAS"
    peer.on("GET", V1 + "/query/directory", unreachable)
    assert (await alice.put(path, {"alt_aliases": ["#z:p.test"]})).json()["errcode"] == "M_BAD_ALIAS"


@pytest.mark.behaviours("SS-QRY-02")
async def test_profile_query_tells_own_users_only(stage: Stage) -> None:
    await stage.alice.put(f"/profile/{stage.alice.user_id}/displayname", {"displayname": "Alice"})
    await stage.alice.put(f"/profile/{stage.alice.user_id}/com.example.x", {"com.example.x": [1]})
    path = f"/query/profile?user_id={q(stage.alice.user_id)}"
    assert await stage.get(stage.others, path) == (200, {"displayname": "Alice", "com.example.x": [1]})
    assert await stage.get(stage.others, path + "&field=displayname") == (200, {"displayname": "Alice"})
    for field in ("avatar_url", ""):
        assert await stage.error(stage.others, f"{path}&field={field}") == (404, "M_NOT_FOUND")
    stage.bobs.on("GET", V1 + "/query/profile", lambda seen: {"displayname": "Bob"})
    for other in ("@nobody:a.test", "@bob:b.example"):
        assert await stage.error(stage.others, f"/query/profile?user_id={q(other)}") == (404, "M_NOT_FOUND")
    assert await stage.error(stage.others, "/query/profile?user_id=alice") == (400, "M_INVALID_PARAM")


async def test_profile_of_another_servers_user_is_asked_for_there_now_and_then(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
    assert (await alice.get(f"/profile/{bob.user_id}")).json() == {"displayname": "Bob"}
    assert (await alice.get(f"/profile/{bob.user_id}/displayname")).json() == {"displayname": "Bob"}
    assert await told(alice, f"/profile/{bob.user_id}/avatar_url") == (404, "M_NOT_FOUND")
    assert await told(alice, "/profile/@nobody:b.test") == (404, "M_NOT_FOUND")
    peer = network.peer("p.test")
    peer.on("GET", V1 + "/query/profile", lambda seen: {"displayname": 5, "avatar_url": None, "m.tz": "UTC", "x.y": {}})
    for _ in range(3):
        assert (await alice.get("/profile/@x:p.test")).json() == {"m.tz": "UTC", "x.y": {}}
    assert len(peer.seen) == 1


@pytest.mark.trust("S7")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusing(401), (502, "M_UNKNOWN")),
        (refusing(403, "M_FORBIDDEN"), (403, "M_FORBIDDEN")),
        (refusing(404, "M_UNKNOWN_TOKEN"), (404, "M_NOT_FOUND")),
        (refusing(429, "M_LIMIT_EXCEEDED"), (502, "M_UNKNOWN")),
        (refusing(500), (502, "M_UNKNOWN")),
        (unreachable, (502, "M_UNKNOWN")),
        (lambda seen: [], (502, "M_UNKNOWN")),
        (lambda seen: {"x": "y" * 70_000}, (502, "M_UNKNOWN")),
        (lambda seen: Reply(200, {}, b"{" * 10), (502, "M_UNKNOWN")),
    ],
)
@pytest.mark.by_turns
async def test_error_about_a_profile_is_never_passed_on(
    network: Network, answer: Any, expected: tuple[int, str]
) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    peer = network.peer("p.test")
    peer.on("GET", V1 + "/query/profile", answer)
    for _ in range(3):
        failure = await alice.get("/profile/@x:p.test")
        assert (failure.status_code, failure.json()["errcode"]) == expected
        assert "logged out" not in failure.text
        assert "soft_logout" not in failure.json()
    assert len(peer.seen) == 1


@pytest.mark.behaviours("SS-QRY-03")
async def test_directory_of_another_server_is_read_there(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    await alice.create_room(visibility="public", name="Here")
    rooms = [await bob.create_room(visibility="public", name=f"There {number}") for number in range(3)]
    first = (await alice.get("/publicRooms", server="b.test", limit=2)).json()
    assert [room["name"] for room in first["chunk"]] == ["There 0", "There 1"]
    second = (await alice.get("/publicRooms", server="b.test", limit=2, since=first["next_batch"])).json()
    assert [room["room_id"] for room in second["chunk"]] == rooms[2:]
    assert second["total_room_count_estimate"] == 3
    answer = await alice.call(
        "POST", "/publicRooms", {"filter": {"generic_search_term": "there 1"}}, params={"server": "b.test"}
    )
    assert [room["room_id"] for room in answer.json()["chunk"]] == [rooms[1]]
    own = (await alice.get("/publicRooms", server="a.test")).json()
    assert [room["name"] for room in own["chunk"]] == ["Here"]
    assert await told(alice, "/publicRooms?server=not%20a%20name") == (400, "M_INVALID_PARAM")
    network.cut("b.test")
    assert await told(alice, "/publicRooms?server=b.test") == (502, "M_UNKNOWN")


async def test_what_another_directory_lists_is_checked(network: Network) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    good = {"room_id": "!x", "num_joined_members": 1, "world_readable": True, "guest_can_join": False, "topic": "T"}
    bad: list[Any] = [
        {},
        {**good, "room_id": "x"},
        {**good, "num_joined_members": -1},
        {**good, "num_joined_members": 1e300},
        {**good, "name": {}},
    ]
    chunk = [*bad, {**good, "secret": "value"}]
    peer = network.peer("p.test")
    peer.on("GET", V1 + "/publicRooms", lambda seen: {"chunk": chunk, "next_batch": "n"})
    answer = (await alice.get("/publicRooms", server="p.test")).json()
    assert answer == {"chunk": [good], "next_batch": "n"}
    for status in RELAYED - {403}:
        peer.on("GET", V1 + "/publicRooms", refusing(status))
        assert await told(alice, "/publicRooms?server=p.test") == (502, "M_UNKNOWN")
    peer.on("GET", V1 + "/publicRooms", refusing(403))
    assert await told(alice, "/publicRooms?server=p.test") == (403, "M_FORBIDDEN")
    peer.on("GET", V1 + "/publicRooms", lambda seen: {"chunk": "x"})
    assert await told(alice, "/publicRooms?server=p.test") == (502, "M_UNKNOWN")


@pytest.mark.behaviours("SS-QRY-03")
async def test_networks_of_another_directory_are_asked_for_there(network: Network) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    peer = network.peer("p.test")
    room = {"room_id": "!irc", "num_joined_members": 1, "world_readable": True, "guest_can_join": False}
    peer.on("GET", V1 + "/publicRooms", lambda seen: {"chunk": [room]})
    peer.on("POST", V1 + "/publicRooms", lambda seen: {"chunk": [room]})
    for wanted in ({"third_party_instance_id": "irc"}, {"include_all_networks": True}):
        for more in ({}, {"filter": {"generic_search_term": "tea"}}):
            answer = await alice.call("POST", "/publicRooms", {**wanted, **more}, params={"server": "p.test"})
            assert answer.json() == {"chunk": [room]}
    assert [(seen.method, seen.target.partition("?")[2]) for seen in peer.seen[::2]] == [
        ("GET", "third_party_instance_id=irc"),
        ("GET", "include_all_networks=true"),
    ]
    assert [seen.content for seen in peer.seen[1::2]] == [
        {"third_party_instance_id": "irc", "filter": {"generic_search_term": "tea"}},
        {"include_all_networks": True, "filter": {"generic_search_term": "tea"}},
    ]


@pytest.mark.behaviours("SS-QRY-03")
async def test_published_rooms_are_listed_to_servers(stage: Stage) -> None:
    await stage.alice.create_room(visibility="public", name="Tea")
    await stage.alice.create_room(visibility="public", name="Coffee")
    status, body = await stage.get(stage.others, "/publicRooms?limit=1&include_all_networks=false")
    assert (status, len(body["chunk"]), body["total_room_count_estimate"]) == (200, 1, 2)
    search = {"filter": {"generic_search_term": "cof"}, "limit": 5}
    answer = await stage.others.call("a.test", "POST", V1 + "/publicRooms", search)
    assert [room["name"] for room in answer.json()["chunk"]] == ["Coffee"]
    assert (await stage.error(stage.others, "/publicRooms?limit=-1"))[0] == 400
    assert (await stage.error(stage.others, "/publicRooms?since=nonsense"))[0] == 400


@pytest.mark.behaviours("SS-QRY-05", "SS-AUTH-06")
async def test_openid_token_tells_who_made_it_until_it_is_over(network: Network) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    made = (await alice.post(f"/user/{quote(alice.user_id)}/openid/request_token")).json()
    assert made["matrix_server_name"] == "a.test"
    path = f"{V1}/openid/userinfo?access_token="
    answer = await a.client.get(path + made["access_token"])
    assert (answer.status_code, answer.json()) == (200, {"sub": alice.user_id})
    # It is good for nothing else, and no other token is good for this.
    assert (
        await a.client.get(f"/_matrix/client/v3/account/whoami?access_token={made['access_token']}")
    ).status_code == 401
    for wrong in ("nonsense", alice.token, ""):
        answer = await a.client.get(path + wrong)
        assert (answer.status_code, answer.json()["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert (await a.client.get(f"{V1}/openid/userinfo")).status_code == 400
    network.clock.time += made["expires_in"] * 1000 + 1
    assert (await a.client.get(path + made["access_token"])).status_code == 401


async def test_version_is_told_to_everybody(network: Network) -> None:
    a = await network.server("a.test")
    answer = await a.client.get(f"{V1}/version")
    assert answer.json()["server"]["name"]


async def test_room_is_joined_by_its_alias_on_another_server(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room = await bob.create_room(preset="public_chat", room_alias_name="there")
    answer = await alice.post(f"/join/{q('#there:b.test')}")
    assert (answer.status_code, answer.json()) == (200, {"room_id": room})
    body = (await bob.get(f"/directory/room/{q('#there:b.test')}")).json()
    assert body["servers"] == ["b.test", "a.test"]
