"""what was staged in, and what a traced Process did."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    with op.batch_alter_table("process") as table:
        table.add_column(sa.Column("inputs", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("traced", sa.JSON(), nullable=True))
        table.add_column(sa.Column("trace_report", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    # Not in a batch: on SQLite that makes the table anew, and events and logs refer to its rows.
    for name in ("trace_report", "traced", "inputs"):
        op.drop_column("process", name)
