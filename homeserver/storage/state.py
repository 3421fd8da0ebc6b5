"""Nodes of the state tree (`matrix/state_tree.py`), and the numbers of (type, state_key) pairs."""

from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import (
    BigInteger,
    Column,
    Identity,
    Integer,
    LargeBinary,
    Table,
    UniqueConstraint,
    bindparam,
    delete,
    select,
    tuple_,
)
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix import state_tree
from homeserver.matrix.state_tree import Node
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

Pair = tuple[str, str]
"""An event type and a state key."""

state_pairs = Table(
    "state_pairs",
    metadata,
    # SQLite numbers rows by itself only where the key is declared INTEGER.
    Column("pair_id", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("type", Text, nullable=False),
    Column("state_key", Text, nullable=False),
    UniqueConstraint("type", "state_key"),
)

state_nodes = Table(
    "state_nodes",
    metadata,
    Column("node_id", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

NODES_PER_POSITION = 1 << 20
"""How many nodes may be numbered by one position: a path of the tree, or, where states are resolved, many."""

_PAIRS = select(state_pairs.c.type, state_pairs.c.state_key, state_pairs.c.pair_id).where(
    tuple_(state_pairs.c.type, state_pairs.c.state_key).in_(bindparam("pairs", expanding=True))
)
_PAIRS_BY_ID = select(state_pairs.c.pair_id, state_pairs.c.type, state_pairs.c.state_key).where(
    state_pairs.c.pair_id.in_(bindparam("pair_ids", expanding=True))
)
_INTERN = insert(state_pairs).on_conflict_do_nothing()
_NODES = select(state_nodes.c.node_id, state_nodes.c.body).where(
    state_nodes.c.node_id.in_(bindparam("node_ids", expanding=True))
)
_INSERT_NODES = plain_insert(state_nodes)
_DELETE_NODES = delete(state_nodes).where(state_nodes.c.node_id.in_(bindparam("node_ids", expanding=True)))


def find_pairs(tx: ReadTx, pairs: Iterable[Pair]) -> dict[Pair, int]:
    """The numbers of those pairs that have one."""
    rows = tx.connection.execute(_PAIRS, {"pairs": list(pairs)})
    return {(row.type, row.state_key): row.pair_id for row in rows}


def list_pairs(tx: ReadTx, pair_ids: Iterable[int]) -> dict[int, Pair]:
    """The pairs with these numbers."""
    found: dict[int, Pair] = {}
    for part in chunks(pair_ids):
        rows = tx.connection.execute(_PAIRS_BY_ID, {"pair_ids": part})
        found.update((row.pair_id, (row.type, row.state_key)) for row in rows)
    return found


def ensure_pairs(tx: WriteTx, pairs: Collection[Pair]) -> dict[Pair, int]:
    """The numbers of all the pairs, new ones for those that had none."""
    found = find_pairs(tx, pairs)
    new = sorted(set(pairs) - found.keys())  # In one order everywhere, so that two writers cannot wait for each other.
    if new:
        tx.connection.execute(_INTERN, [{"type": type_, "state_key": state_key} for type_, state_key in new])
        found.update(find_pairs(tx, new))
    return found


def find_nodes(tx: ReadTx, node_ids: Iterable[int]) -> dict[int, Node]:
    """The nodes with these ids."""
    found: dict[int, Node] = {}
    for part in chunks(node_ids):
        rows = tx.connection.execute(_NODES, {"node_ids": part})
        found.update((row.node_id, state_tree.decode(row.body)) for row in rows)
    return found


def insert_nodes(tx: WriteTx, nodes: Mapping[int, Node]) -> None:
    """Add nodes."""
    tx.connection.execute(
        _INSERT_NODES, [{"node_id": node_id, "body": state_tree.encode(node)} for node_id, node in nodes.items()]
    )


def delete_nodes(tx: WriteTx, node_ids: Iterable[int]) -> None:
    """Remove nodes that nothing reaches any more."""
    for part in chunks(node_ids):
        tx.connection.execute(_DELETE_NODES, {"node_ids": part})


def position_of_node(node_id: int) -> int:
    """The position under which a node was written."""
    return node_id // NODES_PER_POSITION
