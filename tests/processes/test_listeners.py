"""TLS on our side: a certificate of our own, renewed while connections are open."""

import http.client
import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.processes.certificates import Authority, Certificate
from tests.processes.server import PROGRAM, Server, environment, free_port, running_server

pytestmark = pytest.mark.timeout(90)  # Each test starts processes, and waits for them.

HOST = "127.0.0.1"


def listener(port: int, certificate: Certificate) -> str:
    files = {"certificate": str(certificate.certificate), "private_key": str(certificate.private_key)}
    return json.dumps([{"host": HOST, "port": port, **files}])


@contextmanager
def connection_to(authority: Authority, port: int, name: str = "a.test") -> Iterator[http.client.HTTPSConnection]:
    """An open connection that has proven the name."""
    context = ssl.create_default_context(cafile=str(authority.file))
    with closing(http.client.HTTPSConnection(HOST, port, timeout=10)) as connection:
        connection.sock = context.wrap_socket(socket.create_connection((HOST, port)), server_hostname=name)
        yield connection


def served(authority: Authority, port: int, name: str = "a.test") -> str:
    """The serial number of the certificate that is served now."""
    with connection_to(authority, port, name) as connection:
        return serial_of(connection)


def serial_of(connection: http.client.HTTPSConnection) -> str:
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def status_of(connection: http.client.HTTPSConnection) -> int:
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize("how", ["signal", "change of the files"])
def test_a_renewed_certificate_is_served_and_open_connections_go_on(tmp_path: Path, how: str) -> None:
    authority = Authority(tmp_path / "authority")
    first = authority.issue("a.test", HOST, to="served")
    port = free_port()
    settings = {"HOMESERVER_EXTRA_LISTENERS": listener(port, first)}
    with running_server(tmp_path / "data", **settings) as server, connection_to(authority, port) as before:
        assert status_of(before) == 200
        old = serial_of(before)

        def serves_another() -> bool:
            # Without SNI too, as those send none who know the server by its address.
            return old not in {served(authority, port, name) for name in ("a.test", HOST)}

        assert not serves_another()
        authority.issue("a.test", HOST, to="served")
        if how == "signal":
            send(server, signal.SIGHUP)
        wait_until(server, serves_another)
        assert status_of(before) == 200
        assert serial_of(before) == old


def test_files_that_are_no_certificate_change_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    first, other = authority.issue("a.test", to="served"), authority.issue("a.test", to="other")
    port = free_port()
    with running_server(tmp_path / "data", HOMESERVER_EXTRA_LISTENERS=listener(port, first)) as server:
        old = served(authority, port)
        for change in (lambda: other.private_key.read_bytes(), lambda: b"no key", None):
            if change is None:
                first.private_key.unlink()
            else:
                first.private_key.write_bytes(change())
            said = server.log.count("The certificate stays as it was.")
            send(server, signal.SIGHUP)
            wait_until(server, lambda said=said: server.log.count("The certificate stays as it was.") > said)  # type: ignore[misc]
            assert served(authority, port) == old


@pytest.mark.trust("C34")
def test_tls_before_1_2_is_not_served(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    port = free_port()
    with running_server(tmp_path / "data", HOMESERVER_EXTRA_LISTENERS=listener(port, authority.issue("a.test"))):
        context = ssl.create_default_context(cafile=str(authority.file))
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection((HOST, port)) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(plain, server_hostname="a.test")


def test_serve_without_a_good_certificate_says_so_and_ends(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path / "none.pem", tmp_path / "none.key")
    settings = environment(
        tmp_path, None, HOMESERVER_PORT=str(free_port()), HOMESERVER_EXTRA_LISTENERS=listener(free_port(), certificate)
    )
    result = subprocess.run([PROGRAM, "serve"], env=settings, capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert "none.pem cannot be served: " in result.stderr


def wait_until(server: Server, condition: Callable[[], bool]) -> None:
    assert server.process is not None
    server.process.wait_until(condition, 30)


def send(server: Server, what: signal.Signals) -> None:
    assert server.process is not None
    server.process.popen.send_signal(what)
