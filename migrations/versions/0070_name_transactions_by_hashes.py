"""Name the transactions of devices by hashes; those of the last day, which have other names, are forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0070"
down_revision = "0061"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("transactions")
    op.create_table(
        "transactions",
        sa.Column("device", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger()),
        sa.Column("created_ts", sa.BigInteger(), nullable=False),
        sa.Column("txn_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("device", "name", name="pk_transactions"),
    )
    op.create_index("ix_transactions_position", "transactions", ["position"])
    op.create_index("ix_transactions_created_ts", "transactions", ["created_ts"])
