"""The server is killed while it takes in what another server has delivered."""

import asyncio
import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.matrix.request_signing import sign_request
from homeserver.storage import event_log, events, rooms, server_keys
from homeserver.storage.engine import Database, ReadTx
from tests import room_graphs
from tests.processes import server
from tests.processes.crashes import KILLS, Crashing
from tests.processes.launcher import Launcher, launching
from tests.processes.people import hear
from tests.processes.talking import Connection
from tests.room_graphs import Graph, key_of

BOB = "@bob:b.example"
DAN = "@dan:c.example"


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as launcher:
        yield launcher


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says anything."""
    with closing(socket.socket()) as listening:
        listening.bind((server.HOST, 0))
        listening.listen(100)
        yield listening.getsockname()[1]


@dataclass
class Delivering:
    """A room of alice's that bob of `b.example` is in, as that server knows it, and what it has delivered."""

    crashing: Crashing
    alice: Connection
    user_id: str
    device_id: str
    graph: Graph
    acknowledged: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, crashing: Crashing) -> "Delivering":
        assert crashing.database_url is not None
        asyncio.run(_know(crashing.database_url))
        pid = crashing.start()
        alice = Connection(server.HOST, crashing.port, crashing.register("alice"))
        who = alice.call("GET", "/account/whoami")
        room_id = alice.call("POST", "/createRoom", {"preset": "public_chat"})["room_id"]
        graph = room_graphs.of_stored("12", room_id, asyncio.run(_events(crashing.database_url, room_id)))
        one = cls(crashing, alice, who["user_id"], who["device_id"], graph)
        one.put("join", [graph.say(BOB, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=BOB)])
        crashing.stop(pid)
        alice.close()
        return one

    def say(self, body: str) -> Event:
        """A message of bob's that follows all that was said."""
        event = self.graph.build(BOB, "m.room.message", {"body": body}, [self.graph.events[-1]])
        return self.graph.add(event, [self.graph.events[-1]])

    def put(self, txn_id: str, pdus: list[Event], edus: list[Any] | None = None) -> None:
        """Deliver; what is acknowledged is noted."""
        body = {
            "origin": "b.example",
            "origin_server_ts": 0,
            "pdus": [json.loads(event.pdu) for event in pdus],
            "edus": edus or [],
        }
        content = json.dumps(body).encode()
        target = f"/_matrix/federation/v1/send/{txn_id}"
        header = sign_request(
            key_of("b.example"),
            origin="b.example",
            destination="localhost",
            method="PUT",
            target=target,
            content=content,
        )
        with closing(http.client.HTTPConnection(server.HOST, self.crashing.port, timeout=30)) as connection:
            headers = {"Authorization": str(header), "Content-Type": "application/json"}
            connection.request("PUT", target, content, headers)
            answer = connection.getresponse()
            results = json.loads(answer.read())
        assert answer.status == 200, results
        assert results["pdus"] == {event.event_id: {} for event in pdus}
        self.acknowledged += [event.event_id for event in pdus if event.sender == BOB]


async def _know(database_url: str) -> None:
    async with Database.open(database_url) as database:
        await database.write(server_keys.put_many, room_graphs.server_keys(["b.example"]))


async def _events(database_url: str, room_id: str) -> list[Event]:
    def read(tx: ReadTx) -> list[Event]:
        room = rooms.find(tx, RoomId(room_id))
        assert room is not None
        return [Event.parse(row.pdu, room.version, row.event_id) for row in event_log.list_all(tx, room.room_nid)]

    async with Database.open(database_url) as database:
        return await database.read(read)


async def _statuses(database_url: str, event_ids: list[str]) -> dict[str, int]:
    async with Database.open(database_url) as database:
        found = await database.read(events.find_standings_by_id, [EventId(one) for one in event_ids])
    return {event_id: row.status for event_id, row in found.items()}


@pytest.mark.timeout(600)
@pytest.mark.trust("K9", "F22", "R1", "R7", "I1", "I5")
def test_killed_before_what_was_acknowledged_is_taken_in_nothing_is_lost(
    launcher: Launcher, database_url: str, tmp_path: Path, silent: int
) -> None:
    crashing = Crashing(launcher, tmp_path, database_url)
    crashing.settings = {
        "HOMESERVER_FEDERATION_ADDRESSES": json.dumps({"c.example": f"{server.HOST}:{silent}"}),
        "HOMESERVER_FEDERATION_CONNECT_TIMEOUT_S": "3",
    }
    delivering = Delivering.begin(crashing)
    unsent: list[Event] = []
    for kill in range(KILLS):
        if kill:  # What is left from before is taken in first: the next passing is for what comes now.
            pid = crashing.start()
            hear(delivering.alice, delivering.graph.room_id, delivering.acknowledged[-1])
            delivering.alice.close()
            crashing.stop(pid)
        pid = crashing.start("K9:1")
        tip = delivering.graph.events[-1]
        # Its signer cannot be asked for a key: the room is busy for as long as that is tried.
        unknown = delivering.graph.build(DAN, "m.room.message", {"body": f"{kill}"}, [tip])
        delivering.put(f"{kill}-unknown", [unknown])
        for number in range(3):
            with suppress(OSError, http.client.HTTPException):
                unsent.append(delivering.say(f"{kill} {number}"))
                delivering.put(f"{kill}-{number}", unsent)
                unsent = []
        code = crashing.launcher.wait()
        assert code == -9, f"{pid} ended with {code}: {crashing.log.read_text()[-5000:]}"
        if kill % 5 == 4:
            crashing.fsck()
    pid = crashing.start()
    # What the room was sent last is taken in last.
    hear(delivering.alice, delivering.graph.room_id, delivering.acknowledged[-1])
    delivering.alice.close()
    crashing.stop(pid)
    crashing.fsck()
    assert len(delivering.acknowledged) > KILLS
    statuses = asyncio.run(_statuses(database_url, delivering.acknowledged))
    assert statuses == dict.fromkeys(delivering.acknowledged, events.OK)


@pytest.mark.timeout(600)
@pytest.mark.trust("K10", "F21", "I9", "R2")
def test_killed_before_the_answer_what_is_delivered_again_is_there_once(
    launcher: Launcher, database_url: str, tmp_path: Path
) -> None:
    crashing = Crashing(launcher, tmp_path, database_url)
    delivering = Delivering.begin(crashing)
    since = ""
    before: list[Any] = []
    for kill in range(KILLS):
        crashing.start("K10:2" if kill else "K10:1")
        content = {
            "sender": BOB,
            "type": "org.example.mark",
            "message_id": f"message {kill}",
            "messages": {delivering.user_id: {delivering.device_id: {"mark": kill}}},
        }
        edu = {"edu_type": "m.direct_to_device", "content": content}
        if before:
            delivering.put(f"{kill - 1}", [], before)
        with suppress(OSError, http.client.HTTPException):
            delivering.put(f"{kill}", [], [edu])
            pytest.fail("The server has answered.")
        assert crashing.launcher.wait() == -9, crashing.log.read_text()[-5000:]
        before = [edu]
    pid = crashing.start()
    delivering.put(f"{KILLS - 1}", [], before)
    marks: Counter[int] = Counter()
    while True:
        answer = delivering.alice.call("GET", f"/sync?timeout=0&since={quote(since)}" if since else "/sync?timeout=0")
        since = answer["next_batch"]
        messages = answer.get("to_device", {}).get("events", [])
        if not messages:
            break
        marks.update(message["content"]["mark"] for message in messages)
    crashing.stop(pid)
    delivering.alice.close()
    crashing.fsck()
    assert marks == Counter(range(KILLS))
