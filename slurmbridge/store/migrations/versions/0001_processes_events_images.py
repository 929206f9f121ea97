"""processes, events, images."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    op.create_table(
        "compute_capability",
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("capability", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("cluster"),
    )
    op.create_table(
        "image",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("definition_sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("squashfs_offset", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("built_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_image_definition_sha256"),
            ["definition_sha256"],
            unique=False,
        )
        batch_op.create_index(batch_op.f("ix_image_name"), ["name"], unique=False)

    op.create_table(
        "process",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("phase", sa.String(length=24), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("submitted_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("claimed_by", sa.String(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("intended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("job_name", sa.String(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("slurm_state", sa.String(), nullable=True),
        sa.Column("slurm_reason", sa.String(), nullable=True),
        sa.Column("nodes", sa.String(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("image_sha256", sa.String(), nullable=True),
        sa.Column("script", sa.Text(), nullable=True),
        sa.Column("script_sha256", sa.String(), nullable=True),
        sa.Column("outputs_location", sa.String(), nullable=True),
        sa.Column("outputs", sa.JSON(), nullable=False),
        sa.Column("outputs_ignored", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_name"),
    )
    with op.batch_alter_table("process", schema=None) as batch_op:
        batch_op.create_index("ix_process_created", ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_process_job_id"), ["job_id"], unique=False)
        batch_op.create_index("ix_process_phase", ["phase", "created_at"], unique=False)

    op.create_table(
        "runner",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("transport", sa.String(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scheduler_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "token",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "log_chunk",
        sa.Column("process_id", sa.String(length=26), nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("offset", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["process_id"],
            ["process.id"],
        ),
        sa.PrimaryKeyConstraint("process_id", "stream", "offset"),
    )
    op.create_table(
        "process_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("process_id", sa.String(length=26), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["process_id"],
            ["process.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("process_event", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_process_event_process_id"), ["process_id"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("process_event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_process_event_process_id"))

    op.drop_table("process_event")
    op.drop_table("log_chunk")
    op.drop_table("token")
    op.drop_table("runner")
    with op.batch_alter_table("process", schema=None) as batch_op:
        batch_op.drop_index("ix_process_phase")
        batch_op.drop_index(batch_op.f("ix_process_job_id"))
        batch_op.drop_index("ix_process_created")

    op.drop_table("process")
    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_image_name"))
        batch_op.drop_index(batch_op.f("ix_image_definition_sha256"))

    op.drop_table("image")
    op.drop_table("compute_capability")
