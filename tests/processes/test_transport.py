"""Requests to other servers over real TLS: who is trusted, what is bounded, and what a bad server can do."""

import asyncio
import ssl
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from homeserver.errors import Unreachable
from homeserver.outbound.resolver import Service
from tests.outbound.names import Names
from tests.processes.asking import BODY, LOCAL, ask, transport_to
from tests.processes.certificates import Authority
from tests.processes.tls_peers import Answer, Heard, dripping, endless, never, ok, raw, tls_peer


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # As the server does.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.behaviours("SS-API-01")
async def test_a_request_comes_as_it_was_signed_and_its_answer_comes_back(authority: Authority) -> None:
    answer = ok(b'{"a": 1}', "201 Created", X_Seen="yes")
    async with tls_peer(authority.issue("a.test").server_context(), answer) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            target = "/_matrix/x/%21a%2Fb:c?via=%C3%A9&x=a+b"
            reply = await ask(transport, "a.test", target=target, headers={"Authorization": "X-Matrix origin=b"})
    assert (reply.status, reply.headers["x-seen"], reply.body) == (201, "yes", b'{"a": 1}')
    heard = peer.heard[0]
    assert heard.line == f"PUT {target} HTTP/1.1"
    assert heard.body == BODY
    assert (heard.headers["host"], heard.headers["authorization"]) == ("a.test", "X-Matrix origin=b")
    assert peer.names == ["a.test"]


