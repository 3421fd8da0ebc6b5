"""Keep registration tokens and OpenID tokens, and who is erased."""

import sqlalchemy as sa
from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "registration_tokens",
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("uses_allowed", sa.Integer()),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("expires_ts", sa.BigInteger()),
        sa.Column("created_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token", name="pk_registration_tokens"),
    )
    op.create_table(
        "openid_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("expires_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_openid_tokens"),
    )
    op.add_column("users", sa.Column("is_erased", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_openid_tokens_expires_ts", "openid_tokens", ["expires_ts"])
