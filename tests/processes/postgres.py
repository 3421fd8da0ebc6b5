"""A throw-away PostgreSQL server, and fresh databases on it.

PostgreSQL refuses to run as root; there the server runs as ``nobody``, in a folder of its own under the temporary
directory. It listens on a UNIX socket only. Databases are copies of a template that was migrated once.
"""

import asyncio
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from tests.processes import programs, running

# A server that is already there, for all the test processes of one run: postgresql://user@/?host=/folder
URL_VARIABLE = "TEST_POSTGRES_URL"

_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_SETTINGS = (
    "max_connections=200",
    "shared_buffers=64MB",
    "autovacuum_naptime=1h",
    "timezone=UTC",
    "log_statement=none",
)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Postgres:
    """A running server, by the URL of its maintenance database (libpq form)."""

    url: str

    def database_url(self, name: str, driver: str = "asyncpg") -> str:
        """The SQLAlchemy URL of a database on this server."""
        parts = urlsplit(self.url)
        return urlunsplit((f"postgresql+{driver}", parts.netloc, f"/{quote(name)}", parts.query, ""))

    def execute(self, statement: str, *, database: str | None = None) -> str:
        """Run one statement as the superuser; the rows come back as text, columns separated by ``|``."""
        url = self.url
        if database is not None:
            parts = urlsplit(url)
            url = urlunsplit((parts.scheme, parts.netloc, f"/{quote(database)}", parts.query, ""))
        result = subprocess.run(
            [
                _psql(),
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                url,
                "-c",
                statement,
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if result.returncode != 0:
            raise running.Failed(f"{statement}: {result.stderr.strip()}")
        return result.stdout.strip()

    def create(self, template: str = "template0") -> str:
        """Make a database, as a copy of ``template``, and return its name."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        # Copied file by file, which is several times faster than through the log where nothing is synced.
        options = f"TEMPLATE \"{template}\" STRATEGY FILE_COPY ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        _administrator(self.url).execute(f'CREATE DATABASE "{name}" {options}')
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        _administrator(self.url).execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The SQLAlchemy URL of a fresh database, dropped at the end."""
        name = self.create(template)
        try:
            yield self.database_url(name)
        finally:
            self.drop(name)

    def template(self, name: str, fill: Callable[[str], None]) -> str:
        """Make sure that the template ``name`` exists; ``fill`` is given the URL of a new database once per server.

        Safe for test processes that share the server: the last step is a rename, and the second throws its own away.
        """
        if self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            return name
        mine = self.create()
        fill(self.database_url(mine))
        try:
            self.execute(f'ALTER DATABASE "{mine}" RENAME TO "{name}"')
        except running.Failed:
            if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
                raise
            self.drop(mine)
        return name


class _Administrator:
    """A connection that stays open, used from anywhere: to start psql takes longer than to copy a small database."""

    def __init__(self, url: str) -> None:
        self._thread = ThreadPoolExecutor(1, "postgres-administrator")
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection = self._run(asyncpg.connect(url))

    def execute(self, statement: str) -> None:
        """Run one statement."""
        self._run(self._connection.execute(statement))

    def close(self) -> None:
        """End the connection."""
        self._run(self._connection.close())
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        # Not in the caller's event loop, which may be running.
        return self._thread.submit(self._runner.run, work).result(60)


_administrators: dict[str, _Administrator] = {}


def _administrator(url: str) -> _Administrator:
    if url not in _administrators:
        _administrators[url] = _Administrator(url)
    return _administrators[url]


def _forget(url: str) -> None:
    if url in _administrators:
        _administrators.pop(url).close()


@contextlib.contextmanager
def shared() -> Iterator[Postgres]:
    """The server of this run if there is one (see `URL_VARIABLE`), otherwise a new one that ends with the context."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        try:
            yield Postgres(url)
        finally:
            _forget(url)
    else:
        with started() as server:
            yield server


@contextlib.contextmanager
def started(*, durable: bool = False, settings: tuple[str, ...] = ()) -> Iterator[Postgres]:
    """A new server. ``durable`` keeps fsync and full pages on, for measurements and for tests of crashes."""
    # Short, because the path of a UNIX socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="hs-pg-"))
    try:
        account = _account()
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        binaries = _accessible(programs.postgres_binaries(), folder, account)
        data = folder / "data"
        log = folder / "log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C", "TZ": "UTC"}
        made = subprocess.run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=folder,
            env=environment,
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            extra_groups=None if account is None else [],
        )
        if made.returncode != 0:
            raise running.Failed(f"initdb failed:\n{made.stdout}{made.stderr}")
        options = [f"-c{setting}" for setting in (*_SETTINGS, *(() if durable else _FAST), *settings)]
        url = f"postgresql://postgres@/postgres?host={folder}"
        server = running.start(
            "postgres",
            [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", *options],
            log=log,
            env=environment,
            cwd=folder,
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            when_parent_dies=signal.SIGINT,
        )
        try:
            server.wait_until(lambda: _says_ready(data / "postmaster.pid"), within=30)
            yield Postgres(url)
        finally:
            _forget(url)
            # SIGINT is the fast shutdown: sessions are ended, the data is written.
            server.stop(signal.SIGINT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _says_ready(pid_file: Path) -> bool:
    # The eighth line of postmaster.pid is the state of the server.
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _account() -> pwd.struct_passwd | None:
    """Who runs the server, if it cannot be us."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam("nobody")


def _accessible(binaries: Path, folder: Path, account: pwd.struct_passwd | None) -> Path:
    """The binaries, or a copy of them where ``account`` may not enter the folder that holds them."""
    if account is None or _runs(binaries, account):
        return binaries
    # In the wheel the programs find their libraries by a path relative to themselves; keep the relation.
    installation = binaries.parent
    package = installation.parent
    copy = folder / "wheel" / package.name / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "wheel" / libraries.name)
    for path in (folder / "wheel").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    (folder / "wheel").chmod(0o755)
    if not _runs(copy / "bin", account):
        raise programs.Missing(f"the user {account.pw_name} cannot run {binaries}/initdb (apt-get install postgresql)")
    return copy / "bin"


def _runs(binaries: Path, account: pwd.struct_passwd) -> bool:
    try:
        return (
            subprocess.run(
                [binaries / "postgres", "--version"],
                capture_output=True,
                timeout=10,
                cwd="/",
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=[],
            ).returncode
            == 0
        )
    except PermissionError:
        return False


@functools.cache
def _psql() -> Path:
    return programs.postgres_binaries() / "psql"
