"""how long contexts are kept, and when they were destroyed."""

import sqlalchemy as sa
from alembic import op

from slurmbridge.store.tables import UtcTime

revision = "0008"
down_revision: str | None = "0007"

_INDEX = "ix_process_context_destroyed_at"


def upgrade() -> None:
    op.add_column("process", sa.Column("context_until", UtcTime(), nullable=True))
    op.add_column("process", sa.Column("context_destroyed_at", UtcTime(), nullable=True))
    op.create_index(_INDEX, "process", ["context_destroyed_at"])


def downgrade() -> None:
    op.drop_index(_INDEX, "process")
    op.drop_column("process", "context_destroyed_at")
    op.drop_column("process", "context_until")
