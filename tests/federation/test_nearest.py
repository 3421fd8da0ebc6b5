"""The event nearest to a time, where history is missing."""

import json
from typing import Any

import pytest

from tests.federation.network import Seen
from tests.federation.test_history import V1, Hole, hole
from tests.federation.test_queries import refusing, unreachable
from tests.federation.test_reads import q

__all__ = ["hole"]

pytestmark = pytest.mark.anyio

TIME = f"{V1}/timestamp_to_event/"


async def nearest(hole: Hole, ts: int, direction: str = "f") -> str:
    answer = await hole.alice.get(f"/v1/rooms/{q(hole.room)}/timestamp_to_event", ts=ts, dir=direction)
    assert answer.status_code == 200, answer.text
    event_id: str = answer.json()["event_id"]
    return event_id


def tell(hole: Hole, index: int) -> None:
    """Let the peer say that this missing event is nearest."""
    event = hole.missing[index]
    answer = {"event_id": event.event_id, "origin_server_ts": event.origin_server_ts}
    hole.peer.on("GET", TIME, lambda seen: answer)


@pytest.mark.behaviours("CS-GET-10")
@pytest.mark.parametrize("direction", ["f", "b"])
async def test_nearer_event_is_fetched_from_whoever_knows_it(hole: Hole, direction: str) -> None:
    hole.serve()
    end = await hole.close(hole.say(30))
    tell(hole, 10)
    wanted = hole.missing[10]
    assert await nearest(hole, wanted.origin_server_ts, direction) == wanted.event_id
    # Then it is known, and can be read around.
    answer = await hole.alice.get(f"/rooms/{q(hole.room)}/context/{q(wanted.event_id)}", limit="2")
    assert answer.json()["events_before"][0]["event_id"] == hole.missing[9].event_id
    asked = [seen for seen in hole.peer.seen if seen.target.startswith(TIME)]
    assert [seen.target.partition("?")[2] for seen in asked] == [f"ts={wanted.origin_server_ts}&dir={direction}"]
    assert await nearest(hole, end.origin_server_ts) == end.event_id


def serve_little(hole: Hole, count: int) -> None:
    """Let the peer give so many events at a time."""
    hole.serve()
    whole = hole.peer.answers["GET", f"{V1}/backfill/"]

    def some(seen: Seen) -> Any:
        answer: Any = whole(seen)
        return answer | {"pdus": answer["pdus"][:count]}

    hole.peer.on("GET", f"{V1}/backfill/", some)


@pytest.mark.behaviours("CS-GET-10")
@pytest.mark.trust("R6")
@pytest.mark.by_turns
@pytest.mark.parametrize("direction", ["f", "b"])
@pytest.mark.parametrize(
    ("shown", "is_reached"),
    [(0, True), (None, False), (1, False)],
    ids=["it is shown", "nothing is shown", "another is shown"],
)
async def test_event_that_is_shown_is_fetched_from_far_back(
    hole: Hole, direction: str, shown: int | None, is_reached: bool
) -> None:
    serve_little(hole, 4)
    await hole.close(hole.say(40))
    wanted = hole.missing[0]
    tell(hole, 0)
    if shown is None:
        hole.peer.on("GET", f"{V1}/event/", refusing(404, "M_NOT_FOUND"))
    else:
        pdu = json.loads(hole.missing[shown].pdu)
        hole.peer.on("GET", f"{V1}/event/{q(wanted.event_id)}", lambda seen: {"pdus": [pdu]})
    found = await nearest(hole, wanted.origin_server_ts, direction)
    assert (found == wanted.event_id) is is_reached
    # It is fetched no further than that event, or not far at all.
    assert len(hole.asked) == (10 if is_reached else 5)


async def test_nobody_is_asked_where_nothing_is_missing(hole: Hole) -> None:
    hole.serve()
    end = await hole.close(hole.say(5))
    after = await hole.alice.send(hole.room, "after")
    assert await nearest(hole, end.origin_server_ts + 1, "b") in (end.event_id, after)
    assert await nearest(hole, 0) == hole.graph.create.event_id
    assert not [seen for seen in hole.peer.seen if seen.target.startswith(TIME)]


@pytest.mark.trust("S7", "R8")
@pytest.mark.parametrize(
    "answer",
    [
        refusing(401),
        refusing(404, "M_NOT_FOUND"),
        unreachable,
        lambda seen: [],
        lambda seen: {"event_id": "nonsense", "origin_server_ts": 5},
        lambda seen: {"event_id": "$x", "origin_server_ts": 5},
        lambda seen: {"event_id": "$x", "origin_server_ts": "5"},
        lambda seen: {"event_id": "$x", "origin_server_ts": 2**70},
    ],
)
@pytest.mark.by_turns
async def test_without_a_good_answer_what_is_known_is_told(hole: Hole, answer: Any) -> None:
    hole.serve()
    end = await hole.close(hole.say(5))
    hole.peer.on("GET", TIME, answer)
    assert await nearest(hole, hole.missing[2].origin_server_ts) == end.event_id
    assert not hole.asked


@pytest.mark.trust("R6")
async def test_liar_makes_nobody_fetch_for_ever(hole: Hole) -> None:
    end = await hole.close(hole.say(5))

    def closer(seen: Seen) -> Any:
        return {"event_id": "$closer", "origin_server_ts": hole.missing[2].origin_server_ts}

    hole.peer.on("GET", TIME, closer)
    for _ in range(3):
        assert await nearest(hole, hole.missing[2].origin_server_ts) == end.event_id
    assert len(hole.peer.seen) < 20
