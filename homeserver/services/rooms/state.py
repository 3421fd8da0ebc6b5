"""The state of rooms at any of their events, by the root of its tree."""

from collections.abc import Collection, Iterable, Mapping

from homeserver.matrix import state_tree
from homeserver.matrix.state_tree import Node
from homeserver.storage import state
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.state import NODES_PER_POSITION, Pair

_NODES = 50_000
_PAIRS = 50_000


class StateTrees:
    """Reads and extends state trees, and keeps the nodes and pairs that were used.

    Nodes and pairs never change, so what is cached is never wrong. Units of work run in threads on SQLite, and several
    may read at once: the caches are plain dictionaries, whose single operations are atomic, and are emptied when full.
    Nothing is cached that is not committed yet, as a number that was rolled back is given again.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._ids: dict[Pair, int] = {}
        self._pairs: dict[int, Pair] = {}

    def items(self, tx: ReadTx, root: int | None) -> dict[Pair, int]:
        """The whole state: positions of events by type and state key."""
        found = state_tree.items(root, lambda ids: self._load(tx, ids))
        pairs = self._known_pairs(tx, found)
        return {pairs[pair_id]: position for pair_id, position in found.items()}

    def find(self, tx: ReadTx, root: int | None, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """Positions of the events of those pairs which are in the state."""
        ids = self._known_ids(tx, list(pairs))
        found = state_tree.find(root, ids.values(), lambda node_ids: self._load(tx, node_ids))
        return {pair: found[pair_id] for pair, pair_id in ids.items() if pair_id in found}

    def find_many(self, tx: ReadTx, roots: Iterable[int], pairs: Iterable[Pair]) -> dict[int, dict[Pair, int]]:
        """The same in several states, by root, with no more statements."""
        ids = self._known_ids(tx, list(pairs))
        found = state_tree.find_many(roots, ids.values(), lambda node_ids: self._load(tx, node_ids))
        return {
            root: {pair: of_root[pair_id] for pair, pair_id in ids.items() if pair_id in of_root}
            for root, of_root in found.items()
        }

    def items_of_type(self, tx: ReadTx, roots: Iterable[int], type_: str) -> dict[int, dict[str, int]]:
        """The state of one type in several states, by root: positions of events by state key."""
        found = state_tree.items_many(roots, lambda ids: self._load(tx, ids))
        pairs = self._known_pairs(tx, {pair_id for of_root in found.values() for pair_id in of_root})
        return {
            root: {pairs[pair_id][1]: position for pair_id, position in of_root.items() if pairs[pair_id][0] == type_}
            for root, of_root in found.items()
        }

    def difference(self, tx: ReadTx, old: int | None, new: int | None) -> dict[Pair, tuple[int | None, int | None]]:
        """The pairs whose events differ, with the positions of the old and the new event."""
        found = state_tree.difference(old, new, lambda ids: self._load(tx, ids))
        pairs = self._known_pairs(tx, found)
        return {pairs[pair_id]: change for pair_id, change in found.items()}

    def pair_ids(self, tx: ReadTx, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """The numbers of those pairs that have one."""
        return self._known_ids(tx, list(pairs))

    def pairs(self, tx: ReadTx, pair_ids: Iterable[int]) -> dict[int, Pair]:
        """The pairs with these numbers."""
        return self._known_pairs(tx, pair_ids)

    def find_ids(self, tx: ReadTx, roots: Iterable[int], pair_ids: Iterable[int]) -> dict[int, dict[int, int]]:
        """Positions by pair id of those of the pairs which are in these states, by root."""
        return state_tree.find_many(roots, pair_ids, lambda node_ids: self._load(tx, node_ids))

    def differing_ids(self, tx: ReadTx, old: int | None, new: int | None) -> dict[int, tuple[int | None, int | None]]:
        """The pairs, by id, whose events differ, with the positions of the old and the new event."""
        return state_tree.difference(old, new, lambda ids: self._load(tx, ids))

    def unreachable(self, tx: ReadTx, given_up: Iterable[int], kept: Iterable[int]) -> list[int]:
        """The nodes that the states with the roots given up need, and none of those kept: they may be deleted.

        A state that was made from another by changes is kept as far as that one, and needs no more than the nodes
        which its own changes wrote. The effort is that of reading these states, and what is given up.
        """
        seen = set(kept)
        self._reach(tx, seen)
        needed = set(seen)
        seen |= (new := set(given_up) - seen)
        self._reach(tx, seen, new)
        return sorted(seen - needed)

    def _reach(self, tx: ReadTx, seen: set[int], level: Collection[int] | None = None) -> None:
        """Add all nodes that can be reached from those on the level, which are seen."""
        level = set(seen) if level is None else level
        while level:
            nodes = self._load(tx, level)
            level = {child for node in nodes.values() if not node.is_leaf for child in node.entries.values()} - seen
            seen |= level

    def begin(self, tx: WriteTx, pairs: Collection[Pair]) -> "StateWriter":
        """Write state changes to these pairs, in this transaction."""
        ids = {pair: pair_id for pair in pairs if (pair_id := self._ids.get(pair)) is not None}
        missing = [pair for pair in pairs if pair not in ids]
        if missing:
            ids.update(state.ensure_pairs(tx, missing))
        return StateWriter(ids, lambda node_ids: self._load(tx, node_ids))

    def keep(self, writer: "StateWriter") -> None:
        """Cache what the writer wrote; to be called after its commit."""
        self._keep(writer.new)
        self._keep_pairs({pair_id: pair for pair, pair_id in writer.ids.items()})

    def _load(self, tx: ReadTx, ids: Collection[int]) -> Mapping[int, Node]:
        found = {node_id: node for node_id in ids if (node := self._nodes.get(node_id)) is not None}
        if len(found) < len(ids):
            read = state.find_nodes(tx, [node_id for node_id in ids if node_id not in found])
            self._keep(read)
            found.update(read)
        return found

    def _keep(self, nodes: Mapping[int, Node]) -> None:
        if len(self._nodes) > _NODES:
            self._nodes.clear()
        self._nodes.update(nodes)

    def _known_ids(self, tx: ReadTx, pairs: list[Pair]) -> dict[Pair, int]:
        found = {pair: pair_id for pair in pairs if (pair_id := self._ids.get(pair)) is not None}
        missing = [pair for pair in pairs if pair not in found]
        if missing:
            read = state.find_pairs(tx, missing)
            self._keep_pairs({pair_id: pair for pair, pair_id in read.items()})
            found.update(read)
        return found

    def _known_pairs(self, tx: ReadTx, pair_ids: Iterable[int]) -> dict[int, Pair]:
        pair_ids = list(pair_ids)
        found = {pair_id: pair for pair_id in pair_ids if (pair := self._pairs.get(pair_id)) is not None}
        missing = [pair_id for pair_id in pair_ids if pair_id not in found]
        if missing:
            read = state.list_pairs(tx, missing)
            self._keep_pairs(read)
            found.update(read)
        return found

    def _keep_pairs(self, pairs: Mapping[int, Pair]) -> None:
        if len(self._pairs) > _PAIRS:
            self._pairs.clear()
            self._ids.clear()
        self._pairs.update(pairs)
        self._ids.update((pair, pair_id) for pair_id, pair in pairs.items())


class StateWriter:
    """State changes of one transaction."""

    def __init__(self, ids: dict[Pair, int], load: state_tree.Load) -> None:
        self.ids = ids
        self.new: dict[int, Node] = {}
        self._stored = load

    def current(self, root: int | None, pair: Pair) -> int | None:
        """The position of the pair's event in the state of this root."""
        return state_tree.find(root, [self.ids[pair]], self._load).get(self.ids[pair])

    def change(self, root: int | None, changes: Mapping[int, int | None], page: int) -> int:
        """The root of the state with these pairs, by id, at these positions, or without them.

        The new nodes are numbered by `page`: a position that nothing else uses for nodes.
        """
        node_ids = iter(range(page * NODES_PER_POSITION, (page + 1) * NODES_PER_POSITION))

        def save(node: Node) -> int:
            node_id = next(node_ids)
            self.new[node_id] = node
            return node_id

        return state_tree.change(root, changes, self._load, save)

    def store(self, tx: WriteTx) -> None:
        """Store the new nodes."""
        if self.new:
            state.insert_nodes(tx, self.new)

    def _load(self, ids: Collection[int]) -> Mapping[int, Node]:
        found = {node_id: self.new[node_id] for node_id in ids if node_id in self.new}
        if len(found) < len(ids):
            found.update(self._stored([node_id for node_id in ids if node_id not in found]))
        return found
