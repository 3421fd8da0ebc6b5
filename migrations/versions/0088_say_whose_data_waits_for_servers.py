"""Say whose data waits for other servers, so that what waits can be bounded."""

import sqlalchemy as sa
from alembic import op

revision = "0088"
down_revision = "0087"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outgoing_edus", sa.Column("user_id", sa.Text(), nullable=True))
