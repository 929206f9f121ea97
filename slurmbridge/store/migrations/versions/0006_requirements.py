"""installations of requirements, and what was installed for a Process."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"


def upgrade() -> None:
    op.add_column("process", sa.Column("requirements", sa.JSON(), nullable=True))
    op.create_table(
        "installation",
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fault", sa.String(), nullable=True),
        sa.Column("sentence", sa.Text(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("lock", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("cluster", "key"),
    )


def downgrade() -> None:
    op.drop_table("installation")
    # Not in a batch: on SQLite that makes the table anew, and events and logs refer to its rows.
    op.drop_column("process", "requirements")
