"""Starts the program many times in short order: one process has it loaded, and each start is a fork of that.

What is started is a process of its own all the same, with its own settings, and can be killed at any instant.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType

from tests.processes import running

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Launcher:
    """One start at a time."""

    popen: "subprocess.Popen[str]"

    def start(self, arguments: list[str], env: Mapping[str, str], log: Path) -> int:
        """Run `homeserver` with these arguments; its process id."""
        request = {"arguments": arguments, "env": dict(env), "log": str(log)}
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(request) + "\n")
        self.popen.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit code of what was started, when it has ended; of a signal, its number with a minus sign."""
        return int(self._line())

    def _line(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise running.Failed("the process that starts others has ended")
        return line


@contextmanager
def launching() -> Iterator[Launcher]:
    """A process that has the program loaded."""
    command = [*running.tied_to_parent(signal.SIGTERM), sys.executable, "-m", "tests.processes.launcher"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as popen:
        try:
            yield Launcher(popen)
        finally:
            popen.terminate()


# What the program loads when it is needed, and each of its processes needs.
_LATE = (
    "asyncpg",
    "httptools",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlite3",
    "typer._adapters",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
)


def _serve() -> None:
    cli = import_module("homeserver.cli")  # The tests themselves need not load it.
    for name in _LATE:
        import_module(name)
    gc.freeze()
    child = 0

    def end(signum: int, frame: FrameType | None) -> None:
        if child:
            os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.clear()
            os.environ.update(request["env"])
            sys.argv = ["homeserver", *request["arguments"]]
            cli.main()
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        child = 0
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
