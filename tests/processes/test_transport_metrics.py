"""What can be seen of requests to other servers: by what is asked and what came of it, not by whom."""

from pathlib import Path

import pytest

from homeserver.errors import Unreachable
from homeserver.kit.metrics import Metrics
from tests.processes.asking import ask, transport_to
from tests.processes.certificates import Authority
from tests.processes.tls_peers import never, ok, tls_peer

PREFIX = "homeserver_federation_"


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(PREFIX + name, labels) or 0.0


@pytest.mark.trust("R8")
async def test_requests_and_connections_are_counted_and_servers_not_named(tmp_path: Path) -> None:
    authority, metrics = Authority(tmp_path), Metrics()
    async with (
        tls_peer(authority.issue("a.test").server_context(), ok(b"0123456789")) as good,
        tls_peer(authority.issue("b.test").server_context(), ok(b"{}", "404 Not Found"), host="127.0.0.3") as bad,
        tls_peer(authority.issue("c.test").server_context(), never, host="127.0.0.4") as mute,
        transport_to(authority, ("a.test", good), ("b.test", bad), ("c.test", mute), metrics=metrics) as transport,
    ):
        await ask(transport, "a.test")
        await ask(transport, "b.test")
        assert value(metrics, "connections", state="idle") == 2
        with pytest.raises(Unreachable):
            await ask(transport, "a.test", largest=5)
        with pytest.raises(Unreachable):
            await ask(transport, "c.test", timeout_s=0.5)
        outcomes = {
            outcome: value(metrics, "requests_sent_total", operation="test", outcome=outcome)
            for outcome in ("good", "refused", "too large", "unreachable")
        }
        assert outcomes == dict.fromkeys(outcomes, 1)
        # Three answers began.
        assert value(metrics, "first_byte_seconds_count", operation="test") == 3
        assert value(metrics, "connections", state="idle") == 1
        assert value(metrics, "requests_under_way") == 0
    assert ".test" not in metrics.render().decode()
