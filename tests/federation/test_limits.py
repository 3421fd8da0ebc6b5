"""How often another server may ask: one host has one share, whatever it calls itself, and others have theirs."""

from collections.abc import Awaitable, Callable
from itertools import count, cycle, islice
from typing import Any

import httpx2
import pytest

from homeserver.api.tables import ENDPOINTS
from homeserver.config.model import Limits
from homeserver.errors import Unreachable
from homeserver.http.endpoint import SERVER
from homeserver.outbound.transport import Call, Reply
from homeserver.services.auth.limits import RATES, RATES_OF_SERVERS
from tests.federation.network import Network, Peer

FEDERATION = "/_matrix/federation"
FEW = Limits(rate_limits=True, server_rates=0.02)
TXN_IDS = count()
Json = dict[str, Any]
Ask = Callable[[Peer], Awaitable[httpx2.Response]]


def at_most(limit: str) -> float:
    return RATES_OF_SERVERS[limit].burst * FEW.server_rates * 1.1


def asking(method: str, path: str, body: Json | None = None) -> Ask:
    return lambda peer: peer.call("a.test", method, FEDERATION + path, body)


def delivering(*edus: Json) -> Ask:
    def ask(peer: Peer) -> Awaitable[httpx2.Response]:
        body = {"origin": peer.name, "origin_server_ts": 1, "pdus": [], "edus": list(edus)}
        return peer.call("a.test", "PUT", f"{FEDERATION}/v1/send/t{next(TXN_IDS)}", body)

    return ask


async def allowed(asks: list[Ask], peers: list[Peer], tries: int) -> int:
    """How many of so many requests are not refused as too many."""
    answers = [await ask(peer) for ask, peer in islice(zip(cycle(asks), cycle(peers), strict=False), tries)]
    refused = [answer for answer in answers if answer.status_code == 429]
    for answer in refused:
        assert answer.json()["errcode"] == "M_LIMIT_EXCEEDED"
        assert int(answer.headers["retry-after"]) >= 1
    return len(answers) - len(refused)


@pytest.mark.trust("C10")
def test_everything_that_servers_may_ask_has_a_limit() -> None:
    assert [endpoint.path for endpoint in ENDPOINTS if endpoint.auth is SERVER and endpoint.limit is None] == []


CASES: dict[str, tuple[str, list[Ask]]] = {
    "keys": (
        "keys_by_server",
        [
            asking("GET", "/v1/user/devices/%40alice%3Aa.test"),
            asking("GET", "/v1/user/devices/@alice:a.test?again"),
            asking("POST", "/v1/user/keys/query", {"device_keys": {"@alice:a.test": []}}),
            asking("POST", "/v1/user/keys/claim", {"one_time_keys": {}}),
        ],
    ),
    "deliveries": ("deliver", [delivering(), delivering({"edu_type": "m.unheard", "content": {}})]),
    "templates": (
        "ask_to_join",
        [asking("GET", f"/v1/make_{kind}/!x%3Aa.test/%40u%3Apeer.test?ver=11") for kind in ("join", "leave", "knock")],
    ),
    "queries": (
        "read",
        [
            asking("GET", "/v1/query/profile?user_id=@alice:a.test"),
            asking("GET", "/v1/query/profile?field=displayname&user_id=%40alice%3Aa.test"),
            asking("GET", "/v1/query/directory?room_alias=%23x:a.test"),
            asking("GET", "/v1/publicRooms"),
        ],
    ),
}


@pytest.mark.trust("C10")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("case", CASES)
async def test_a_host_has_one_share_and_its_neighbour_another(network: Network, case: str) -> None:
    limit, asks = CASES[case]
    world = await network.server("a.test", limits=FEW)
    await world.user("alice")
    names = ["peer.test", "PEER.test", "peer.test:8448", "Peer.Test:9000", "peer.test."]
    one_host = [network.peer(name) for name in names]
    tries = round(at_most(limit) * 2)
    assert at_most(limit) / 1.3 < await allowed(asks, one_host, tries) <= at_most(limit)
    neighbour = network.peer("neighbour.test")
    assert await allowed(asks, [neighbour], len(asks)) == len(asks)


