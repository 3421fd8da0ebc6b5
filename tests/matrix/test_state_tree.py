"""The persistent state tree, against plain dictionaries."""

import random

from homeserver.matrix import state_tree
from homeserver.matrix.state_tree import Node


class Store:
    """Nodes in their stored form, and what was read."""

    def __init__(self) -> None:
        self.bodies: dict[int, bytes] = {}
        self.loads: list[set[int]] = []

    def load(self, ids: object) -> dict[int, Node]:
        wanted = set(ids)  # type: ignore[call-overload]  # any collection of ids
        self.loads.append(wanted)
        return {node_id: state_tree.decode(self.bodies[node_id]) for node_id in wanted}

    def save(self, node: Node) -> int:
        self.bodies[len(self.bodies)] = state_tree.encode(node)
        return len(self.bodies) - 1

    def tree(self, root: int | None, changes: dict[int, int | None]) -> int:
        return state_tree.change(root, changes, self.load, self.save)


def test_items_find_and_difference_agree_with_dictionaries_through_random_histories() -> None:
    seed = 20
    rng = random.Random(seed)
    store = Store()
    states: list[tuple[int | None, dict[int, int]]] = [(None, {})]
    for step in range(300):
        root, known = rng.choice(states[-8:])
        changes: dict[int, int | None] = {
            rng.choice([rng.randrange(2000), rng.randrange(40) * 1024]): rng.choice([None, step, step, step])
            for _ in range(rng.choice([1, 1, 1, 5, 60]))
        }
        after = {key: value for key, value in {**known, **changes}.items() if value is not None}
        states.append((store.tree(root, changes), after))
    for root, known in states:
        assert state_tree.items(root, store.load) == known
        asked = rng.sample(range(2000), 50)
        assert state_tree.find(root, asked, store.load) == {key: known[key] for key in asked if key in known}
    for _ in range(300):
        (old_root, old), (new_root, new) = rng.choice(states), rng.choice(states)
        assert state_tree.difference(old_root, new_root, store.load) == {
            key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)
        }


def test_a_change_in_a_large_state_writes_one_path_and_reads_one_path_back() -> None:
    store = Store()
    root = store.tree(None, dict.fromkeys(range(20000), 1))
    before = len(store.bodies)
    changed = store.tree(root, {777: 2})
    assert len(store.bodies) - before <= 4
    assert sum(len(store.bodies[node_id]) for node_id in range(before, len(store.bodies))) < 2500
    store.loads.clear()
    assert state_tree.difference(root, changed, store.load) == {777: (1, 2)}
    assert sum(len(ids) for ids in store.loads) <= 8


def test_keys_that_share_all_low_bits_split_further_down() -> None:
    store = Store()
    entries: dict[int, int | None] = {number << 20: number for number in range(40)}
    assert state_tree.items(store.tree(None, entries), store.load) == entries
