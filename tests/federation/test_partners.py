"""Servers that the operator wants nothing to do with."""

import pytest

from homeserver.config.model import Federation
from tests.federation.network import Network

pytestmark = pytest.mark.anyio

PROFILE = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Aa.test"


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (Federation(deny=("p.test",)), 403),
        (Federation(allow=("q.test",)), 403),
        (Federation(enabled=False), 403),
        (Federation(allow=("*.test",)), 200),
    ],
)
async def test_requests_of_excluded_servers_are_refused(network: Network, settings: Federation, status: int) -> None:
    a = await network.server("a.test", federation=settings)
    await a.user("alice")
    peer = network.peer("p.test")
    answer = await peer.call("a.test", "GET", PROFILE)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["errcode"] == "M_FORBIDDEN"
        assert peer.seen == []  # Its keys are not even asked for.
