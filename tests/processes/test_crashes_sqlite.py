"""The server, on SQLite, is killed at each point of a write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.crashes import Crashing
from tests.processes.launcher import Launcher, launching


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as launcher:
        yield launcher


@pytest.mark.timeout(600)
@pytest.mark.trust("R1", "R2", "R3", "I1", "I2", "I3", "I4", "I5", "I6")
@pytest.mark.parametrize(
    "point", [pytest.param(f"K{number}", marks=pytest.mark.trust(f"K{number}")) for number in range(1, 8)]
)
def test_killed_at_this_point_nothing_is_lost_and_nothing_is_there_twice(
    point: str, launcher: Launcher, sqlite_url: str, tmp_path: Path
) -> None:
    crashing = Crashing(launcher, tmp_path, sqlite_url)
    crashing.settle_in()
    crashing.kill_at(point)
    crashing.account()
