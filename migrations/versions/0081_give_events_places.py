"""Give events places in their rooms' timelines, which events of the past can be put into."""

import sqlalchemy as sa
from alembic import op

revision = "0081"
down_revision = "0080"
branch_labels = None
depends_on = None

FILL = "UPDATE events SET place = position * 1048576 WHERE status <> 3"
FILL_GAPS = """
    UPDATE rooms SET gapped_at = coalesce(
        (SELECT max(position) FROM backward_extremities WHERE backward_extremities.room_nid = rooms.room_nid), 0
    )
"""


def upgrade() -> None:
    op.add_column("events", sa.Column("place", sa.BigInteger()))
    op.execute(FILL)
    op.create_index("ix_events_room_nid_place", "events", ["room_nid", "place"])
    op.add_column("relations", sa.Column("place", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE relations SET place = position * 1048576")
    op.drop_index("ix_relations_parent_id_rel_type_position", "relations")
    op.drop_index("ix_relations_room_nid_rel_type_position", "relations")
    op.create_index("ix_relations_parent_id_rel_type_place", "relations", ["parent_id", "rel_type", "place"])
    op.create_index("ix_relations_room_nid_rel_type_place", "relations", ["room_nid", "rel_type", "place"])
    op.add_column("rooms", sa.Column("gapped_at", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.execute(FILL_GAPS)
    op.add_column("purges", sa.Column("before_place", sa.BigInteger()))
