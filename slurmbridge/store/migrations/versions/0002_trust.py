"""attestations, image trust, helpers, node readiness."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    with op.batch_alter_table("process") as table:
        table.add_column(sa.Column("sealing", sa.JSON(), nullable=True))
        table.add_column(sa.Column("attestation", sa.JSON(), nullable=True))
        table.add_column(sa.Column("attested", sa.Boolean(), nullable=True))
    with op.batch_alter_table("image") as table:
        table.alter_column("definition_sha256", existing_type=sa.String(length=64), nullable=True)
        table.add_column(sa.Column("environment", sa.JSON(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("added_by", sa.String(), nullable=True))
        table.add_column(sa.Column("remark", sa.Text(), nullable=True))
        table.add_column(
            sa.Column("signed", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        table.add_column(sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("revoked_by", sa.String(), nullable=True))
        table.add_column(sa.Column("revoked_reason", sa.Text(), nullable=True))
    op.create_table(
        "helper",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("architecture", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sbseal_sha256", sa.String(length=64), nullable=False),
        sa.Column("sbprobe_sha256", sa.String(length=64), nullable=False),
        sa.Column("source_sha256", sa.String(length=64), nullable=False),
        sa.Column("built_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "node",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("readiness", sa.JSON(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "signing_key",
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("public_key"),
    )


def downgrade() -> None:
    op.drop_table("signing_key")
    op.drop_table("node")
    op.drop_table("helper")
    op.execute("DELETE FROM image WHERE definition_sha256 IS NULL OR revoked_at IS NOT NULL")
    with op.batch_alter_table("image") as table:
        for name in (
            "revoked_reason", "revoked_by", "revoked_at", "signed", "remark", "added_by",
            "environment",
        ):  # fmt: skip
            table.drop_column(name)
        table.alter_column("definition_sha256", existing_type=sa.String(length=64), nullable=False)
    # Not in a batch: on SQLite that makes the table anew, and events and logs refer to its rows.
    for name in ("attested", "attestation", "sealing"):
        op.drop_column("process", name)
