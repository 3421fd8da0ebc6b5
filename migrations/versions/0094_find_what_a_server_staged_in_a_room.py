"""Find what is staged of a server in a room without going through what others have staged there."""

from alembic import op

revision = "0094"
down_revision = "0093"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_staged_pdus_room_nid_origin_number", "staged_pdus", ["room_nid", "origin", "number"])
    op.drop_index("ix_staged_pdus_room_nid_number", "staged_pdus")
