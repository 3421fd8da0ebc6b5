"""What the state tree costs, in a room of 50,000 members and 100,000 membership changes.

    python -m benchmarks.state_tree [--members 50000] [--changes 100000]

First everybody joins, then members change at random. Each change is written as in a transaction of its own, and then,
in another database, as in transactions of 20 for the same room. What is committed at once are a few hundred of them:
for the bytes it makes no difference, and for the time it leaves the disk out. Old states are chosen at random. SQLite,
and a throw-away PostgreSQL with its defaults; everything ends by itself.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sqlalchemy import text

from homeserver.services.rooms.state import StateTrees
from homeserver.storage import state, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from tests.processes import postgres, server

_COMMIT = 400
_LOOKUPS = 1000

Figures = dict[str, float]


class Bench:
    """One room in one database."""

    def __init__(self, database: Database, members: int, changes: int, group: int) -> None:
        self.database = database
        self.members = members
        self.changes = changes
        self.group = group
        self.trees = StateTrees()
        self.random = random.Random(1)
        self.roots: list[int] = []
        self.ids: list[int] = []

    async def run(self) -> Figures:
        figures: Figures = {}
        pairs = [("m.room.member", f"@person.number{number}:example.org") for number in range(self.members)]
        before = await self.size("state_pairs")
        ids = await self.database.write(state.ensure_pairs, pairs)
        self.ids = [ids[pair] for pair in pairs]
        figures["bytes a change, pairs"] = (await self.size("state_pairs") - before) / self.changes
        before = await self.size("state_pages")
        began = time.perf_counter()
        for first in range(0, self.changes, _COMMIT):
            await self.database.write(self.write, first, min(first + _COMMIT, self.changes))
        figures["µs a change, written"] = (time.perf_counter() - began) * 1e6 / self.changes
        figures["bytes a change, pages"] = (await self.size("state_pages") - before) / self.changes
        for unit in (self.entries, self.states, self.differences, self.given_up):
            figures |= await self.database.read(unit)
        return figures

    def write(self, tx: WriteTx, first: int, end: int) -> None:
        """These changes, in groups."""
        position = stream_rows.advance(tx, end - first) - (end - first)
        for start in range(first, end, self.group):
            writer = self.trees.begin(tx, [])
            for number in range(start, min(start + self.group, end)):
                position += 1
                member = number if number < self.members else self.random.randrange(self.members)
                root = self.roots[-1] if self.roots else None
                self.roots.append(writer.change(root, {self.ids[member]: position}, position))
            writer.store(tx)
            writer.pages.keep()

    def entries(self, tx: ReadTx) -> Figures:
        """One entry in each of many old states."""
        asked = [(self.random.choice(self.roots), self.random.choice(self.ids)) for _ in range(_LOOKUPS)]
        figures: Figures = {}

        def look_up(trees: Iterable[StateTrees]) -> list[float]:
            return [
                timed(partial(one.find_ids, tx, [root], [pair_id]))
                for one, (root, pair_id) in zip(trees, asked, strict=True)
            ]

        figures |= quantiles("ms for one entry, nothing in memory", look_up(StateTrees() for _ in asked))
        warm = [StateTrees()] * len(asked)
        look_up(warm)
        asked = [(self.random.choice(self.roots), self.random.choice(self.ids)) for _ in range(_LOOKUPS)]
        figures |= quantiles("ms for one entry, after 1,000 others", look_up(warm))
        figures |= quantiles("ms for one entry, all in memory", look_up(warm))
        return figures

    def states(self, tx: ReadTx) -> Figures:
        """A whole state."""
        trees = StateTrees()
        root = self.roots[-1]
        return {
            "ms for a whole state, nothing in memory": timed(partial(trees.items, tx, root)),
            "ms for a whole state, all in memory": timed(partial(trees.items, tx, root)),
        }

    def differences(self, tx: ReadTx) -> Figures:
        """The difference of states some changes apart."""
        figures: Figures = {}
        for apart in (1, 100, 1_000):
            ends = [self.random.randrange(apart, len(self.roots)) for _ in range(20)]
            taken = [
                timed(partial(StateTrees().differing_ids, tx, self.roots[end - apart], self.roots[end])) for end in ends
            ]
            figures[f"ms for a difference of {apart:,} changes, nothing in memory"] = statistics.median(taken)
        return figures

    def given_up(self, tx: ReadTx) -> Figures:
        """The pages that become free when the history before a moment goes."""
        at = self.members
        trees = StateTrees()
        taken = timed(partial(trees.unreachable, tx, self.roots[at - 1000 : at], [self.roots[at]]))
        return {"ms to find what 1,000 changes leave behind, nothing in memory": taken}

    async def size(self, table: str) -> int:
        """Bytes of the table with its indexes; of the whole file where nothing else is written meanwhile."""
        if self.database.is_postgres:
            return await self.database.read(number, f"SELECT pg_total_relation_size('{table}')")
        pages = await self.database.read(number, "PRAGMA page_count")
        return pages * await self.database.read(number, "PRAGMA page_size")


def number(tx: ReadTx, statement: str) -> int:
    return int(tx.connection.execute(text(statement)).scalar_one())


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def quantiles(what: str, taken: list[float]) -> Figures:
    return {f"{what}, median": statistics.median(taken), f"{what}, p99": statistics.quantiles(taken, n=100)[98]}


async def measure(url: str, members: int, changes: int, group: int) -> Figures:
    async with Database.open(url) as database:
        return await Bench(database, members, changes, group).run()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the state tree.")
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--changes", type=int, default=100_000)
    asked = parser.parse_args()
    found: dict[str, Figures] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(postgres.started(durable=True))
        for group in (1, 20):
            for name, url in (
                ("SQLite", server.sqlite_url(folder / f"{group}.db")),
                ("PostgreSQL", stack.enter_context(cluster.database())),
            ):
                server.migrate(url, folder)
                found[f"{name}, by {group}"] = asyncio.run(measure(url, asked.members, asked.changes, group))
    print(f"| {asked.members:,} members, {asked.changes:,} changes | {' | '.join(found)} |")
    print("|---" * (len(found) + 1) + "|")
    for what in next(iter(found.values())):
        print(f"| {what} | {' | '.join(f'{figures[what]:.2f}' for figures in found.values())} |")


if __name__ == "__main__":
    main()
