"""Pages of the state tree (`matrix/state_tree.py`), and the numbers of (type, state_key) pairs."""

from collections.abc import Collection, Iterable

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

from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, among, chunks, metadata

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

state_pages = Table(
    "state_pages",
    metadata,
    Column("page_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

# PostgreSQL takes each pair of such a list for a condition of its own, and the stack that it parses them on is small.
_FEW = 1000
_PART_BITS = 14
"""How many of the last bits of a page's number tell pages of one position apart (`rust/crates/state_tree`)."""

_PAIRS = select(state_pairs.c.type, state_pairs.c.state_key, state_pairs.c.pair_id).where(
    tuple_(state_pairs.c.type, state_pairs.c.state_key).in_(bindparam("pairs", expanding=True))
)
_PAIRS_BY_ID = select(state_pairs.c.pair_id, state_pairs.c.type, state_pairs.c.state_key).where(
    among(state_pairs.c.pair_id, "pair_ids")
)
_INTERN = insert(state_pairs).on_conflict_do_nothing()
_PAGES = select(state_pages.c.page_id, state_pages.c.body).where(among(state_pages.c.page_id, "page_ids"))
_INSERT_PAGES = plain_insert(state_pages)
_DELETE_PAGES = delete(state_pages).where(among(state_pages.c.page_id, "page_ids"))


def find_pairs(tx: ReadTx, pairs: Iterable[Pair]) -> dict[Pair, int]:
    """The numbers of those pairs that have one."""
    found: dict[Pair, int] = {}
    for part in chunks(pairs, _FEW):
        rows = tx.connection.execute(_PAIRS, {"pairs": part})
        found.update(((row.type, row.state_key), row.pair_id) for row in rows)
    return found


def list_pairs(tx: ReadTx, pair_ids: Iterable[int]) -> dict[int, Pair]:
    """The pairs with these numbers."""
    rows = tx.connection.execute(_PAIRS_BY_ID, {"pair_ids": list(pair_ids)})
    return {pair_id: (type_, state_key) for pair_id, type_, state_key in rows}


def ensure_pairs(tx: WriteTx, pairs: Collection[Pair]) -> dict[Pair, int]:
    """The numbers of all the pairs, new ones for those that had none."""
    found = find_pairs(tx, pairs)
    new = sorted(set(pairs) - found.keys())  # In one order everywhere, so that two writers cannot wait for each other.
    if new:
        tx.connection.execute(_INTERN, [{"type": type_, "state_key": state_key} for type_, state_key in new])
        found.update(find_pairs(tx, new))
    return found


def find_pages(tx: ReadTx, page_ids: Iterable[int]) -> dict[int, bytes]:
    """The pages with these numbers."""
    return dict(tx.connection.execute(_PAGES, {"page_ids": list(page_ids)}).all())


def insert_pages(tx: WriteTx, pages: Iterable[tuple[int, bytes]]) -> None:
    """Add pages."""
    tx.connection.execute(_INSERT_PAGES, [{"page_id": page_id, "body": body} for page_id, body in pages])


def delete_pages(tx: WriteTx, page_ids: Iterable[int]) -> None:
    """Remove pages that nothing reaches any more."""
    tx.connection.execute(_DELETE_PAGES, {"page_ids": list(page_ids)})


def position_of_page(page_id: int) -> int:
    """The position at which a page was written."""
    return page_id >> _PART_BITS
