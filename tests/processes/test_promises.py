"""What a server process keeps when it is killed, and how it ends; with real sockets, on both databases."""

import concurrent.futures
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from tests.processes import server as server_process
from tests.processes.postgres import Postgres
from tests.processes.server import Server

Json = dict[str, Any]


def call(server: Server, method: str, path: str, token: str | None = None, body: Json | None = None) -> Json:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = Request(f"{server.url}/_matrix/client/v3{path}", data, headers, method=method)
    with urlopen(request, timeout=30) as answer:
        value: Json = json.loads(answer.read())
        return value


def register(server: Server, name: str) -> str:
    body = {"username": name, "password": "sesame street", "auth": {"type": "m.login.dummy"}}
    token: str = call(server, "POST", "/register", body=body)["access_token"]
    return token


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


@pytest.mark.trust("R1")
def test_what_was_acknowledged_survives_a_kill(server: Server) -> None:
    token = register(server, "alice")
    room_id = call(server, "POST", "/createRoom", token, {})["room_id"]
    acknowledged: list[str] = []
    enough = threading.Event()

    def talk(sender: int) -> None:
        for number in range(10_000):
            path = f"/rooms/{quote(room_id)}/send/m.room.message/{sender}.{number}"
            try:
                answer = call(server, "PUT", path, token, {"msgtype": "m.text", "body": str(number)})
            except (URLError, ConnectionError, TimeoutError):
                return
            acknowledged.append(answer["event_id"])
            if len(acknowledged) > 100:
                enough.set()

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        talking = [threads.submit(talk, sender) for sender in range(4)]
        assert enough.wait(30)
        server.kill()
        concurrent.futures.wait(talking)
    server.start()
    found: set[str] = set()
    page: Json = {"end": None}
    while "end" in page:
        token_part = f"&from={page['end']}" if page["end"] else ""
        page = call(server, "GET", f"/rooms/{quote(room_id)}/messages?dir=b&limit=100{token_part}", token)
        found.update(event["event_id"] for event in page["chunk"])
    assert set(acknowledged) <= found
    # A request that is repeated after the restart is answered like the first one.
    path = f"/rooms/{quote(room_id)}/send/m.room.message/0.0"
    again = call(server, "PUT", path, token, {"msgtype": "m.text", "body": "0"})
    assert again["event_id"] in found
    assert call(server, "PUT", path, token, {"msgtype": "m.text", "body": "0"}) == again


def test_a_waiting_sync_is_answered_when_the_server_is_told_to_stop(server: Server) -> None:
    token = register(server, "alice")
    since = call(server, "GET", "/sync", token)["next_batch"]
    since = call(server, "GET", f"/sync?since={since}", token)["next_batch"]
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        waiting = threads.submit(call, server, "GET", f"/sync?since={since}&timeout=30000", token)
        # The server has taken the request when it answers one that came later on a connection of its own.
        for _ in range(3):
            call(server, "GET", "/account/whoami", token)
        server.stop()
        assert waiting.result(10)["next_batch"]
        assert time.monotonic() - began < 20


def test_further_addresses_are_listened_on(tmp_path: Path) -> None:
    port = server_process.free_port()
    config = tmp_path / "homeserver.toml"
    config.write_text(f'[[extra_listeners]]\nhost = "127.0.0.1"\nport = {port}\n')
    with server_process.running_server(tmp_path / "data", HOMESERVER_CONFIG=str(config)):
        with urlopen(f"http://127.0.0.1:{port}/_matrix/client/versions", timeout=10) as answer:
            assert answer.status == 200


def test_an_address_that_is_taken_is_said_in_words(server: Server, tmp_path: Path) -> None:
    settings = server_process.environment(tmp_path / "other", None, HOMESERVER_PORT=str(server.port))
    command = [str(server_process.PROGRAM), "serve"]
    ended = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert f"127.0.0.1 port {server.port} cannot be listened on" in ended.stderr


def test_somebody_who_has_no_token_gets_nothing(server: Server) -> None:
    with pytest.raises(HTTPError, match="401"):
        call(server, "GET", "/sync")
