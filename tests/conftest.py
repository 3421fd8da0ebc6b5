"""Fixtures that every test may use: the event loop, and servers and databases to run against.

A fresh database is a copy of one that was migrated once, so a test pays milliseconds for it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.processes import postgres as postgres_process
from tests.processes import programs, server
from tests.processes import redis as redis_process
from tests.processes.postgres import Postgres
from tests.world import World, running, settings

# The only tests that open network sockets; all the others work in one process, or through UNIX sockets.
NETWORK = ("tests/e2e/", "tests/processes/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(NETWORK):
            item.add_marker(pytest.mark.enable_socket)
    left_out = _not_their_turn(items)
    if 0 < len(left_out) < len(items):  # Whoever names one case wants that one.
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))
    # They take longest: begun last, they would be all that is left to one of several workers.
    items.sort(key=lambda item: not item.nodeid.startswith("tests/processes/"))


def _not_their_turn(items: list[pytest.Item]) -> set[pytest.Item]:
    """Of the tests whose cases take the databases by turns: every other case, and on the other database the others."""
    counted = Counter[tuple[str, bool]]()
    left_out = set()
    for item in items:
        if item.get_closest_marker("by_turns"):
            test = item.nodeid.partition("[")[0], item.get_closest_marker("postgres") is not None
            if (counted[test] + test[1]) % 2:
                left_out.add(item)
            counted[test] += 1
    return left_out


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of this run."""
    try:
        with postgres_process.shared() as running:
            yield running
    except programs.Missing as problem:
        pytest.fail(str(problem), pytrace=False)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of this run's Redis server."""
    try:
        with redis_process.shared() as running:
            yield running
    except programs.Missing as problem:
        pytest.fail(str(problem), pytrace=False)


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database with the current schema, to be copied."""
    return postgres.template("migrated", lambda url: server.migrate(url, tmp_path_factory.mktemp("migrate")))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the current schema, to be copied."""
    folder = tmp_path_factory.mktemp("sqlite")
    server.migrate(server.sqlite_url(folder / "template.db"), folder)
    return folder / "template.db"


@pytest.fixture
def postgres_url(postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh PostgreSQL database with the current schema."""
    with postgres.database(postgres_template) as url:
        yield url


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The SQLAlchemy URL of a fresh SQLite database with the current schema."""
    server.copy_sqlite(sqlite_template, tmp_path / "homeserver.db")
    return server.sqlite_url(tmp_path / "homeserver.db")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each test that takes this runs twice: on a fresh SQLite and on a fresh PostgreSQL database."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A running server on a fresh database of either kind, which must be whole in the end."""
    async with running(settings(database_url, str(tmp_path))) as world:
        yield world
        await world.fsck()
