"""Clients that talk to a server which dies again and again, and that know afterwards what it owes them."""

import http.client
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

Json = dict[str, Any]

_GONE = (OSError, http.client.HTTPException)
_FILTER = json.dumps({"room": {"timeline": {"limit": 100}}, "presence": {"types": []}})


@dataclass
class Connection:
    """One client's way to the server."""

    host: str
    port: int
    token: str = ""
    open: http.client.HTTPConnection | None = None
    patience_s: float = 60

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """The answer; anything but success is a failure of the test."""
        status, answer = self.ask(method, path, body)
        assert status == 200, f"{method} {path}: {status} {answer}"
        return answer

    def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """The status and the answer."""
        if self.open is None:
            self.open = http.client.HTTPConnection(self.host, self.port, timeout=self.patience_s)
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            self.open.request(
                method, f"/_matrix/client/v3{path}", None if body is None else json.dumps(body).encode(), headers
            )
            answer = self.open.getresponse()
            return answer.status, json.loads(answer.read())
        except _GONE:
            self.close()
            raise

    def close(self) -> None:
        """Begin with a connection of its own at the next call."""
        if self.open is not None:
            self.open.close()
            self.open = None


@dataclass
class Step:
    """A request, by a mark that its event carries, and the event that it made, once that is known."""

    kind: str
    room_id: str
    mark: str
    method: str
    path: str
    body: Json
    is_doubtful: bool = False
    event_id: str | None = None


@dataclass
class Talker:
    """Sends, redacts, sets state, leaves and joins, one request after the other, until the server is gone.

    A request whose answer did not come is repeated, with its transaction id where it has one, before anything else.
    """

    name: str
    connection: Connection
    rooms: list[str]
    done: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._steps = self._script()
        self.current: Step | None = None

    def talk(self) -> None:
        """Go on until the connection is lost."""
        while True:
            try:
                self._go_on()
            except _GONE:
                if self.current is not None:
                    self.current.is_doubtful = True
                return

    def finish(self) -> None:
        """Bring the last request to its end."""
        if self.current is not None:
            self._go_on()

    def _go_on(self) -> None:
        if self.current is None:
            self.current = next(self._steps)
        step = self.current
        if not (step.is_doubtful and step.kind == "state" and self._is_set(step)):
            step.event_id = self.connection.call(step.method, step.path, step.body).get("event_id")
        self.done.append(step)
        self.current = None

    def _is_set(self, step: Step) -> bool:
        """Setting state has no transaction id: whoever got no answer has to look."""
        status, content = self.connection.ask("GET", step.path)
        return status == 200 and content["mark"] == step.mark

    def _script(self) -> Iterator[Step]:
        for number in itertools.count():
            room_id = self.rooms[number % len(self.rooms)]
            room = f"/rooms/{quote(room_id)}"
            mark = f"{self.name}.{number}"
            first = self._message(room_id, f"{mark}.0")
            yield first
            yield self._message(room_id, f"{mark}.1")
            path = f"{room}/redact/{quote(first.event_id or '')}/{mark}"
            yield Step("redaction", room_id, f"{mark}.2", "PUT", path, {"reason": f"{mark}.2"})
            path = f"{room}/state/org.example.mark/{self.name}"
            yield Step("state", room_id, f"{mark}.3", "PUT", path, {"mark": f"{mark}.3"})
            yield Step("leave", room_id, f"{mark}.4", "POST", f"{room}/leave", {"reason": f"{mark}.4"})
            yield Step("join", room_id, f"{mark}.5", "POST", f"{room}/join", {"reason": f"{mark}.5"})

    @staticmethod
    def _message(room_id: str, mark: str) -> Step:
        path = f"/rooms/{quote(room_id)}/send/m.room.message/{mark}"
        return Step("message", room_id, mark, "PUT", path, {"msgtype": "m.text", "body": mark})


@dataclass
class Watcher:
    """Follows sync tokens, over all restarts."""

    connection: Connection
    since: str
    seen: dict[str, list[str]] = field(default_factory=dict)

    def watch(self) -> None:
        """Go on until the connection is lost."""
        while True:
            try:
                self.look(timeout=30_000)
            except _GONE:
                return

    def look(self, timeout: int) -> bool:
        """One sync; whether there was something new."""
        query = urlencode({"since": self.since, "timeout": timeout, "filter": _FILTER})
        answer = self.connection.call("GET", f"/sync?{query}")
        joined = answer.get("rooms", {}).get("join", {})
        for room_id, room in joined.items():
            timeline = room.get("timeline", {})
            assert not timeline.get("limited"), f"a sync skipped events of {room_id}"
            self.seen.setdefault(room_id, []).extend(event["event_id"] for event in timeline.get("events", []))
        self.since = answer["next_batch"]
        return bool(joined)


def history(connection: Connection, room_id: str) -> list[Json]:
    """All of a room's events, the oldest first."""
    found: list[Json] = []
    page = connection.call("GET", f"/rooms/{quote(room_id)}/messages?dir=f&limit=500")
    while page["chunk"]:
        found += page["chunk"]
        if "end" not in page:
            break
        page = connection.call("GET", f"/rooms/{quote(room_id)}/messages?dir=f&limit=500&from={page['end']}")
    return found
