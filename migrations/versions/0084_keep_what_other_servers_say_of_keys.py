"""Keep what other servers say of their users' keys, and which of their messages to devices have come."""

import sqlalchemy as sa
from alembic import op

revision = "0084"
down_revision = "0083"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "device_list_changes", sa.Column("stream_id", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.execute("UPDATE device_list_changes SET stream_id = position")
    op.create_table(
        "remote_device_lists",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False),
        sa.Column("touched", sa.BigInteger(), nullable=False),
        sa.Column("filled", sa.BigInteger(), nullable=False),
        sa.Column("is_stale", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_remote_device_lists"),
    )
    is_stale = sa.text("is_stale")
    op.create_index(
        "ix_remote_device_lists_stale",
        "remote_device_lists",
        ["retry_ts"],
        postgresql_where=is_stale,
        sqlite_where=is_stale,
    )
    op.create_table(
        "introductions",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position", "user_id", "room_nid", name="pk_introductions"),
    )
    op.add_column("to_device", sa.Column("server_name", sa.Text()))
    op.create_table(
        "received_messages",
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("received_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_received_messages"),
    )
    op.create_index("ix_received_messages_received_ts", "received_messages", ["received_ts"])
