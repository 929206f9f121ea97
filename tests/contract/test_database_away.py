"""PostgreSQL that breaks off, restarts, refuses or takes too long: nothing is half done."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError

from slurmbridge.errors import DatabaseUnavailable
from slurmbridge.lifecycle import Phase
from slurmbridge.store import Database, Idempotency, ProcessStore
from tests.contract.conftest import Open
from tests.support.cluster import until
from tests.support.postgresql import Databases, Server, name_of
from tests.support.proxy import Proxy, proxy
from tests.support.rows import ONE, TWO, add, change, claim, enroll, listed, move
from tests.support.specs import START, spec

# Not that of ISOLATION LEVEL READ COMMITTED.
COMMIT = b"COMMIT\0"


@pytest.fixture
def url(lent: Databases) -> str:
    return lent.migrated()


@pytest.fixture
def database(url: str, opened: Open) -> Database:
    return opened(url)


@pytest.fixture
def between(server: Server) -> Iterator[Proxy]:
    with proxy(server.address) as found:
        yield found


@pytest.fixture
def far(url: str, server: Server, between: Proxy, opened: Open) -> ProcessStore:
    """The same database, through a way that breaks."""
    found = ProcessStore(opened(server.url(name_of(url), between.address)))
    # The first connection of all begins with questions of the driver's own, and COMMITs them.
    assert listed(found) == []
    return found


def delete_all(database: Database, midway: Callable[[], object]) -> None:
    with database.write() as connection:
        connection.execute(text("DELETE FROM process_event"))
        midway()
        connection.execute(text("DELETE FROM process"))


def asking(url: str, setting: str) -> str:
    return f"{url}&options=-c%20{setting.replace('=', '%3D')}"


# --- connections that end ---


def test_what_was_being_written_when_the_connection_broke_is_not_written(
    store: ProcessStore, database: Database, server: Server, url: str
) -> None:
    add(store, ONE)
    with pytest.raises(DatabaseUnavailable, match=r"does not answer: .*terminat") as caught:
        delete_all(database, lambda: server.hang_up(url))
    assert "\n" not in str(caught.value)
    assert caught.value.transient
    assert (listed(store), len(store.events(ONE))) == ([ONE], 1)


def test_a_connection_that_broke_while_it_was_not_used_is_not_noticed(
    store: ProcessStore, server: Server, url: str
) -> None:
    add(store, ONE)
    assert server.hang_up(url) == 1
    assert listed(store) == [ONE]
    assert server.hang_up(url) == 1
    add(store, TWO)


def test_a_restart_is_survived_by_who_waits_and_nothing_is_lost(
    store: ProcessStore, server: Server, database: Database
) -> None:
    add(store, ONE)
    with pytest.raises(DatabaseUnavailable):
        delete_all(database, server.restart)

    def answers() -> bool:
        try:
            return listed(store) == [ONE]
        except DatabaseUnavailable:
            return False

    until("database", answers, seconds=20)
    assert len(store.events(ONE)) == 1
    assert claim(store) == [ONE]


def test_where_nobody_listens_and_what_does_not_exist_is_unavailable(
    server: Server, opened: Open
) -> None:
    nobody = opened(server.url("postgres", "127.0.0.1:1"))
    with pytest.raises(DatabaseUnavailable, match="refused") as caught:
        nobody.check_schema()
    assert "\n" not in str(caught.value)
    for use in (Database.check_schema, Database.migrate):
        with pytest.raises(DatabaseUnavailable, match='database "tests_none" does not exist'):
            use(opened(server.url("tests_none")))


def test_a_password_that_is_wrong_or_missing_is_said_to_be(
    server: Server, opened: Open, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("*:*:*:tests:geheim\n")
    address = f"postgresql://tests@{server.address}/postgres?passfile="
    for passfile, words in ((wrong, "authentication failed"), (tmp_path / "none", "no password")):
        with pytest.raises(DatabaseUnavailable, match=words) as caught:
            opened(f"{address}{passfile}").check_schema()
        assert "geheim" not in str(caught.value)


# --- whether it was committed ---


def test_a_commit_whose_answer_was_lost_is_in_doubt_and_can_be_asked_for_again(
    far: ProcessStore, store: ProcessStore, between: Proxy
) -> None:
    key = Idempotency("k", "0" * 64)
    between.word = COMMIT
    with pytest.raises(DatabaseUnavailable):
        far.add([(ONE, spec())], by="tester", now=START, idempotency=key)
    until("commit", lambda: listed(store) == [ONE])
    between.word = None
    far.add([(TWO, spec())], by="tester", now=START, idempotency=key)
    assert far.accepted_as(key, by="tester") == ONE
    assert listed(store) == [ONE]


def test_a_commit_that_never_arrived_has_done_nothing(
    far: ProcessStore, store: ProcessStore, between: Proxy
) -> None:
    between.word, between.delivers = COMMIT, False
    with pytest.raises(DatabaseUnavailable):
        add(far, ONE)
    between.word = None
    assert listed(far) == []
    add(far, ONE)
    assert listed(store) == [ONE]


def test_a_claim_whose_answer_was_lost_is_let_go_of(
    far: ProcessStore, store: ProcessStore, between: Proxy
) -> None:
    add(store, ONE)
    enroll(store, "r1")
    # It looks first, and a COMMIT ends that, too.
    between.word, between.skips = COMMIT, 1
    with pytest.raises(DatabaseUnavailable):
        far.claim(Phase.ACCEPTED, runner="r1", limit=1, now=START)
    until("commit", lambda: store.holds(ONE, runner="r1"))
    between.word = None
    far.let_go_all(runner="r1")
    assert claim(store, "r2") == [ONE]


def test_a_move_whose_answer_was_lost_is_lost_when_it_is_made_again(
    far: ProcessStore, store: ProcessStore, between: Proxy
) -> None:
    add(store, ONE)
    between.word = COMMIT
    with pytest.raises(DatabaseUnavailable):
        move(far, change(ONE, job_id=7))
    until("commit", lambda: store.get(ONE).job_id == 7)
    between.word = None
    assert move(far, change(ONE, job_id=8)) == {ONE}
    assert (store.get(ONE).job_id, len(store.events(ONE))) == (7, 2)


# --- transactions that get in each other's way ---


def reason(connection: Connection, one: str, text_: str) -> None:
    statement = text("UPDATE process SET reason = :reason WHERE id = :id")
    connection.execute(statement, {"reason": text_, "id": one})


def test_of_two_that_wait_for_each_other_one_is_told_and_has_written_nothing(
    store: ProcessStore, database: Database
) -> None:
    add(store, ONE, TWO)
    both = Barrier(2)

    def write(first: str, second: str) -> str | None:
        try:
            with database.write() as connection:
                reason(connection, first, first)
                both.wait(10)
                reason(connection, second, first)
        except DatabaseUnavailable as error:
            return str(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(write, (ONE, TWO), (TWO, ONE)))
    assert said.count(None) == 1
    won = (ONE, TWO)[said.index(None)]
    assert "deadlock" in str(said)
    assert [store.get(one).reason for one in (ONE, TWO)] == [won, won]


def test_a_serialization_failure_is_unavailable_and_writes_nothing(
    store: ProcessStore, database: Database
) -> None:
    add(store, ONE, TWO)

    def write() -> None:
        with database.write() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            reason(connection, TWO, "first")
            store.note([ONE], {"reason": "other"})
            reason(connection, ONE, "first")

    with pytest.raises(DatabaseUnavailable, match="serialize"):
        write()
    assert [store.get(one).reason for one in (ONE, TWO)] == ["other", None]


def test_a_server_that_asks_for_serializable_gets_read_committed(url: str, opened: Open) -> None:
    database = opened(asking(url, "default_transaction_isolation=serializable"))
    with database.write() as connection:
        level = connection.execute(text("SHOW transaction_isolation")).scalar_one()
    assert level == "read committed"


@pytest.mark.parametrize(
    ("setting", "words"),
    [("lock_timeout=100ms", "lock timeout"), ("statement_timeout=100ms", "statement timeout")],
)
def test_who_waits_too_long_is_told(
    store: ProcessStore, url: str, opened: Open, setting: str, words: str
) -> None:
    add(store, ONE)
    impatient = ProcessStore(opened(asking(url, setting)))
    with store._database.write() as connection:
        reason(connection, ONE, "held")
        with pytest.raises(DatabaseUnavailable, match=words):
            impatient.note([ONE], {"reason": "other"})
    assert store.get(ONE).reason == "held"


def test_who_freezes_in_the_midst_of_a_transaction_keeps_nobody_waiting_for_ever(
    store: ProcessStore, url: str, opened: Open
) -> None:
    add(store, ONE)
    frozen = opened(asking(url, "idle_in_transaction_session_timeout=100ms"))

    def freeze() -> None:
        with frozen.write() as connection:
            frozen.lock(connection, "admission")
            reason(connection, ONE, "frozen")
            with store._database.write() as other:
                store._database.lock(other, "admission")
                reason(other, ONE, "other")
            reason(connection, ONE, "frozen")

    with pytest.raises(DatabaseUnavailable, match="idle"):
        freeze()
    assert store.get(ONE).reason == "other"


def test_connections_have_the_limits_that_are_meant(database: Database) -> None:
    wanted = {
        "application_name": "slurmbridge",
        "statement_timeout": "30s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "30s",
        "client_encoding": "UTF8",
    }
    with database.read() as connection:
        found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in wanted}
        driver = connection.connection.driver_connection
    assert found == wanted
    assert isinstance(driver, psycopg.Connection)
    assert driver.prepare_threshold is None


def test_more_than_there_are_connections_for_are_told(
    url: str, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    monkeypatch.setattr("slurmbridge.store.database.BUSY_SECONDS", 0.1)
    database = opened(url)
    with ExitStack() as held:
        for _ in range(15):
            held.enter_context(database.read())
        with pytest.raises(DatabaseUnavailable, match="all connections to the database are in use"):
            database.check_schema()
    database.check_schema()


# --- what the site has to mend ---


def test_a_server_that_only_reads_is_unavailable_to_writers(url: str, opened: Open) -> None:
    standby = opened(asking(url, "default_transaction_read_only=on"))
    standby.check_schema()
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        add(ProcessStore(standby), ONE)


def test_without_a_schema_or_a_right_it_is_said_which(lent: Databases, opened: Open) -> None:
    database = opened(lent.bare())
    with pytest.raises(DatabaseUnavailable, match=r"schema none, .* `slurmbridge config migrate`"):
        database.check_schema()
    with pytest.raises(DatabaseUnavailable, match='relation "process" does not exist'):
        ProcessStore(database).get(ONE)
    database.migrate()
    with database.write() as connection:
        connection.execute(text("REVOKE SELECT ON process FROM tests"))
    with pytest.raises(DatabaseUnavailable, match="permission denied for table process"):
        ProcessStore(database).get(ONE)


def test_what_a_column_cannot_hold_stays_a_mistake_of_ours(store: ProcessStore) -> None:
    add(store, ONE)
    with pytest.raises(DataError):
        store.note([ONE], {"reason": "\0"})
    assert store.get(ONE).reason is None
