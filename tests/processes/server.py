"""The homeserver as an operator runs it: its own process, settings from the environment, ended by SIGTERM."""

import contextlib
import http.client
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import running

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).parent / "homeserver"
HOST = "127.0.0.1"


@dataclass
class Server:
    """One server process. It can be stopped or killed and started again on the same data and port."""

    data_dir: Path
    database_url: str | None
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    process: running.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """Everything that the process, and those before it on the same data, have printed."""
        path = self.data_dir / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, within: float = 30) -> None:
        """Start the process and return when ``/health`` says 200."""
        assert self.process is None
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.process = running.start(
            "homeserver",
            [PROGRAM, "serve"],
            log=self.data_dir / "server.log",
            env=environment(
                self.data_dir, self.database_url, HOMESERVER_HOST=HOST, HOMESERVER_PORT=str(self.port), **self.settings
            ),
            cwd=REPOSITORY,
        )
        try:
            self.process.wait_until(self.is_healthy, within)
        except running.Failed:
            self.process = None
            raise

    def stop(self, within: float = 20) -> None:
        """End the process by SIGTERM; raises unless it exits with 0 in time."""
        assert self.process is not None
        process, self.process = self.process, None
        code = process.stop(within=within)
        if code != 0:
            raise running.Failed(f"the homeserver exited with {code} after SIGTERM:\n{process.output()}")

    def kill(self) -> None:
        """End the process by SIGKILL."""
        assert self.process is not None
        process, self.process = self.process, None
        process.kill()

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextlib.contextmanager
def running_server(data_dir: Path, database_url: str | None = None, **settings: str) -> Iterator[Server]:
    """A server process on a free port; at the end it must stop cleanly, unless the test has stopped it already.

    ``settings`` are environment variables. Without ``database_url`` the embedded database in ``data_dir`` is used.
    The log is printed at the end, so that pytest shows it with a failure.
    """
    server = Server(data_dir, database_url, free_port(), settings)
    try:
        server.start()
        yield server
        if server.process is not None:
            server.stop()
    finally:
        if server.process is not None:
            server.kill()
        print(server.log[-20_000:])


def environment(data_dir: Path, database_url: str | None, **settings: str) -> dict[str, str]:
    """Our environment with only the given settings of the server in it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HOMESERVER_")}
    clean |= {"HOMESERVER_SERVER_NAME": "localhost", "HOMESERVER_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
    if database_url is not None:
        clean["HOMESERVER_DATABASE_URL"] = database_url
    return clean | settings


def migrate(database_url: str, data_dir: Path) -> None:
    """Bring a database to the current schema by the command an operator uses."""
    result = subprocess.run(
        [PROGRAM, "migrate"],
        env=environment(data_dir, database_url),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if result.returncode != 0:
        raise running.Failed(f"homeserver migrate failed:\n{result.stdout}{result.stderr}")


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database file, with what may still be in its write-ahead log."""
    with contextlib.closing(sqlite3.connect(source)) as read, contextlib.closing(sqlite3.connect(target)) as write:
        read.backup(write)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
