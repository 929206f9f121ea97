"""outputs that wait for somebody to let them out, and who may."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from slurmbridge.store.tables import UtcTime

revision = "0009"
down_revision: str | None = "0008"

_NEW: dict[str, sa.types.TypeEngine[Any]] = {
    "review": sa.String(length=24),
    "review_by": sa.String(),
    "review_at": UtcTime(),
    "review_reason": sa.Text(),
    "review_location": sa.String(),
}


def upgrade() -> None:
    for name, kind in _NEW.items():
        op.add_column("process", sa.Column(name, kind, nullable=True))
    nobody: sa.Column[bool] = sa.Column(
        "reviews", sa.Boolean(), nullable=False, server_default=sa.false()
    )
    op.add_column("token", nobody)


def downgrade() -> None:
    op.drop_column("token", "reviews")
    for name in reversed(_NEW):
        op.drop_column("process", name)
