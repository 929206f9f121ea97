"""Files that are no database, or are damaged, full or closed: one sentence, and no damage."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from slurmbridge.errors import ConfigurationError, DatabaseUnavailable
from slurmbridge.store import Database, ProcessStore
from tests.support.databases import fresh_database
from tests.support.rows import ONE, THREE, TWO, add, claim, listed
from tests.support.specs import process_id

USES: list[Callable[[Database], object]] = [
    Database.check_schema,
    Database.migrate,
    lambda database: ProcessStore(database).get(ONE),
    lambda database: add(ProcessStore(database), TWO),
    lambda database: claim(ProcessStore(database)),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One with a Process, closed in good order."""
    path = tmp_path / "test.db"
    database = fresh_database(path)
    add(ProcessStore(database), ONE)
    database.close()
    return path


@pytest.fixture
def unpaged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Database, int], None]]:
    """Allow a database this many pages more than it has: then the disk is full."""
    listeners: list[tuple[Database, Callable[..., None]]] = []

    def limit(database: Database, more: int) -> None:
        def full(connection: sqlite3.Connection, _record: object) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages + more}")

        database.engine.dispose()
        event.listen(database.engine, "connect", full)
        listeners.append((database, full))

    yield limit
    for database, listener in listeners:
        event.remove(database.engine, "connect", listener)


def refused(file: Path, match: str) -> None:
    """Every use says so, in one line, and the file stays as it is."""
    before = file.read_bytes()
    for use in USES:
        database = Database(f"sqlite:///{file}")
        with pytest.raises(DatabaseUnavailable, match=match) as caught:
            use(database)
        assert "\n" not in str(caught.value)
        database.close()
        assert file.read_bytes() == before


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "test.db"
    file.write_text("[api]\nport = 8642\n" * 100)
    refused(file, "the file is no SQLite database")


def test_a_damaged_file_is_said_to_be(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    refused(file, "the file is damaged: restore a backup")


def test_a_file_that_was_cut_off_is_said_to_be_damaged(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:8192])
    refused(file, "the file is damaged: restore a backup")


def test_a_schema_that_is_newer_than_the_code_is_refused(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = file.read_bytes()
    for use in USES[:2]:
        database = Database(f"sqlite:///{file}")
        with pytest.raises(DatabaseUnavailable, match="run the newer slurmbridge"):
            use(database)
        database.close()
    assert file.read_bytes() == before


def test_on_a_full_disk_nothing_is_half_written_and_later_all_goes_on(
    file: Path, unpaged: Callable[[Database, int], None]
) -> None:
    database = fresh_database(file.with_name("full.db"))
    store = ProcessStore(database)
    add(store, ONE)
    unpaged(database, 5)
    many = [process_id(number) for number in range(10, 200)]
    with pytest.raises(DatabaseUnavailable, match="the disk is full, and nothing was written"):
        add(store, *many)
    assert listed(store) == [ONE]
    assert claim(store) == [ONE]
    with pytest.raises(DatabaseUnavailable, match="the disk is full"):
        add(store, *many)
    unpaged(database, 1000)
    add(store, *many)
    assert len(claim(store, limit=1000)) == len(many)
    with database.read() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    database.close()


@pytest.mark.usefixtures("unprivileged")
def test_a_file_that_may_only_be_read_is_refused(file: Path) -> None:
    file.chmod(0o400)
    with pytest.raises(DatabaseUnavailable, match=r"test\.db cannot be opened: Permission denied"):
        Database(f"sqlite:///{file}")


@pytest.mark.usefixtures("unprivileged")
def test_a_folder_that_may_only_be_read_is_refused(file: Path) -> None:
    file.parent.chmod(0o500)
    try:
        refused(file, "the database cannot be used: the file cannot be (opened|written to)")
    finally:
        file.parent.chmod(0o700)


def test_a_file_that_sqlite_may_not_write_to_is_said_to_be(file: Path) -> None:
    database = Database(f"sqlite:///{file}")

    @event.listens_for(database.engine, "connect")
    def close_to_writers(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")

    assert ProcessStore(database).get(ONE).id == ONE
    with pytest.raises(DatabaseUnavailable, match="the file cannot be written to"):
        add(ProcessStore(database), THREE)
    database.close()


def test_a_table_that_is_missing_is_the_sites_to_mend(file: Path) -> None:
    database = Database(f"sqlite:///{file}")
    with database.write() as connection:
        connection.execute(text("DROP TABLE log_chunk"))
        connection.execute(text("DROP TABLE process_event"))
        connection.execute(text("DROP TABLE process"))
    with pytest.raises(DatabaseUnavailable, match="no such table: process"):
        ProcessStore(database).get(ONE)
    database.close()


def test_a_mistake_of_ours_stays_one(file: Path) -> None:
    database = Database(f"sqlite:///{file}")

    def twice(connection: Connection) -> None:
        connection.execute(text("INSERT INTO alembic_version SELECT * FROM alembic_version"))

    def too_many(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT ?", (1, 2))

    with pytest.raises(IntegrityError), database.write() as connection:
        twice(connection)
    with pytest.raises(ProgrammingError), database.write() as connection:
        too_many(connection)
    database.close()


@pytest.mark.parametrize(
    "url", ["", "slurmbridge.db", "mysql://host/x", "postgresql+psycopg2://host/x", "sqlite+x:///y"]
)
def test_what_is_no_url_of_a_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"database: neither sqlite:.* nor postgresql:"):
        Database(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:geheim@host/x",
        "postgresql+psycopg://me:geheim@host/x",
        "postgresql://me@host/x?password=geheim",
        "postgresql://me:@host/x",
    ],
)
def test_a_password_does_not_stand_in_the_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mode 600.*\?passfile=") as caught:
        Database(url)
    assert "geheim" not in str(caught.value)
