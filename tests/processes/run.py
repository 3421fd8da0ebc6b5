"""Run a command with servers that all its processes share: ``python -m tests.processes.run pytest …``."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from tests.processes import postgres, programs, redis


def main(command: list[str]) -> int:
    """The command's exit code, or 3 if a server cannot be had."""
    with ExitStack() as stack:
        began = time.monotonic()
        try:
            server = stack.enter_context(postgres.shared())
            redis_url = stack.enter_context(redis.shared())
        except programs.Missing as problem:
            print(f"scripts/test: missing: {problem}", file=sys.stderr)
            return 3
        version = server.execute("SHOW server_version")
        print(f"PostgreSQL {version} and Redis are up after {time.monotonic() - began:.1f} s", flush=True)
        variables = {postgres.URL_VARIABLE: server.url, redis.URL_VARIABLE: redis_url}
        return subprocess.run(command, env=os.environ | variables).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