@pytest.mark.trust("C10")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
async def test_a_server_named_by_an_address_has_the_share_of_its_network(network: Network) -> None:
    await network.server("a.test", limits=FEW)
    names = ["[2001:db8::1]", "[2001:db8::2]:8448", "[2001:DB8::ffff:2]", "[2001:db8:0:0:7::]:1"]
    limit, asks = CASES["templates"]
    tries = round(at_most(limit) * 2)
    assert await allowed(asks, [network.peer(name) for name in names], tries) <= at_most(limit)
    assert await allowed(asks, [network.peer("[2001:db8:1::1]")], len(asks)) == len(asks)


@pytest.mark.trust("C10")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
async def test_names_of_strangers_cost_who_writes_them_and_nobody_else(network: Network) -> None:
    await network.server("a.test", limits=Limits(rate_limits=True))
    friend = network.peer("friend.test")
    ask = asking("GET", "/v1/publicRooms")
    assert await allowed([ask], [friend], 1) == 1
    asked: list[str] = []

    async def silence(call: Call, go: Callable[[], Awaitable[Reply]]) -> Reply:
        asked.append(call.destination)
        raise Unreachable("There is no such server.")

    network.weather = silence
    strangers = [Peer(f"n{number}.evil.test", network) for number in range(300)]
    most = RATES["strangers"].burst * 1.2
    assert await allowed([ask], strangers, 300) <= most
    assert len(asked) <= most
    assert await allowed([ask], [friend], 10) == 10


@pytest.mark.trust("C10", "C21")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
async def test_one_time_keys_are_counted_and_not_the_requests_for_them(network: Network) -> None:
    await network.server("a.test", limits=FEW)
    peer = network.peer("peer.test")
    wanted = {"@alice:a.test": {f"D{number}": "signed_curve25519" for number in range(90)}}
    claims = await allowed([asking("POST", "/v1/user/keys/claim", {"one_time_keys": wanted})], [peer], 8)
    assert at_most("claim_by_server") / 1.5 < claims * 90 <= at_most("claim_by_server")


@pytest.mark.trust("C10")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
async def test_who_asks_for_keys_of_servers_is_held_to_the_limits_of_servers(network: Network) -> None:
    world = await network.server("a.test", limits=FEW)
    answers = [await world.client.get("/_matrix/key/v2/query/nowhere.test") for _ in range(10)]
    assert sum(answer.status_code == 200 for answer in answers) == round(at_most("keys"))


@pytest.mark.trust("C10", "C20", "R6")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
async def test_keys_of_many_users_are_asked_for_at_some_cost(network: Network) -> None:
    await network.server("a.test", limits=FEW)
    peer = network.peer("peer.test")

    def of_users(number: int) -> Ask:
        wanted: Json = {f"@u{n}:a.test": [] for n in range(number)}
        return asking("POST", "/v1/user/keys/query", {"device_keys": wanted})

    assert await allowed([of_users(100)], [peer], 20) * 3 <= at_most("keys_by_server") + 3


@pytest.mark.trust("C20", "R6")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
async def test_keys_of_no_more_than_so_many_users_are_told_at_once(network: Network) -> None:
    await network.server("a.test")
    peer = network.peer("peer.test")
    for number, status in ((5000, 200), (5001, 400)):
        wanted: Json = {f"@u{n}:a.test": [] for n in range(number)}
        assert (await asking("POST", "/v1/user/keys/query", {"device_keys": wanted})(peer)).status_code == status


@pytest.mark.trust("C10")
@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
async def test_usually_a_server_may_ask_a_great_deal(network: Network) -> None:
    await network.server("a.test", limits=Limits(rate_limits=True))
    peer = network.peer("peer.test")
    ask = asking("POST", "/v1/user/keys/query", {"device_keys": {}})
    assert await allowed([ask], [peer], 300) == 300
