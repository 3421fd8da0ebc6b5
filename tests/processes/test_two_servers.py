"""Two servers as processes, which federate over TLS as servers of different people do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.processes.federating import new_federation
from tests.processes.server import HOST, Server
from tests.processes.talking import Connection, Json

pytestmark = pytest.mark.timeout(120)  # Each test starts processes, and waits for them.

OPEN = {
    "HOMESERVER_REGISTRATION_OPEN": "true",
    "HOMESERVER_PASSWORDS_TIME_COST": "1",
    "HOMESERVER_PASSWORDS_MEMORY_KIB": "8",
    "HOMESERVER_LIMITS_RATE_LIMITS": "false",
}


@contextmanager
def user(server: Server, name: str) -> Iterator[Connection]:
    """A new user of a server."""
    connection = Connection(HOST, server.port)
    body: Json = {"username": name, "password": "sesame street", "auth": {"type": "m.login.dummy"}}
    connection.token = connection.call("POST", "/register", body)["access_token"]
    yield connection
    connection.close()


def say(who: Connection, room_id: str, text: str) -> str:
    path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/{text}"
    event_id: str = who.call("PUT", path, {"msgtype": "m.text", "body": text})["event_id"]
    return event_id


def hear(who: Connection, room_id: str, *event_ids: str) -> None:
    """Sync until all of these have come."""
    missing = set(event_ids)
    query = {"timeout": "2000", "filter": json.dumps({"room": {"timeline": {"limit": 100}}})}
    since = ""
    while missing:
        more = "".join(f"&{name}={quote(value)}" for name, value in query.items())
        answer = who.call("GET", f"/sync?{since}{more}")
        room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
        missing -= {event["event_id"] for event in room.get("timeline", {}).get("events", [])}
        since = f"since={answer['next_batch']}"


@pytest.mark.trust("F24")
def test_users_of_two_servers_talk_and_miss_nothing_while_one_is_away(tmp_path: Path) -> None:
    federation = new_federation(tmp_path, "a.test", "b.test")
    with federation.running("a.test", "b.test", **OPEN) as (a, b), user(a, "alice") as alice, user(b, "bob") as bob:
        creation = {"preset": "public_chat", "room_alias_name": "hall"}
        room_id = alice.call("POST", "/createRoom", creation)["room_id"]
        assert bob.call("POST", f"/join/{quote('#hall:a.test')}", {})["room_id"] == room_id
        hear(alice, room_id, say(bob, room_id, "one"))
        hear(bob, room_id, say(alice, room_id, "two"))
        b.stop()
        bob.close()
        missed = [say(alice, room_id, f"missed-{number}") for number in range(5)]
        b.start()
        # A sign of life is enough: nobody has to wait until the next try is due.
        hear(alice, room_id, say(bob, room_id, "back"))
        hear(bob, room_id, *missed)
