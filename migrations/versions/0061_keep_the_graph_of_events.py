"""Keep the graph of events: auth edges, loose ends, and what states were resolved to."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from homeserver.matrix.auth_graph import pack

revision = "0061"
down_revision = "0060"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("room_state", sa.BigInteger()))
    op.add_column("events", sa.Column("auth", sa.LargeBinary()))
    is_state = sa.text("pair_id IS NOT NULL")
    op.create_index(
        "ix_events_state", "events", ["room_nid", "position"], postgresql_where=is_state, sqlite_where=is_state
    )
    _fill_auth()
    op.drop_index("ix_events_room_nid_depth_position", "events")
    op.add_column("rooms", sa.Column("forked_at", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("memberships", sa.Column("event", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE memberships SET event = position")
    with op.batch_alter_table("memberships") as table:
        table.alter_column("event", server_default=None)
    op.create_table(
        "waiting_events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("since_ts", sa.BigInteger(), nullable=False),
        sa.Column("pdu", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_waiting_events"),
    )
    op.create_index("ix_waiting_events_room_nid_since_ts", "waiting_events", ["room_nid", "since_ts"])
    op.create_table(
        "waiting_for",
        sa.Column("missing_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("missing_id", "event_id", name="pk_waiting_for"),
    )
    op.create_index("ix_waiting_for_event_id", "waiting_for", ["event_id"])
    op.create_table(
        "backward_extremities",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "position", name="pk_backward_extremities"),
    )
    op.create_index("ix_backward_extremities_room_nid", "backward_extremities", ["room_nid"])
    op.create_table(
        "pending_redactions",
        sa.Column("target_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target_id", "position", name="pk_pending_redactions"),
    )
    op.create_index("ix_pending_redactions_room_nid", "pending_redactions", ["room_nid"])
    op.create_table(
        "resolutions",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("room_nid", sa.BigInteger(), nullable=False),
        sa.Column("roots", sa.Text(), nullable=False),
        sa.Column("root", sa.BigInteger(), nullable=False),
        sa.Column("report", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("room_nid", "roots", name="uq_resolutions_room_nid_roots"),
        sa.PrimaryKeyConstraint("position", name="pk_resolutions"),
    )
    op.create_table(
        "server_keys",
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("valid_until_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("server_name", "key_id", name="pk_server_keys"),
    )


def _fill_auth() -> None:
    """Find the auth events of the state events there are; up to now, history was a line in each room."""
    connection = op.get_bind()
    events = sa.table(
        "events",
        *(sa.column(name) for name in ("position", "room_nid", "event_id", "pair_id", "auth", "pdu")),
    )
    page = (
        sa.select(events.c.position, events.c.pdu)
        .where(events.c.pair_id.is_not(None), events.c.position > sa.bindparam("after"))
        .order_by(events.c.position)
        .limit(500)
    )
    found = sa.select(events.c.event_id, events.c.position).where(
        events.c.event_id.in_(sa.bindparam("ids", expanding=True))
    )
    fill = sa.update(events).where(events.c.position == sa.bindparam("at")).values(auth=sa.bindparam("packed"))
    after = 0
    while rows := connection.execute(page, {"after": after}).all():
        cited = {row.position: _cited(json.loads(bytes(row.pdu))) for row in rows}
        ids = sorted({event_id for ids in cited.values() for event_id in ids})
        places = {row.event_id: row.position for row in connection.execute(found, {"ids": ids})}
        connection.execute(
            fill,
            [
                {"at": at, "packed": pack(at, [places[one] for one in ids if one in places])}
                for at, ids in cited.items()
            ],
        )
        after = rows[-1].position


def _cited(pdu: dict[str, Any]) -> list[str]:
    """The ids in `auth_events`, which are pairs with hashes in versions 1 and 2."""
    return [one if isinstance(one, str) else one[0] for one in pdu.get("auth_events", [])]
