"""Events that no room takes are refused one by one, and the room goes on; on both databases."""

from typing import Any

import httpx2
import pytest

from tests.world import World


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the error code."""
    return answer.status_code, answer.json()["errcode"]


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
