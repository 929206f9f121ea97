"""Databases for tests. What takes longer than most tests is done once, for all of them."""

from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine.interfaces import Dialect

from slurmbridge.store import Database

# What SQLAlchemy has made of each statement.
_COMPILED: dict[Any, Any] = {}


@cache
def _migrated() -> bytes:
    with closing(Database("sqlite://")) as database:
        database.migrate()
        return content_of(database)


@cache
def _dialect() -> Dialect:
    with closing(Database("sqlite://")) as database:
        # It learns of its database at the first connection.
        database.engine.connect().close()
        return database.engine.dialect


def _driver(database: Database) -> Any:
    # In memory there is one connection, which the pool keeps.
    with database.engine.connect() as connection:
        return connection.connection.driver_connection


def _without_waiting_for_the_disk(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def content_of(database: Database) -> bytes:
    """All of a database in memory."""
    content: bytes = _driver(database).serialize()
    return content


def fresh_database(file: Path | None = None, content: bytes | None = None) -> Database:
    """A database, in memory or in a file, with the schema and nothing else, or with a content."""
    content = _migrated() if content is None else content
    if file is None:
        database = Database("sqlite://")
        _driver(database).deserialize(content)
    else:
        file.write_bytes(content)
        database = Database(f"sqlite:///{file}")
        sqlalchemy.event.listen(database.engine, "connect", _without_waiting_for_the_disk)
    # Otherwise each compiles each statement anew, for a dialect of its own.
    database.engine.dialect = _dialect()
    database.engine.update_execution_options(compiled_cache=_COMPILED)
    return database
