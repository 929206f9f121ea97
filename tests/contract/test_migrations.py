"""Migrations on every kind of database: up and down from each, together, broken off, too new."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, MetaData, inspect, text, types
from sqlmodel import SQLModel

from slurmbridge.errors import DatabaseUnavailable
from slurmbridge.store import Database, ProcessStore
from slurmbridge.store.database import MIGRATIONS
from tests.contract.conftest import Open
from tests.support.postgresql import Databases
from tests.support.rows import ONE, add

Rows = dict[str, list[dict[str, Any]]]
REVISIONS = sorted(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())
# Written anew by whoever they are about, so that a migration may begin them anew.
PASSING = {"runner", "role", "node", "compute_capability", "scheduler_call"}
CLAIM = {"claimed_by", "claimed_until"}
NAMED: dict[str, Any] = {
    "state": "RUNNING",
    "phase": "COLLECTING",
    "spec": {"image": "python", "command": ["true"], "account": "research"},
    "outputs": [],
    "outputs_ignored": [],
    "inputs": [],
    "revoked_at": None,
    "process_id": "process.id 0",
}


def value(column: Column[Any], number: int) -> Any:
    name = f"{column.table.name}.{column.name} {number}"
    if column.name in NAMED:
        return NAMED[column.name]
    values: dict[type[types.TypeEngine[Any]], Any] = {
        types.JSON: {"ü": [name, 1.5, None]},
        types.Boolean: True,
        types.Integer: 1000 + number,
        types.DateTime: datetime(2026, 7, 1, 12, 30, number, 123456, tzinfo=UTC),
        types.LargeBinary: b"\0\xff" + name.encode(),
        types.String: name[: getattr(column.type, "length", None)],
    }
    return next(found for kind, found in values.items() if isinstance(column.type, kind))


def reflected(database: Database) -> MetaData:
    found = MetaData()
    found.reflect(database.engine)
    found.remove(found.tables["alembic_version"])
    return found


def fill(database: Database) -> None:
    """Two rows in each table."""
    for table in reflected(database).sorted_tables:
        with database.write() as connection:
            for number in range(2):
                row = {column.name: value(column, number) for column in table.columns}
                connection.execute(table.insert(), [row])


def rows(database: Database) -> Rows:
    found: Rows = {}
    with database.read() as connection:
        for table in reflected(database).sorted_tables:
            if table.name not in PASSING:
                result = connection.execute(table.select()).mappings()
                kept = ({k: v for k, v in row.items() if k not in CLAIM} for row in result)
                found[table.name] = sorted(kept, key=str)
    return found


@pytest.mark.parametrize("revision", REVISIONS)
def test_from_each_schema_up_and_back_no_row_is_lost(
    databases: Databases, opened: Open, revision: str
) -> None:
    database = opened(databases.bare())
    database.migrate(revision)
    fill(database)
    before = rows(database)
    assert all(len(found) == 2 for found in before.values())
    database.migrate()
    database.check_schema()
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    after = rows(database)
    for name, old in before.items():
        for was, found in zip(old, after[name], strict=True):
            assert {key: found[key] for key in was} == was
    database.downgrade(revision)
    assert rows(database) == before
    database.downgrade("base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.migrate()
    assert not any(rows(database).values())


def test_several_that_migrate_at_once_wait_for_each_other(
    databases: Databases, opened: Open
) -> None:
    url = databases.bare()
    all_of_them = [opened(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(Database.migrate, all_of_them)) == [None] * 6
    all_of_them[0].check_schema()
    add(ProcessStore(all_of_them[1]), ONE)


def test_a_migration_that_breaks_off_leaves_the_schema_as_it_was(
    databases: Databases, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened(databases.bare())
    database.migrate("0001")
    fill(database)
    before = rows(database)
    works: Callable[..., None] = command.upgrade

    def breaks(*arguments: Any) -> None:
        works(*arguments)
        raise RuntimeError

    monkeypatch.setattr(command, "upgrade", breaks)
    with pytest.raises(RuntimeError):
        database.migrate()
    assert rows(database) == before
    monkeypatch.setattr(command, "upgrade", works)
    database.migrate()
    database.check_schema()


def test_a_schema_that_is_newer_than_the_code_is_left_alone(
    database: Database, store: ProcessStore
) -> None:
    add(store, ONE)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for use in (database.check_schema, database.migrate, lambda: database.downgrade("base")):
        with pytest.raises(DatabaseUnavailable, match="schema 9999, which this version, with 0"):
            use()
    assert store.get(ONE).id == ONE


def test_a_version_that_is_not_one_is_said_to_be(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("INSERT INTO alembic_version VALUES ('x'), ('y')"))
    with pytest.raises(DatabaseUnavailable, match="cannot be brought up to date"):
        database.migrate()


def test_a_migration_waits_for_another_however_long_it_takes(lent: Databases, opened: Open) -> None:
    url = lent.bare()
    impatient = opened(f"{url}&options=-c%20lock_timeout%3D100ms")
    holder = opened(url)
    with ThreadPoolExecutor(1) as pool:
        with holder.write() as connection:
            holder.lock(connection, "schema")
            migrating = pool.submit(impatient.migrate)
            with pytest.raises(TimeoutError):
                migrating.result(0.5)
        migrating.result(10)
    impatient.check_schema()
