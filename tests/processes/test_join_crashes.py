"""The server is killed while it comes into rooms of another server, and while it learns who is in them."""

import asyncio
import http.client
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.storage.engine import Database
from tests.processes import large_rooms, server
from tests.processes.crashes import KILLS, Crashing
from tests.processes.federating import new_federation
from tests.processes.large_rooms import LargeRooms
from tests.processes.launcher import Launcher, launching
from tests.processes.people import OPEN, hear
from tests.processes.server import Server
from tests.processes.talking import Connection, history

RESIDENT = "resident.test"
JOINER = "joiner.test"
MEMBERS = 120
"""More than a resident tells at once (`services/rooms/resident.py`)."""
ABSENT = large_rooms.absent(5)
_MOST_PASSINGS = 6
"""A join that nothing disturbs passes a point five times: it begins the room, stores its state, lands, and so on."""
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

    def talk_until_dead(self, room_id: str, *, is_patient: bool) -> None:
        """Join, and speak until nobody answers; who is patient does not speak before all members are known."""
        try:
            self.join(room_id)
            if is_patient:
                self.members(room_id)
            while True:
                self.number += 1
                path = f"/rooms/{quote(room_id)}/send/m.room.message/t{self.number}"
                answer = self.bob.call("PUT", path, {"msgtype": "m.text", "body": str(self.number)})
                self.said.setdefault(room_id, []).append(answer["event_id"])
                if self.number % 3 == 0:
                    # What it said is kept until the room is whole, and no longer, whatever happens then.
                    path = f"/rooms/{quote(room_id)}/redact/{quote(answer['event_id'])}/r{self.number}"
                    self.bob.call("PUT", path, {})
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


@pytest.fixture(scope="module")
def prepared(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LargeRooms]:
    """What a resident keeps that has the rooms."""
    folder = tmp_path_factory.mktemp("prepared")
    server.copy_sqlite(sqlite_template, folder / "homeserver.db")
    url = server.sqlite_url(folder / "homeserver.db")
    return folder, asyncio.run(large_rooms.make(RESIDENT, folder, url, ABSENT, MEMBERS, count=KILLS))


@pytest.mark.timeout(600)
@pytest.mark.trust("R1", "I1", "I3", "I4")
@pytest.mark.parametrize("point", [pytest.param(point, marks=pytest.mark.trust(point)) for point in ("K3", "K4", "K5")])
def test_killed_while_it_joins_rooms_it_knows_all_of_them_whole_afterwards(
    point: str, launcher: Launcher, database_url: str, prepared: tuple[Path, LargeRooms], tmp_path: Path
) -> None:
    federation = new_federation(tmp_path / "federation", RESIDENT, JOINER)
    folder, large = prepared
    shutil.copytree(folder, federation.folder_of(RESIDENT))
    asyncio.run(_know(database_url))
    with federation.running(RESIDENT, **OPEN) as [resident]:
        crashing = Crashing(launcher, tmp_path, database_url)
        crashing.settings = OPEN | federation.settings(JOINER)
        joining = _kill(crashing, point, large.room_ids)
        _account(joining, resident, large)
        assert sum(map(len, joining.said.values())) >= KILLS // 4


async def _know(database_url: str) -> None:
    """Let the joiner have the keys: those to whom they belong are not there to ask."""
    async with Database.open(database_url) as database:
        await database.write(large_rooms.know, ABSENT)


def _kill(crashing: Crashing, point: str, room_ids: Sequence[str]) -> Joining:
    pid = crashing.start()
    joining = Joining(crashing, Connection(server.HOST, crashing.port, crashing.register("bob")))
    crashing.stop(pid)
    for kill, room_id in enumerate(room_ids):
        is_patient = kill % 4 != 3
        passing = kill % _MOST_PASSINGS + (1 if is_patient else _MOST_PASSINGS)
        crashing.start(f"{point}:{passing}")
        joining.talk_until_dead(room_id, is_patient=is_patient)
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
