"""Synapse as the other server, in both seats."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from tests.processes.federating import new_federation
from tests.processes.people import OPEN, hear, say, user
from tests.processes.server import HOST, free_port
from tests.processes.synapse import HOST as SYNAPSE_HOST
from tests.processes.synapse import running_synapse
from tests.processes.talking import Connection

pytestmark = pytest.mark.timeout(180)  # Synapse takes a while to start.


@dataclass(frozen=True)
class Pair:
    """A user of each server, and the servers' names."""

    alice: Connection
    ours: str
    bob: Connection
    theirs: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("synapse")
    federation = new_federation(folder)
    name = f"127.0.0.3:{free_port()}"  # Synapse finds servers by the DNS alone, so the name is an address.
    federation.add(name, at=name)
    with ExitStack() as stack:
        synapse = stack.enter_context(running_synapse(folder / "synapse", federation.authority))
        ranges = {"HOMESERVER_FEDERATION_ALLOWED_RANGES": '["127.0.0.0/8"]'}
        [server] = stack.enter_context(federation.running(name, **OPEN, **ranges))
        alice = stack.enter_context(user(HOST, server.port, "alice"))
        bob = stack.enter_context(user(SYNAPSE_HOST, synapse.port, "bob"))
        yield Pair(alice, name, bob, synapse.name)


@pytest.mark.parametrize("seat", ["the room is ours", "the room is theirs"])
@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_joining_and_talking(pair: Pair, seat: str, version: str) -> None:
    host, guest, server = (
        (pair.alice, pair.bob, pair.ours) if seat == "the room is ours" else (pair.bob, pair.alice, pair.theirs)
    )
    alias = f"hall-{version}"
    creation = {"preset": "public_chat", "room_alias_name": alias, "room_version": version}
    room_id = host.call("POST", "/createRoom", creation)["room_id"]
    assert guest.call("POST", f"/join/{quote(f'#{alias}:{server}')}", {})["room_id"] == room_id
    hear(host, room_id, say(guest, room_id, "one"))
    hear(guest, room_id, say(host, room_id, "two"))
    host.call("POST", f"/rooms/{quote(room_id)}/leave", {})
