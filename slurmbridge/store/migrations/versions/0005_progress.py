"""how far files have been moved in or out."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"


def upgrade() -> None:
    op.add_column("process", sa.Column("progress", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("process", "progress")
