"""One child process: started, awaited until it is ready, and ended by its own id.

Waiting is always for a condition, checked often, with an upper bound, and stops at once when the process has ended.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECK_EVERY = 0.01


class Failed(AssertionError):
    """The process ended, or did not become ready; carries the end of its log."""


@dataclass
class Process:
    """A started program whose output goes to ``log``."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self, last: int = 20_000) -> str:
        """What the process has printed so far, or the end of it."""
        return self.log.read_text(errors="replace")[-last:] if self.log.exists() else ""

    def wait_until(self, ready: Callable[[], bool], within: float) -> None:
        """Return when ``ready`` says so. Raises `Failed` if the process ends before, or after ``within`` seconds."""
        deadline = time.monotonic() + within
        while not ready():
            if self.popen.poll() is not None:
                raise Failed(f"{self.name} ended with {self.popen.returncode} before it was ready:\n{self.output()}")
            if time.monotonic() > deadline:
                self.kill()
                raise Failed(f"{self.name} was not ready within {within} s:\n{self.output()}")
            time.sleep(CHECK_EVERY)

    def stop(self, how: signal.Signals = signal.SIGTERM, within: float = 15) -> int:
        """Ask the process to end and return its exit code. Raises `Failed` when it has to be killed."""
        if self.popen.poll() is None:
            self.popen.send_signal(how)
        try:
            return self.popen.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end within {within} s of {how.name}:\n{self.output()}") from None

    def kill(self) -> None:
        """End the process as a power failure would."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)


def end(pid: int) -> None:
    """Ask a process of ours to end."""
    os.kill(pid, signal.SIGTERM)


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
    group: int | None = None,
    when_parent_dies: signal.Signals = signal.SIGTERM,
) -> Process:
    """Start a program with its output in a file; it gets ``when_parent_dies`` when the tests are killed."""
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [*tied_to_parent(when_parent_dies), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(os.environ if env is None else env),
            cwd=cwd,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
    return Process(name, popen, log)


@cache
def tied_to_parent(how: signal.Signals) -> tuple[str, ...]:
    """What goes before a command so that it gets the signal when we are gone; nothing where that cannot be had."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", how.name.removeprefix("SIG"), "--")
    works = subprocess.run([*prefix, "true"], capture_output=True, timeout=10).returncode == 0
    return prefix if works else ()
