"""Events that come from elsewhere, in any order, end where the specification says they end."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from homeserver.matrix.identifiers import RoomId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import event_log, events, rooms, server_keys
from homeserver.storage.engine import ReadTx
from tests import room_graphs
from tests.room_graphs import Graph
from tests.world import World, running, settings

SEEDS = int(os.environ.get("GRAPHS", "3"))
"""Graphs for each room version and database; more by hand."""
FIRST = int(os.environ.get("FIRST_GRAPH", "0"))


class Stored:
    """A room as the database has it."""

    def __init__(self, tx: ReadTx, room_id: str) -> None:
        room = rooms.find(tx, RoomId(room_id))
        assert room is not None
        trees = StateTrees()
        rows = {row.position: row for row in event_log.list_all(tx, room.room_nid)}
        self.status = {row.event_id: row.status for row in rows.values()}
        self.tips = {rows[at].event_id for at in rooms.list_extremities(tx, room.room_nid)}
        self.state = {pair: rows[at].event_id for pair, at in trees.items(tx, room.state_root).items()}
        self.after: dict[str, dict[Any, str]] = {
            row.event_id: {pair: rows[at].event_id for pair, at in trees.items(tx, row.state_after).items()}
            for row in rows.values()
            if row.state_after is not None
        }

    def those(self, status: int) -> set[str]:
        return {event_id for event_id, found in self.status.items() if found == status}


async def deliver(world: World, graph: Graph, order: list[int], *, by: int) -> None:
    """Hand the events over in this order, so many at a time."""
    pdus = [graph.events[index].pdu for index in order]
    for start in range(0, len(pdus), by):
        await world.container.inbox.receive(RoomId(graph.room_id), pdus[start : start + by])


async def stored(world: World, graph: Graph) -> Stored:
    return await world.container.database.snapshot(Stored, graph.room_id)


async def know_keys(world: World) -> None:
    await world.container.database.write(server_keys.put_many, room_graphs.server_keys())


def ids(state: room_graphs.State) -> dict[Any, str]:
    return {pair: event.event_id for pair, event in state.items()}


def check(found: Stored, graph: Graph, seed: int) -> None:
    """The database agrees with the model; which events were soft-failed depends on the order in which they came."""
    told = f"version {graph.version}, seed {seed}"
    hidden = found.those(events.SOFT_FAILED)
    assert found.status.keys() == graph.by_id.keys(), told
    assert found.those(events.REJECTED) == graph.rejected, told
    for event_id, state in graph.after.items():
        assert found.after[event_id] == ids(state), (told, event_id)
    assert found.tips == graph.tips(hidden), told
    assert found.state == ids(graph.resolved([graph.after[tip] for tip in sorted(found.tips)])), told


def shuffled(graph: Graph, seed: int) -> list[int]:
    """An order of arrival: the create event in the first delivery, some events twice."""
    chance = random.Random(seed)
    order = list(range(1, len(graph.events)))
    order += chance.sample(order, len(order) // 5)
    chance.shuffle(order)
    return [0, *order]


@pytest.mark.timeout(120)  # Each is several whole rooms, event by event.
@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
@pytest.mark.trust("R4", "F47", "S2")
@pytest.mark.by_turns
async def test_any_order_of_arrival_ends_in_the_state_that_the_specification_says(
    version: str, database_url: str, tmp_path: Path
) -> None:
    async with running(settings(database_url, str(tmp_path))) as world:
        await know_keys(world)
        for seed in range(FIRST, FIRST + SEEDS):
            graph = room_graphs.generate(version, seed)
            await deliver(world, graph, shuffled(graph, seed), by=1 + seed % 7)
            check(await stored(world, graph), graph, seed)
        await world.fsck()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
@pytest.mark.trust("R4", "F30")
async def test_two_orders_of_arrival_end_in_equal_state_and_timelines(
    version: str, database_url: str, tmp_path: Path
) -> None:
    async with running(settings(database_url, str(tmp_path))) as world:
        await know_keys(world)
        for seed in range(FIRST, FIRST + SEEDS):
            graph = room_graphs.generate(version, 1000 + seed, quarrels=False)
            room_graphs.close(graph)
            await deliver(world, graph, shuffled(graph, seed), by=3)
            found = await stored(world, graph)
            assert found.those(events.OK) == graph.by_id.keys(), f"version {version}, seed {seed}"
            check(found, graph, seed)
        await world.fsck()
