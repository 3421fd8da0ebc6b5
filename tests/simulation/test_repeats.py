"""One of the simulations that `scripts/test` runs: it ends well, and a seed tells the same story every time."""

import asyncio
import re
import sys

import pytest

pytestmark = pytest.mark.anyio

_SEED = re.compile(rb"^seed \d+: (.*)$", re.MULTILINE)


async def _simulate(seed: int) -> list[bytes]:
    """What it told, as the number of lines and a hash. Fails unless it ends well."""
    command = [sys.executable, "-m", "tests.simulation.run", "--first", str(seed), "--seeds", "1"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    return _SEED.findall(told)


@pytest.mark.timeout(120)  # Two processes, with several servers in each.
@pytest.mark.trust("R4", "F30", "F35", "F47")
async def test_simulated_servers_come_to_the_same_and_a_seed_repeats() -> None:
    one, other = await asyncio.gather(_simulate(3), _simulate(3))
    assert len(one) == 1
    assert one == other
