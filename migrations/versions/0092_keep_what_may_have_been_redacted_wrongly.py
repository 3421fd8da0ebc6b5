"""Keep what may have been redacted wrongly, of rooms that are known in part."""

import sqlalchemy as sa
from alembic import op

revision = "0092"
down_revision = "0091"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "originals",
        sa.Column("position", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("since_ts", sa.BigInteger(), nullable=False),
        sa.Column("pdu", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_originals"),
    )
    op.create_index("ix_originals_room_nid", "originals", ["room_nid"])
