"""Keep rooms, their events, their state and their members."""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rooms",
        sa.Column("room_nid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("is_public", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("state_root", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("room_nid", name="pk_rooms"),
        sa.UniqueConstraint("room_id", name="uq_rooms_room_id"),
    )
    op.create_table(
        "forward_extremities",
        sa.Column("room_nid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "position", name="pk_forward_extremities"),
    )
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("depth", sa.BigInteger(), nullable=False),
        sa.Column("origin_server_ts", sa.BigInteger(), nullable=False),
        sa.Column("pair_id", sa.BigInteger()),
        sa.Column("replaces", sa.BigInteger()),
        sa.Column("state_before", sa.BigInteger()),
        sa.Column("state_after", sa.BigInteger()),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("redacted_by", sa.BigInteger()),
        sa.Column("pdu", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("event_id", name="uq_events_event_id"),
    )
    op.create_index("ix_events_room_nid_position", "events", ["room_nid", "position"])
    op.create_index("ix_events_room_nid_depth_position", "events", ["room_nid", "depth", "position"])
    op.create_index("ix_events_room_nid_origin_server_ts", "events", ["room_nid", "origin_server_ts"])
    op.create_table(
        "state_pairs",
        sa.Column("pair_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("state_key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pair_id", name="pk_state_pairs"),
        sa.UniqueConstraint("type", "state_key", name="uq_state_pairs_type_state_key"),
    )
    op.create_table(
        "state_nodes",
        sa.Column("node_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_state_nodes"),
    )
    op.create_table(
        "memberships",
        sa.Column("room_nid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("membership", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("forgotten", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "user_id", name="pk_memberships"),
    )
    op.create_index("ix_memberships_user_id_membership", "memberships", ["user_id", "membership"])
    op.create_index("ix_memberships_user_id_position", "memberships", ["user_id", "position"])
    op.create_table(
        "aliases",
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("creator", sa.Text(), nullable=False),
        sa.Column("created_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("alias", name="pk_aliases"),
    )
    op.create_index("ix_aliases_room_nid", "aliases", ["room_nid"])
    op.create_table(
        "relations",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=False),
        sa.Column("rel_type", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("key", sa.Text()),
        sa.PrimaryKeyConstraint("position", name="pk_relations"),
    )
    op.create_index("ix_relations_parent_id_rel_type_position", "relations", ["parent_id", "rel_type", "position"])
    op.create_index("ix_relations_room_nid_rel_type_position", "relations", ["room_nid", "rel_type", "position"])
    op.create_table(
        "transactions",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("txn_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text()),
        sa.Column("created_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", "scope", "txn_id", name="pk_transactions"),
    )
    op.create_index("ix_transactions_event_id", "transactions", ["event_id"])
    op.create_index("ix_transactions_created_ts", "transactions", ["created_ts"])
