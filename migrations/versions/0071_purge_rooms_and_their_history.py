"""Purge rooms and their history: what is under way, and what there was before."""

import sqlalchemy as sa
from alembic import op

revision = "0071"
down_revision = "0070"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rooms", sa.Column("purged_before", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("rooms", sa.Column("redacted_at", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    is_redacted = sa.text("redacted_by IS NOT NULL")
    op.create_index(
        "ix_events_redacted_by", "events", ["redacted_by"], postgresql_where=is_redacted, sqlite_where=is_redacted
    )
    op.create_table(
        "purges",
        sa.Column("purge_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.BigInteger()),
        sa.Column("is_forced", sa.Boolean(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("created_ts", sa.BigInteger(), nullable=False),
        sa.Column("ended_ts", sa.BigInteger()),
        sa.Column("failure", sa.Text()),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("is_held_by_server", sa.Boolean(), nullable=False),
        sa.Column("held_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("purge_id", name="pk_purges"),
    )
    is_open = sa.text("ended_ts IS NULL")
    op.create_index(
        "ix_purges_open", "purges", ["room_nid"], unique=True, postgresql_where=is_open, sqlite_where=is_open
    )
    op.create_table(
        "purge_leftovers",
        sa.Column("purge_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("purge_id", "kind", "number", name="pk_purge_leftovers"),
    )
    op.create_table(
        "departures",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "position", "room_id", name="pk_departures"),
    )
