"""The database: how it is opened, migrated, read and written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from slurmbridge.errors import DatabaseUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 10


class Database:
    """An engine with two kinds of transaction: `read` and `write`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only looks.

        Raises:
            DatabaseUnavailable: the database cannot be reached or stays locked.
        """
        with self._transaction("read") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable when it ends, and gone when the block raises."""
        with self._transaction("write") as connection:
            yield connection

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[Connection]:
        try:
            with self.engine.connect() as raw:
                connection = raw.execution_options(slurmbridge_kind=kind)
                with connection.begin():
                    yield connection
        except OperationalError as error:
            raise DatabaseUnavailable(f"the database does not answer: {error.orig}") from error

    def lock(self, connection: Connection, name: str) -> None:
        """Be alone with `name` until the transaction ends. On SQLite, whoever writes is alone."""
        if self.engine.dialect.name == "postgresql":
            number = int.from_bytes(sha256(name.encode()).digest()[:8], signed=True)
            connection.execute(select(func.pg_advisory_xact_lock(number)))

    def insert(self, table: Table) -> "postgresql.Insert | sqlite.Insert":
        """An INSERT that can say what to do when the row is there already."""
        if self.engine.dialect.name == "postgresql":
            return postgresql.insert(table)
        return sqlite.insert(table)

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to a revision; several at once wait for each other."""
        try:
            with self.write() as connection:
                config = _alembic()
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
        except SQLAlchemyError as error:
            raise DatabaseUnavailable(
                f"the schema cannot be brought up to date: {error}"
            ) from error

    def downgrade(self, revision: str) -> None:
        """Take the schema back to a revision."""
        with self.write() as connection:
            config = _alembic()
            config.attributes["connection"] = connection
            command.downgrade(config, revision)

    def check_schema(self) -> None:
        """Raise DatabaseUnavailable unless the schema is the one that this code needs."""
        wanted = _newest()
        with self.read() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        if found != wanted:
            raise DatabaseUnavailable(
                f"the database has schema {found or 'none'}, this version needs {wanted}: "
                "run `slurmbridge config migrate`"
            )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@cache
def _newest() -> str | None:
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _make_private(file: str | None) -> None:
    """SQLite makes its files, the WAL included, as readable as the first one is."""
    if file and file != ":memory:":
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseUnavailable(f"{file} cannot be opened: {error.strerror}") from error


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    _make_private(make_url(url).database)
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}}
    if ":memory:" in url or url == "sqlite://":
        # Every connection of its own would see an empty database of its own.
        options = {
            "connect_args": {"check_same_thread": False},
            "poolclass": StaticPool,
        }
    engine = create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The driver's own BEGIN is late and never IMMEDIATE; see _begin.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that becomes a writer late fails at once with "database is locked", whatever the
        # busy timeout (sqlite.org/lang_transaction.html): writers say so at the start.
        writes = connection.get_execution_options().get("slurmbridge_kind") == "write"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
