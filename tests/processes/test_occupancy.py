"""A database has one server process at a time: a second one does not start, and one that lost it writes nothing."""

import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from homeserver.kit.clock import Clock
from homeserver.storage.occupancy import occupancy
from tests.processes.postgres import Postgres
from tests.processes.server import PROGRAM, environment, free_port, running_server
from tests.world import User, eventually, running, settings

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

REFUSAL = "database_url: Another server process has this database: end it first."


def test_a_second_process_on_a_database_does_not_start(database_url: str, tmp_path: Path) -> None:
    with running_server(tmp_path, database_url) as first:
        more = environment(tmp_path, database_url, HOMESERVER_PORT=str(free_port()))
        second = subprocess.run([PROGRAM, "serve"], env=more, capture_output=True, text=True, timeout=60)
        assert second.returncode == 3
        assert REFUSAL in second.stdout + second.stderr
        # What only looks, or has it done by the server, may run beside it.
        assert subprocess.run([PROGRAM, "fsck"], env=more, capture_output=True, timeout=60).returncode == 0
        assert first.is_healthy()
        first.kill()
        first.start()  # Whoever had it is gone, however that was.


async def status_of_sending(alice: User, room_id: str, number: int) -> int:
    body = {"msgtype": "m.text", "body": "hello"}
    return (await alice.put(f"/rooms/{quote(room_id)}/send/m.room.message/n{number}", body)).status_code


@pytest.mark.postgres
async def test_a_server_whose_session_ended_writes_nothing_once_another_has_the_database(
    postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    name = make_url(postgres_url).database
    held = f"""pg_locks JOIN pg_database ON pg_database.oid = database
        WHERE locktype = 'advisory' AND granted AND datname = '{name}'"""
    end = f"SELECT pg_terminate_backend(pid) FROM {held}"
    async with running(settings(postgres_url, str(tmp_path))) as world, occupancy(postgres_url, Clock()) as other:
        alice = await world.user("alice")
        room_id = await alice.create_room()
        # Nobody has taken it meanwhile: it has it again.
        postgres.execute(end)

        async def holders() -> str:
            world.clock.advance(6)
            return postgres.execute(f"SELECT count(*) FROM {held}").strip()

        await eventually(holders, lambda count: count == "1")
        assert await status_of_sending(alice, room_id, 1) == 200
        assert not await other.take()
        postgres.execute(end)
        assert await other.take()
        numbers = iter(range(2, 10_000))

        async def look() -> int:
            world.clock.advance(6)
            return await status_of_sending(alice, room_id, next(numbers))

        await eventually(look, lambda status: status == 503)
