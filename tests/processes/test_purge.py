"""The command that purges rooms, beside a server and without one, and when the server is killed; on both databases."""

import concurrent.futures
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.processes import server as server_process
from tests.processes.postgres import Postgres
from tests.processes.server import PROGRAM, Server, environment
from tests.processes.test_promises import Json, call, register


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if request.param == "sqlite":
        with server_process.running_server(tmp_path, HOMESERVER_LIMITS_RATE_LIMITS="false") as running:
            yield running
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with (
        postgres.database() as url,
        server_process.running_server(tmp_path, url, HOMESERVER_LIMITS_RATE_LIMITS="false") as running,
    ):
        yield running


def command(server: Server, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [PROGRAM, "room", "purge", *arguments],
        env=environment(server.data_dir, server.database_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def purge(server: Server, *arguments: str) -> tuple[int, str, str]:
    """The exit code of the command, what it says, and the last line of what it complains of."""
    started = command(server, *arguments)
    said, complaint = started.communicate(timeout=60)
    return started.returncode, said.strip(), (complaint.strip().splitlines() or [""])[-1]


def send(server: Server, token: str, room_id: str, body: str) -> str:
    path = f"/rooms/{quote(room_id)}/send/m.room.message/{body}"
    event_id: str = call(server, "PUT", path, token, {"msgtype": "m.text", "body": body})["event_id"]
    return event_id


def bodies(server: Server, token: str, room_id: str) -> list[str]:
    found: list[str] = []
    page: Json = {"end": None}
    while "end" in page:
        token_part = f"&from={page['end']}" if page["end"] else ""
        page = call(server, "GET", f"/rooms/{quote(room_id)}/messages?dir=b&limit=100{token_part}", token)
        found += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
    return found


@pytest.mark.timeout(120)
def test_purge_beside_a_server_and_without_one(server: Server) -> None:
    token = register(server, "alice")
    room_id = call(server, "POST", "/createRoom", token, {})["room_id"]
    sent = [send(server, token, room_id, f"{number}") for number in range(10)]
    assert purge(server, room_id, "--before", sent[5])[:2] == (0, "The history is gone.")
    assert bodies(server, token, room_id) == ["9", "8", "7", "6", "5"]
    assert purge(server, room_id, "--before", "$nothing") == (1, "", "The room's history has no such event.")
    assert purge(server, room_id, "--before", "yesterday")[0] == 2
    assert purge(server, "!nothing:localhost")[0::2] == (1, "This server does not know the room.")
    code, _, complaint = purge(server, room_id)
    assert (code, complaint.split(",")[0]) == (1, "Users of this server are in the room")

    server.stop()
    assert purge(server, room_id, "--before", sent[8])[:2] == (0, "The history is gone.")
    server.start()
    assert bodies(server, token, room_id) == ["9", "8"]
    assert purge(server, room_id, "--before", "2001-01-01")[0] == 0
    assert bodies(server, token, room_id) == ["9", "8"]

    since = call(server, "GET", "/sync", token)["next_batch"]
    assert purge(server, room_id, "--force")[:2] == (0, "The room is gone.")
    assert room_id in call(server, "GET", f"/sync?since={since}", token)["rooms"]["leave"]
    assert purge(server, room_id)[0::2] == (1, "This server does not know the room.")


@pytest.mark.timeout(120)
@pytest.mark.trust("F39")
def test_purge_goes_on_when_the_server_was_killed(server: Server) -> None:
    token = register(server, "alice")
    room_id = call(server, "POST", "/createRoom", token, {})["room_id"]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: send(server, token, room_id, f"{number}"), range(1200)))
    last = send(server, token, room_id, "last")
    started = command(server, room_id, "--before", last)
    first = f"/rooms/{quote(room_id)}/messages?dir=f&limit=1"
    before = call(server, "GET", first, token)["chunk"]
    while call(server, "GET", first, token)["chunk"] == before:
        assert started.poll() is None
    server.kill()
    server.start()
    assert bodies(server, token, room_id)[0] == "last"
    said, complaint = started.communicate(timeout=60)
    assert (started.returncode, said.strip()) == (0, "The history is gone."), complaint
    assert bodies(server, token, room_id) == ["last"]
