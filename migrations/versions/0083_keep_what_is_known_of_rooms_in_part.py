"""Keep what is known of rooms in part: when this server came into them, and what is still to come."""

import sqlalchemy as sa
from alembic import op

revision = "0083"
down_revision = "0082"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rooms", sa.Column("arrived_at", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("rooms", sa.Column("completed_at", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("rooms", sa.Column("completed_root", sa.BigInteger()))
    op.create_table(
        "partial_rooms",
        sa.Column("room_nid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("given_root", sa.BigInteger(), nullable=False),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("since_ts", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_ts", sa.BigInteger(), nullable=False),
        sa.Column("failure", sa.Text()),
        sa.PrimaryKeyConstraint("room_nid", name="pk_partial_rooms"),
    )
