"""Keep the nodes of state trees in pages, one for the nodes of a change.

The states are built anew from the events: each state event's is the one before it with one entry changed.
"""

import sqlalchemy as sa
from alembic import op

from homeserver.matrix import state_tree

revision = "0060"
down_revision = "0050"
branch_labels = None
depends_on = None

_BATCH = 1000
_CACHE_SIZE = 16 << 20

_pages = sa.table("state_pages", sa.column("page_id"), sa.column("body"))
_roots = sa.table("state_roots", sa.column("old"), sa.column("new"))
_events = sa.table(
    "events",
    sa.column("position"),
    sa.column("pair_id"),
    sa.column("state_before"),
    sa.column("state_after"),
)
_rooms = sa.table("rooms", sa.column("state_root"))


def upgrade() -> None:
    op.create_table(
        "state_pages",
        sa.Column("page_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("page_id", name="pk_state_pages"),
    )
    op.create_table(
        "state_roots",
        sa.Column("old", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("new", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("old"),
    )
    connection = op.get_bind()
    cache = state_tree.Cache(_CACHE_SIZE)
    position = 0
    while events := connection.execute(
        sa.select(_events)
        .where(_events.c.pair_id.is_not(None), _events.c.position > position)
        .order_by(_events.c.position)
        .limit(_BATCH)
    ).all():
        _convert(connection, cache, events)
        position = events[-1].position
    for column in (_events.c.state_before, _events.c.state_after, _rooms.c.state_root):
        new = sa.select(_roots.c.new).where(_roots.c.old == column).scalar_subquery()
        connection.execute(sa.update(column.table).where(column.is_not(None)).values({column.name: new}))
    op.drop_table("state_roots")
    op.drop_table("state_nodes")


def _convert(connection: sa.Connection, cache: state_tree.Cache, events: list[sa.Row]) -> None:
    """Write the pages of these events' states, and which root each state has had and has now."""
    old = [event.state_before for event in events if event.state_before is not None]
    roots = dict(connection.execute(sa.select(_roots).where(_roots.c.old.in_(old))).all())
    known = dict(roots)
    writer = state_tree.Writer(cache)
    for event in events:
        before = None if event.state_before is None else roots[event.state_before]
        if before is not None:
            walk = state_tree.find(writer, [before], [event.pair_id])
            while wanted := walk.wanted():
                pages = connection.execute(sa.select(_pages).where(_pages.c.page_id.in_(wanted))).all()
                walk.give(dict(pages), keep=False)
        roots[event.state_after] = writer.change(before, [(event.pair_id, event.position)], event.position)
    pages = [{"page_id": page_id, "body": body} for page_id, body in writer.take()]
    connection.execute(sa.insert(_pages), pages)
    writer.keep()
    new = [{"old": old, "new": new} for old, new in roots.items() if old not in known]
    connection.execute(sa.insert(_roots), new)
