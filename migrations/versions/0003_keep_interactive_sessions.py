"""Keep sessions of user-interactive authentication."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "interactive_sessions",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("completed", sa.Text(), nullable=False),
        sa.Column("created_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_interactive_sessions"),
    )
    op.create_index("ix_interactive_sessions_created_ts", "interactive_sessions", ["created_ts"])