@pytest.mark.behaviours("SS-API-01")
@pytest.mark.parametrize(
    "kind", ["expired", "self-signed", "wrong name", "another authority", "only an address", "only a common name"]
)
@pytest.mark.trust("C34")
async def test_a_server_that_does_not_prove_its_name_is_sent_nothing(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    certificate = {
        "expired": lambda: authority.issue("a.test", lifetime=timedelta(days=-1)),
        "self-signed": lambda: authority.issue("a.test", is_self_signed=True),
        "wrong name": lambda: authority.issue("b.test", "*.a.test", "xa.test"),
        "another authority": lambda: Authority(tmp_path).issue("a.test"),
        "only an address": lambda: authority.issue("127.0.0.2"),
        "only a common name": lambda: authority.issue("a.test", is_of_old=True),
    }[kind]()
    async with tls_peer(certificate.server_context(), ok()) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            with pytest.raises(Unreachable, match=r"The certificate of 127\.0\.0\.2 port \d+ does not prove a\.test: "):
                await ask(transport, "a.test")
    assert peer.bytes_read == 0


@pytest.mark.trust("C34")
async def test_tls_before_1_2_is_not_spoken(authority: Authority) -> None:
    context = authority.issue("a.test").server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with tls_peer(context, ok()) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            with pytest.raises(Unreachable, match=r"127.0.0.2 port \d+ .* TLS"):
                await ask(transport, "a.test")
    assert peer.bytes_read == 0


@pytest.mark.trust("C34")
async def test_a_server_without_tls_is_sent_nothing_it_can_read(authority: Authority) -> None:
    async with tls_peer(None, ok()) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            with pytest.raises(Unreachable):
                await ask(transport, "a.test", timeout_s=1)
    assert not peer.heard


@pytest.mark.behaviours("SS-API-01")
@pytest.mark.trust("C34")
async def test_a_name_that_is_an_address_is_proven_by_the_address_and_sends_no_sni(authority: Authority) -> None:
    good, bad = authority.issue("127.0.0.2"), authority.issue("127.0.0.3", "a.test")
    async with tls_peer(good.server_context(), ok()) as peer, tls_peer(bad.server_context(), ok()) as other:
        async with transport_to(authority, allowed_ranges=LOCAL) as transport:
            assert (await ask(transport, peer.address)).status == 200
            with pytest.raises(Unreachable, match="does not prove 127"):
                await ask(transport, other.address)
    assert peer.heard[0].headers["host"] == peer.address
    assert peer.names == [None]
    assert other.bytes_read == 0


@pytest.mark.behaviours("SS-DISC-05")
@pytest.mark.parametrize("name", ["127.0.0.2:{port}", "[::ffff:127.0.0.2]:{port}", "inside.test:{port}", "srv.test"])
async def test_addresses_of_the_inside_are_not_connected_to_unless_allowed(authority: Authority, name: str) -> None:
    certificate = authority.issue("inside.test", "127.0.0.2", "::ffff:127.0.0.2", "srv.test")
    async with tls_peer(certificate.server_context(), ok()) as peer:
        names = Names(hosts={"inside.test": ["127.0.0.2"]})
        names.records["_matrix-fed._tcp.srv.test"] = [Service("inside.test", peer.port)]
        name = name.format(port=peer.port)
        async with transport_to(authority, names=names) as transport:
            with pytest.raises(Unreachable, match=r"is not to be connected to.*is this machine"):
                await ask(transport, name)
        assert peer.connections == 0
        async with transport_to(authority, names=names, allowed_ranges=LOCAL) as transport:
            assert (await ask(transport, name)).status == 200


@pytest.mark.behaviours("SS-DISC-05")
async def test_the_address_that_is_reached_is_judged_too(authority: Authority) -> None:
    # To connect to 0.0.0.0 is to connect to this machine, which nobody has allowed.
    async with tls_peer(authority.issue("a.test").server_context(), ok(), "127.0.0.1") as peer:
        names = Names(hosts={"a.test": ["0.0.0.0"]})
        async with transport_to(authority, names=names, allowed_ranges=("0.0.0.0/32",)) as transport:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1 is this machine, and is not to be connected to"):
                await ask(transport, f"a.test:{peer.port}")
    assert peer.bytes_read == 0


@pytest.mark.parametrize(("deny", "allow"), [(("*.test",), None), ((), ("b.test",))])
async def test_a_server_that_the_operator_excludes_is_not_asked(
    authority: Authority, deny: tuple[str, ...], allow: tuple[str, ...] | None
) -> None:
    async with tls_peer(authority.issue("a.test").server_context(), ok()) as peer:
        async with transport_to(authority, ("a.test", peer), deny=deny, allow=allow) as transport:
            with pytest.raises(Unreachable, match=r"a\.test is not asked"):
                await ask(transport, "a.test")
    assert peer.connections == 0


async def test_connections_are_kept_and_one_that_the_server_has_closed_is_replaced(authority: Authority) -> None:
    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> bool:
        await ok()(heard, writer)
        return "last" not in heard.line

    async with tls_peer(authority.issue("a.test").server_context(), answer) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            for target in ("/1", "/2", "/last", "/4", "/5"):
                assert (await ask(transport, "a.test", target=target)).status == 200
    assert [heard.connection for heard in peer.heard] == [1, 1, 1, 2, 2]


async def test_a_request_that_meets_a_closing_connection_is_repeated_on_a_new_one(authority: Authority) -> None:
    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> bool | None:
        if heard.connection == 1 and "2" in heard.line:
            return False
        return await ok()(heard, writer)

    async with tls_peer(authority.issue("a.test").server_context(), answer) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            for target in ("/1", "/2"):
                assert (await ask(transport, "a.test", target=target)).status == 200
    assert [heard.line.split()[1] for heard in peer.heard] == ["/1", "/2", "/2"]


async def test_two_names_at_one_address_never_share_a_connection(authority: Authority) -> None:
    async with tls_peer(authority.issue("a.test", "b.test").server_context(), ok()) as peer:
        async with transport_to(authority, ("a.test", peer), ("b.test", peer)) as transport:
            for name in ("a.test", "b.test", "a.test", "b.test"):
                await ask(transport, name)
    assert [(heard.headers["host"], heard.connection) for heard in peer.heard] == [
        ("a.test", 1),
        ("b.test", 2),
        ("a.test", 1),
        ("b.test", 2),
    ]
    assert peer.names == ["a.test", "b.test"]


async def test_the_next_address_is_tried_where_one_takes_no_connection_or_proves_nothing(authority: Authority) -> None:
    good, bad = authority.issue("a.test"), authority.issue("b.test")
    async with tls_peer(good.server_context(), ok(), "127.0.0.4") as peer:
        async with tls_peer(bad.server_context(), ok(), "127.0.0.5", peer.port):
            hosts = {"a.test": ["::1", "127.0.0.3", "127.0.0.5", "127.0.0.4"]}
            names = Names(hosts=hosts)
            async with transport_to(authority, names=names, allowed_ranges=(*LOCAL, "::1")) as transport:
                assert (await ask(transport, f"a.test:{peer.port}")).status == 200


async def test_the_services_of_srv_records_are_tried_by_priority(authority: Authority) -> None:
    certificate = authority.issue("a.test")
    async with tls_peer(certificate.server_context(), ok()) as peer:
        names = Names(hosts={"one.test": ["127.0.0.2"], "two.test": ["127.0.0.2"]})
        names.records["_matrix-fed._tcp.a.test"] = [
            Service("two.test", peer.port, 20),
            Service("gone.test", 1, 5),
            Service("one.test", 1, 10),
        ]
        async with transport_to(authority, names=names, allowed_ranges=LOCAL) as transport:
            assert (await ask(transport, "a.test")).status == 200
    assert peer.heard[0].headers["host"] == "a.test"
    assert peer.names == ["a.test"]


async def test_what_failed_is_said_of_each_place(authority: Authority) -> None:
    names = Names(hosts={"one.test": ["127.0.0.2", "10.0.0.1"]})
    names.records["_matrix-fed._tcp.a.test"] = [Service("one.test", 1, 1), Service("gone.test", 2, 2)]
    async with transport_to(authority, names=names, allowed_ranges=LOCAL) as transport:
        with pytest.raises(Unreachable) as caught:
            await ask(transport, "a.test")
    expected = "a.test cannot be reached. 127.0.0.2 port 1 took no connection: "
    assert str(caught.value).startswith(expected)
    assert str(caught.value).endswith("gone.test has no address.")


@pytest.mark.parametrize(
    "answer",
    [
        never,
        dripping(b""),
        dripping(b"HTTP/1.1 200 OK\r\nX: "),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    ],
)
@pytest.mark.trust("F24")
async def test_a_slow_server_is_given_up_in_time_and_holds_up_nobody_else(authority: Authority, answer: Answer) -> None:
    context = authority.issue("a.test", "b.test").server_context()
    async with tls_peer(context, answer) as slow, tls_peer(context, ok()) as fast:
        peers = [("a.test", slow), ("b.test", fast)]
        async with transport_to(authority, *peers, connections=20, connections_per_server=2) as transport:
            began = time.monotonic()

            async def give_up() -> None:
                with pytest.raises(Unreachable, match=r"a\.test was given up after 1 s|speaks HTTP wrongly"):
                    await ask(transport, "a.test", timeout_s=1)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(40):  # Twice as many as may be under way to all together.
                    tasks.create_task(give_up())
                for _ in range(5):
                    assert (await ask(transport, "b.test")).status == 200
                assert time.monotonic() - began < 0.8
            assert time.monotonic() - began < 3
            assert slow.connections < 10  # Two at once; some had their turn at the very end.
            await slow.until(lambda peer: not peer.open_now)


@pytest.mark.trust("F28")
async def test_many_servers_that_cannot_be_found_do_not_stand_in_each_others_way(authority: Authority) -> None:
    async with transport_to(authority, connections=10) as transport:

        async def ask_nobody(number: int) -> None:
            with pytest.raises(Unreachable, match="has no address"):
                await ask(transport, f"{number}.test", timeout_s=3)

        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(ask_nobody(number))


@pytest.mark.parametrize(
    "answer",
    [
        raw(b""),
        raw(b"\x00\x01\x02garbage\r\n\r\n"),
        raw(b"HTTP/9.9 999 What\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999999999\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n" + b"x" * 100_001),
        raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000_000),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"x" * 65_535 + b"\r\n" * 3),
        ok(b"\x1f\x8b", Content_Encoding="gzip"),
    ],
)
@pytest.mark.trust("F25")
async def test_an_answer_that_is_garbage_or_too_large_is_none(authority: Authority, answer: Answer) -> None:
    async with tls_peer(authority.issue("a.test").server_context(), answer) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            with pytest.raises(Unreachable, match=r"a\.test (cannot be reached|says too much)"):
                await ask(transport, "a.test", timeout_s=10)


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
        endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"x" * 65_536),
    ],
)
@pytest.mark.trust("F25")
async def test_an_answer_without_an_end_is_read_no_further_than_allowed(authority: Authority, answer: Answer) -> None:
    async with tls_peer(authority.issue("a.test").server_context(), answer) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            with pytest.raises(Unreachable, match="is larger than 100000 bytes"):
                await ask(transport, "a.test")
            await peer.until(lambda peer: not peer.open_now)


