"""Say of whose users events are that wait for others."""

import sqlalchemy as sa
from alembic import op

revision = "0093"
down_revision = "0092"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("waiting_events", sa.Column("server_name", sa.Text(), nullable=False, server_default=sa.text("''")))
