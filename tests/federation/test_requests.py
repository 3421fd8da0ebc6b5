"""What requests and answers between servers look like, and whose names stand in them."""

import re
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from homeserver.api.tables import ENDPOINTS
from homeserver.config.model import WellKnown
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.canonical import CanonicalJsonError
from tests.federation.network import Network
from tests.federation.test_reads import Stage, stage
from tests.services.rooms.test_branches import BOB

__all__ = ["stage"]

V1 = "/_matrix/federation/v1"
Json = dict[str, Any]
SQLITE = pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
OF_SERVERS = [one for one in ENDPOINTS if one.path.startswith(("/_matrix/federation", "/_matrix/key"))]


def target_of(endpoint: Endpoint, stage: Stage) -> str:
    values = {"room_id": stage.room, "user_id": BOB, "event_id": "$none", "server_name": "b.example"}
    names = {"{" + name + "}": quote(values.get(name, "x"), safe="") for name in endpoint.parameters}
    return "/".join(names.get(part, part) for part in endpoint.path.split("/"))


async def ask(stage: Stage, endpoint: Endpoint, body: bytes | None, **headers: str) -> httpx2.Response:
    """The answer to a request of the peer's, whose body may be anything."""
    target = target_of(endpoint, stage)
    if endpoint.auth is SERVER:
        try:
            signed = stage.bobs.sign("a.test", endpoint.method, target, body)
        except CanonicalJsonError:  # Nobody can sign what is no JSON.
            signed = stage.bobs.sign("a.test", endpoint.method, target, b"{}")
        headers["Authorization"] = str(signed)
    return await stage.network.clients["a.test"].send(endpoint.method, target, headers=headers, content=body)


@SQLITE
@pytest.mark.behaviours("SS-API-02")
@pytest.mark.trust("R8")
async def test_every_answer_is_json_and_says_so(stage: Stage) -> None:
    for endpoint in OF_SERVERS:
        body = None if endpoint.body is None else b"{}"
        answers = [await ask(stage, endpoint, body)]
        if endpoint.auth is SERVER:
            answers.append(await stage.network.clients["a.test"].send(endpoint.method, target_of(endpoint, stage)))
            assert (answers[1].status_code, answers[1].json()["errcode"]) == (401, "M_UNAUTHORIZED")
        for answer in answers:
            assert answer.headers["content-type"] == "application/json", endpoint
            assert isinstance(answer.json(), dict)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.json()["errcode"].startswith("M_")


@SQLITE
@pytest.mark.behaviours("SS-API-02")
@pytest.mark.parametrize(
    "body", [b"[]", b'"x"', b"null", b"{", b"\xff{}", b'{"a": "\xe9"}', '{"a": 1}'.encode("utf-16")]
)
async def test_what_is_no_json_object_in_utf_8_is_refused_everywhere(stage: Stage, body: bytes) -> None:
    for endpoint in OF_SERVERS:
        if endpoint.body is not None:
            answer = await ask(stage, endpoint, body)
            # What is signed is JSON: a server cannot have signed what is none.
            expected = (400, "M_NOT_JSON"), (400, "M_BAD_JSON"), (401, "M_UNAUTHORIZED")
            assert (answer.status_code, answer.json()["errcode"]) in expected, endpoint


@SQLITE
@pytest.mark.behaviours("SS-API-02")
async def test_a_request_need_not_say_that_it_is_json(stage: Stage) -> None:
    [endpoint] = [one for one in OF_SERVERS if one.path.endswith("/user/keys/query")]
    body = b'{"device_keys": {"' + stage.alice.user_id.encode() + b'": []}}'
    kinds: list[Json] = [{}, {"Content-Type": "application/json; charset=utf-8"}, {"Content-Type": "text/plain"}]
    for headers in kinds:
        answer = await ask(stage, endpoint, body, **headers)
        assert (answer.status_code, answer.json()["device_keys"]) == (200, {stage.alice.user_id: {}})


@SQLITE
@pytest.mark.behaviours("SS-API-03")
@pytest.mark.parametrize(
    "path",
    [
        *("/_matrix/federation", "/_matrix/federation/", "/_matrix/federation/v1", f"{V1}/nothing"),
        *(
            f"{V1}/send",
            f"{V1}/send/1/2",
            f"{V1}/send/",
            f"{V1}//send/1",
            f"{V1}/Send/1",
            "/_matrix/federation/v9/send/1",
        ),
        *("/_matrix/key/v2", "/_matrix/key/v2/nothing", "/_matrix/key/v1/server", "/_matrix/policy/v1/sign"),
    ],
)
async def test_unknown_endpoints_are_404(stage: Stage, path: str) -> None:
    for method in ("GET", "PUT", "POST", "DELETE"):
        for peer in (stage.bobs, None):
            headers = {} if peer is None else {"Authorization": str(peer.sign("a.test", method, path, None))}
            answer = await stage.network.clients["a.test"].send(method, path, headers=headers)
            assert (answer.status_code, answer.json()["errcode"]) == (404, "M_UNRECOGNIZED")


