"""Limits are of people and servers: whatever can be varied at will in a request makes them no larger."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from homeserver.app.application import Application
from homeserver.config.model import Config, Limits
from homeserver.matrix.identifiers import RoomId, ServerName
from homeserver.services.auth.limits import RATES, RATES_OF_SERVERS
from homeserver.storage import room_servers
from tests.client import Client
from tests.world import StoppedClock, User, World, running, settings

Json = dict[str, Any]
Ask = Callable[[int], Awaitable[httpx2.Response]]


class StillClock(StoppedClock):
    """Time that stands still for limits, too."""

    def monotonic(self) -> float:
        return self._ahead_s


@pytest.fixture
def config(sqlite_url: str, tmp_path: Path) -> Config:
    return settings(sqlite_url, str(tmp_path), limits=Limits(rate_limits=True))


@pytest.fixture
async def limited(config: Config) -> AsyncIterator[World]:
    async with running(config, clock=StillClock()) as world:
        yield world


@asynccontextmanager
async def asked_from(application: Application) -> AsyncIterator[Callable[[str], Client]]:
    """Clients of an application, by the address from which they ask."""

    def at(address: str) -> Client:
        transport = httpx2.ASGITransport(app=application, raise_app_exceptions=False, client=(address, 1))
        return Client(httpx2.AsyncClient(transport=transport, base_url="http://localhost"))

    await application.start()
    try:
        yield at
    finally:
        await application.stop()


async def allowed(ways: Iterable[Callable[[], Awaitable[httpx2.Response]]], tries: int) -> int:
    """How many of so many requests, in all these ways by turns, are not refused as too many."""
    answers = [await way() for way in islice(cycle(ways), tries)]
    refused = [answer for answer in answers if answer.status_code == 429]
    for answer in refused:
        assert answer.json()["errcode"] == "M_LIMIT_EXCEEDED"
        assert int(answer.headers["retry-after"]) * 1000 >= answer.json()["retry_after_ms"] > 0
    assert refused
    return len(answers) - len(refused)


def at_most(limit: str) -> float:
    return RATES[limit].burst * 1.1


@pytest.mark.trust("C10")
async def test_a_guess_is_a_guess_however_it_is_spelled(limited: World) -> None:
    await limited.user("alice")
    number = count()

    def guess(path: str, user: Json, **headers: str) -> Callable[[], Awaitable[httpx2.Response]]:
        def ask() -> Awaitable[httpx2.Response]:
            body = {"type": "m.login.password", "password": "wrong", "device_id": f"D{next(number)}"} | user
            return limited.client.send("POST", path, json=body, headers=headers)

        return ask

    usual = "/_matrix/client/v3/login"
    spelled = {"identifier": {"type": "m.id.user", "user": "aLiCe"}}
    ways = [
        guess(usual, {"user": "alice"}),
        guess(usual, {"user": "ALICE"}),
        guess(usual, spelled),
        guess(usual, {"user": "@alice:localhost"}),
        guess("/_matrix/client/r0/login", {"user": "alice"}),
        guess("/_matrix/client/v3/log%69n", {"user": "alice"}),
        guess("/_matrix/client/v3/login?a=1", {"user": "alice"}),
        guess(usual, {"user": "alice"}, **{"X-Forwarded-For": "198.51.100.7"}),
        guess(usual, {"user": "alice"}, **{"X-Real-IP": "198.51.100.8", "Forwarded": "for=198.51.100.9"}),
        guess(usual, {"user": "alice"}, **{"CF-Connecting-IP": "198.51.100.8", "True-Client-IP": "198.51.100.9"}),
        guess(usual, {"user": "alice"}, **{"X-HTTP-Method-Override": "PUT", "User-Agent": "another"}),
    ]
    assert await allowed(ways, 60) <= at_most("login")


@pytest.mark.trust("C10")
@pytest.mark.parametrize(
    ("addresses", "factor"),
    [
        (["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"], 1),
        ([f"2001:db8::{part}:{part}" for part in ("1", "ffff", "a:b")], 1),
        (["2001:db8:0:0:ffff:ffff:ffff:ffff", "2001:DB8::"], 1),
        (["2001:db8:0:1::1", "2001:db8:0:2::1"], 2),
        (["192.0.2.1", "192.0.2.2"], 2),
    ],
    ids=["an address mapped", "a network", "the ends of a network", "two networks", "two addresses"],
)
async def test_who_has_a_network_is_one(config: Config, addresses: list[str], factor: int) -> None:
    body = {"type": "m.login.password", "user": "nobody", "password": "wrong"}
    async with asked_from(Application(config, clock=StillClock())) as at:
        clients = [at(address) for address in addresses]

        def way(number: int) -> Callable[[], Awaitable[httpx2.Response]]:
            who = count()
            return lambda: clients[number].send(
                "POST", "/_matrix/client/v3/login", json=body | {"user": f"nobody{number}_{next(who)}"}
            )

        number = await allowed([way(number) for number in range(len(clients))], 50 * factor)
    assert RATES["login"].burst * factor <= number <= at_most("login") * factor


@pytest.mark.trust("C10", "C06")
async def test_an_account_is_guessed_at_no_faster_from_many_addresses(config: Config) -> None:
    async with running(config, clock=StillClock()) as world:
        await world.user("alice")
        async with asked_from(Application(config, clock=world.clock)) as at:

            def way(number: int) -> Callable[[], Awaitable[httpx2.Response]]:
                user = ["alice", "Alice", "@alice:localhost"][number % 3]
                body = {"type": "m.login.password", "user": user, "password": "wrong"}
                client = at(f"192.0.2.{number}")
                return lambda: client.send("POST", "/_matrix/client/v3/login", json=body)

            assert await allowed([way(number) for number in range(1, 70)], 69) <= at_most("account")


@pytest.mark.trust("C10")
async def test_all_ways_to_invite_draw_on_one_limit(limited: World) -> None:
    alice = await limited.user("alice")
    names = [(await limited.user(f"person{number}")).user_id for number in range(10)]
    state = [{"type": "m.room.member", "state_key": name, "content": {"membership": "invite"}} for name in names[:5]]
    invited = 0
    refused = set()
    room_id = await alice.create_room()
    room = f"/rooms/{quote(room_id)}"
    ways: list[tuple[str, int, Callable[[str], Awaitable[httpx2.Response]]]] = [
        ("with a room", 10, lambda name: alice.post("/createRoom", {"invite": names})),
        ("by a room's state", 5, lambda name: alice.post("/createRoom", {"initial_state": state})),
        ("plainly", 1, lambda name: alice.post(f"{room}/invite", {"user_id": name})),
        ("as state", 1, lambda name: alice.put(f"{room}/state/m.room.member/{quote(name)}", {"membership": "invite"})),
    ]
    for number in range(8):
        for way, people, ask in ways:
            answer = await ask(names[number])
            if answer.status_code == 429:
                refused.add(way)
            else:
                assert answer.status_code == 200, answer.text
                invited += people
    assert refused == {"with a room", "by a room's state", "plainly", "as state"}
    assert invited <= at_most("invite")


@pytest.mark.trust("C10")
async def test_more_people_than_a_limit_ever_lets_in_are_refused_plainly(limited: World) -> None:
    alice = await limited.user("alice")
    invite = [f"@person{number}:localhost" for number in range(RATES["invite"].burst + 1)]
    answer = await alice.post("/createRoom", {"invite": invite})
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.trust("C10")
async def test_all_ways_to_join_and_all_devices_and_tokens_draw_on_one_limit(limited: World) -> None:
    alice = await limited.user("alice")
    bob = await limited.user("bob")
    tablet = await limited.user("bob", device_id="TABLET")
    room_id = await alice.create_room(preset="public_chat", room_alias_name="open")
    login = {"type": "m.login.password", "user": "bob", "password": "bobbob", "refresh_token": True}
    session = (await limited.client.send("POST", "/_matrix/client/v3/login", json=login)).json()

    async def with_new_token() -> httpx2.Response:
        nonlocal session
        body = {"refresh_token": session["refresh_token"]}
        session = (await limited.client.send("POST", "/_matrix/client/v3/refresh", json=body)).json()
        phone = User(limited.client, bob.user_id, "", session["access_token"])
        return await phone.post(f"/rooms/{quote(room_id)}/join")

    ways = [
        lambda: bob.post(f"/rooms/{quote(room_id)}/join"),
        lambda: bob.post(f"/rooms/{quote(room_id, safe='')}/j%6fin"),
        lambda: tablet.post(f"/join/{quote(room_id)}"),
        lambda: tablet.post(f"/join/{quote('#open:localhost')}"),
        lambda: bob.put(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}", {"membership": "join"}),
        lambda: bob.call("POST", f"/join/{quote(room_id)}", {}, params={"access_token": tablet.token}),
        with_new_token,
    ]
    assert await allowed(ways, 100) <= at_most("join")


@pytest.mark.trust("C10")
async def test_all_ways_to_put_somebody_out_draw_on_one_limit(limited: World) -> None:
    alice = await limited.user("alice")
    bob = await limited.user("bob")
    room_id = await alice.create_room()
    await alice.invite(room_id, bob)
    room = f"/rooms/{quote(room_id)}"
    target = {"user_id": bob.user_id}
    ways = [
        lambda: alice.post(f"{room}/ban", target),
        lambda: alice.post(f"{room}/unban", target),
        lambda: alice.put(f"{room}/state/m.room.member/{quote(bob.user_id)}", {"membership": "ban"}),
        lambda: alice.put(f"{room}/state/m.room.member/{quote(bob.user_id)}", {"membership": "leave"}),
    ]
    assert await allowed(ways, 150) <= at_most("moderate")


@pytest.mark.trust("C10", "C21")
async def test_one_time_keys_are_counted_and_not_the_requests_for_them(limited: World) -> None:
    alice = await limited.user("alice")
    keys = 0
    while True:
        wanted = {"@bob:localhost": {f"D{number}": "signed_curve25519" for number in range(900)}}
        answer = await alice.post("/keys/claim", {"one_time_keys": wanted})
        if answer.status_code == 429:
            break
        keys += 900
    assert RATES["claim"].burst - 900 < keys <= at_most("claim")


@pytest.mark.trust("C10", "C21")
async def test_a_claim_that_is_too_large_takes_nothing(limited: World) -> None:
    alice = await limited.user("alice")
    for size, status in ((10_001, 400), (10_000, 200), (1, 429)):
        wanted = {"@bob:localhost": {f"D{number}": "signed_curve25519" for number in range(size)}}
        answer = await alice.post("/keys/claim", {"one_time_keys": wanted})
        assert answer.status_code == status


@pytest.mark.trust("C10")
async def test_a_limit_lets_in_as_many_again_as_time_has_passed_for(limited: World) -> None:
    body = {"type": "m.login.password", "user": "nobody", "password": "wrong"}

    async def guess() -> httpx2.Response:
        return await limited.client.send("POST", "/_matrix/client/v3/login", json=body)

    await allowed([guess], 25)
    limited.clock.advance(10)
    assert await allowed([guess], 25) == 5


@pytest.mark.trust("C10")
async def test_all_ways_to_ask_for_keys_of_servers_draw_on_one_limit(limited: World) -> None:
    ways = [
        lambda: limited.client.get("/_matrix/key/v2/query/nowhere.test"),
        lambda: limited.client.send("POST", "/_matrix/key/v2/query", json={"server_keys": {}}),
    ]
    assert await allowed(ways, 250) <= RATES_OF_SERVERS["keys"].burst * 1.1


async def in_a_room(world: World, alice: User, servers: Sequence[str]) -> None:
    """A room of alice's in which these servers have users."""
    room_nid = await world.container.hot.nid_of(RoomId(await alice.create_room()))
    await world.container.database.write(room_servers.replace, room_nid, list(map(ServerName, servers)), 1)


