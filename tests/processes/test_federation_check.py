"""The command that goes the way to another server: it says what is good, what is wrong, and what to do."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from homeserver.config.model import Config
from homeserver.config.model import Federation as Settings
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import ServerName
from homeserver.matrix.signing import SigningKey
from homeserver.services.federation.check import FederationCheck
from tests.outbound.names import Names
from tests.processes.certificates import Authority
from tests.processes.federating import Federation, new_federation
from tests.processes.server import PROGRAM, free_port
from tests.processes.synapse import running_synapse
from tests.processes.tls_peers import Heard, ok, tls_peer

pytestmark = pytest.mark.timeout(90)  # Each test starts processes, and waits for them.


@dataclass(frozen=True)
class Pair:
    """Two servers; `b.test` listens at further places with certificates that prove another name, or nothing."""

    federation: Federation
    others: dict[str, str]

    def check(self, other: str, place: str) -> "subprocess.CompletedProcess[str]":
        """What the command says of a server, run on `a.test`, where the other is thought to be at this place."""
        return self.federation.check("a.test", other, HOMESERVER_FEDERATION_ADDRESSES=json.dumps({other: place}))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    federation = new_federation(tmp_path_factory.mktemp("federation"), "a.test")
    issue = federation.authority.issue
    certificates = {
        "expired": issue("b.test", lifetime=timedelta(days=-1), to="expired"),
        "self-signed": issue("b.test", is_self_signed=True, to="self-signed"),
        "wrong name": issue("c.test", "d.test"),
        "of a": issue("a.test", to="of-a"),
    }
    others = federation.add("b.test", *certificates.values())
    with federation.running("a.test", "b.test"):
        yield Pair(federation, dict(zip(certificates, others, strict=True)))


@pytest.mark.parametrize("name", ["a.test", "b.test"])
def test_check_of_a_good_server_tells_each_step_and_ends_with_zero(pair: Pair, name: str) -> None:
    result = pair.federation.check("a.test", name)
    assert result.returncode == 0, result.stdout + result.stderr
    for said in (
        f"The settings say that it is at {pair.federation.places[name]} (federation.addresses).",
        f"Requests are for the host {name}; the certificate must prove {name}.",
        f"is reached by TLSv1.3 and HTTP/1.1; its certificate is for {name}, by Test authority, until",
        "That is soon: see that it is renewed.",  # It is good for ten days.
        "Its keys are signed as they should be and good until",
    ):
        assert said in result.stdout
    assert result.stdout.endswith(f"{name} can be spoken to.\n")
    assert ("It answers a request that is signed by this server." in result.stdout) is (name == "b.test")


@pytest.mark.trust("C34")
@pytest.mark.parametrize(
    ("kind", "said", "advised"),
    [
        ("expired", "certificate has expired", "a certificate that is in date"),
        ("self-signed", "self-signed certificate", "name your authority in federation.ca_files"),
        ("wrong name", "It is for c.test, d.test, by Test authority, until", "needs a certificate for b.test"),
    ],
)
def test_check_of_a_bad_certificate_says_what_is_wrong_with_it(pair: Pair, kind: str, said: str, advised: str) -> None:
    result = pair.check("b.test", pair.others[kind])
    assert result.returncode == 1
    assert "does not prove b.test" in result.stdout
    assert said in result.stdout
    assert advised in result.stdout
    assert "FAILED  b.test is not reached at any address." in result.stdout


def test_check_of_a_server_that_is_not_there_says_so(pair: Pair) -> None:
    result = pair.check("b.test", "127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1 port 1 took no connection: connection refused." in result.stdout
    assert "See that the server runs and listens there with TLS" in result.stdout


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_check_says_when_it_is_the_proxy_that_is_not_there(pair: Pair, scheme: str) -> None:
    proxy = {"HOMESERVER_FEDERATION_PROXY": f"{scheme}://127.0.0.1:1"}
    result = pair.federation.check("a.test", "b.test", **proxy)
    assert result.returncode == 1
    assert "The proxy 127.0.0.1 port 1 is not reached: 127.0.0.1 port 1 took no connection" in result.stdout
    assert "What to do: See federation.proxy" in result.stdout


def test_check_where_this_server_is_not_believed_says_so(pair: Pair) -> None:
    # The other server does not know where this one is, and cannot get its keys.
    folder = pair.federation.folder / "c.test"
    folder.mkdir()
    made = subprocess.run([str(PROGRAM), "generate-signing-key", str(folder / "signing.key")], timeout=60)
    assert made.returncode == 0
    pair.federation.listeners["c.test"] = []
    result = pair.federation.check("c.test", "b.test")
    assert result.returncode == 1
    assert "FAILED  It does not believe this server's signature" in result.stdout
    assert "Run `homeserver federation check c.test` here" in result.stdout


def test_check_of_a_name_that_leads_to_another_server_says_whose_it_is(pair: Pair) -> None:
    result = pair.check("a.test", pair.others["of a"])
    assert result.returncode == 1
    assert "Its keys (/_matrix/key/v2/server) are not good: The keys are those of 'b.test'." in result.stdout
    assert "the name leads to the wrong place" in result.stdout
    assert "signed request" not in result.stdout


@pytest.mark.synapse
def test_check_of_a_synapse_is_good_in_both_directions(tmp_path: Path) -> None:
    federation = new_federation(tmp_path)
    place = f"127.0.0.3:{free_port()}"
    federation.add(place, at=place)  # Synapse finds servers by the DNS alone, so the name is an address.
    ranges = {"HOMESERVER_FEDERATION_ALLOWED_RANGES": '["127.0.0.0/8"]'}
    with running_synapse(tmp_path / "synapse", federation.authority) as synapse, federation.running(place, **ranges):
        result = federation.check(place, synapse.name, **ranges)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "It says that it is Synapse" in result.stdout
    assert "It answers a request that is signed by this server." in result.stdout


def test_check_of_what_the_settings_forbid_ends_there(tmp_path: Path) -> None:
    federation = new_federation(tmp_path, "a.test")
    result = federation.check("a.test", "b.test", HOMESERVER_FEDERATION_DENY=json.dumps(["b.test"]))
    assert result.returncode == 1
    assert "federation.deny" in result.stdout
    result = federation.check("a.test", "10.0.0.1")
    assert result.returncode == 1
    assert "10.0.0.1, which is private: it is not connected to." in result.stdout
    assert "federation.allowed_ranges" in result.stdout


def test_check_without_good_settings_ends_with_two(tmp_path: Path) -> None:
    federation = new_federation(tmp_path, "a.test")
    federation.authority.file.unlink()
    result = federation.check("a.test", "b.test")
    assert result.returncode == 2
    assert "federation.ca_files: " in result.stderr


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (b'{"server": {"name": "\\u001b[31mEvil\\r", "version": "1"}}', "ok  It says that it is �[31mEvil� 1."),
        (b'{"server": {"name": [{}], "version": 7}}', "ok  It says that it is [{}] 7."),
        (b'{"server": "text"}', "ok  It says that it is something without a name."),
        (b"{}", "ok  It says that it is something without a name."),
        (b"[]", "FAILED  It does not say its version"),
        (b"<html>", "FAILED  It does not say its version"),
        (b"", "FAILED  It does not say its version"),
    ],
)
@pytest.mark.trust("F25")
async def test_check_of_a_server_that_answers_nonsense_says_so_and_no_more(
    tmp_path: Path, version: bytes, said: str
) -> None:
    authority = Authority(tmp_path)
    key = SigningKey.from_seed("a", "A" * 43)

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        body = version if "version" in heard.line else b'{"errcode": "M_\\u0007", "error": "\\u001b[2J"}'
        await ok(body, "200 OK" if "version" in heard.line else "401 No")(heard, writer)

    async with tls_peer(authority.issue("b.test").server_context(), answer) as peer:
        settings = Settings(addresses={"b.test": peer.address}, ca_files=(str(authority.file),))
        config = Config(server_name="a.test", federation=settings)
        check = FederationCheck(config, key, Clock(), Randomness(), Names())
        shown = "\n".join([str(step) async for step in check.steps(ServerName("b.test"))])
        await check.close()
    assert said in shown
    assert "FAILED  It does not give its keys" in shown
    assert "FAILED  It does not believe this server's signature: �[2J" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
