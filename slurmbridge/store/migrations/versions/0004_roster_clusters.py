"""a roster of Runners in place of leases, several clusters, idempotency keys, calls counted."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"

_PROCESS = sa.table(
    "process",
    sa.column("id", sa.String()),
    sa.column("spec", sa.JSON()),
    sa.column("account", sa.String()),
    sa.column("partition", sa.String()),
)
_ADDED = (
    "cluster", "account", "partition", "idempotency_key", "request_sha256", "expected_start",
    "restarts",
)  # fmt: skip
_INDEXES = ("ix_process_idempotency", "ix_process_claimed_by")


def _runner(*columns: sa.Column[Any]) -> None:
    # Runners enter themselves again.
    op.drop_table("runner")
    op.create_table(
        "runner",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("transport", sa.String(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scheduler_error", sa.Text(), nullable=True),
        *columns,
        sa.PrimaryKeyConstraint("id"),
    )


def _node(*keys: str) -> None:
    # Nodes are examined again.
    op.drop_table("node")
    op.create_table(
        "node",
        *(sa.Column(key, sa.String(), nullable=False) for key in keys),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("readiness", sa.JSON(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint(*keys),
    )


def upgrade() -> None:
    with op.batch_alter_table("process") as table:
        table.add_column(
            sa.Column("cluster", sa.String(), nullable=False, server_default="default")
        )
        table.add_column(sa.Column("account", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("partition", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("idempotency_key", sa.String(), nullable=True))
        table.add_column(sa.Column("request_sha256", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("expected_start", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("restarts", sa.Integer(), nullable=False, server_default="0"))
    op.drop_column("process", "claimed_until")
    op.execute("UPDATE process SET claimed_by = NULL")
    connection = op.get_bind()
    for process_id, spec in connection.execute(sa.select(_PROCESS.c.id, _PROCESS.c.spec)).all():
        values = {name: spec.get(name) or "" for name in ("account", "partition")}
        where = _PROCESS.c.id == process_id
        connection.execute(sa.update(_PROCESS).where(where).values(values))
    op.create_index("ix_process_claimed_by", "process", ["claimed_by"])
    op.create_index(
        "ix_process_idempotency", "process", ["submitted_by", "idempotency_key"], unique=True
    )
    _runner(
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
    )
    _node("cluster", "name")
    op.create_table(
        "role",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "scheduler_call",
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cluster", "kind"),
    )
    # Under the name that Slurm gives a cluster, until now; it is reported again.
    op.execute("DELETE FROM compute_capability")


def downgrade() -> None:
    op.execute("DELETE FROM compute_capability")
    op.drop_table("scheduler_call")
    op.drop_table("role")
    _node("name")
    _runner()
    for name in _INDEXES:
        op.drop_index(name, "process")
    # Not in a batch: on SQLite that makes the table anew, and events and logs refer to its rows.
    for name in _ADDED:
        op.drop_column("process", name)
    op.add_column("process", sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE process SET claimed_by = NULL")
