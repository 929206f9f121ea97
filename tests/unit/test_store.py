"""The database: schema, claims, moves, events, and that half of a transaction is nothing."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import SQLModel

from slurmbridge.errors import (
    DatabaseUnavailable,
    IllegalTransition,
    UnknownProcess,
)
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState, is_legal
from slurmbridge.store import (
    Change,
    ContextLedger,
    Database,
    ImageStore,
    LogStore,
    ProcessStore,
)
from slurmbridge.store.claims import LONGEST_WAIT
from tests.support.rows import (
    ONE,
    THREE,
    TWO,
    add,
    change,
    claim,
    enroll,
    listed,
    move,
    strike,
)
from tests.support.specs import START, process_id, spec

# --- schema ---

# What the first schema held of a Process that was being collected.
OLD_ROWS = (
    """INSERT INTO process (id, state, phase, spec, submitted_by, created_at, cancel_requested,
       job_name, outputs, outputs_ignored) VALUES ('old', 'RUNNING', 'COLLECTING',
       '{"image": "python", "command": ["true"], "resources": {"memory_mib": 256}}', 'tester',
       '2026-01-01 00:00:00', FALSE, 'sb-old', '[]', '[]')""",
    """INSERT INTO process_event (process_id, at, source, state, detail)
       VALUES ('old', '2026-01-01 00:00:00', 'api', 'QUEUED', 'accepted')""",
    """INSERT INTO log_chunk (process_id, stream, "offset", data)
       VALUES ('old', 'stdout', 0, CAST('hello' AS BLOB))""",
    """INSERT INTO image (sha256, name, definition_sha256, path, size_bytes, squashfs_offset,
       labels, built_at) VALUES ('a', 'python', 'b', '/a', 1, 1, '{}', '2026-01-01 00:00:00')""",
)


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def test_migrations_go_up_and_down_and_up_again(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    database.migrate()
    above = tables(database)
    assert set(SQLModel.metadata.tables) <= above
    database.downgrade("base")
    assert tables(database) == {"alembic_version"}
    database.migrate()
    assert tables(database) == above
    database.check_schema()
    database.close()


def test_no_row_is_lost_on_the_way_to_the_newest_schema_and_back(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    database.migrate("0001")
    with database.write() as connection:
        for statement in OLD_ROWS:
            connection.execute(text(statement))
    database.migrate()
    store = ProcessStore(database)
    process = store.get("old")
    assert (process.spec.limits.processes, process.attested) == (4096, None)
    assert store.attestation("old") is None
    [claimed] = store.claim(Phase.COLLECTING, runner="r", limit=1, now=START)
    assert claimed.sealing is None
    [image] = ImageStore(database).all()
    assert (image.environment, image.signed, image.revoked_at) == ({}, False, None)
    database.downgrade("0001")
    database.migrate()
    assert [event.detail for event in store.events("old")] == ["accepted"]
    assert LogStore(database).read("old", "stdout", offset=0, limit=9) == b"hello"
    database.close()


def test_migrating_twice_changes_nothing(database: Database, store: ProcessStore) -> None:
    add(store, ONE)
    database.migrate()
    assert store.get(ONE).id == ONE


def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_the_migrations_make_columns_of_the_kinds_that_the_models_say(database: Database) -> None:
    inspector = inspect(database.engine)
    for name, table in SQLModel.metadata.tables.items():
        made = {column["name"]: column["type"] for column in inspector.get_columns(name)}
        for column in table.columns:
            wanted = column.type.compile(database.engine.dialect)
            assert made[column.name].compile(database.engine.dialect) == wanted, column


def test_a_database_without_a_schema_is_refused_with_what_to_do() -> None:
    empty = Database("sqlite://")
    with pytest.raises(DatabaseUnavailable, match="slurmbridge config migrate"):
        empty.check_schema()
    empty.close()


def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"missing/test\.db cannot be opened: No such"):
        Database(f"sqlite:///{tmp_path}/missing/test.db")


def test_a_database_that_goes_away_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    database = Database(f"sqlite:///{tmp_path}/here/test.db")
    (tmp_path / "here/test.db").unlink()
    (tmp_path / "here").rmdir()
    with pytest.raises(DatabaseUnavailable):
        database.migrate()
    with pytest.raises(DatabaseUnavailable):
        ProcessStore(database).get(ONE)
    database.close()


def test_a_transaction_that_raises_leaves_nothing(database: Database, store: ProcessStore) -> None:
    add(store, ONE)
    with contextlib.suppress(RuntimeError), database.write() as connection:
        connection.execute(text("delete from process_event"))
        connection.execute(text("delete from process"))
        raise RuntimeError
    assert store.get(ONE).id == ONE
    assert len(store.events(ONE)) == 1


def test_a_file_keeps_what_was_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/test.db"
    first = Database(url)
    first.migrate()
    add(ProcessStore(first), ONE)
    first.close()
    second = Database(url)
    assert ProcessStore(second).get(ONE).submitted_by == "tester"
    second.close()


def test_several_runners_write_to_one_file_at_the_same_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/test.db"
    first = Database(url)
    first.migrate()
    ids = [process_id(number) for number in range(40)]
    add(ProcessStore(first), *ids)
    databases = [Database(url) for _ in range(4)]

    def work(number: int) -> list[str]:
        store = ProcessStore(databases[number])
        taken: list[str] = []
        while got := claim(store, f"r{number}", limit=3):
            taken += got
            assert not move(store, *(change(one) for one in got), runner=f"r{number}")
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [one for got in pool.map(work, range(4)) for one in got]
    assert sorted(taken) == ids
    for opened in [first, *databases]:
        opened.close()


# --- accept ---


def test_what_was_accepted_is_read_back_as_it_was(store: ProcessStore) -> None:
    wanted = spec(
        command=["a", "\n", "ü😀"],
        environment={"A": "'\""},
        labels={"x/y.z": "1"},
        inputs=[{"source": "data:a", "target": "b"}],
        resources={"memory_mib": 64},
    )
    store.add([(ONE, wanted)], by="tester", now=START)
    process = store.get(ONE)
    assert process.spec == wanted
    assert (process.state, process.job_name) == (ProcessState.QUEUED, f"sb-{ONE}")
    assert (process.created_at, process.outputs, process.cancel_requested) == (START, (), False)


def test_of_several_all_are_accepted_or_none(store: ProcessStore) -> None:
    add(store, TWO)
    with pytest.raises(SQLAlchemyError):
        add(store, ONE, TWO)
    with pytest.raises(UnknownProcess):
        store.get(ONE)
    assert listed(store) == [TWO]


def test_a_process_that_is_not_there_is_unknown_to_every_question(store: ProcessStore) -> None:
    for ask in (
        lambda: store.get(ONE),
        lambda: store.events(ONE),
        lambda: store.script(ONE),
        lambda: store.attestation(ONE),
        lambda: store.trace_report(ONE),
        lambda: store.request_cancel(ONE, by="x", now=START),
    ):
        with pytest.raises(UnknownProcess, match=ONE):
            ask()


# --- claims ---


def test_the_oldest_is_claimed_first_and_each_once(store: ProcessStore) -> None:
    add(store, TWO, now=START)
    add(store, ONE, now=START + timedelta(seconds=1))
    assert claim(store, limit=1) == [TWO]
    assert claim(store, "r2") == [ONE]
    assert claim(store, "r3") == []


def test_only_the_phase_that_is_asked_for_is_claimed(store: ProcessStore) -> None:
    add(store, ONE)
    for phase in set(Phase) - {Phase.ACCEPTED}:
        assert claim(store, phase=phase) == []


def test_what_a_dead_runner_held_is_taken_over_and_it_has_lost_it(store: ProcessStore) -> None:
    add(store, ONE)
    assert claim(store, "r1") == [ONE]
    assert claim(store, "r2", now=START + timedelta(days=400)) == []
    strike(store, "r1")
    assert not store.holds(ONE, runner="r1")
    assert move(store, change(ONE), runner="r1") == {ONE}
    assert claim(store, "r2") == [ONE]
    assert move(store, change(ONE), runner="r1") == {ONE}
    assert move(store, change(ONE), runner="r2") == frozenset()


def test_a_runner_that_was_struck_off_writes_nothing_even_when_it_comes_back_by_its_name(
    store: ProcessStore,
) -> None:
    add(store, ONE)
    claim(store, "r1")
    strike(store, "r1")
    assert claim(store, "r2") == [ONE]
    enroll(store, "r1")
    assert move(store, change(ONE), runner="r1") == {ONE}
    assert store.holds(ONE, runner="r2")


def test_what_shall_wait_is_not_claimed_before_its_time(store: ProcessStore) -> None:
    add(store, ONE)
    later = START + timedelta(seconds=30)
    move(store, change(ONE, after=ProcessState.QUEUED, phase=Phase.ACCEPTED, not_before=later))
    assert claim(store, now=later - timedelta(seconds=1)) == []
    assert claim(store, now=later) == [ONE]


def test_a_claim_tells_what_is_needed_to_act(store: ProcessStore) -> None:
    add(store, ONE)
    [claimed] = store.claim(Phase.ACCEPTED, runner="r1", limit=1, now=START)
    assert (claimed.id, claimed.state, claimed.phase) == (ONE, ProcessState.QUEUED, Phase.ACCEPTED)
    assert claimed.spec == spec()
    assert (claimed.job_id, claimed.intended_at, claimed.cancel_requested) == (None, None, False)
    assert (claimed.reason, claimed.ended_at, claimed.missing_since) == (None, None, None)


def test_what_a_runner_let_go_is_free_at_once_and_the_rest_is_not(store: ProcessStore) -> None:
    add(store, ONE, TWO)
    assert claim(store, "r1") == [ONE, TWO]
    store.let_go([TWO, THREE], runner="r1")
    assert store.holds(ONE, runner="r1")
    assert not store.holds(TWO, runner="r1")
    assert claim(store, "r2") == [TWO]
    store.let_go([TWO], runner="r1")
    assert store.holds(TWO, runner="r2")


def test_a_runner_that_works_on_nothing_lets_everything_go(store: ProcessStore) -> None:
    add(store, ONE, TWO, THREE)
    assert claim(store, "r1", limit=2) == [ONE, TWO]
    assert claim(store, "r2") == [THREE]
    store.let_go_all(runner="r1")
    assert claim(store, "r3") == [ONE, TWO]
    assert store.holds(THREE, runner="r2")


def test_a_database_that_is_away_does_not_keep_a_runner_from_going_on(
    store: ProcessStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, ONE)
    claim(store, "r1")
    works = Database.write

    def away(_: Database) -> NoReturn:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(Database, "write", away)
    store.let_go([ONE], runner="r1")
    monkeypatch.setattr(Database, "write", works)
    assert claim(store, "r2") == []
    store.let_go_all(runner="r1")
    assert claim(store, "r2") == [ONE]


def test_a_moment_that_is_too_far_off_to_be_meant_keeps_nothing_waiting(
    store: ProcessStore,
) -> None:
    add(store, ONE, TWO)
    for one, wait in ((ONE, LONGEST_WAIT), (TWO, LONGEST_WAIT + timedelta(seconds=1))):
        later = START + wait
        move(store, change(one, after=ProcessState.QUEUED, phase=Phase.ACCEPTED, not_before=later))
    assert claim(store) == [TWO]


def test_only_the_holder_holds(store: ProcessStore) -> None:
    add(store, ONE)
    assert not store.holds(ONE, runner="r1")
    claim(store, "r1")
    assert store.holds(ONE, runner="r1")
    assert not store.holds(ONE, runner="r2")
    assert not store.holds(TWO, runner="r1")


# --- moves ---


def test_a_move_writes_state_phase_values_and_one_event(store: ProcessStore) -> None:
    add(store, ONE)
    assert move(store, change(ONE, job_id=7, nodes="n1")) == frozenset()
    process = store.get(ONE)
    assert (process.state, process.job_id, process.nodes) == (ProcessState.RUNNING, 7, "n1")
    assert [event.detail for event in store.events(ONE)] == [
        "accepted from tester",
        "QUEUED to RUNNING",
    ]
    assert [entry.id for entry in store.observed()] == [ONE]


def test_a_lost_move_writes_nothing_not_even_an_event(store: ProcessStore) -> None:
    add(store, ONE)
    lost = change(ONE, ProcessState.INITIALIZING, ProcessState.RUNNING, job_id=7)
    assert move(store, lost) == {ONE}
    assert (store.get(ONE).state, store.get(ONE).job_id) == (ProcessState.QUEUED, None)
    assert len(store.events(ONE)) == 1


@pytest.mark.parametrize("was", sorted(set(Phase) - {Phase.SUBMITTED}))
def test_a_move_from_another_phase_is_lost(store: ProcessStore, was: Phase) -> None:
    add(store, ONE)
    move(store, change(ONE))
    stale = change(
        ONE, ProcessState.RUNNING, ProcessState.RUNNING, Phase.COLLECTING, was=was, job_id=7
    )
    assert move(store, stale) == {ONE}
    assert (store.get(ONE).job_id, len(store.events(ONE))) == (None, 2)
    assert [entry.id for entry in store.observed()] == [ONE]


def test_a_move_by_nobody_in_particular_leaves_a_claim_as_it_is(store: ProcessStore) -> None:
    add(store, ONE)
    claim(store, "r1")
    same = (ProcessState.QUEUED, ProcessState.QUEUED, Phase.ACCEPTED)
    assert not move(store, change(ONE, *same))
    assert store.holds(ONE, runner="r1")
    assert claim(store, "r2") == []
    assert not move(store, change(ONE, *same), runner="r1")


def test_one_lost_move_does_not_keep_back_the_others(store: ProcessStore) -> None:
    add(store, ONE, TWO, THREE)
    move(store, change(TWO, after=ProcessState.UNKNOWN))
    lost = move(store, change(ONE), change(TWO), change(THREE, job_id=3))
    assert lost == {TWO}
    assert [store.get(one).state for one in (ONE, TWO, THREE)] == [
        ProcessState.RUNNING,
        ProcessState.UNKNOWN,
        ProcessState.RUNNING,
    ]
    assert [len(store.events(one)) for one in (ONE, TWO, THREE)] == [2, 2, 2]


def test_a_move_by_a_runner_that_does_not_hold_the_process_is_lost(store: ProcessStore) -> None:
    add(store, ONE)
    assert move(store, change(ONE), runner="r1") == {ONE}
    claim(store, "r2")
    assert move(store, change(ONE), runner="r1") == {ONE}
    assert store.get(ONE).state is ProcessState.QUEUED


def test_a_hold_ends_with_a_move_unless_it_is_kept(store: ProcessStore) -> None:
    add(store, ONE)
    claim(store, "r1")
    same = change(ONE, ProcessState.QUEUED, ProcessState.QUEUED, Phase.ACCEPTED)
    assert not move(store, replace(same, keep=True), runner="r1")
    assert claim(store, "r2") == []
    assert not move(store, same, runner="r1")
    assert claim(store, "r2") == [ONE]


def test_changes_with_different_values_go_together(store: ProcessStore) -> None:
    add(store, ONE, TWO, THREE)
    changes = [change(ONE, job_id=1), change(TWO, nodes="n2"), change(THREE, job_id=3, nodes="n3")]
    assert move(store, *changes) == frozenset()
    found = [(store.get(one).job_id, store.get(one).nodes) for one in (ONE, TWO, THREE)]
    assert found == [(1, None), (None, "n2"), (3, "n3")]


def test_no_changes_need_no_transaction(database: Database, store: ProcessStore) -> None:
    database.close()
    assert move(store) == frozenset()


@pytest.mark.parametrize("before", ProcessState)
def test_a_move_is_written_exactly_when_it_is_legal(
    store: ProcessStore, before: ProcessState
) -> None:
    for number, after in enumerate(ProcessState):
        one = process_id(number)
        add(store, one)
        move(store, change(one, after=before))
        events = len(store.events(one))
        if before is after or is_legal(before, after):
            assert not move(store, change(one, before, after, was=Phase.SUBMITTED))
            assert store.get(one).state is after
            continue
        with pytest.raises(IllegalTransition):
            move(store, change(one, before, after, was=Phase.SUBMITTED))
        assert store.get(one).state is before
        assert len(store.events(one)) == events


@pytest.mark.parametrize("final", sorted(FINAL_STATES))
def test_what_has_ended_is_moved_by_nobody(store: ProcessStore, final: ProcessState) -> None:
    add(store, ONE)
    move(store, change(ONE, after=final, phase=Phase.DONE))
    for before in set(ProcessState) - FINAL_STATES:
        assert move(store, change(ONE, before, before, was=Phase.DONE)) == {ONE}
    for phase in Phase:
        if phase is not Phase.DONE:
            assert claim(store, phase=phase) == []
    assert ContextLedger(store._database).due([ONE, TWO], now=START) == [ONE]


def test_events_are_told_in_the_order_in_which_they_were_written(store: ProcessStore) -> None:
    add(store, ONE, TWO)
    for number in range(5):
        now = START - timedelta(seconds=number)  # a clock that is set back changes no order
        same = Change(
            ONE,
            ProcessState.QUEUED,
            ProcessState.QUEUED,
            Phase.ACCEPTED,
            Phase.ACCEPTED,
            "test",
            str(number),
        )
        store.apply([same], runner=None, now=now)
    assert [event.detail for event in store.events(ONE)][1:] == ["0", "1", "2", "3", "4"]
    assert len(store.events(TWO)) == 1


def test_values_can_be_noted_without_an_event_and_by_the_holder_alone(store: ProcessStore) -> None:
    add(store, ONE, TWO)
    claim(store, "r1", limit=1)
    store.note([ONE, TWO], {"reason": "x"}, runner="r1")
    assert (store.get(ONE).reason, store.get(TWO).reason) == ("x", None)
    store.note([TWO], {"reason": "y"})
    assert store.get(TWO).reason == "y"
    assert len(store.events(ONE)) == 1
