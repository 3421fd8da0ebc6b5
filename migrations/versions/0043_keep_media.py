"""Keep media, and when devices were seen last."""

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "media",
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_ts", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger()),
        sa.Column("content_type", sa.Text()),
        sa.Column("filename", sa.Text()),
        sa.PrimaryKeyConstraint("media_id", name="pk_media"),
    )
    op.create_index("ix_media_user_id_created_ts", "media", ["user_id", "created_ts"])
    op.add_column("devices", sa.Column("last_seen_ts", sa.BigInteger()))
    op.add_column("devices", sa.Column("last_seen_ip", sa.Text()))
