"""The servers that are measured: this one, and Synapse out of an environment of its own for comparison.

Make that environment once, anywhere: `python3 -m venv FOLDER && FOLDER/bin/pip install 'matrix-synapse[postgres]'`.
"""

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from tests.processes import postgres
from tests.processes.server import HOST, REPOSITORY, environment, free_port, migrate, sqlite_url

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Subject(AbstractContextManager["Subject"]):
    """A running server process."""

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int
    log: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    seconds_to_first_answer: float = 0.0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> "Subject":
        began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT
            )
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - began > 120:
                raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.005)
        self.seconds_to_first_answer = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        if error is not None:
            print(f"The end of the log of {self.name}:\n{self.log.read_text()[-5000:]}", file=sys.stderr)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_ms(self) -> float:
        """CPU time that the process has used so far, in user and kernel mode."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / _TICKS

    def resident_mib(self) -> float:
        """Memory that the process holds."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/_matrix/client/versions")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


# Cheap passwords are for those who wait for the benchmark to register its people.
_OURS = """
[limits]
rate_limits = false
[log]
level = "warning"
[passwords]
time_cost = 1
memory_kib = 8
"""


def new_database(stack: ExitStack, *, is_sqlite: bool) -> tuple[Path, str]:
    """A folder and the URL of a migrated database, durable if it is PostgreSQL; both go with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    if is_sqlite:
        url = sqlite_url(folder / "homeserver.db")
    else:
        url = stack.enter_context(stack.enter_context(postgres.started(durable=True)).database())
    migrate(url, folder)
    return folder, url


def ours(folder: Path, database_url: str | None) -> Subject:
    """This server on PostgreSQL, or SQLite where there is no address, with rate limits off."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "homeserver.toml"
    config.write_text(_OURS)
    port = free_port()
    settings = environment(folder, database_url, HOMESERVER_HOST=HOST, HOMESERVER_PORT=str(port))
    settings["HOMESERVER_CONFIG"] = str(config)
    program = str(Path(sys.executable).parent / "homeserver")
    return Subject("homeserver", [program, "serve"], settings, port, folder / "log")


_UNLIMITED = "{per_second: 100000, burst_count: 100000}"
_SYNAPSE = """
server_name: localhost
pid_file: {folder}/pid
listeners:
  - port: {port}
    type: http
    bind_addresses: ["127.0.0.1"]
    resources: [{{names: [client]}}]
database:
  name: psycopg2
  args: {{user: {user}, dbname: {database}, host: {host}, cp_min: 5, cp_max: 20}}
  allow_unsafe_locale: true
log_config: {folder}/log.yaml
media_store_path: {folder}/media
signing_key_path: {folder}/signing.key
report_stats: false
trusted_key_servers: []
macaroon_secret_key: benchmark
form_secret: benchmark
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
rc_message: {unlimited}
rc_registration: {unlimited}
rc_login: {{address: {unlimited}, account: {unlimited}, failed_attempts: {unlimited}}}
rc_joins: {{local: {unlimited}, remote: {unlimited}}}
rc_joins_per_room: {unlimited}
rc_invites: {{per_room: {unlimited}, per_user: {unlimited}, per_issuer: {unlimited}}}
rc_room_creation: {unlimited}
rc_presence: {{per_user: {unlimited}}}
"""
_LOG = """
version: 1
handlers: {console: {class: logging.StreamHandler}}
root: {level: WARNING, handlers: [console]}
"""


def synapse(folder: Path, database_url: str, environment_folder: Path) -> Subject:
    """Synapse on PostgreSQL, one process, with rate limits off and presence on, as it comes."""
    folder.mkdir(parents=True)
    port = free_port()
    parts = urlsplit(database_url)
    values = {
        "folder": folder,
        "port": port,
        "user": parts.username or "postgres",
        "database": parts.path[1:],
        "host": parse_qs(parts.query)["host"][0],
        "unlimited": _UNLIMITED,
    }
    (folder / "homeserver.yaml").write_text(_SYNAPSE.format(**values))
    (folder / "log.yaml").write_text(_LOG)
    python = str(environment_folder / "bin/python")
    config = ["-c", str(folder / "homeserver.yaml")]
    subprocess.run([python, "-m", "synapse.app.homeserver", *config, "--generate-keys"], check=True, cwd=folder)
    command = [python, "-m", "synapse.app.homeserver", *config]
    return Subject("synapse", command, dict(os.environ), port, folder / "log")
