"""What is kept of the DNS, and for how long."""

import asyncio
from ipaddress import ip_address

import pytest

from homeserver.errors import Unreachable
from homeserver.kit.randomness import Randomness
from homeserver.outbound.addresses import Address
from homeserver.outbound.connecting import in_order
from homeserver.outbound.resolver import CachingResolver, Found, Service
from tests.outbound.names import MovedClock, Names


@pytest.mark.trust("F28")
async def test_what_was_found_is_kept_for_its_lifetime() -> None:
    clock, names = MovedClock(), Names(hosts={"a.example": ["1.1.1.1"]}, lifetime_s=60)
    resolver = CachingResolver(names, clock)
    for _ in range(3):
        assert (await resolver.addresses("A.example")).records == (ip_address("1.1.1.1"),)
    names.hosts["a.example"] = ["2.2.2.2"]
    clock.time_s += 59
    assert (await resolver.addresses("a.example")).records == (ip_address("1.1.1.1"),)
    clock.time_s += 2
    assert (await resolver.addresses("a.example")).records == (ip_address("2.2.2.2"),)
    assert len(names.asked) == 2


@pytest.mark.trust("F28")
async def test_what_was_found_serves_for_an_hour_longer_while_the_dns_fails() -> None:
    clock, names = MovedClock(), Names(hosts={"a.example": ["1.1.1.1"]}, lifetime_s=60)
    resolver = CachingResolver(names, clock)
    await resolver.addresses("a.example")
    names.broken.add("a.example")
    clock.time_s += 3000
    assert (await resolver.addresses("a.example")).records == (ip_address("1.1.1.1"),)
    clock.time_s += 3000
    with pytest.raises(Unreachable, match="the name servers failed"):
        await resolver.addresses("a.example")
    names.broken.clear()
    clock.time_s += 300
    assert (await resolver.addresses("a.example")).records == (ip_address("1.1.1.1"),)


@pytest.mark.trust("F28")
async def test_a_failing_dns_is_asked_less_and_less_often() -> None:
    clock, names = MovedClock(), Names(broken={"_matrix._tcp.a.example"})
    resolver = CachingResolver(names, clock)
    for _ in range(600):
        with pytest.raises(Unreachable):
            await resolver.services("_matrix._tcp.a.example")
        clock.time_s += 1
    assert len(names.asked) == 7  # After 5, 10, 20, 40, 80, 160 and 300 seconds.


async def test_what_is_absent_is_kept_too() -> None:
    clock, names = MovedClock(), Names(lifetime_s=100)
    resolver = CachingResolver(names, clock)
    for _ in range(2):
        assert (await resolver.services("_matrix._tcp.a.example")).records == ()
    assert len(names.asked) == 1


async def test_all_who_ask_at_once_wait_for_one_answer_and_may_give_up() -> None:
    class Slow(Names):
        async def addresses(self, host: str) -> Found[Address]:
            found = await super().addresses(host)
            await go_on.wait()
            return found

    go_on = asyncio.Event()
    names = Slow(hosts={"a.example": ["1.1.1.1"]})
    resolver = CachingResolver(names, MovedClock())
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(resolver.addresses("a.example")) for _ in range(10)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        go_on.set()
    assert all(one.result().records for one in waiting[1:])
    assert len(names.asked) == 1


def test_services_are_tried_by_priority_and_drawn_by_weight() -> None:
    light, heavy, last = Service("light", 1, 1, 1), Service("heavy", 1, 1, 9), Service("last", 1, 2, 100)
    orders = [in_order([last, light, heavy], Randomness()) for _ in range(2000)]
    assert all(order[2] == last for order in orders)
    share = sum(order[0] == heavy for order in orders) / len(orders)
    assert 0.75 < share < 0.95
