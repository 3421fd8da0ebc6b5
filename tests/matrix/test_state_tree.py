"""The persistent state tree against plain dictionaries, as Python uses it. (Its own tests are in `rust/`.)"""

import random
import threading
from typing import TypeVar

import pytest

from homeserver.matrix import state_tree
from homeserver.matrix.state_tree import Cache, StateTreeError, Walk, Writer

T = TypeVar("T")


class Store:
    """What a database would hold, and what was read of it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.bodies: dict[int, bytes] = {}
        self.loads: list[list[int]] = []

    def run(self, walk: Walk[T], *, keep: bool = True) -> T:
        while wanted := walk.wanted():
            self.loads.append(wanted)
            walk.give({page_id: self.bodies[page_id] for page_id in wanted}, keep)
        return walk.result()

    def change(self, writer: Writer, root: int | None, changes: dict[int, int | None], position: int) -> int:
        if root is not None:
            self.run(state_tree.find(writer, [root], list(changes)))
        return writer.change(root, list(changes.items()), position)

    def commit(self, writer: Writer) -> None:
        self.bodies.update(writer.take())
        writer.keep()

    def items(self, root: int) -> dict[int, int]:
        return self.run(state_tree.items(self.cache, [root]))[root]


@pytest.mark.parametrize("size", [0, 3_000, 1 << 20])
def test_items_find_and_difference_agree_with_dictionaries_through_random_histories(size: int) -> None:
    rng = random.Random(20)
    store = Store(Cache(size))
    states: list[tuple[int | None, dict[int, int]]] = [(None, {})]
    writer = Writer(store.cache)
    for step in range(1, 300):
        root, known = rng.choice(states[-8:])
        changes: dict[int, int | None] = {
            rng.choice([rng.randrange(2000), rng.randrange(40) * 1024]): rng.choice([None, step, step, step])
            for _ in range(rng.choice([1, 1, 1, 5, 60]))
        }
        after = {key: value for key, value in {**known, **changes}.items() if value is not None}
        states.append((store.change(writer, root, changes, step), after))
        if step % 5 == 0:
            store.commit(writer)
            writer = Writer(store.cache)
    store.commit(writer)
    for root, known in states[1:]:
        assert root is not None
        assert store.items(root) == known
        asked = rng.sample(range(2000), 50)
        found = store.run(state_tree.find(store.cache, [root], asked))
        assert found == {root: {key: known[key] for key in asked if key in known}}
    for _ in range(300):
        (old_root, old), (new_root, new) = rng.choice(states), rng.choice(states)
        assert store.run(state_tree.difference(store.cache, [old_root, new_root])) == {
            key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)
        }
    assert store.cache.size <= size


def test_what_is_not_committed_is_seen_by_its_writer_alone() -> None:
    store = Store(Cache(1 << 20))
    writer = Writer(store.cache)
    root = store.change(writer, None, {1: 10}, 10)
    assert store.run(state_tree.items(writer, [root])) == {root: {1: 10}}
    assert state_tree.items(store.cache, [root]).wanted() == [root >> 8]
    store.commit(writer)
    assert state_tree.items(store.cache, [root]).wanted() == []


def test_pages_are_cached_only_when_told_to() -> None:
    store = Store(Cache(1 << 20))
    writer = Writer(store.cache)
    root = store.change(writer, None, {1: 10}, 10)
    store.bodies.update(writer.take())
    store.run(state_tree.items(store.cache, [root]), keep=False)
    assert store.cache.size == 0
    store.run(state_tree.items(store.cache, [root]))
    assert store.cache.size > 0


def test_pages_of_states_that_are_given_up_are_found() -> None:
    store = Store(Cache(0))
    roots: list[int] = []
    for position in range(1, 60):
        writer = Writer(store.cache)
        roots.append(store.change(writer, roots[-1] if roots else None, {position % 20: position}, position))
        store.commit(writer)
    before = {root: store.items(root) for root in roots[30:]}
    unreachable = store.run(state_tree.unreachable(store.cache, roots[:30], roots[30:31]))
    assert len(unreachable) > 5
    for page_id in unreachable:
        del store.bodies[page_id]
    assert {root: store.items(root) for root in roots[30:]} == before


def test_a_page_that_is_missing_or_corrupt_is_an_error() -> None:
    store = Store(Cache(1 << 20))
    writer = Writer(store.cache)
    root = store.change(writer, None, {1: 10}, 10)
    [(page_id, body)] = writer.take()
    walk = state_tree.items(store.cache, [root])
    with pytest.raises(StateTreeError, match="not done"):
        walk.result()
    assert walk.wanted() == [page_id]
    walk.give({}, True)
    with pytest.raises(StateTreeError, match="missing"):
        walk.wanted()
    for broken in (b"", body[:-1], b"\xff" * 30):
        with pytest.raises(StateTreeError, match="corrupt"):
            walk.give({page_id: broken}, True)
    with pytest.raises(StateTreeError, match="missing"):
        Writer(store.cache).change(root, [(1, 11)], 11)


def test_a_change_that_addresses_cannot_name_is_refused() -> None:
    with pytest.raises(StateTreeError, match="too large"):
        Writer(Cache(0)).change(None, [(1, 1)], 1 << 41)
    with pytest.raises(OverflowError):
        state_tree.items(Cache(0), [-1])


def test_one_cache_serves_several_threads() -> None:
    store = Store(Cache(20_000))
    writer = Writer(store.cache)
    root = store.change(writer, None, dict.fromkeys(range(3000), 1), 1)
    store.commit(writer)
    failures: list[int] = []

    def read(first: int) -> None:
        for pair in range(first, 3000, 7):
            if store.run(state_tree.find(store.cache, [root], [pair])) != {root: {pair: 1}}:
                failures.append(pair)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
