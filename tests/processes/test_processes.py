"""The helpers themselves: servers start, serve, and end by their own id."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.processes import postgres, redis, running
from tests.processes.postgres import Postgres


@pytest.mark.postgres
def test_a_template_is_filled_once_and_copied(postgres: Postgres) -> None:
    filled: list[str] = []

    def fill(url: str) -> None:
        filled.append(url)
        postgres.execute("CREATE TABLE t AS SELECT 42 AS x", database=_name(url))

    name = postgres.template("of_a_test", fill)
    try:
        assert postgres.template("of_a_test", fill) == name
        assert len(filled) == 1
        with postgres.database(name) as url:
            assert url.startswith("postgresql+asyncpg://")
            assert postgres.execute("SELECT x FROM t", database=_name(url)) == "42"
        assert postgres.execute(f"SELECT 1 FROM pg_database WHERE datname = '{_name(url)}'") == ""
    finally:
        postgres.drop(name)


@pytest.mark.postgres
def test_a_server_of_ones_own_is_gone_afterwards() -> None:
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    with postgres.started(durable=True) as own:
        assert own.execute("SHOW fsync") == "on"
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= children


@pytest.mark.redis
def test_a_redis_of_ones_own_is_gone_afterwards() -> None:
    with redis.started() as url:
        folder = Path(url.removeprefix("unix://")).parent
        assert folder.exists()
    assert not folder.exists()


def test_a_process_that_ends_early_is_reported_with_its_output(tmp_path: Path) -> None:
    process = running.start(
        "example", [sys.executable, "-c", "print('no port'); raise SystemExit(7)"], log=tmp_path / "log"
    )
    with pytest.raises(running.Failed, match=r"(?s)ended with 7.*no port"):
        process.wait_until(lambda: False, within=10)


def test_a_process_that_ignores_sigterm_is_killed_and_reported(tmp_path: Path) -> None:
    source = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    process = running.start("example", [sys.executable, "-c", source], log=tmp_path / "log")
    process.wait_until(lambda: "up" in process.output(), within=10)
    with pytest.raises(running.Failed, match="did not end within"):
        process.stop(within=0.1)
    assert process.popen.returncode == -9


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")
