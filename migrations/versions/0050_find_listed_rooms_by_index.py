"""Find the rooms of the directory by an index of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0050"
down_revision = "0044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    listed = sa.text("is_public")
    op.create_index("ix_rooms_public", "rooms", ["room_nid"], postgresql_where=listed, sqlite_where=listed)
