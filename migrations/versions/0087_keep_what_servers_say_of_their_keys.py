"""Keep what servers say of their keys, as they signed it."""

import sqlalchemy as sa
from alembic import op

revision = "0087"
down_revision = "0086"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "server_key_documents",
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("fetched_ts", sa.BigInteger(), nullable=False),
        sa.Column("valid_until_ts", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("server_name", name="pk_server_key_documents"),
    )
