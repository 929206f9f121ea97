"""digests of the manifest beside carried outputs, and of the code."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision: str | None = "0006"


def upgrade() -> None:
    op.add_column("process", sa.Column("manifest_sha256", sa.String(length=64), nullable=True))
    op.add_column("process", sa.Column("code_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("process", "code_sha256")
    op.drop_column("process", "manifest_sha256")
