"""Send to other servers: which are in which rooms, what they are to have, and how far each has got."""

import sqlalchemy as sa
from alembic import op

revision = "0082"
down_revision = "0081"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outgoing_events",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("except_for", sa.Text()),
        sa.Column("also_to", sa.Text()),
        sa.PrimaryKeyConstraint("position", name="pk_outgoing_events"),
    )
    op.create_index("ix_outgoing_events_room_nid_position", "outgoing_events", ["room_nid", "position"])
    op.create_table(
        "outgoing_edus",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("edu_type", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("destination", "position", name="pk_outgoing_edus"),
    )
    op.create_index("ix_outgoing_edus_position", "outgoing_edus", ["position"])
    is_for_one = sa.text("also_to IS NOT NULL")
    op.create_index(
        "ix_outgoing_events_also_to",
        "outgoing_events",
        ["also_to", "position"],
        postgresql_where=is_for_one,
        sqlite_where=is_for_one,
    )
    op.create_table(
        "room_servers",
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("room_nid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("since", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("until", sa.BigInteger()),
        sa.PrimaryKeyConstraint("server_name", "room_nid", "since", name="pk_room_servers"),
    )
    op.create_index("ix_room_servers_room_nid_since", "room_servers", ["room_nid", "since"])
    is_over = sa.text("until IS NOT NULL")
    op.create_index(
        "ix_room_servers_room_nid_until",
        "room_servers",
        ["room_nid", "until"],
        postgresql_where=is_over,
        sqlite_where=is_over,
    )
    is_open = sa.text("until IS NULL")
    op.create_index(
        "ix_room_servers_open",
        "room_servers",
        ["server_name", "room_nid"],
        unique=True,
        postgresql_where=is_open,
        sqlite_where=is_open,
    )
    op.create_table(
        "destinations",
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since_ts", sa.BigInteger()),
        sa.Column("last_success_ts", sa.BigInteger()),
        sa.Column("last_attempt_ts", sa.BigInteger()),
        sa.Column("next_retry_ts", sa.BigInteger()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("at_most", sa.SmallInteger(), nullable=False),
        sa.Column("txn_id", sa.Text()),
        sa.Column("txn", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("server_name", name="pk_destinations"),
    )
    op.create_table(
        "skipped_items",
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("skipped_ts", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("server_name", "position", name="pk_skipped_items"),
    )
