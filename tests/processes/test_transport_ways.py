"""Ways to other servers that not all have: HTTP/2, a proxy, and the DNS itself."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import h2.config
import h2.connection
import h2.events
import pytest

from homeserver.errors import Unreachable
from homeserver.outbound.resolver import DnsResolver, Service
from tests.outbound.names import Names
from tests.processes.asking import LOCAL, ask, transport_to
from tests.processes.certificates import Authority
from tests.processes.tls_peers import TlsPeer, ok, tls_peer


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # As the server does.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Http2Peer(TlsPeer):
    """A server that answers over HTTP/2, when it is told to."""

    bodies: list[bytes] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    says_goodbye: bool = False


class Http2Protocol(asyncio.Protocol):
    """One connection to an `Http2Peer`."""

    def __init__(self, peer: Http2Peer) -> None:
        self.peer = peer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.requests: dict[int, tuple[dict[bytes, bytes], bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.peer.connections += 1
        self.peer.open_now += 1
        self.http.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer.open_now -= 1

    def data_received(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.requests[event.stream_id] = (dict(event.headers), b"")
            elif isinstance(event, h2.events.DataReceived):
                headers, body = self.requests[event.stream_id]
                self.requests[event.stream_id] = (headers, body + event.data)
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.answer(event.stream_id)
        self.flush()

    def answer(self, stream: int) -> None:
        headers, body = self.requests.pop(stream)
        target = headers[b":path"].decode()
        self.peer.targets.append(target)
        self.peer.bodies.append(body)
        self.peer.names.append(headers[b":authority"].decode())
        if target in self.peer.silent:
            return
        self.http.send_headers(stream, [(":status", "200"), ("x-body", str(len(body)))])
        self.http.send_data(stream, target.encode(), end_stream=True)
        if self.peer.says_goodbye:
            self.http.close_connection()

    def flush(self) -> None:
        self.transport.write(self.http.data_to_send())


@asynccontextmanager
async def http2_peer(authority: Authority, *names: str) -> AsyncIterator[Http2Peer]:
    peer = Http2Peer("127.0.0.2")
    context = authority.issue(*names).server_context()
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Http2Protocol(peer), peer.host, 0, ssl=context)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()


async def test_http2_carries_many_requests_on_one_connection(authority: Authority) -> None:
    async with http2_peer(authority, "a.test") as peer, transport_to(authority, ("a.test", peer)) as transport:
        body = b"x" * 50_000
        await ask(transport, "a.test", target="/first", body=body)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(transport, "a.test", target=f"/{number}")) for number in range(30)]
        assert [one.result().body for one in asked] == [f"/{number}".encode() for number in range(30)]
    assert peer.connections == 1
    assert peer.bodies[0] == body
    assert set(peer.names) == {"a.test"}


async def test_http2_is_not_used_where_the_settings_forbid_it(authority: Authority) -> None:
    async with tls_peer(authority.issue("a.test").server_context(), ok()) as peer:
        async with transport_to(authority, ("a.test", peer), http2=False) as transport:
            assert (await ask(transport, "a.test")).status == 200


@pytest.mark.trust("F24")
async def test_http2_request_without_an_answer_is_given_up_alone_and_its_connection_ends_after_it(
    authority: Authority,
) -> None:
    async with http2_peer(authority, "a.test") as peer, transport_to(authority, ("a.test", peer)) as transport:
        peer.silent = {"/never"}
        await ask(transport, "a.test", target="/first")
        async with asyncio.TaskGroup() as tasks:
            never = tasks.create_task(_fails(ask(transport, "a.test", target="/never", timeout_s=0.5)))
            for number in range(5):
                await ask(transport, "a.test", target=f"/{number}")
        assert "was given up after 0.5 s" in never.result()
        await ask(transport, "a.test", target="/last")
    assert peer.connections == 2


async def test_http2_connection_that_the_server_ends_is_replaced(authority: Authority) -> None:
    async with http2_peer(authority, "a.test") as peer, transport_to(authority, ("a.test", peer)) as transport:
        peer.says_goodbye = True
        for number in range(4):
            assert (await ask(transport, "a.test", target=f"/{number}")).body == f"/{number}".encode()
    assert peer.targets == ["/0", "/1", "/2", "/3"]


async def _fails(asking: Any) -> str:
    with pytest.raises(Unreachable) as caught:
        await asking
    return str(caught.value)


@dataclass
class Proxy:
    """A forward proxy, which knows where names lead."""

    places: dict[str, int]
    port: int = 0
    asked: list[str] = field(default_factory=list)
    authorization: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = head.split()[1]
        self.asked.append(target)
        self.authorization += [line for line in head.split("\r\n") if line.startswith("Proxy-Authorization")]
        if target not in self.places:
            writer.write(b"HTTP/1.1 403 Not this one\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.2", self.places[target])
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pump(reader, far_writer))
            tasks.create_task(_pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy_to(context: ssl.SSLContext | None = None, **places: int) -> AsyncIterator[Proxy]:
    proxy = Proxy({f"{name.replace('_', '.')}:{port}": port for name, port in places.items()})
    server = await asyncio.start_server(proxy.serve, "127.0.0.9", 0, ssl=context)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()


async def test_a_proxy_is_used_for_all_but_those_that_need_none(authority: Authority) -> None:
    certificate = authority.issue("a.test", "b.internal", "127.0.0.2")
    async with tls_peer(certificate.server_context(), ok()) as peer, proxy_to(a_test=peer.port) as proxy:
        settings: dict[str, Any] = {
            "proxy": f"http://me:p%40ss@127.0.0.9:{proxy.port}",
            "no_proxy": ("*.internal", "127.0.0.0/8"),
            "allowed_ranges": LOCAL,
        }
        names = Names(hosts={"b.internal": ["127.0.0.2"]})
        async with transport_to(authority, names=names, **settings) as transport:
            # The name is not in the DNS of this side: the proxy alone knows it.
            assert (await ask(transport, f"a.test:{peer.port}")).status == 200
            assert (await ask(transport, f"b.internal:{peer.port}")).status == 200
            assert (await ask(transport, f"127.0.0.2:{peer.port}")).status == 200
            with pytest.raises(Unreachable, match=r"connect to c\.test port 1: it answered 403 Not this one"):
                await ask(transport, "c.test:1")
    assert proxy.asked == [f"a.test:{peer.port}", "c.test:1"]
    assert proxy.authorization[0].split()[-1] == base64.b64encode(b"me:p@ss").decode()
    assert peer.names == ["a.test", "b.internal", None]


@pytest.mark.trust("C34")
async def test_a_proxy_cannot_stand_in_for_a_server(authority: Authority) -> None:
    async with tls_peer(authority.issue("b.test").server_context(), ok()) as peer:
        async with proxy_to(a_test=peer.port) as proxy:
            url = f"http://127.0.0.9:{proxy.port}"
            async with transport_to(authority, proxy=url) as transport:
                with pytest.raises(Unreachable, match=r"does not prove a\.test"):
                    await ask(transport, f"a.test:{peer.port}")
    assert peer.bytes_read == 0


# The server runs on the one loop, commands on the other: each has its own way to put TLS within TLS.
@pytest.mark.trust("C34")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": one}) for one in (True, False)])
async def test_a_proxy_may_be_spoken_to_by_tls_and_must_prove_its_name_then(authority: Authority) -> None:
    certificate = authority.issue("127.0.0.9", to="proxy")
    answer = ok(b"{}" + b" " * 90_000)
    async with tls_peer(authority.issue("a.test").server_context(), answer) as peer:
        async with proxy_to(certificate.server_context(), a_test=peer.port) as proxy:
            url = f"https://me:p%40ss@127.0.0.9:{proxy.port}"
            async with transport_to(authority, proxy=url) as transport:
                for _ in range(2):
                    reply = await ask(transport, f"a.test:{peer.port}", body=b"x" * 300_000)
                    assert (reply.status, len(reply.body)) == (200, 90_002)
                with pytest.raises(Unreachable, match="it answered 403 Not this one"):
                    await ask(transport, "c.test:1")
        certificate = authority.issue("another.test")
        async with proxy_to(certificate.server_context(), a_test=peer.port) as impostor:
            async with transport_to(authority, proxy=f"https://me:secret@127.0.0.9:{impostor.port}") as transport:
                with pytest.raises(Unreachable, match=r"certificate of the proxy .* does not prove 127\.0\.0\.9"):
                    await ask(transport, f"a.test:{peer.port}")
    assert proxy.asked == [f"a.test:{peer.port}", "c.test:1"]
    assert proxy.authorization[0].split()[-1] == base64.b64encode(b"me:p@ss").decode()
    assert impostor.asked == []
    assert peer.names == ["a.test"]  # One connection, used twice.


@pytest.mark.trust("C34")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": one}) for one in (True, False)])
async def test_a_proxy_that_is_spoken_to_by_tls_cannot_stand_in_for_a_server(authority: Authority) -> None:
    certificate = authority.issue("127.0.0.9", to="proxy")
    async with tls_peer(authority.issue("b.test").server_context(), ok()) as peer:
        async with proxy_to(certificate.server_context(), a_test=peer.port) as proxy:
            async with transport_to(authority, proxy=f"https://127.0.0.9:{proxy.port}") as transport:
                with pytest.raises(Unreachable, match=r"does not prove a\.test"):
                    await ask(transport, f"a.test:{peer.port}")
    assert peer.bytes_read == 0


async def test_a_proxy_that_is_not_there_is_what_is_told(authority: Authority) -> None:
    for host, reason in (("127.0.0.9:1", "took no connection: connection refused"), ("gone.test", "has no address")):
        async with transport_to(authority, names=Names(), proxy=f"http://{host}") as transport:
            with pytest.raises(Unreachable, match=f"The proxy .* is not reached: .*{reason}"):
                await ask(transport, "a.test:1")


@pytest.mark.behaviours("SS-DISC-05")
async def test_a_proxy_is_not_asked_for_addresses_of_the_inside(authority: Authority) -> None:
    names = Names(hosts={"inside.test": ["10.0.0.1"]})
    async with proxy_to() as proxy:
        url = f"http://127.0.0.9:{proxy.port}"
        async with transport_to(authority, names=names, proxy=url) as transport:
            near = ("localhost:1", "LOCALHOST.:1", "a.localhost:1", "metadata:1")
            for name in ("inside.test:1", "10.0.0.1:1", "[::1]:1", *near):
                with pytest.raises(Unreachable, match="is not to be connected to"):
                    await ask(transport, name)
            for name in ("127.1:1", "127.0.0.1.:1", "0x7f.1:1", "0x7f000001:1", "2130706433:1", "a.0X1.:1"):
                with pytest.raises(Unreachable, match="is no name that a server can have"):
                    await ask(transport, name)
    assert proxy.asked == []


class NameServer(asyncio.DatagramProtocol):
    """A name server with a few records; of `broken.test` it knows nothing, and to `silent.test` it says nothing."""

    def __init__(self) -> None:
        self.records = {
            ("both.test.", "A"): ["1.1.1.1", "2.2.2.2"],
            ("both.test.", "AAAA"): ["2606:4700::1"],
            ("v4.test.", "A"): ["1.1.1.1"],
            ("_matrix-fed._tcp.a.test.", "SRV"): ["10 5 8448 one.test.", "20 0 443 ."],
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        if name == "silent.test.":
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        found = self.records.get((name, kind), [])
        if name == "broken.test.":
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif found:
            answer.answer.append(dns.rrset.from_text(question.name, 77, "IN", kind, *found))
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def resolver(hosts: Path) -> AsyncIterator[DnsResolver]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(NameServer, local_addr=("127.0.0.2", 0))
    asking = dns.asyncresolver.Resolver(configure=False)
    asking.nameservers = ["127.0.0.2"]
    asking.port = transport.get_extra_info("sockname")[1]
    asking.timeout = 0.2
    try:
        yield DnsResolver(asking, hosts, lifetime_s=0.5)
    finally:
        transport.close()


@pytest.mark.trust("F28")
async def test_the_dns_is_asked_for_addresses_and_services(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.0.0.9 Inside.test in # a comment\n\nnonsense here\n::9 inside.test\n")
    async with resolver(hosts) as asking:
        found = await asking.addresses("both.test")
        assert str(found.records[0]) == "2606:4700::1"
        assert {str(one) for one in found.records[1:]} == {"1.1.1.1", "2.2.2.2"}
        assert found.lifetime_s == 77
        assert (await asking.addresses("v4.test")).records == (ip_address("1.1.1.1"),)
        assert (await asking.addresses("absent.test")).records == ()
        assert (await asking.addresses("inside.test")).records == (ip_address("10.0.0.9"), ip_address("::9"))
        services = await asking.services("_matrix-fed._tcp.a.test")
        assert set(services.records) == {Service("one.test", 8448, 10, 5), Service(".", 443, 20, 0)}
        assert (await asking.services("_matrix._tcp.a.test")).records == ()
        for name in ("broken.test", "a" * 64 + ".test", "silent.test"):
            with pytest.raises(Unreachable, match="could not be looked up"):
                await asking.addresses(name)