@pytest.mark.trust("C10", "C19", "R5")
async def test_servers_nobody_knows_are_counted_where_messages_go_to_devices_of_theirs(limited: World) -> None:
    alice = await limited.user("alice")
    number = count()

    def to(servers: Iterable[str], sender: User) -> Awaitable[httpx2.Response]:
        messages: Json = {f"@u:{server}": {"*": {}} for server in servers}
        return sender.put(f"/sendToDevice/m.test/{next(number)}", {"messages": messages})

    members = [f"s{number}.test" for number in range(5000)]
    await in_a_room(limited, alice, members)
    for _ in range(3):
        assert (await to(members, alice)).status_code == 200
    answer = await to([f"invented{number}.test" for number in range(10_000)], alice)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")
    strangers = (f"stranger{next(number)}.test" for _ in count())
    requests = await allowed([lambda: to([*members[:10], *islice(strangers, 10)], alice)], 30)
    assert requests * 10 <= at_most("strangers_by_user")
    # Whoever sends to many at once makes up for it.
    bob = await limited.user("bob")
    assert (await to(islice(strangers, 1000), bob)).status_code == 200
    limited.clock.advance(500)
    assert (await to(islice(strangers, 1), bob)).status_code == 429
    limited.clock.advance(500)
    assert (await to(islice(strangers, 1), bob)).status_code == 200


@pytest.mark.trust("C10")
async def test_requests_to_send_messages_to_devices_are_counted(limited: World) -> None:
    alice = await limited.user("alice")
    number = count()
    body: Json = {"messages": {alice.user_id: {"*": {}}}}
    assert await allowed([lambda: alice.put(f"/sendToDevice/m.test/{next(number)}", body)], 350) <= at_most("to_device")
