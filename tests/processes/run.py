"""Run a command with servers that all its processes share: ``python -m tests.processes.run pytest …``."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.processes import postgres, programs, redis

_MEMORY = Path("/dev/shm")
_ENOUGH = 4 << 30


def main(command: list[str]) -> int:
    """The command's exit code, or 3 if a server cannot be had."""
    with ExitStack() as stack:
        began = time.monotonic()
        folder = stack.enter_context(_in_memory())
        try:
            server = stack.enter_context(postgres.shared())
            redis_url = stack.enter_context(redis.shared())
        except programs.Missing as problem:
            print(f"scripts/test: missing: {problem}", file=sys.stderr)
            return 3
        version = server.execute("SHOW server_version")
        print(f"PostgreSQL {version} and Redis are up after {time.monotonic() - began:.1f} s", flush=True)
        variables = {postgres.URL_VARIABLE: server.url, redis.URL_VARIABLE: redis_url}
        return subprocess.run(command, env=os.environ | variables | folder).returncode


@contextmanager
def _in_memory() -> Iterator[dict[str, str]]:
    """Where temporary files are to be, as a variable: in memory where there is enough, unless somebody has said where.

    What tests commit is then not waited for until a disk has it, which is most of what they would wait for.
    """
    if "TMPDIR" in os.environ or not _has_room(_MEMORY):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="hs-", dir=_MEMORY) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL may run as somebody else.
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield {"TMPDIR": folder}
        finally:
            tempfile.tempdir = before


def _has_room(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _ENOUGH


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
