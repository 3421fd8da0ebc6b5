"""From a server name to where it is reached (server-server API, Resolving server names)."""

from dataclasses import dataclass, field

import pytest

from homeserver.errors import Unreachable
from homeserver.outbound.discovery import Discovery, Route, lifetime_s
from homeserver.outbound.resolver import Service
from tests.outbound.names import MovedClock, Names, WellKnowns

HOUR_S = 3600


@dataclass
class World:
    """What there is to be discovered."""

    clock: MovedClock = field(default_factory=MovedClock)
    names: Names = field(default_factory=Names)
    well_knowns: WellKnowns = field(default_factory=WellKnowns)
    addresses: dict[str, str] = field(default_factory=dict)

    def discovery(self) -> Discovery:
        return Discovery(self.names, self.well_knowns.ask, self.clock, self.addresses)


def route(authority: str, tls_name: str, *services: Service) -> Route:
    return Route(authority, tls_name, services)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Step 1: IP literals, with and without a port. The certificate is for the address.
        ("1.2.3.4", route("1.2.3.4", "1.2.3.4", Service("1.2.3.4", 8448))),
        ("1.2.3.4:5", route("1.2.3.4:5", "1.2.3.4", Service("1.2.3.4", 5))),
        ("[2001:4860::1]", route("[2001:4860::1]", "2001:4860::1", Service("2001:4860::1", 8448))),
        ("[2001:4860::1]:5", route("[2001:4860::1]:5", "2001:4860::1", Service("2001:4860::1", 5))),
        # Step 2: an explicit port is used as it is, without well-known files and SRV records.
        ("delegates.example:5", route("delegates.example:5", "delegates.example", Service("delegates.example", 5))),
        ("srv.example:5", route("srv.example:5", "srv.example", Service("srv.example", 5))),
        # Step 3: delegation. The delegated name is what the Host header says and the certificate proves.
        ("to-v4.example", route("1.2.3.4", "1.2.3.4", Service("1.2.3.4", 8448))),
        ("to-v4-port.example", route("1.2.3.4:5", "1.2.3.4", Service("1.2.3.4", 5))),
        ("to-v6-port.example", route("[2001:4860::1]:5", "2001:4860::1", Service("2001:4860::1", 5))),
        ("to-port.example", route("srv.example:443", "srv.example", Service("srv.example", 443))),
        ("to-srv.example", route("srv.example", "srv.example", Service("host.example", 6))),
        ("to-old-srv.example", route("old-srv.example", "old-srv.example", Service("host.example", 7))),
        ("delegates.example", route("plain.example", "plain.example", Service("plain.example", 8448))),
        # Steps 4 and 5: SRV records change neither the Host header nor the name that is proven.
        ("srv.example", route("srv.example", "srv.example", Service("host.example", 6))),
        ("old-srv.example", route("old-srv.example", "old-srv.example", Service("host.example", 7))),
        # The service with a registered name goes before the deprecated one.
        ("both-srv.example", route("both-srv.example", "both-srv.example", Service("host.example", 6))),
        # Step 6.
        ("plain.example", route("plain.example", "plain.example", Service("plain.example", 8448))),
        # A well-known file is followed once: what it names is not asked for its own.
        ("twice.example", route("delegates.example", "delegates.example", Service("delegates.example", 8448))),
    ],
)
@pytest.mark.behaviours("SS-DISC-01", "SS-DISC-02")
async def test_find_follows_each_step_of_the_specification(name: str, expected: Route) -> None:
    world = World()
    for host, server in {
        "to-v4.example": "1.2.3.4",
        "to-v4-port.example": "1.2.3.4:5",
        "to-v6-port.example": "[2001:4860::1]:5",
        "to-port.example": "srv.example:443",
        "to-srv.example": "srv.example",
        "to-old-srv.example": "old-srv.example",
        "delegates.example": "plain.example",
        "twice.example": "delegates.example",
    }.items():
        world.well_knowns.put(host, f'{{"m.server": "{server}"}}')
    world.names.records = {
        "_matrix-fed._tcp.srv.example": [Service("host.example", 6)],
        "_matrix._tcp.old-srv.example": [Service("host.example", 7)],
        "_matrix-fed._tcp.both-srv.example": [Service("host.example", 6)],
        "_matrix._tcp.both-srv.example": [Service("host.example", 7)],
    }
    assert await world.discovery().find(name) == expected


async def test_find_asks_nobody_about_names_that_say_it_all() -> None:
    world = World(addresses={"given.example": "10.0.0.5:8448"})
    discovery = world.discovery()
    for name in ("1.2.3.4", "[::1]:5", "host.example:5", "given.example"):
        await discovery.find(name)
    assert (world.well_knowns.asked, world.names.asked) == ([], [])