@SQLITE
@pytest.mark.behaviours("SS-API-03")
async def test_another_method_than_the_endpoints_is_405(stage: Stage) -> None:
    taken: dict[str, set[str]] = {}
    for endpoint in OF_SERVERS:
        taken.setdefault(target_of(endpoint, stage), set()).add(endpoint.method)
    for target, methods in taken.items():
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH"} - methods:
            answer = await stage.network.clients["a.test"].send(method, target)
            assert (answer.status_code, answer.json()["errcode"]) == (405, "M_UNRECOGNIZED"), target


@SQLITE
@pytest.mark.behaviours("SS-AUTH-02", "SS-AUTH-05")
async def test_requests_bear_the_names_before_delegation(network: Network) -> None:
    """Ours is what stands in user ids, wherever we are found; theirs is the one of whom we ask."""
    a = await network.server("a.test", well_known=WellKnown(server="matrix.a.test:443"))
    alice = await a.user("alice")
    peer = network.peer("p.test:8448")
    peer.on("GET", f"{V1}/query/profile", lambda seen: {"displayname": "Pat"})
    assert (await alice.get("/profile/%40pat%3Ap.test:8448")).json() == {"displayname": "Pat"}
    [seen] = [one for one in peer.seen if one.target.startswith(V1)]
    # Old servers take nothing but one blank, lower case, no backslash, and no blanks about commas.
    expected = r'X-Matrix origin="a\.test",destination="p\.test:8448",key="ed25519:\w+",sig="[A-Za-z0-9+/]+"'
    assert re.fullmatch(expected, seen.header)
    target = f"{V1}/query/profile?user_id=%40alice%3Aa.test"
    for name, status in {"a.test": 200, "matrix.a.test": 401, "matrix.a.test:443": 401, "a.test:8448": 401}.items():
        answer = await peer.call("a.test", "GET", target, header=str(peer.sign(name, "GET", target, None)))
        assert answer.status_code == status, name


OLD = ["@Bob Ünïcode:b.example", "@:b.example", "@\U0001f600:b.example"]


@pytest.mark.behaviours("SS-PDU-11", "ID-01")
@pytest.mark.trust("C26")
async def test_users_with_ids_of_old_are_heard_in_events_and_not_otherwise(stage: Stage) -> None:
    for number, user_id in enumerate(OLD):
        since = (await stage.alice.sync())["next_batch"]
        await stage.scene.join(user_id)
        graph = await stage.scene.graph()
        event = graph.say(user_id, "m.room.message", {"body": f"{number}"}, [graph.events[-1]])
        assert await stage.bobs.send("a.test", f"e{number}", event.pdu) == {event.event_id: {}}
        seen = await stage.alice.sync(since)
        events = seen["rooms"]["join"][stage.room]["timeline"]["events"]
        assert [one["sender"] for one in events] == [user_id, user_id]
        assert "device_lists" not in seen
        edus: list[Json] = [
            {"edu_type": kind, "content": content}
            for kind, content in {
                "m.typing": {"room_id": stage.room, "user_id": user_id, "typing": True},
                "m.presence": {"push": [{"user_id": user_id, "presence": "online"}]},
                "m.receipt": {stage.room: {"m.read": {user_id: {"event_ids": [event.event_id], "data": {"ts": 5}}}}},
                "m.device_list_update": {"user_id": user_id, "device_id": "D", "stream_id": 1, "prev_id": []},
                "m.direct_to_device": {
                    "sender": user_id,
                    "type": "m.test",
                    "message_id": f"m{number}",
                    "messages": {stage.alice.user_id: {"*": {}}},
                },
            }.items()
        ]
        before = seen["next_batch"]
        await stage.bobs.send("a.test", f"o{number}", edus=edus)
        assert {**await stage.alice.sync(before), "next_batch": "", "device_one_time_keys_count": {}} == {
            "next_batch": "",
            "device_one_time_keys_count": {},
            "device_unused_fallback_key_types": [],
        }
    members = (await stage.alice.get(f"/rooms/{quote(stage.room)}/joined_members")).json()["joined"]
    assert set(OLD) <= set(members)


@SQLITE
@pytest.mark.behaviours("SS-AUTH-06")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_matrix/federation/v1/version", 200),
        ("GET", "/_matrix/key/v2/server", 200),
        ("GET", "/_matrix/key/v2/query/a.test", 200),
        ("POST", "/_matrix/key/v2/query", 200),
        ("GET", f"{V1}/openid/userinfo?access_token=none", 401),  # The token's own 401.
        ("PUT", f"{V1}/3pid/onbind", 404),
    ],
)
async def test_what_needs_no_signature(stage: Stage, method: str, path: str, status: int) -> None:
    bodies: dict[str, Json] = {
        "POST": {"server_keys": {}},
        "PUT": {"medium": "email", "address": "a@b.test", "mxid": "@nobody:a.test", "invites": []},
    }
    answer = await stage.network.clients["a.test"].send(method, path, json=bodies.get(method))
    assert answer.status_code == status, answer.text
    if status == 401:
        assert answer.json()["errcode"] == "M_UNKNOWN_TOKEN"
