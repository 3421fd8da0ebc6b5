"""The state of a room as a persistent tree: nodes never change, and two states share what they have in common.

A state maps the id of a (type, state_key) pair to the position of its event. A leaf holds up to 32 entries; above
that it becomes an inner node whose 32 slots go by five bits of the pair id, the lowest bits first. A state change
writes the nodes between the root and one leaf, the difference of two states reads only what differs, and no node is
ever rewritten, so any root stays good for ever.

Nodes are read through `Load`, many at a time, and stored through `Save`, which chooses the id.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

_BITS = 5
_FANOUT = 1 << _BITS
_MASK = _FANOUT - 1
_LEAF, _INNER = 0, 1


@dataclass(frozen=True, slots=True)
class Node:
    """A leaf's entries by pair id, or an inner node's children by slot."""

    is_leaf: bool
    entries: Mapping[int, int]


Load = Callable[[Collection[int]], Mapping[int, Node]]
"""The nodes with these ids, all of them."""

Save = Callable[[Node], int]
"""Keep a new node and say its id."""


def encode(node: Node) -> bytes:
    """The node's stored form."""
    flat = [number for entry in sorted(node.entries.items()) for number in entry]
    return struct.pack(f"<B{len(flat)}q", _LEAF if node.is_leaf else _INNER, *flat)


def decode(body: bytes) -> Node:
    """The node of a stored form."""
    kind, *flat = struct.unpack(f"<B{(len(body) - 1) // 8}q", body)
    return Node(kind == _LEAF, dict(zip(flat[::2], flat[1::2], strict=True)))


def change(root: int | None, changes: Mapping[int, int | None], load: Load, save: Save) -> int:
    """The root of the state with these pairs set, or removed where the value is None."""
    node = Node(True, {}) if root is None else load([root])[root]
    return _save_tree(_changed(node, changes, 0, load, save), 0, save)


def find(root: int | None, pair_ids: Iterable[int], load: Load) -> dict[int, int]:
    """The values of those of the pairs that are in the state, with one read for each level of the tree."""
    return {} if root is None else find_many([root], pair_ids, load)[root]


def find_many(roots: Iterable[int], pair_ids: Iterable[int], load: Load) -> dict[int, dict[int, int]]:
    """The same for several states, by root, with no more reads."""
    found: dict[int, dict[int, int]] = {root: {} for root in roots}
    pair_ids = list(pair_ids)
    wanted = [(root, root, pair_ids) for root in found]
    shift = 0
    while wanted:
        nodes = load({node_id for _, node_id, _ in wanted})
        below: dict[tuple[int, int], list[int]] = {}
        for root, node_id, pairs in wanted:
            node = nodes[node_id]
            for pair_id in pairs:
                value = node.entries.get(pair_id if node.is_leaf else pair_id >> shift & _MASK)
                if value is None:
                    continue
                if node.is_leaf:
                    found[root][pair_id] = value
                else:
                    below.setdefault((root, value), []).append(pair_id)
        wanted = [(root, node_id, pairs) for (root, node_id), pairs in below.items()]
        shift += _BITS
    return found


def items(root: int | None, load: Load) -> dict[int, int]:
    """The whole state."""
    return {} if root is None else items_many([root], load)[root]


def items_many(roots: Iterable[int], load: Load) -> dict[int, dict[int, int]]:
    """Several whole states, by root, with one read for each level of the deepest."""
    found: dict[int, dict[int, int]] = {root: {} for root in roots}
    level = [(root, root) for root in found]
    while level:
        nodes = load({node_id for _, node_id in level})
        below: list[tuple[int, int]] = []
        for root, node_id in level:
            node = nodes[node_id]
            if node.is_leaf:
                found[root].update(node.entries)
            else:
                below.extend((root, child) for child in node.entries.values())
        level = below
    return found


def difference(old: int | None, new: int | None, load: Load) -> dict[int, tuple[int | None, int | None]]:
    """The pairs whose values differ, each with its old and its new value; what the states share is not read."""
    found: dict[int, tuple[int | None, int | None]] = {}
    level = [] if old == new else [(old, new)]
    while level:
        nodes = load({node_id for pair in level for node_id in pair if node_id is not None})
        below: list[tuple[int | None, int | None]] = []
        for old_id, new_id in level:
            before = None if old_id is None else nodes[old_id]
            after = None if new_id is None else nodes[new_id]
            if (before is None or not before.is_leaf) and (after is None or not after.is_leaf):
                below.extend(_differing_children(before, after))
            else:
                _compare(_all(before, load), _all(after, load), found)
        level = below
    return found


def _changed(node: Node, changes: Mapping[int, int | None], shift: int, load: Load, save: Save) -> Node:
    if node.is_leaf:
        return Node(True, _merged(node.entries, changes))
    by_slot: dict[int, dict[int, int | None]] = {}
    for pair_id, value in changes.items():
        by_slot.setdefault(pair_id >> shift & _MASK, {})[pair_id] = value
    children = dict(node.entries)
    nodes = load([children[slot] for slot in by_slot if slot in children])
    for slot, changed in by_slot.items():
        child = nodes[children[slot]] if slot in children else Node(True, {})
        children[slot] = _save_tree(_changed(child, changed, shift + _BITS, load, save), shift + _BITS, save)
    return Node(False, children)


def _merged(entries: Mapping[int, int], changes: Mapping[int, int | None]) -> dict[int, int]:
    merged = dict(entries)
    for pair_id, value in changes.items():
        if value is None:
            merged.pop(pair_id, None)
        else:
            merged[pair_id] = value
    return merged


def _save_tree(node: Node, shift: int, save: Save) -> int:
    """Save the node, as a subtree if it is a leaf that has grown too large."""
    if not node.is_leaf or len(node.entries) <= _FANOUT:
        return save(node)
    by_slot: dict[int, dict[int, int]] = {}
    for pair_id, value in node.entries.items():
        by_slot.setdefault(pair_id >> shift & _MASK, {})[pair_id] = value
    return save(
        Node(False, {slot: _save_tree(Node(True, part), shift + _BITS, save) for slot, part in by_slot.items()})
    )


def _differing_children(before: Node | None, after: Node | None) -> list[tuple[int | None, int | None]]:
    old = {} if before is None else before.entries
    new = {} if after is None else after.entries
    return [(old.get(slot), new.get(slot)) for slot in old.keys() | new.keys() if old.get(slot) != new.get(slot)]


def _all(node: Node | None, load: Load) -> dict[int, int]:
    if node is None:
        return {}
    if node.is_leaf:
        return dict(node.entries)
    return {pair_id: value for child in node.entries.values() for pair_id, value in items(child, load).items()}


def _compare(old: Mapping[int, int], new: Mapping[int, int], found: dict[int, tuple[int | None, int | None]]) -> None:
    for pair_id in old.keys() | new.keys():
        if old.get(pair_id) != new.get(pair_id):
            found[pair_id] = (old.get(pair_id), new.get(pair_id))