async def test_find_goes_by_the_settings_first_and_proves_the_name_all_the_same() -> None:
    world = World(addresses={"Given.example": "10.0.0.5:8448", "port.example:1": "inside.example:2"})
    world.well_knowns.put("given.example", '{"m.server": "elsewhere.example:1"}')
    discovery = world.discovery()
    given = Route("given.example", "given.example", (Service("10.0.0.5", 8448),), is_given=True)
    assert await discovery.find("given.example") == given
    given = Route("port.example:1", "port.example", (Service("inside.example", 2),), is_given=True)
    assert await discovery.find("port.example:1") == given


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a..b", ":8448", "[::1", "[1.2.3.4]", "host.example:0", "host.example:00"),
        *("host.example:65536", "a." * 130),
        *("[host.example]", "::1", "a b", "a/b", "user@host.example", "-a.example", "a" * 64 + ".example"),
        *("host.example:1:2", "host.example\n", "hôte.example", "[fe80::1%25eth0]"),
    ],
)
async def test_find_refuses_what_is_no_name(name: str) -> None:
    with pytest.raises(Unreachable, match="is no name that a server can have"):
        await World().discovery().find(name)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, ""),
        (200, "<html>"),
        (200, "{}"),
        (200, "[]"),
        (200, '{"m.server": 1}'),
        (200, '{"m.server": ""}'),
        (200, '{"m.server": "https://host.example"}'),
        (200, '{"m.server": "host.example:99999"}'),
        (200, '{"m.server": "a b"}'),
        (200, "[" * 20_000),
        (200, '{"x": ' + "[" * 20_000),
        (404, '{"m.server": "elsewhere.example"}'),
        (204, '{"m.server": "elsewhere.example"}'),
        (302, '{"m.server": "elsewhere.example"}'),
        (500, '{"m.server": "elsewhere.example"}'),
    ],
)
@pytest.mark.behaviours("SS-DISC-03")
@pytest.mark.trust("F25")
async def test_find_takes_a_bad_well_known_file_for_none(status: int, body: str) -> None:
    world = World()
    world.well_knowns.put("host.example", body, status=status)
    world.names.records["_matrix-fed._tcp.host.example"] = [Service("a.example", 1)]
    assert await world.discovery().find("host.example") == route(
        "host.example", "host.example", Service("a.example", 1)
    )


@pytest.mark.behaviours("SS-DISC-04")
async def test_find_reads_a_well_known_file_whatever_its_type_is_said_to_be() -> None:
    world = World()
    world.well_knowns.put(
        "host.example", ' {"m.server": "a.example:1", "more": {}}\n', headers={"content-type": "text/html"}
    )
    assert (await world.discovery().find("host.example")).authority == "a.example:1"


