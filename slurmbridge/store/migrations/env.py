"""Alembic's entry: runs migrations on the connection that Database hands in."""

from alembic import context
from sqlmodel import SQLModel

from slurmbridge.store import tables

assert tables.ProcessRow.__tablename__ in SQLModel.metadata.tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,
)
context.run_migrations()
