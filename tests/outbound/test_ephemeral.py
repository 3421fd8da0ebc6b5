"""What is kept in memory for other servers is bounded, and the newest of a key wins."""

import asyncio

import pytest

from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.ephemeral import Ephemeral

A, B = ServerName("a.test"), ServerName("b.test")


def contents(ephemeral: Ephemeral, server: ServerName, limit: int = 100) -> list[bytes]:
    return [edu.content for edu in ephemeral.take(server, limit)]


@pytest.mark.trust("F33")
async def test_the_newest_of_a_key_is_what_is_sent() -> None:
    ephemeral = Ephemeral()
    ephemeral.put([A, B], "m.typing", "!room", b"1")
    ephemeral.put([A], "m.presence", "@user", b"2")
    ephemeral.put([A], "m.typing", "!room", b"3")
    assert await ephemeral.fresh() == {A, B}
    assert contents(ephemeral, A) == [b"2", b"3"]
    assert contents(ephemeral, B) == [b"1"]
    assert not ephemeral.has(A)


@pytest.mark.trust("F33", "R6")
async def test_a_storm_is_bounded_and_given_in_parts() -> None:
    ephemeral = Ephemeral()
    for number in range(1000):
        ephemeral.put([A], "m.presence", f"@user{number}", str(number).encode())
    assert contents(ephemeral, A, 100)[0] == b"800"
    assert contents(ephemeral, A, 100)[-1] == b"999"
    assert contents(ephemeral, A, 100) == []


async def test_nothing_is_kept_for_a_server_that_is_down() -> None:
    ephemeral = Ephemeral()
    ephemeral.put([A], "m.typing", "!room", b"1")
    ephemeral.forget(A)
    ephemeral.put([A], "m.typing", "!room", b"2")
    assert not ephemeral.has(A)
    waiting = asyncio.ensure_future(ephemeral.fresh())
    ephemeral.deaf.discard(A)
    ephemeral.put([A], "m.typing", "!room", b"3")
    assert await waiting == {A}
