"""The database: how it is opened, migrated, read and written."""

import os
import sqlite3
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
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import StaticPool

from slurmbridge.errors import ConfigurationError, DatabaseUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 10
# The URL can say otherwise. No statement here takes long, and a Runner that freezes in the midst of
# a transaction keeps others waiting for no longer than this.
_SESSION = (
    "-c statement_timeout=30s -c idle_in_transaction_session_timeout=30s "
    f"-c lock_timeout={BUSY_SECONDS}s"
)
_SERVER: dict[str, Any] = {
    "application_name": "slurmbridge",
    "client_encoding": "utf8",
    "connect_timeout": 5,
    # A server that vanishes without a word is given up after half a minute, not after two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
    "options": _SESSION,
    # A prepared statement does not outlive a migration, nor a pooler between here and the server.
    "prepare_threshold": None,
}
# What SQLite says of a file, by the lower eight bits of its code (sqlite.org/rescode.html).
_FILE = {
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened, or its folder not written to",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a backup",
    sqlite3.SQLITE_FULL: "the disk is full, and nothing was written",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_READONLY: "the file cannot be written to",
}
# Of those that PostgreSQL counts among a program's mistakes: no schema, no table, no right.
_SITE = frozenset({"3F000", "42P01", "42501"})
_DRIVERS = {"postgresql", "postgresql+psycopg"}


class Database:
    """An engine with two kinds of transaction: `read` and `write`.

    Each statement sees what was committed before it began (READ COMMITTED, on SQLite more), and
    every UPDATE says what it expects to find: whoever comes second finds something else.
    """

    def __init__(self, url: str) -> None:
        """Open nothing yet but a SQLite file.

        Raises:
            ConfigurationError: the URL is none, or holds a password.
            DatabaseUnavailable: the file cannot be opened.
        """
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
        """A transaction that is durable when it ends, and gone when the block raises.

        Raises:
            DatabaseUnavailable: nothing was written, unless the connection broke just as it ended.
        """
        with self._transaction("write") as connection:
            yield connection

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[Connection]:
        try:
            with self.engine.connect() as raw:
                connection = raw.execution_options(slurmbridge_kind=kind)
                with connection.begin():
                    yield connection
        except DBAPIError as error:
            problem = _problem(error)
            if problem is None:
                raise
            raise DatabaseUnavailable(problem) from error
        except NoConnectionFree as error:
            raise DatabaseUnavailable("all connections to the database are in use") from error

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
        with self._migration() as config:
            command.upgrade(config, revision)

    def downgrade(self, revision: str) -> None:
        """Take the schema back to a revision."""
        with self._migration() as config:
            command.downgrade(config, revision)

    @contextmanager
    def _migration(self) -> Iterator[Config]:
        try:
            with self.write() as connection:
                self._wait_for_others(connection)
                _refuse_newer(_revision(connection))
                config = _alembic()
                config.attributes["connection"] = connection
                yield config
        except (CommandError, SQLAlchemyError) as error:
            what = _words(error.orig) if isinstance(error, DBAPIError) else _words(error)
            raise DatabaseUnavailable(f"the schema cannot be brought up to date: {what}") from error

    def _wait_for_others(self, connection: Connection) -> None:
        """A migration may take its time; what waits for a table then must not."""
        if self.engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            self.lock(connection, "schema")
            connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'"))

    def check_schema(self) -> None:
        """Raise DatabaseUnavailable unless the schema is the one that this code needs."""
        with self.read() as connection:
            found = _revision(connection)
        _refuse_newer(found)
        if found != _newest():
            raise DatabaseUnavailable(
                f"the database has schema {found or 'none'}, this version needs {_newest()}: "
                "run `slurmbridge config migrate`"
            )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _problem(error: DBAPIError) -> str | None:
    """What the site has to mend; None for a mistake of ours, and for what broke a constraint."""
    cause = error.orig
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in _FILE:
        return f"the database cannot be used: {_FILE[code]} ({cause})"
    # The standard's names of exceptions; each driver has classes of its own for them.
    kind = type(error).__name__
    away = kind in {"OperationalError", "InternalError", "InterfaceError", "DatabaseError"}
    if away or error.connection_invalidated or getattr(cause, "sqlstate", None) in _SITE:
        return f"the database does not answer: {_words(cause)}"
    return None


def _words(cause: object) -> str:
    return " ".join(str(cause).split())


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in _known():
        raise DatabaseUnavailable(
            f"the database has schema {found}, which this version, with {_newest()}, does not "
            "know: run the newer slurmbridge that made it, or restore a backup"
        )


@cache
def _known() -> frozenset[str]:
    scripts = ScriptDirectory.from_config(_alembic())
    return frozenset(script.revision for script in scripts.walk_revisions())


@cache
def _newest() -> str | None:
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = URL.create("none")
    if parsed.drivername in _DRIVERS:
        return _postgresql(parsed)
    if parsed.drivername == "sqlite":
        return _sqlite(parsed)
    raise ConfigurationError(
        "database: neither sqlite:////absolute/path nor postgresql://user@host/name"
    )


def _postgresql(url: URL) -> Engine:
    if url.password is not None or "password" in url.query:
        raise ConfigurationError(
            "database: the URL holds a password; put it into a file of mode 600 and name that: "
            "postgresql://user@host/name?passfile=/path"
        )
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={name: value for name, value in _SERVER.items() if name not in url.query},
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=BUSY_SECONDS,
    )


def _make_private(file: str | None) -> None:
    """SQLite makes its files, the WAL included, as readable as the first one is."""
    if file and file != ":memory:":
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseUnavailable(f"{file} cannot be opened: {error.strerror}") from error


def _sqlite(url: URL) -> Engine:
    _make_private(url.database)
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}}
    if url.database in {None, "", ":memory:"}:
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
