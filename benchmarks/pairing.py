"""Servers that are measured as a pair: two of ours, or one of ours and Synapse, which speak TLS on the loopback.

Each is named by an address, because Synapse finds others by the DNS alone. `SYNAPSE_PYTHON` names the Python of an
environment that has Synapse (`scripts/install-synapse`); on PostgreSQL it needs `psycopg2` as well.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.processes import people, postgres, server, synapse
from tests.processes.federating import Federation, new_federation
from tests.processes.postgres import Postgres
from tests.processes.server import free_port
from tests.processes.talking import Connection

_START_S = 120
"""A machine that has much to do takes its time to start a server."""
_SETTINGS = people.OPEN | {
    "HOMESERVER_FEDERATION_ALLOWED_RANGES": '["127.0.0.0/8"]',
    "HOMESERVER_LOG_LEVEL": "warning",
}
_TEN_MS = 0.01


@dataclass(frozen=True)
class Seat:
    """A running server, and where its clients find it."""

    kind: str
    name: str
    host: str
    port: int
    pid: int

    def user(self, name: str) -> AbstractContextManager[Connection]:
        """Somebody new."""
        return people.user(self.host, self.port, name)

    def cpu_s(self) -> float:
        """CPU time that the process has used so far."""
        spent = psutil.Process(self.pid).cpu_times()
        return float(spent.user + spent.system)

    def peak_mib(self) -> float:
        """The most memory that the process has held."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


class Pairing:
    """Starts servers that trust each other's certificates, each on a database of its own."""

    def __init__(self, stack: ExitStack, folder: Path, *, is_sqlite: bool) -> None:
        self._stack = stack
        self._folder = folder
        self._federation: Federation = new_federation(folder)
        self._cluster: Postgres | None = None
        if not is_sqlite:
            self._cluster = stack.enter_context(postgres.started(durable=True))

    def name(self, number: int) -> str:
        """The name of a server of ours that may be started later."""
        name = f"127.0.0.{number}:{free_port()}"
        self._federation.add(name, at=name)
        return name

    def folder_of(self, name: str) -> Path:
        """Where a server of ours keeps its data."""
        return self._federation.folder_of(name)

    def database_of(self, name: str) -> str:
        """A new database for a server of ours, with the current schema."""
        folder = self.folder_of(name)
        folder.mkdir(parents=True, exist_ok=True)
        if self._cluster is None:
            url = server.sqlite_url(folder / "homeserver.db")
        else:
            url = self._stack.enter_context(self._cluster.database())
        server.migrate(url, folder)
        return url

    def ours(self, name: str, database_url: str, **more: str) -> Seat:
        """Start a server of ours; `more` are settings of it."""
        settings = _SETTINGS | self._federation.settings(name) | more
        one = server.Server(self.folder_of(name), database_url, free_port(), settings)
        one.start(within=_START_S)
        process = one.process
        assert process is not None
        self._stack.callback(one.stop, within=60)
        return Seat("homeserver", name, server.HOST, one.port, process.pid)

    def synapse(self, more: str = "") -> Seat:
        """Start Synapse; `more` are lines of its settings."""
        folder = self._folder / "synapse"
        folder.mkdir()
        log = folder / "log.yaml"
        log.write_text("version: 1\nroot: {level: WARNING}\n")
        lines = [f"log_config: {log}", more]
        if self._cluster is not None:
            url = self._stack.enter_context(self._cluster.database())
            lines.append(synapse.on_postgresql(url))
        running = synapse.running_synapse(folder, self._federation.authority, "\n".join(lines), within=_START_S)
        one = self._stack.enter_context(running)
        assert one.process is not None
        return Seat("Synapse", one.name, synapse.HOST, one.port, one.process.pid)


@contextmanager
def pairing(*, is_sqlite: bool) -> Iterator[Pairing]:
    """Servers that end with the context."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield Pairing(stack, folder, is_sqlite=is_sqlite)


class Within:
    """A time that is over at some point: who waits for something gives up then."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def is_over(self) -> bool:
        return time.monotonic() > self._end

    def until(self, condition: Callable[[], bool]) -> bool:
        """Look again and again; whether it came to be so in time."""
        while not condition():
            if self.is_over():
                return False
            time.sleep(_TEN_MS)
        return True


def table(rows: list[tuple[str, str]]) -> None:
    """Print what was found."""
    width = max(len(what) for what, _ in rows)
    for what, value in rows:
        print(f"{what:{width}}  {value}")


def describe() -> str:
    """The machine, as far as it matters."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
