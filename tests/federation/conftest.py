"""Fixtures for tests with several servers."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.federation.network import Network, joined
from tests.processes import server
from tests.processes.postgres import Postgres


@pytest.fixture
def new_sqlite(sqlite_template: Path, tmp_path: Path) -> Callable[[], str]:
    """Makes fresh SQLite databases with the current schema."""
    numbers = count()

    def make() -> str:
        path = tmp_path / f"{next(numbers)}.db"
        server.copy_sqlite(sqlite_template, path)
        return server.sqlite_url(path)

    return make


@pytest.fixture
def new_postgresql(postgres: Postgres, postgres_template: str) -> Iterator[Callable[[], str]]:
    """Makes fresh PostgreSQL databases with the current schema."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(postgres.database(postgres_template))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_database(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes fresh databases; each test that takes this runs twice, on either kind."""
    make: Callable[[], str] = request.getfixturevalue(f"new_{request.param}")
    return make


@pytest.fixture
async def network(new_database: Callable[[], str], tmp_path: Path) -> AsyncIterator[Network]:
    """Servers that reach each other in memory."""
    async with joined(new_database, tmp_path) as network:
        yield network
