"""States in the database: written under the position of their event, read at any root, given back when unreachable."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

from homeserver.services.rooms.state import StateTrees
from homeserver.storage import state, stream_rows
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.state import Pair

NAME: Pair = ("m.room.name", "")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as database:
        yield database


def member(number: int) -> Pair:
    return ("m.room.member", f"@user{number}:localhost")


def write(tx: WriteTx, trees: StateTrees, root: int | None, changes: list[dict[Pair, int | None]]) -> list[int]:
    """The states after each of the changes, one upon the other, each at a position of its own."""
    position = stream_rows.advance(tx, len(changes)) - len(changes)
    writer = trees.begin(tx, [pair for change in changes for pair in change])
    roots = []
    for number, change in enumerate(changes, 1):
        numbered = {writer.ids[pair]: value for pair, value in change.items()}
        root = writer.change(root, numbered, position + number)
        roots.append(root)
    writer.store(tx)
    tx.on_commit(lambda: trees.keep(writer))
    return roots


def pages(tx: ReadTx) -> int:
    return int(tx.connection.execute(select(func.count()).select_from(state.state_pages)).scalar_one())


async def test_states_of_several_transactions_are_read_at_any_root(database: Database) -> None:
    trees, root = StateTrees(), None
    roots: list[int] = []
    for first in range(0, 300, 30):
        written = await database.write(
            write, trees, root, [{member(number): 1000 + number} for number in range(first, first + 30)]
        )
        roots += written
        root = written[-1]
    for reader in (trees, StateTrees()):
        for count in (1, 2, 59, 300):
            expected = {member(number): 1000 + number for number in range(count)}
            assert await database.read(reader.items, roots[count - 1]) == expected
        asked = [NAME, member(5), member(200)]
        found = await database.read(reader.find_many, [roots[9], roots[-1]], asked)
        assert found == {roots[9]: {member(5): 1005}, roots[-1]: {member(5): 1005, member(200): 1200}}
        assert await database.read(reader.difference, roots[100], roots[101]) == {member(101): (None, 1101)}
        ids = await database.read(reader.pair_ids, [member(0), member(1)])
        assert await database.read(reader.conflicts, [roots[0], roots[1], None]) == {
            ids[member(0)]: (1000, 1000, None),
            ids[member(1)]: (None, 1001, None),
        }


async def test_a_writer_reads_what_it_has_not_stored_yet(database: Database) -> None:
    trees = StateTrees()
    [root] = await database.write(write, trees, None, [{NAME: 1, member(1): 2}])

    def unit(tx: WriteTx) -> None:
        position = stream_rows.advance(tx)
        writer = trees.begin(tx, [NAME, member(1), member(2)])
        name, one, two = (writer.ids[pair] for pair in (NAME, member(1), member(2)))
        once = writer.change(root, {name: position}, position)
        twice = writer.change(once, {two: 7, name: None}, position)
        assert once != twice
        assert writer.current(once, NAME) == position
        assert writer.find(twice, [name, one, two, 99]) == {one: 2, two: 7}
        assert writer.items(twice) == {one: 2, two: 7}
        assert writer.conflicts([root, twice]) == {name: (1, None), two: (None, 7)}
        assert writer.change(twice, {two: 7}, position) == twice
        writer.store(tx)
        assert trees.items(tx, twice) == {member(1): 2, member(2): 7}

    await database.write(unit)


async def test_what_was_rolled_back_is_remembered_by_nobody(database: Database) -> None:
    trees = StateTrees()
    first: list[int] = []

    def fail(tx: WriteTx) -> None:
        [root] = write(tx, trees, None, [{NAME: 1}])
        first.append(root)
        assert trees.find(tx, root, [NAME]) == {NAME: 1}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await database.write(fail)
    # The position is given again, and the number of the page with it.
    [root] = await database.write(write, trees, None, [{member(1): 5}])
    assert root == first[0]
    assert await database.read(trees.items, root) == {member(1): 5}
    assert await database.read(trees.find, root, [NAME]) == {}


async def test_pages_of_states_that_are_given_up_can_be_deleted(database: Database) -> None:
    trees, root = StateTrees(), None
    roots: list[int] = []
    for number in range(200):
        [root] = await database.write(write, trees, root, [{member(number % 40): number}])
        roots.append(root)
    before = {root: await database.read(trees.items, root) for root in roots[150:]}

    def purge(tx: WriteTx) -> int:
        unreachable = trees.unreachable(tx, roots[:150], roots[150:151])
        state.delete_pages(tx, unreachable)
        return len(unreachable)

    assert await database.write(purge) > 75
    fresh = StateTrees()
    assert {root: await database.read(fresh.items, root) for root in roots[150:]} == before
    # And when the whole room goes, nothing stays.
    await database.write(lambda tx: state.delete_pages(tx, trees.unreachable(tx, roots[150:], [])))
    assert await database.read(pages) == 0


async def test_a_large_state_in_one_change_is_several_pages(database: Database) -> None:
    trees = StateTrees()
    changes: dict[Pair, int | None] = {member(number): number for number in range(12_000)}
    [root] = await database.write(write, trees, None, [changes])
    assert await database.read(StateTrees().items, root) == changes
    assert await database.read(pages) > 10
    assert await database.read(StateTrees().find, root, [member(777)]) == {member(777): 777}