@pytest.mark.parametrize("status", ["302 Found", "418 Teapot", "429 Slow", "500 Oh", "599 X", "204 None"])
@pytest.mark.trust("F25")
async def test_any_status_is_passed_on_and_no_redirect_followed(authority: Authority, status: str) -> None:
    answer = ok(b"<html>", status, Location="https://a.test/elsewhere")
    if status.startswith("204"):
        answer = raw(b"HTTP/1.1 204 None\r\n\r\n")
    async with tls_peer(authority.issue("a.test").server_context(), answer) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            assert (await ask(transport, "a.test")).status == int(status[:3])
    assert len(peer.heard) == 1


async def test_a_large_answer_comes_whole(authority: Authority) -> None:
    body = bytes(range(256)) * 40_000
    async with tls_peer(authority.issue("a.test").server_context(), ok(body)) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            assert (await ask(transport, "a.test", largest=len(body))).body == body


async def test_unused_connections_are_kept_up_to_a_bound(authority: Authority) -> None:
    names = [f"{number}.test" for number in range(10)]
    async with tls_peer(authority.issue(*names).server_context(), ok()) as peer:
        async with transport_to(authority, *((name, peer) for name in names), idle_connections=3) as transport:
            for name in names:
                await ask(transport, name)
            await peer.until(lambda peer: peer.open_now <= 3)
            await ask(transport, "9.test")
            await ask(transport, "0.test")
    assert [heard.connection for heard in peer.heard[-2:]] == [10, 11]


