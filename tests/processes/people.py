"""People who talk in rooms, on whatever server."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from tests.processes.talking import Connection, Json

OPEN = {
    "HOMESERVER_REGISTRATION_OPEN": "true",
    "HOMESERVER_PASSWORDS_TIME_COST": "1",
    "HOMESERVER_PASSWORDS_MEMORY_KIB": "8",
    "HOMESERVER_LIMITS_RATE_LIMITS": "false",
}
"""Settings of a server at which people register by themselves."""


@contextmanager
def user(host: str, port: int, name: str) -> Iterator[Connection]:
    """A new user of the server that is there."""
    connection = Connection(host, port)
    body: Json = {"username": name, "password": "sesame street", "auth": {"type": "m.login.dummy"}}
    try:
        connection.token = connection.call("POST", "/register", body)["access_token"]
        yield connection
    finally:
        connection.close()


def say(who: Connection, room_id: str, text: str) -> str:
    path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/{quote(text)}"
    event_id: str = who.call("PUT", path, {"msgtype": "m.text", "body": text})["event_id"]
    return event_id


def until(
    who: Connection, condition: Callable[[Json], bool], since: str | None = None, *, include_leave: bool = False
) -> None:
    """Sync until an answer is as wanted. Each answer is shown once, and `rooms` is always there."""
    wanted = {"room": {"timeline": {"limit": 100}, "include_leave": include_leave}}
    query = {"timeout": "2000", "filter": json.dumps(wanted)}
    more = "".join(f"&{name}={quote(value)}" for name, value in query.items())
    while True:
        answer = who.call("GET", f"/sync?{more}" + ("" if since is None else f"&since={quote(since)}"))
        answer.setdefault("rooms", {})
        if condition(answer):
            return
        since = answer["next_batch"]


def hear(who: Connection, room_id: str, *event_ids: str) -> None:
    """Sync until all of these have come."""
    missing = set(event_ids)

    def is_all(answer: Json) -> bool:
        room = answer["rooms"].get("join", {}).get(room_id, {})
        missing.difference_update(event["event_id"] for event in room.get("timeline", {}).get("events", []))
        return not missing

    until(who, is_all)
