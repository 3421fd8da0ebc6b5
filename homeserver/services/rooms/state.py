"""The state of rooms at any of their events, by the root of its tree."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from homeserver.matrix import state_tree
from homeserver.matrix.state_tree import Cache, Walk, Writer
from homeserver.storage import state
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.state import Pair

T = TypeVar("T")

_PAGES_SIZE = 32 << 20
_PAIRS = 50_000


class StateTrees:
    """Reads and extends state trees, and keeps the pages and pairs that were used.

    Pages and pairs never change, so what is cached is never wrong. Units of work run in threads on SQLite, and several
    may read at once: the pages are in a cache that locks itself, the pairs in plain dictionaries, whose single
    operations are atomic, and which are emptied when full. Nothing is cached that is not committed yet, as a number
    that was rolled back is given again: what a writing transaction reads is kept by nobody but itself.
    """

    def __init__(self) -> None:
        self._pages = Cache(_PAGES_SIZE)
        self._ids: dict[Pair, int] = {}
        self._pairs: dict[int, Pair] = {}

    def items(self, tx: ReadTx, root: int | None) -> dict[Pair, int]:
        """The whole state: positions of events by type and state key."""
        if root is None:
            return {}
        found = run(tx, state_tree.items(self._pages, [root]))[root]
        pairs = self.pairs(tx, found)
        return {pairs[pair_id]: position for pair_id, position in found.items()}

    def positions(self, tx: ReadTx, root: int | None) -> list[int]:
        """The positions of all events of the state, ascending."""
        return [] if root is None else sorted(run(tx, state_tree.items(self._pages, [root]))[root].values())

    def find(self, tx: ReadTx, root: int | None, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """Positions of the events of those pairs which are in the state."""
        return {} if root is None else self.find_many(tx, [root], pairs)[root]

    def find_many(self, tx: ReadTx, roots: Iterable[int], pairs: Iterable[Pair]) -> dict[int, dict[Pair, int]]:
        """The same in several states, by root, with no more statements."""
        ids = self.pair_ids(tx, pairs)
        found = run(tx, state_tree.find(self._pages, list(roots), list(ids.values())))
        return {
            root: {pair: of_root[pair_id] for pair, pair_id in ids.items() if pair_id in of_root}
            for root, of_root in found.items()
        }

    def items_of_type(self, tx: ReadTx, roots: Iterable[int], type_: str) -> dict[int, dict[str, int]]:
        """The state of one type in several states, by root: positions of events by state key."""
        found = run(tx, state_tree.items(self._pages, list(roots)))
        pairs = self.pairs(tx, {pair_id for of_root in found.values() for pair_id in of_root})
        return {
            root: {pairs[pair_id][1]: position for pair_id, position in of_root.items() if pairs[pair_id][0] == type_}
            for root, of_root in found.items()
        }

    def difference(self, tx: ReadTx, old: int | None, new: int | None) -> dict[Pair, tuple[int | None, int | None]]:
        """The pairs whose events differ, with the positions of the old and the new event."""
        found = self.differing_ids(tx, old, new)
        pairs = self.pairs(tx, found)
        return {pairs[pair_id]: change for pair_id, change in found.items()}

    def find_ids(self, tx: ReadTx, roots: Iterable[int], pair_ids: Iterable[int]) -> dict[int, dict[int, int]]:
        """Positions by pair id of those of the pairs which are in these states, by root."""
        return run(tx, state_tree.find(self._pages, list(roots), list(pair_ids)))

    def differing_ids(self, tx: ReadTx, old: int | None, new: int | None) -> dict[int, tuple[int | None, int | None]]:
        """The pairs, by id, whose events differ, with the positions of the old and the new event."""
        return {pair_id: (before, after) for pair_id, (before, after) in self.conflicts(tx, [old, new]).items()}

    def conflicts(self, tx: ReadTx, roots: Sequence[int | None]) -> dict[int, tuple[int | None, ...]]:
        """The pairs, by id, whose events are not the same in all of these states, with the position in each."""
        return run(tx, state_tree.difference(self._pages, list(roots)))

    def unreachable(self, tx: ReadTx, given_up: Iterable[int], kept: Iterable[int]) -> list[int]:
        """The pages that the states with the roots given up need, and none of those kept: they may be deleted.

        A state that was made from another by changes is kept as far as that one, and needs no more than the pages
        which its own changes wrote: of a room's history that is kept from some events on, the states before and
        after these events are enough. The effort is that of reading these states, and what is given up.
        """
        return run(tx, state_tree.unreachable(self._pages, list(given_up), list(kept)))

    def begin(self, tx: WriteTx, pairs: Collection[Pair]) -> "StateWriter":
        """Write state changes to these pairs, in this transaction, of which this is the only writer of states."""
        ids = {pair: pair_id for pair in pairs if (pair_id := self._ids.get(pair)) is not None}
        missing = [pair for pair in pairs if pair not in ids]
        if missing:
            ids.update(state.ensure_pairs(tx, missing))
        return StateWriter(tx, ids, Writer(self._pages))

    def keep(self, writer: "StateWriter") -> None:
        """Cache what the writer wrote; to be called after its commit."""
        writer.pages.keep()
        self._keep_pairs({pair_id: pair for pair, pair_id in writer.ids.items()})

    def pair_ids(self, tx: ReadTx, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """The numbers of those pairs that have one."""
        pairs = list(pairs)
        found = {pair: pair_id for pair in pairs if (pair_id := self._ids.get(pair)) is not None}
        missing = [pair for pair in pairs if pair not in found]
        if missing:
            read = state.find_pairs(tx, missing)
            if not isinstance(tx, WriteTx):
                self._keep_pairs({pair_id: pair for pair, pair_id in read.items()})
            found.update(read)
        return found

    def pairs(self, tx: ReadTx, pair_ids: Iterable[int]) -> dict[int, Pair]:
        """The pairs with these numbers."""
        pair_ids = list(pair_ids)
        found = {pair_id: pair for pair_id in pair_ids if (pair := self._pairs.get(pair_id)) is not None}
        missing = [pair_id for pair_id in pair_ids if pair_id not in found]
        if missing:
            read = state.list_pairs(tx, missing)
            if not isinstance(tx, WriteTx):
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
    """State changes of one transaction, by the ids of pairs. What it reads includes what it has written."""

    def __init__(self, tx: WriteTx, ids: dict[Pair, int], pages: Writer) -> None:
        self.ids = ids
        self.pages = pages
        self._tx = tx

    def current(self, root: int | None, pair: Pair) -> int | None:
        """The position of the pair's event in the state of this root."""
        return self.find(root, [self.ids[pair]]).get(self.ids[pair])

    def find(self, root: int | None, pair_ids: Iterable[int]) -> dict[int, int]:
        """Positions of the events of those pairs which are in the state."""
        return {} if root is None else run(self._tx, state_tree.find(self.pages, [root], list(pair_ids)))[root]

    def items(self, root: int | None) -> dict[int, int]:
        """The whole state."""
        return {} if root is None else run(self._tx, state_tree.items(self.pages, [root]))[root]

    def conflicts(self, roots: Sequence[int | None]) -> dict[int, tuple[int | None, ...]]:
        """The pairs whose events are not the same in all of these states, with the position in each."""
        return run(self._tx, state_tree.difference(self.pages, list(roots)))

    def change(self, root: int | None, changes: Mapping[int, int | None], page: int) -> int:
        """The root of the state with these pairs, by id, at these positions, or without them.

        The new nodes are numbered by `page`, a position that this transaction has taken, or are in the page of `root`
        if that is as new as they are. A state that the changes leave as it is keeps its root.
        """
        self.find(root, changes)  # A change needs the pages that a look-up needs.
        return self.pages.change(root, list(changes.items()), page)

    def store(self, tx: WriteTx) -> None:
        """Store the new pages."""
        if pages := self.pages.take():
            state.insert_pages(tx, pages)


def run(tx: ReadTx, walk: Walk[T]) -> T:
    """The result of the walk, whose pages are loaded as it wants them."""
    is_committed = not isinstance(tx, WriteTx)
    while wanted := walk.wanted():
        walk.give(state.find_pages(tx, wanted), is_committed)
    return walk.result()
