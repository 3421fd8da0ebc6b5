"""Two servers of ours, and what people do on them with each other; each of them in either seat."""

import pytest

from tests.federation.network import Network
from tests.federation.scenarios import SCENARIOS, Scenario

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_people_on_two_servers(network: Network, scenario: Scenario) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    await scenario(await a.user("alice"), await b.user("bob"))