async def test_unused_connections_are_ended_after_a_while(authority: Authority) -> None:
    async with tls_peer(authority.issue("a.test", "b.test").server_context(), ok()) as peer:
        async with transport_to(authority, ("a.test", peer), ("b.test", peer), idle_s=0.2) as transport:
            await ask(transport, "a.test")
            await ask(transport, "b.test")
            await peer.until(lambda peer: not peer.open_now)
            assert (await ask(transport, "a.test")).status == 200


async def test_a_server_that_has_moved_is_asked_where_it_is_now(authority: Authority) -> None:
    context = authority.issue("a.test").server_context()
    async with tls_peer(context, ok(b"old")) as old, tls_peer(context, ok(b"new"), "127.0.0.3") as new:
        names = Names(hosts={"old.test": [old.host], "new.test": [new.host]})
        async with transport_to(authority, names=names, allowed_ranges=LOCAL) as transport:
            names.records["_matrix-fed._tcp.a.test"] = [Service("old.test", old.port)]
            assert (await ask(transport, "a.test")).body == b"old"
            names.records["_matrix-fed._tcp.a.test"] = [Service("new.test", new.port)]
            assert (await ask(transport, "a.test")).body == b"new"


async def test_a_cancelled_request_leaves_nothing_behind(authority: Authority) -> None:
    async with tls_peer(authority.issue("a.test").server_context(), never) as peer:
        async with transport_to(authority, ("a.test", peer)) as transport:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(ask(transport, "a.test"))
                await peer.until(lambda peer: bool(peer.heard))
                task.cancel()
            await peer.until(lambda peer: not peer.open_now)


