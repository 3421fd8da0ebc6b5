"""Kills the server at one point of a write, again and again, and looks at what it has kept."""

import concurrent.futures
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.processes import running, server, talking
from tests.processes.launcher import Launcher
from tests.processes.talking import Connection, Json, Talker, Watcher

KILLS = 20
_MOST_PASSINGS = 8
_SETTINGS = {
    "HOMESERVER_LIMITS_RATE_LIMITS": "false",
    "HOMESERVER_PASSWORDS_TIME_COST": "1",
    "HOMESERVER_PASSWORDS_MEMORY_KIB": "8",
    "HOMESERVER_LOG_LEVEL": "warning",
}


@dataclass
class Crashing:
    """A server that dies, with those who talk on it."""

    launcher: Launcher
    data_dir: Path
    database_url: str | None
    port: int = field(default_factory=server.free_port)
    talkers: list[Talker] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    before: set[str] = field(default_factory=set)
    settings: dict[str, str] = field(default_factory=dict)
    """Further settings of the server."""

    @property
    def log(self) -> Path:
        return self.data_dir / "server.log"

    def start(self, crash_point: str = "") -> int:
        """Start the server; its process id when it is well, or has died already."""
        settings = {**_SETTINGS, **self.settings, "HOMESERVER_HOST": server.HOST, "HOMESERVER_PORT": str(self.port)}
        env = server.environment(self.data_dir, self.database_url, **settings, HOMESERVER_CRASH_POINT=crash_point)
        pid = self.launcher.start(["serve"], env, self.log)
        probe = server.Server(self.data_dir, self.database_url, self.port)
        deadline = time.monotonic() + 20
        while not probe.is_healthy() and (not crash_point or is_running(pid)):
            assert time.monotonic() < deadline, f"the server does not come up:\n{self.log.read_text()[-5000:]}"
            time.sleep(running.CHECK_EVERY)
        return pid

    def stop(self, pid: int) -> None:
        """End the server as an operator does."""
        running.end(pid)
        assert self.launcher.wait() == 0, self.log.read_text()[-5000:]

    def fsck(self) -> None:
        """The database is whole, by the command that operators have."""
        output = self.data_dir / "fsck.log"
        with suppress(FileNotFoundError):
            output.unlink()
        self.launcher.start(["fsck"], server.environment(self.data_dir, self.database_url, **self.settings), output)
        assert self.launcher.wait() == 0, output.read_text()

    def settle_in(self) -> None:
        """Make users and rooms, and let the watchers begin."""
        pid = self.start()
        host = Connection(server.HOST, self.port)
        host.token = self.register("host")
        for _ in range(2):
            levels = {"users_default": 50}
            room = {"preset": "public_chat", "power_level_content_override": levels}
            self.rooms.append(host.call("POST", "/createRoom", room)["room_id"])
        eve = Connection(server.HOST, self.port, self.register("eve"))
        for room_id in self.rooms:
            eve.call("POST", f"/rooms/{room_id}/join", {})
        for name in ("ann", "ben", "cai", "dee"):
            talker = Talker(name, Connection(server.HOST, self.port, self.register(name)), self.rooms)
            for room_id in self.rooms:
                talker.connection.call("POST", f"/rooms/{room_id}/join", {})
            self.talkers.append(talker)
        self.watchers += [self._watcher(connection) for connection in (host, eve)]
        self.before = {event["event_id"] for room_id in self.rooms for event in talking.history(host, room_id)}
        self.stop(pid)
        self._hang_up()

    def kill_at(self, point: str) -> None:
        """Let everybody talk until the server dies at the point, as often as `KILLS` says."""
        chance = random.Random(f"{point} {self.database_url is None}")
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            for kill in range(KILLS):
                pid = self.start(f"{point}:{chance.randint(1, _MOST_PASSINGS)}")
                talk = [threads.submit(talker.talk) for talker in self.talkers]
                watch = [threads.submit(watcher.watch) for watcher in self.watchers]
                done, _ = concurrent.futures.wait([*talk, *watch], 20, concurrent.futures.FIRST_EXCEPTION)
                if len(done) < len(talk) + len(watch):
                    running.end(pid)  # Somebody has failed, and says so below.
                for work in (*talk, *watch):
                    work.result(20)
                assert self.launcher.wait() == -9, self.log.read_text()[-5000:]
                if kill % 5 == 4:  # What is broken once stays so.
                    self.fsck()

    def account(self) -> None:
        """Everything that was asked for is there once, whether it was acknowledged at the first try or not."""
        pid = self.start()
        for talker in self.talkers:
            talker.finish()
        for watcher in self.watchers:
            while watcher.look(timeout=0):
                pass
        histories = {room_id: talking.history(self.watchers[0].connection, room_id) for room_id in self.rooms}
        self.stop(pid)
        self._hang_up()
        self.fsck()
        ids = Counter(event["event_id"] for events in histories.values() for event in events)
        assert set(ids.values()) == {1}
        for talker in self.talkers:
            _check_talker(talker, {room_id: _by(talker, events) for room_id, events in histories.items()})
        for watcher in self.watchers:
            for room_id, events in histories.items():
                new = [event["event_id"] for event in events if event["event_id"] not in self.before]
                assert watcher.seen.get(room_id, []) == new

    def _hang_up(self) -> None:
        everybody: list[Talker | Watcher] = [*self.talkers, *self.watchers]
        for one in everybody:
            one.connection.close()

    def register(self, name: str) -> str:
        """The access token of a new user."""
        body = {"username": name, "password": "sesame street", "auth": {"type": "m.login.dummy"}}
        connection = Connection(server.HOST, self.port)
        token: str = connection.call("POST", "/register", body)["access_token"]
        connection.close()
        return token

    @staticmethod
    def _watcher(connection: Connection) -> Watcher:
        return Watcher(connection, connection.call("GET", "/sync")["next_batch"])


def is_running(pid: int) -> bool:
    """A process that has died and was not waited for is not running either."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _by(talker: Talker, events: list[Json]) -> list[Json]:
    return [event for event in events if event["sender"] == f"@{talker.name}:localhost"]


def _check_talker(talker: Talker, said: dict[str, list[Json]]) -> None:
    by_id = {event["event_id"]: event for events in said.values() for event in events}
    marks = Counter(_mark(event) for event in by_id.values())
    redacted = {step.path.split("/")[4] for step in talker.done if step.kind == "redaction"}
    for step in talker.done:
        if step.event_id is not None:
            event = by_id[step.event_id]
            assert event["room_id"] == step.room_id
            assert _mark(event) in (step.mark, None)
        if step.kind == "message" and quote(step.event_id or "") in redacted:
            assert by_id[step.event_id or ""]["content"] == {}
        else:
            assert marks[step.mark] == 1, f"{step.kind} {step.mark} is there {marks[step.mark]} times"
    messages = sum(event["type"] == "m.room.message" for event in by_id.values())
    assert messages == sum(step.kind == "message" for step in talker.done)


def _mark(event: Json) -> str | None:
    content = event["content"]
    return content.get("mark") or content.get("reason") or content.get("body")
