"""The server is killed while it comes into rooms of another server, and while it learns who is in them."""

import asyncio
import http.client
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.storage.engine import Database
from tests.processes import large_rooms, server
from tests.processes.crashes import KILLS, Crashing
from tests.processes.federating import Federation, new_federation
from tests.processes.large_rooms import LargeRooms
from tests.processes.launcher import Launcher, launching
from tests.processes.people import OPEN, hear
from tests.processes.server import Server
from tests.processes.talking import Connection, history

RESIDENT = "resident.test"
JOINER = "joiner.test"
MEMBERS = 120
"""More than a resident tells at once (`services/rooms/resident.py`)."""
_MOST_PASSINGS = 8
_GONE = (OSError, http.client.HTTPException)


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as launcher:
        yield launcher


@dataclass
class Joining:
    """Somebody who joins one room after the other, speaks there, and knows what was acknowledged."""

    crashing: Crashing
    bob: Connection
    joined: list[str] = field(default_factory=list)
    said: dict[str, list[str]] = field(default_factory=dict)
    number: int = 0

    def join(self, room_id: str) -> None:
        self.bob.call("POST", f"/join/{quote(room_id)}?via={RESIDENT}&server_name={RESIDENT}", {})
        self.joined.append(room_id)

    def talk_until_dead(self, room_id: str) -> None:
        """Join, and speak until nobody answers."""
        try:
            self.join(room_id)
            while True:
                self.number += 1
                path = f"/rooms/{quote(room_id)}/send/m.room.message/t{self.number}"
                answer = self.bob.call("PUT", path, {"msgtype": "m.text", "body": str(self.number)})
                self.said.setdefault(room_id, []).append(answer["event_id"])
        except _GONE:
            self.bob.close()

    def members(self, room_id: str) -> set[str]:
        """All members, as soon as they are known."""
        deadline = time.monotonic() + 60
        status, answer = self.bob.ask("GET", f"/rooms/{quote(room_id)}/joined_members")
        while status == 503 and time.monotonic() < deadline:  # It was held until the server lost patience.
            status, answer = self.bob.ask("GET", f"/rooms/{quote(room_id)}/joined_members")
        assert status == 200, f"{answer}\n{self.crashing.log.read_text()[-5000:]}"
        return set(answer["joined"])


@pytest.mark.timeout(600)
@pytest.mark.trust("R1", "I1", "I3", "I4")
@pytest.mark.parametrize("point", [pytest.param(point, marks=pytest.mark.trust(point)) for point in ("K3", "K4", "K5")])
def test_killed_while_it_joins_rooms_it_knows_all_of_them_whole_afterwards(
    point: str, launcher: Launcher, database_url: str, sqlite_template: Path, tmp_path: Path
) -> None:
    federation = new_federation(tmp_path / "federation", RESIDENT, JOINER)
    large = asyncio.run(_prepare(federation, sqlite_template, database_url))
    with federation.running(RESIDENT, **OPEN, database_url=_url(federation)) as [resident]:
        crashing = Crashing(launcher, tmp_path, database_url)
        crashing.settings = OPEN | federation.settings(JOINER)
        joining = _kill(crashing, point, large.room_ids)
        _account(joining, resident, large)
        assert sum(map(len, joining.said.values())) >= KILLS // 2


def _url(federation: Federation) -> str:
    return server.sqlite_url(federation.folder_of(RESIDENT) / "homeserver.db")


async def _prepare(federation: Federation, template: Path, database_url: str) -> LargeRooms:
    """Rooms on the resident, and keys on the joiner: those to whom they belong are not there to ask."""
    folder = federation.folder_of(RESIDENT)
    folder.mkdir(parents=True)
    server.copy_sqlite(template, folder / "homeserver.db")
    names = large_rooms.absent(5)
    async with Database.open(database_url) as database:
        await database.write(large_rooms.know, names)
    return await large_rooms.make(RESIDENT, folder, _url(federation), names, MEMBERS, count=KILLS)


def _kill(crashing: Crashing, point: str, room_ids: Sequence[str]) -> Joining:
    pid = crashing.start()
    joining = Joining(crashing, Connection(server.HOST, crashing.port, crashing.register("bob")))
    crashing.stop(pid)
    chance = random.Random(f"{point} {crashing.database_url}")
    for kill, room_id in enumerate(room_ids):
        crashing.start(f"{point}:{chance.randint(1, _MOST_PASSINGS)}")
        joining.talk_until_dead(room_id)
        assert crashing.launcher.wait() == -9, crashing.log.read_text()[-5000:]
        if kill % 5 == 4:
            crashing.fsck()
    return joining


def _account(joining: Joining, resident: Server, large: LargeRooms) -> None:
    """All rooms become whole, and what was acknowledged is here and on the other server."""
    pid = joining.crashing.start()
    owner = Connection(server.HOST, resident.port, large.token)
    for room_id in large.room_ids:
        joined = joining.bob.call("GET", "/joined_rooms")["joined_rooms"]
        if room_id in joining.joined:
            assert room_id in joined
        else:
            joining.join(room_id)
        members = joining.members(room_id)
        assert len(members) == MEMBERS + 2
        assert members == set(owner.call("GET", f"/rooms/{quote(room_id)}/joined_members")["joined"])
        said = joining.said.get(room_id, [])
        assert set(said) <= {event["event_id"] for event in history(joining.bob, room_id)}
        hear(owner, room_id, *said)
    joining.bob.close()
    owner.close()
    joining.crashing.stop(pid)
    joining.crashing.fsck()