async def test_fetch_follows_redirects_without_going_round_and_never_out_of_tls(authority: Authority) -> None:
    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        target = heard.line.split()[1]
        places = {
            "/start": "/next?x=1",
            "/next?x=1": f"https://b.test:{peer.port}/end",
            "/round": "/round",
            "/plain": f"http://a.test:{peer.port}/end",
            "/inside": "https://10.0.0.1/",
            "/odd": "https://[::x/",
        }
        if target in places:
            await ok(b"", "302 Found", Location=places[target])(heard, writer)
        else:
            await ok(b"there")(heard, writer)

    async with AsyncExitStack() as stack:
        context = authority.issue("a.test", "b.test").server_context()
        peer = await stack.enter_async_context(tls_peer(context, answer))
        names = Names(hosts={"a.test": ["127.0.0.2"], "b.test": ["127.0.0.2"]})
        transport = await stack.enter_async_context(transport_to(authority, names=names, allowed_ranges=LOCAL))
        url = f"https://a.test:{peer.port}"
        reply = await transport.fetch(f"{url}/start", timeout_s=5, largest=100)
        assert (reply.status, reply.body) == (200, b"there")
        assert peer.heard[-1].headers["host"] == f"b.test:{peer.port}"
        for path in ("/round", "/plain", "/inside", "/odd"):
            with pytest.raises(Unreachable):
                await transport.fetch(url + path, timeout_s=5, largest=100)
        with pytest.raises(Unreachable):
            await transport.fetch(f"{url}/start", timeout_s=5, largest=4)


@pytest.mark.behaviours("SS-DISC-01", "SS-DISC-02", "SS-DISC-03")
async def test_a_delegated_server_is_found_asked_by_its_other_name_and_kept(authority: Authority) -> None:
    """The whole way: a well-known file behind a redirect, SRV records of the host it names, and the server."""
    redirect = ok(b"", "301 Moved", Location="https://www.a.test/elsewhere.json")
    page = ok(b'{"m.server": "matrix.a.test"}', Content_Type="text/plain")

    async def web(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await (page if heard.headers["host"] == "www.a.test" else redirect)(heard, writer)

    async with AsyncExitStack() as stack:
        site = authority.issue("a.test", "www.a.test").server_context()
        try:
            pages = await stack.enter_async_context(tls_peer(site, web, "127.0.0.44", 443))
        except PermissionError:
            pytest.skip("Port 443, where well-known files are, can be had by an administrator only.")
        context = authority.issue("matrix.a.test").server_context()
        server = await stack.enter_async_context(tls_peer(context, ok()))
        names = Names(hosts={name: ["127.0.0.44"] for name in ("a.test", "www.a.test")})
        names.hosts["host.test"] = ["127.0.0.2"]
        names.records["_matrix-fed._tcp.matrix.a.test"] = [Service("host.test", server.port)]
        transport = await stack.enter_async_context(transport_to(authority, names=names, allowed_ranges=LOCAL))
        for _ in range(3):
            assert (await ask(transport, "a.test")).status == 200
    assert [heard.line for heard in pages.heard] == [
        "GET /.well-known/matrix/server HTTP/1.1",
        "GET /elsewhere.json HTTP/1.1",
    ]
    assert {heard.headers["host"] for heard in server.heard} == {"matrix.a.test"}
    assert (server.names, server.connections) == (["matrix.a.test"], 1)
