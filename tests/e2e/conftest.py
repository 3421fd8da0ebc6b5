"""Homeserver processes for the client libraries to talk to: one on SQLite, one on PostgreSQL, two that federate, and
one that federates with Synapse.

With TEST_SERVER_URL set the same scenarios run against a server that is already there, for comparison.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.scenarios import FOLDER, Homes
from tests.processes import programs, synapse
from tests.processes.federating import new_federation
from tests.processes.people import OPEN
from tests.processes.postgres import Postgres
from tests.processes.server import running_server

# Every scenario registers people of its own, more of them from one address than a real server would allow.
UNLIMITED = {"HOMESERVER_LIMITS_RATE_LIMITS": "false"}
EXISTING = os.environ.get("TEST_SERVER_URL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/" in item.nodeid:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(90))


ONE = ["existing"] if EXISTING else ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(scope="module", params=ONE)
def homeserver_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server that anybody may register on; it must end cleanly on SIGTERM."""
    with _serving(request, tmp_path_factory) as homes:
        yield homes.url


SYNAPSE = [
    pytest.param("Synapse elsewhere", marks=pytest.mark.synapse),
    pytest.param("Synapse here", marks=pytest.mark.synapse),
]


@pytest.fixture(scope="module", params=ONE if EXISTING else [*ONE, "two servers", *SYNAPSE])
def homes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    """The same for people who speak to others: these may be on a server of their own."""
    with _serving(request, tmp_path_factory) as homes:
        yield homes


@contextmanager
def _serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    if EXISTING:
        yield Homes(EXISTING, EXISTING)
        return
    data_dir = tmp_path_factory.mktemp("server")
    if request.param == "two servers":
        federation = new_federation(data_dir, "a.test", "b.test")
        with federation.running("a.test", "b.test", **OPEN) as (a, b):
            yield Homes(a.url, b.url)
    elif "Synapse" in request.param:
        try:
            synapse.python()
        except programs.Missing as problem:
            pytest.skip(str(problem))
        with synapse.beside_synapse(data_dir) as (ours, theirs):
            yield Homes(ours.url, theirs.url) if request.param == "Synapse elsewhere" else Homes(theirs.url, ours.url)
    elif request.param == "sqlite":
        with running_server(data_dir, **UNLIMITED) as server:
            yield Homes(server.url, server.url)
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        # Empty on purpose: the server prepares its database on the first start.
        with postgres.database() as database_url, running_server(data_dir, database_url, **UNLIMITED) as server:
            yield Homes(server.url, server.url)


@pytest.fixture(scope="session")
def node() -> Path:
    """Node.js, with the packages that the scenarios need."""
    try:
        found = programs.node()
    except programs.Missing as problem:
        pytest.fail(str(problem), pytrace=False)
    for package in ("matrix-js-sdk", "playwright-core"):
        if not (FOLDER / "node_modules" / package).is_dir():
            pytest.fail(f"{package} is not installed: run scripts/install-clients", pytrace=False)
    return found
