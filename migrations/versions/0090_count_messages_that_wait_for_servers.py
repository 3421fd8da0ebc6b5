"""Count messages that wait for servers, by whom they are."""

import sqlalchemy as sa
from alembic import op

revision = "0090"
down_revision = "0089"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_message = sa.text("edu_type = 'm.direct_to_device'")
    op.create_index(
        "ix_outgoing_edus_user_id_destination",
        "outgoing_edus",
        ["user_id", "destination"],
        postgresql_where=is_message,
        sqlite_where=is_message,
    )
