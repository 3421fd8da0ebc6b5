"""Keep what other servers deliver until it is taken in, and what they were answered."""

import sqlalchemy as sa
from alembic import op

revision = "0080"
down_revision = "0071"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "staged_pdus",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("staged_ts", sa.BigInteger(), nullable=False),
        sa.Column("pdu", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_staged_pdus"),
    )
    op.create_index("ix_staged_pdus_room_nid_number", "staged_pdus", ["room_nid", "number"])
    op.create_table(
        "answered_deliveries",
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("slot", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("answered_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("origin", "slot", name="pk_answered_deliveries"),
    )
