"""Synapse as the other server: it runs in an environment of its own, and shares nothing with ours but the wire.

`SYNAPSE_PYTHON` names the Python of that environment (`scripts/install-synapse`); else such tests are skipped.
Its server name is an address: it has to be found, by itself as well, without a DNS.
"""

import http.client
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.processes import programs, running
from tests.processes.certificates import Authority
from tests.processes.federating import new_federation
from tests.processes.people import OPEN
from tests.processes.server import Server, free_port

HOST = "127.0.0.2"
_MODULE = ("-m", "synapse.app.homeserver")
_SETTINGS = """
server_name: "{name}"
report_stats: false
pid_file: {folder}/pid
signing_key_path: {folder}/signing.key
media_store_path: {folder}/media
tls_certificate_path: {certificate}
tls_private_key_path: {private_key}
listeners:
  - {{port: {port}, tls: true, type: http, bind_addresses: ["{host}"], resources: [{{names: [federation]}}]}}
  - {{port: {client_port}, tls: false, type: http, bind_addresses: ["{host}"], resources: [{{names: [client]}}]}}
database: {{name: sqlite3, args: {{database: {folder}/homeserver.db}}}}
federation_custom_ca_list: ["{authority}"]
ip_range_blacklist: []
ip_range_whitelist: ["127.0.0.0/8"]
trusted_key_servers: []
enable_registration: true
enable_registration_without_verification: true
macaroon_secret_key: "for tests"
registration_shared_secret: "for tests"
bcrypt_rounds: 4
rc_registration: {unlimited}
rc_login: {{address: {unlimited}, account: {unlimited}, failed_attempts: {unlimited}}}
rc_room_creation: {unlimited}
rc_message: {unlimited}
rc_joins: {{local: {unlimited}, remote: {unlimited}}}
rc_joins_per_room: {unlimited}
rc_invites: {{per_room: {unlimited}, per_user: {unlimited}, per_issuer: {unlimited}}}
rc_presence: {{per_user: {unlimited}}}
rc_federation: {{window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}}
federation_rr_transactions_per_room_per_second: 1000
"""
_UNLIMITED = "{per_second: 100000, burst_count: 100000}"
_ON_POSTGRESQL = """
database:
  name: psycopg2
  args: {{user: {user}, dbname: {database}, host: {host}, cp_min: 5, cp_max: 20}}
  allow_unsafe_locale: true
"""


@dataclass
class Synapse:
    """A Synapse that can be stopped and started again on the same data."""

    folder: Path
    name: str
    port: int
    """Where its clients find it, without TLS."""
    process: running.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self, within: float = 60) -> None:
        """Start it, and return when it answers."""
        assert self.process is None
        command = [python(), *_MODULE, "-c", str(self.folder / "homeserver.yaml")]
        process = running.start("synapse", command, log=self.folder / "synapse.log", cwd=self.folder)
        process.wait_until(self.is_healthy, within)
        self.process = process

    def stop(self, within: float = 30) -> None:
        assert self.process is not None
        process, self.process = self.process, None
        process.stop(within=within)

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/_matrix/client/versions")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def on_postgresql(url: str) -> str:
    """Settings by which it uses this database instead of SQLite."""
    parts = urlsplit(url)
    host = parse_qs(parts.query)["host"][0]
    return _ON_POSTGRESQL.format(user=parts.username or "postgres", database=parts.path[1:], host=host)


def python() -> str:
    """The Python that has Synapse; raises `Missing`."""
    program = os.environ.get("SYNAPSE_PYTHON")
    if program is None:
        raise programs.Missing("SYNAPSE_PYTHON names no Python that has Synapse (scripts/install-synapse)")
    return program


@contextmanager
def running_synapse(folder: Path, authority: Authority, more: str = "", *, within: float = 60) -> Iterator[Synapse]:
    """A Synapse on an empty database; `more` are lines of its settings. Raises `Missing` where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    port, client_port = free_port(), free_port()
    certificate = authority.issue(HOST, to="synapse")
    settings = _SETTINGS.format(
        name=f"{HOST}:{port}",
        folder=folder,
        host=HOST,
        port=port,
        client_port=client_port,
        certificate=certificate.certificate,
        private_key=certificate.private_key,
        authority=authority.file,
        unlimited=_UNLIMITED,
    )
    (folder / "homeserver.yaml").write_text(settings + more)
    command = [python(), *_MODULE, "-c", str(folder / "homeserver.yaml")]
    subprocess.run([*command, "--generate-keys"], check=True, capture_output=True, timeout=60)
    synapse = Synapse(folder, f"{HOST}:{port}", client_port)
    try:
        synapse.start(within)
        yield synapse
        if synapse.process is not None:
            synapse.stop()
    finally:
        if synapse.process is not None:
            synapse.process.kill()
        log = folder / "synapse.log"
        print(log.read_text(errors="replace")[-5_000:] if log.exists() else "")


@contextmanager
def beside_synapse(folder: Path) -> Iterator[tuple[Server, Synapse]]:
    """A server of ours and a Synapse that find and trust each other. Raises `Missing` where there is none.

    Ours is named by an address, too: Synapse finds servers by the DNS alone.
    """
    federation = new_federation(folder)
    name = f"127.0.0.3:{free_port()}"
    federation.add(name, at=name)
    ranges = {"HOMESERVER_FEDERATION_ALLOWED_RANGES": '["127.0.0.0/8"]'}
    with (
        running_synapse(folder / "synapse", federation.authority) as synapse,
        federation.running(name, **OPEN, **ranges) as [server],
    ):
        yield server, synapse
