"""The check of responses itself: it passes what the specification shows, and fails what differs."""

import pytest

from tests.spec import openapi
from tests.spec.openapi import Nonconforming, Specification

WHOAMI = "/_matrix/client/v3/account/whoami"


if openapi.specification() is None:
    reason = f"no response is held to the specification: its data is not in {openapi.FOLDER}"
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def known() -> Specification:
    found = openapi.specification()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("method", "path", "operation_id"),
    [
        ("GET", "/_matrix/client/v3/sync?timeout=0", "sync"),
        ("GET", "/_matrix/client/r0/sync", "sync"),
        ("PUT", "/_matrix/client/v3/rooms/%21a%2Fb:x/send/m.room.message/1", "sendMessage"),
        ("PUT", "/_matrix/client/v3/rooms/!a:x/state/m.room.name/", "setRoomStateWithKey"),
        ("PUT", "/_matrix/client/v3/rooms/!a:x/state/m.room.name", "setRoomStateWithKey"),
        ("GET", "/_matrix/client/v3/pushrules", "getPushRules"),
        ("GET", "/_matrix/client/v3/devices/ABC", "getDevice"),
        ("get", "/_matrix/client/versions", "getVersions"),
        ("POST", "/_matrix/client/v3/rooms/!a:x/invite", "inviteBy3PID"),
    ],
)
def test_find_of_a_request_gives_its_operation(known: Specification, method: str, path: str, operation_id: str) -> None:
    assert operation_id in [operation.operation_id for operation in known.find(method, path)]


def test_find_of_what_the_specification_does_not_have_gives_nothing(known: Specification) -> None:
    assert known.find("GET", "/_matrix/client/v3/nothing") == []
    assert known.find("DELETE", "/_matrix/client/v3/sync") == []
    assert known.check("GET", "/health", 200, b"ok") == []


def test_check_of_a_right_body_passes(known: Specification) -> None:
    (operation,) = known.check("GET", WHOAMI, 200, {"user_id": "@a:x", "device_id": "D"})
    assert operation.operation_id == "getTokenOwner"
    known.check("GET", WHOAMI, 200, b'{"user_id": "@a:x"}')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "'user_id' is a required property"),
        ({"user_id": 1}, "user_id"),
        (b"[]", "is not of type 'object'"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_check_of_a_wrong_body_fails(known: Specification, body: object, said: str) -> None:
    with pytest.raises(Nonconforming, match=said):
        known.check("GET", WHOAMI, 200, body)


def test_check_deep_inside_a_body_fails(known: Specification) -> None:
    event = {"type": "m.room.message", "sender": "@a:x", "event_id": "$e", "origin_server_ts": 1, "content": {}}
    body = {"next_batch": "1", "rooms": {"join": {"!r:x": {"timeline": {"events": [event]}}}}}
    known.check("GET", "/_matrix/client/v3/sync", 200, body)
    del event["sender"]
    with pytest.raises(Nonconforming, match="sender"):
        known.check("GET", "/_matrix/client/v3/sync", 200, body)


def test_check_of_an_undeclared_success_fails(known: Specification) -> None:
    with pytest.raises(Nonconforming, match="status 201 is not declared"):
        known.check("GET", WHOAMI, 201, {"user_id": "@a:x"})


def test_check_of_an_error_wants_code_and_text(known: Specification) -> None:
    known.check("GET", WHOAMI, 403, {"errcode": "M_FORBIDDEN", "error": "No."})
    known.check("GET", WHOAMI, 418, {"errcode": "M_UNKNOWN", "error": "No."})
    for path in (WHOAMI, "/_matrix/client/v3/nothing"):
        with pytest.raises(Nonconforming, match="errcode"):
            known.check("GET", path, 404, {"error": "No."})
        with pytest.raises(Nonconforming, match="`error`"):
            known.check("GET", path, 404, {"errcode": "M_UNRECOGNIZED"})


def test_check_of_a_first_interactive_answer_passes_without_code(known: Specification) -> None:
    path = "/_matrix/client/v3/register"
    known.check("POST", path, 401, {"flows": [{"stages": ["m.login.dummy"]}], "session": "s", "params": {}})
    with pytest.raises(Nonconforming):
        known.check("POST", path, 401, {"session": "s"})


def test_check_of_media_takes_any_bytes(known: Specification) -> None:
    assert known.check("GET", "/_matrix/client/v1/media/download/x/y", 200, b"\x89PNG")


def test_every_example_passes_and_fails_without_a_required_key(known: Specification) -> None:
    passed = failed = 0
    for operation, status, body in openapi.examples(known):
        # The text requires `error` of servers; some examples are shorter.
        if status == "default" or (int(status) >= 400 and "error" not in body):
            continue
        known.check(operation.method, operation.path, int(status), body)
        passed += 1
        if int(status) < 400:
            required = [
                key for key in body if _fails(known, operation, status, {k: v for k, v in body.items() if k != key})
            ]
            failed += bool(required)
    assert passed > 200
    assert failed > 50


def _fails(known: Specification, operation: openapi.Operation, status: str, body: object) -> bool:
    try:
        known.check(operation.method, operation.path, int(status), body)
    except Nonconforming:
        return True
    return False
