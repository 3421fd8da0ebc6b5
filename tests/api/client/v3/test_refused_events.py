"""Sending events and setting state: what is refused, and what is said once only; on both databases."""

from typing import Any

import httpx2
import pytest

from tests.world import World


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the error code."""
    return answer.status_code, answer.json()["errcode"]


@pytest.mark.behaviours("CS-SEND-01")
async def test_message_is_sent_once_for_each_transaction_of_a_device(world: World) -> None:
    alice = await world.user("alice")
    other_device = await world.user("alice", device_id="OTHER")
    room_id = await alice.create_room()
    path = f"/rooms/{room_id}/send/m.room.message"
    content = {"msgtype": "m.text", "body": "Hello."}
    first = (await alice.put(f"{path}/t", content)).json()
    assert (await alice.put(f"{path}/t", {**content, "body": "Something else."})).json() == first
    assert (await alice.put(f"{path}/u", content)).json() != first
    assert (await other_device.put(f"{path}/t", content)).json() != first
    # State has no transaction ids, and is only put.
    state = f"/rooms/{room_id}/state/org.example/key"
    assert (await alice.put(state, {"a": 1})).json() != (await alice.put(state, {"a": 2})).json()
    assert refusal(await alice.post(state, {})) == (405, "M_UNRECOGNIZED")


@pytest.mark.parametrize("version", ["1", "5", "6", "12"])
@pytest.mark.behaviours("CS-SEND-05")
async def test_numbers_that_are_not_canonical_are_refused_since_version_6(world: World, version: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_version=version)
    expected = 200 if int(version) < 6 else 400
    wrong: list[Any] = [1.5, 2**53, -(2**53)]
    for number in wrong:
        for path in ("send/org.example/t", "state/org.example/key"):
            answer = await alice.put(f"/rooms/{room_id}/{path}{number}", {"deep": [{"number": number}]})
            assert answer.status_code == expected, answer.text
            assert answer.json().get("errcode") == (None if expected == 200 else "M_BAD_JSON")


@pytest.mark.parametrize("version", ["1", "12"])
@pytest.mark.behaviours("CS-EV-01", "CS-EV-02")
async def test_events_that_are_too_large_are_refused(world: World, version: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_version=version)
    for path in ("send/org.example/t", f"send/{'x' * 256}/t", "state/org.example/k", f"state/org.example/{'k' * 256}"):
        long = "x" * (10 if "xxx" in path or "kkk" in path else 66_000)
        assert refusal(await alice.put(f"/rooms/{room_id}/{path}", {"a": long})) == (413, "M_TOO_LARGE")
    assert (await alice.put(f"/rooms/{room_id}/send/org.example/u", {"a": "x" * 60_000})).status_code == 200


@pytest.mark.parametrize("version", ["1", "6", "12"])
@pytest.mark.behaviours("CS-EV-11")
async def test_state_under_a_user_id_is_for_that_user(world: World, version: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(room_version=version, preset="public_chat")
    await bob.join(room_id)
    path = f"/rooms/{room_id}/state/org.example"
    assert (await alice.put(f"{path}/{alice.user_id}", {})).status_code == 200
    assert refusal(await alice.put(f"{path}/{bob.user_id}", {})) == (403, "M_FORBIDDEN")
    assert refusal(await alice.put(f"{path}/@x", {})) == (403, "M_FORBIDDEN")
    assert (await alice.put(f"{path}/_{bob.user_id}", {})).status_code == 200


@pytest.mark.behaviours("CS-SEND-02")
@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("send/m.room.redaction/t", {}, (400, "M_BAD_JSON")),
        ("send/m.room.redaction/t", {"redacts": "$nothing"}, (404, "M_NOT_FOUND")),
        ("send/m.room.redaction/t", {"redacts": "$no\0thing"}, (400, "M_INVALID_PARAM")),
        ("redact/$nothing/t", {}, (404, "M_NOT_FOUND")),
        ("redact/nothing/t", {}, (400, "M_INVALID_PARAM")),
        ("send/org.example%00/t", {}, None),
        ("send/org.example/t%00", {}, (400, "M_INVALID_PARAM")),
        ("state/org.example%00", {}, (400, "M_INVALID_PARAM")),
        ("state/org.example/k%00", {}, (400, "M_INVALID_PARAM")),
        ("state/m.room.create", {}, None),
        ("state/m.room.power_levels", {"users": {"nonsense": 1}}, None),
        ("state/m.room.third_party_invite/token", {}, None),
        ("state/m.room.aliases/localhost", {}, None),
    ],
)
async def test_nothing_that_is_sent_breaks_the_server(world: World, path: str, content: Any, expected: Any) -> None:
    alice = await world.user("alice")
    for version in ("1", "11", "12"):
        room_id = await alice.create_room(room_version=version)
        answer = await alice.put(f"/rooms/{room_id}/{path}", content)
        assert answer.status_code < 500, answer.text
        if expected is not None:
            assert refusal(answer) == expected
        assert (await alice.get(f"/rooms/{room_id}/state")).status_code == 200
