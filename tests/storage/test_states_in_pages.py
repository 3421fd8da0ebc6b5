"""The migration that rebuilds states in pages keeps every state of every event as it was."""

import asyncio
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from homeserver.app.migrations import alembic_config
from homeserver.services.rooms.state import StateTrees
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.state import Pair
from tests.processes.postgres import Postgres
from tests.processes.server import sqlite_url

ROOMS = 3
EVENTS = 2500


def write_old(tx: WriteTx) -> None:
    """Rooms in turn, events as they were; a state was the number of its root node, of the event's position."""
    run = tx.connection.execute
    run(
        text("INSERT INTO state_pairs (pair_id, type, state_key) VALUES (:id, 'm.room.member', :key)"),
        [{"id": number, "key": f"@{number}"} for number in range(1, 41)],
    )
    rows = []
    roots: dict[int, int | None] = dict.fromkeys(range(ROOMS))
    for position in range(1, EVENTS):
        room, before = position % ROOMS, roots[position % ROOMS]
        is_state = before is None or position % 5 < 3
        roots[room] = position * 128 + 3 if is_state else before
        pair = position * 7 % 40 + 1 if is_state else None
        rows.append(
            {"at": position, "id": f"${position}", "room": room, "pair": pair, "before": before, "after": roots[room]}
        )
    run(
        text(
            "INSERT INTO events (position, room_nid, event_id, depth, origin_server_ts, pair_id, state_before,"
            " state_after, status, pdu) VALUES (:at, :room, :id, 1, 1, :pair, :before, :after, 0, '')"
        ),
        rows,
    )
    run(
        text("INSERT INTO rooms (room_nid, room_id, version, state_root) VALUES (:room, :id, '11', :root)"),
        [{"room": room, "id": f"!{room}", "root": root} for room, root in roots.items()],
    )


def check_new(tx: ReadTx) -> None:
    trees = StateTrees()
    states: dict[int, dict[Pair, int]] = {room: {} for room in range(ROOMS)}
    events = tx.connection.execute(
        text("SELECT position, room_nid, pair_id, state_before, state_after FROM events ORDER BY position")
    ).all()
    assert len(events) == EVENTS - 1
    for event in events:
        state = states[event.room_nid]
        assert trees.items(tx, event.state_before) == state
        if event.pair_id is not None:
            state["m.room.member", f"@{event.pair_id}"] = event.position
        assert trees.items(tx, event.state_after) == state
    for room_nid, root in tx.connection.execute(text("SELECT room_nid, state_root FROM rooms")):
        assert trees.items(tx, root) == states[room_nid]


async def upgrade(url: str) -> None:
    config = alembic_config(url)
    await asyncio.to_thread(command.upgrade, config, "0050")
    async with Database.open(url) as database:
        await database.write(write_old)
    await asyncio.to_thread(command.upgrade, config, "0060")
    async with Database.open(url) as database:
        await database.snapshot(check_new)


async def test_states_are_the_same_in_pages_on_sqlite(tmp_path: Path) -> None:
    await upgrade(sqlite_url(tmp_path / "old.db"))


@pytest.mark.postgres
async def test_states_are_the_same_in_pages_on_postgresql(postgres: Postgres) -> None:
    with postgres.database() as url:
        await upgrade(url)
