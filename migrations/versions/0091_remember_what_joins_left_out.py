"""Remember what was left out of joins, and how often in vain it was tried; say whose the oldest data is that waits."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0091"
down_revision = "0090"
branch_labels = None
depends_on = None

_BATCH = 1000

edus = sa.table(
    "outgoing_edus",
    sa.column("destination", sa.Text),
    sa.column("position", sa.BigInteger),
    sa.column("content", sa.LargeBinary),
    sa.column("user_id", sa.Text),
)


def upgrade() -> None:
    op.add_column("partial_rooms", sa.Column("lacking", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "left_out",
        sa.Column("room_nid", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "event_id", name="pk_left_out"),
    )
    bind = op.get_bind()
    set_user = (
        edus.update()
        .where(edus.c.destination == sa.bindparam("to"), edus.c.position == sa.bindparam("at"))
        .values(user_id=sa.bindparam("user"))
    )
    for batch in _batches(bind):
        users = [{"to": row.destination, "at": row.position, "user": _user_of(row.content)} for row in batch]
        bind.execute(set_user, users)


def _batches(bind: sa.Connection) -> Iterator[list[Any]]:
    """What is from before anybody wrote down whose it is, some at a time."""
    after: tuple[str, int] = ("", -1)
    while True:
        rest = sa.tuple_(edus.c.destination, edus.c.position) > sa.tuple_(*map(sa.literal, after))
        some = sa.select(edus).where(edus.c.user_id.is_(None), rest).order_by(edus.c.destination, edus.c.position)
        batch = list(bind.execute(some.limit(_BATCH)))
        if not batch:
            return
        yield batch
        after = batch[-1].destination, batch[-1].position


def _user_of(content: bytes) -> str:
    """Who sends a message to devices, or whose devices or keys have changed."""
    read = json.loads(content)
    return str(read.get("sender") or read.get("user_id") or "")
