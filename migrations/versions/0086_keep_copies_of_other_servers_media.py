"""Keep copies of other servers' media."""

import sqlalchemy as sa
from alembic import op

revision = "0086"
down_revision = "0085"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "remote_media",
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("fetched_ts", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content_type", sa.Text()),
        sa.Column("filename", sa.Text()),
        sa.PrimaryKeyConstraint("server_name", "media_id", name="pk_remote_media"),
    )
    op.create_index("ix_remote_media_fetched_ts_blob_size", "remote_media", ["fetched_ts", "blob", "size"])
