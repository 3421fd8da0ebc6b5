"""A throw-away Redis server on a UNIX socket, keeping nothing."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.processes import programs, running

# A server that is already there, for all the test processes of one run.
URL_VARIABLE = "TEST_REDIS_URL"


@contextlib.contextmanager
def shared() -> Iterator[str]:
    """The URL of this run's server if there is one (see `URL_VARIABLE`), otherwise of a new one."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        yield url
    else:
        with started() as own:
            yield own


@contextlib.contextmanager
def started() -> Iterator[str]:
    """The URL (``unix://…``) of a new server that ends with the context."""
    program = programs.redis_server()
    folder = Path(tempfile.mkdtemp(prefix="hs-redis-"))
    path = folder / "socket"
    options: list[str | Path] = [
        "--port",
        "0",
        "--unixsocket",
        path,
        "--save",
        "",
        "--appendonly",
        "no",
        "--daemonize",
        "no",
        "--dir",
        folder,
    ]
    try:
        server = running.start("redis", [program, *options], log=folder / "log")
        try:
            server.wait_until(lambda: _answers(path), within=20)
            yield f"unix://{path}"
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