@pytest.mark.parametrize(
    ("headers", "hours"),
    [
        ({}, 24),
        ({"cache-control": "public, max-age=7200"}, 2),
        ({"cache-control": "max-age=7200", "expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, 2),
        ({"cache-control": "max-age=7200", "age": "3600"}, 1),
        ({"expires": "Tue, 14 Nov 2023 23:13:20 GMT"}, 1),
        ({"expires": "Tue, 14 Nov 2023 23:13:20 GMT", "date": "Tue, 14 Nov 2023 20:13:20 GMT"}, 3),
        ({"cache-control": "max-age=99999999"}, 48),
        ({"expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, 48),
        # Not to be kept: a minute all the same, or each request would bring about one for the file.
        ({"cache-control": "no-store"}, 1 / 60),
        ({"cache-control": "no-cache, max-age=7200"}, 1 / 60),
        ({"expires": "0"}, 1 / 60),
        ({"cache-control": "max-age=0"}, 1 / 60),
    ],
)
@pytest.mark.behaviours("SS-DISC-03")
async def test_find_keeps_a_well_known_file_as_long_as_its_headers_say(headers: dict[str, str], hours: float) -> None:
    world = World()
    discovery = world.discovery()
    world.well_knowns.put("host.example", '{"m.server": "a.example:1"}', headers=headers)
    await discovery.find("host.example")
    world.well_knowns.put("host.example", '{"m.server": "b.example:1"}')
    world.clock.time_s += hours * HOUR_S - 1
    assert (await discovery.find("host.example")).authority == "a.example:1"
    world.clock.time_s += 2
    assert (await discovery.find("host.example")).authority == "b.example:1"


@pytest.mark.behaviours("SS-DISC-03")
async def test_find_asks_a_host_without_a_well_known_file_less_and_less_often() -> None:
    world = World()
    discovery = world.discovery()
    times = []
    for minute in range(60 * 6):
        before = len(world.well_knowns.asked)
        await discovery.find("host.example")
        if len(world.well_knowns.asked) > before:
            times.append(minute)
        world.clock.time_s += 60
    assert times == [0, 5, 15, 35, 75, 135, 195, 255, 315]


@pytest.mark.parametrize(("headers", "minutes"), [({"cache-control": "max-age=600"}, 10), ({"age": "1"}, 5)])
@pytest.mark.behaviours("SS-DISC-03")
async def test_find_keeps_an_error_as_its_headers_say_and_an_hour_at_most(
    headers: dict[str, str], minutes: int
) -> None:
    world = World()
    discovery = world.discovery()
    world.well_knowns.put("host.example", "", status=404, headers=headers)
    world.well_knowns.put("long.example", "", status=404, headers={"cache-control": "max-age=86400"})
    for name in ("host.example", "long.example"):
        await discovery.find(name)
        world.well_knowns.put(name, '{"m.server": "a.example:1"}')
    world.clock.time_s += minutes * 60 - 1
    assert (await discovery.find("host.example")).authority == "host.example"
    world.clock.time_s += 2
    assert (await discovery.find("host.example")).authority == "a.example:1"
    world.clock.time_s += HOUR_S
    assert (await discovery.find("long.example")).authority == "a.example:1"


@pytest.mark.trust("F28")
async def test_find_goes_by_an_old_well_known_file_while_it_cannot_be_had() -> None:
    world = World()
    discovery = world.discovery()
    world.well_knowns.put("host.example", '{"m.server": "a.example:1"}', headers={"cache-control": "max-age=3600"})
    await discovery.find("host.example")
    del world.well_knowns.files["host.example"]
    world.clock.time_s += 40 * HOUR_S
    assert (await discovery.find("host.example")).authority == "a.example:1"
    world.clock.time_s += 10 * HOUR_S
    assert (await discovery.find("host.example")).authority == "host.example"


async def test_find_follows_a_well_known_file_that_is_taken_away() -> None:
    world = World()
    discovery = world.discovery()
    world.well_knowns.put("host.example", '{"m.server": "a.example:1"}', headers={"cache-control": "max-age=3600"})
    await discovery.find("host.example")
    world.well_knowns.put("host.example", "", status=404)
    world.clock.time_s += 2 * HOUR_S
    assert (await discovery.find("host.example")).authority == "host.example"


async def test_doubt_makes_it_look_again_but_not_at_once() -> None:
    world = World()
    discovery = world.discovery()
    world.well_knowns.put("host.example", '{"m.server": "a.example:1"}')
    await discovery.find("host.example")
    world.well_knowns.put("host.example", '{"m.server": "b.example:1"}')
    discovery.doubt("host.example")
    assert (await discovery.find("host.example")).authority == "a.example:1"
    world.clock.time_s += 700
    discovery.doubt("host.example")
    assert (await discovery.find("host.example")).authority == "b.example:1"


@pytest.mark.trust("F28")
async def test_find_goes_on_where_srv_records_cannot_be_looked_up() -> None:
    world = World()
    world.names.broken = {"_matrix-fed._tcp.host.example", "_matrix._tcp.host.example"}
    found = await world.discovery().find("host.example")
    assert found == route("host.example", "host.example", Service("host.example", 8448))
    assert "the name servers failed" in " ".join(found.steps)


async def test_find_takes_an_srv_record_without_a_host_for_no_server() -> None:
    world = World()
    world.names.records["_matrix-fed._tcp.host.example"] = [Service(".", 0)]
    with pytest.raises(Unreachable, match="there is no such server"):
        await world.discovery().find("host.example")


@pytest.mark.parametrize("host", ["evil.example\r\nX: y", "a b", "", "x" * 300])
async def test_find_leaves_out_srv_records_whose_host_is_no_name(host: str) -> None:
    world = World()
    world.names.records["_matrix-fed._tcp.host.example"] = [Service(host, 1), Service("good.example", 2)]
    assert (await world.discovery().find("host.example")).services == (Service("good.example", 2),)


async def test_find_says_how_it_came_there() -> None:
    world = World()
    world.well_knowns.put("host.example", '{"m.server": "a.example"}')
    world.names.records["_matrix-fed._tcp.a.example"] = [Service("b.example", 1)]
    assert (await world.discovery().find("host.example")).steps == (
        "https://host.example/.well-known/matrix/server names a.example.",
        "The SRV records _matrix-fed._tcp.a.example lead to b.example port 1.",
    )


@pytest.mark.parametrize("value", ["", "max-age", "max-age=", "max-age=x", "s-maxage=5", "xmax-age=5", "=", '"'])
def test_lifetime_of_nonsense_is_not_known(value: str) -> None:
    assert lifetime_s({"cache-control": value}, 0) is None
