"""Many at once on one database: no row is taken twice, no limit passed, no count lost."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import pytest
from sqlalchemy import select, text

from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.store import Database, Limits, ProcessStore, Roster, TokenStore
from slurmbridge.store.moves import PROCESS
from tests.contract.conftest import Open
from tests.support.postgresql import Databases
from tests.support.rows import ONE, TWO, add, change, claim, enroll, move
from tests.support.specs import START, process_id

T = TypeVar("T")
MANY = 8
IDS = [process_id(number) for number in range(120)]


@pytest.fixture
def stores(databases: Databases, opened: Open) -> list[ProcessStore]:
    """The same Processes, as several hosts see them."""
    url = databases.migrated()
    return [ProcessStore(opened(url)) for _ in range(MANY)]


def at_once(do: Callable[[int], T], times: int = MANY) -> list[T]:
    """Do it in as many threads, which begin together."""
    ready = threading.Barrier(times)

    def work(number: int) -> T:
        ready.wait(10)
        return do(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(work, range(times)))


def take_all(store: ProcessStore, runner: str) -> list[str]:
    taken: list[str] = []
    while got := claim(store, runner, limit=3):
        taken += got
    return taken


def take_all_of(arguments: tuple[str, str]) -> list[str]:
    """In a process of its own."""
    url, runner = arguments
    database = Database(url)
    try:
        return take_all(ProcessStore(database), runner)
    finally:
        database.close()


def test_no_process_is_taken_twice(stores: list[ProcessStore]) -> None:
    add(stores[0], *IDS)
    taken = at_once(lambda number: take_all(stores[number], f"r{number}"))
    assert sorted(one for got in taken for one in got) == IDS
    for number, got in enumerate(taken):
        assert all(stores[0].holds(one, runner=f"r{number}") for one in got)


def test_no_process_is_taken_twice_by_programs(lent: Databases, opened: Open) -> None:
    url = lent.migrated()
    store = ProcessStore(opened(url))
    add(store, *IDS)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        taken = list(pool.map(take_all_of, [(url, f"r{number}") for number in range(2)]))
    assert sorted(one for got in taken for one in got) == IDS


def test_the_same_processes_are_moved_once(stores: list[ProcessStore]) -> None:
    add(stores[0], *IDS[:20])
    changes = [change(one) for one in IDS[:20]]

    def work(number: int) -> int:
        order = changes if number % 2 else changes[::-1]
        return len(changes) - len(move(stores[number], *order[number:], *order[:number]))

    assert sum(at_once(work)) == len(changes)
    assert all(len(stores[0].events(one)) == 2 for one in IDS[:20])


def test_a_limit_is_never_passed(stores: list[ProcessStore]) -> None:
    limits = Limits(cluster=7, account=4)
    for number, one in enumerate(IDS[:40]):
        add(stores[0], one, account=("research", "teaching")[number % 2])
    held: list[int] = []

    def work(number: int) -> list[str]:
        store, runner = stores[number], f"r{number}"
        enroll(store, runner)
        taken: list[str] = []
        for _ in range(6):
            got = store.claim(Phase.ACCEPTED, runner=runner, limit=3, now=START, limits=limits)
            with store._database.read() as connection:
                busy = select(PROCESS.c.id).where(PROCESS.c.claimed_by.is_not(None))
                held.append(len(connection.execute(busy).all()))
            for entry in got:
                taken.append(entry.id)
                done = change(entry.id, after=ProcessState.CANCELED, phase=Phase.DONE)
                assert not move(store, done, runner=runner)
        return taken

    taken = [one for got in at_once(work) for one in got]
    assert len(taken) == len(set(taken))
    assert max(held) <= 7


def test_what_is_canceled_is_not_moved_on_and_what_is_moved_on_is_told(
    stores: list[ProcessStore],
) -> None:
    add(stores[0], *IDS[:40])

    def cancel() -> set[str]:
        for one in reversed(IDS[:40]):
            stores[0].request_cancel(one, by="alice", now=START)
        return set()

    def run() -> set[str]:
        moved: set[str] = set()
        while ids := claim(stores[1], "r1", limit=2):
            moved |= set(ids) - move(stores[1], *(change(one) for one in ids), runner="r1")
        return moved

    moved = set().union(*at_once(lambda number: (cancel, run)[number](), 2))
    for one in IDS[:40]:
        process = stores[0].get(one)
        assert process.cancel_requested
        wanted = ProcessState.RUNNING if one in moved else ProcessState.CANCELED
        assert process.state is wanted


def test_of_those_that_cancel_at_once_none_is_refused(stores: list[ProcessStore]) -> None:
    add(stores[0], ONE)
    found = at_once(lambda number: stores[number].request_cancel(ONE, by=f"{number}", now=START))
    assert {process.state for process in found} == {ProcessState.CANCELED}
    assert len(stores[0].events(ONE)) == 2


def test_a_role_has_one_holder(stores: list[ProcessStore]) -> None:
    rosters = [Roster(store._database) for store in stores]
    for number, store in enumerate(stores):
        enroll(store, f"r{number}")
    for turn in range(5):

        def take(number: int, role: str = f"observe {turn}") -> bool:
            return rosters[number].take_role(role, f"r{number}")

        assert at_once(take).count(True) == 1


def test_one_who_waited_for_a_row_does_not_take_another_from_who_entered_meanwhile(
    lent: Databases, opened: Open
) -> None:
    slow, quick, other = (ProcessStore(opened(url)) for url in [lent.migrated()] * 3)
    add(slow, ONE, now=START + timedelta(seconds=1))
    add(slow, TWO)
    enroll(slow, "slow")
    with ThreadPoolExecutor(1) as pool:
        with other._database.write() as connection:
            connection.execute(select(PROCESS.c.id).where(PROCESS.c.id == ONE).with_for_update())
            waiting = pool.submit(claim, slow, "slow")
            time.sleep(0.3)
            taken = claim(quick, "quick", limit=1)
        got = waiting.result(10)
    assert not set(taken) & set(got)
    assert all(quick.holds(one, runner="quick") for one in taken)


def test_a_token_that_is_made_anew_by_several_ends_as_one(stores: list[ProcessStore]) -> None:
    tokens = [TokenStore(store._database) for store in stores]
    for turn in range(5):

        def make(number: int, turn: int = turn) -> None:
            tokens[number].add("a", f"{turn} {number}", now=START)

        at_once(make)
    assert [name for name, *_ in tokens[0].all()] == ["a"]


def test_no_call_is_lost_in_the_count(stores: list[ProcessStore]) -> None:
    def count(number: int) -> None:
        kinds = ("report", "submit", "cancel")
        kinds = kinds if number % 2 else kinds[::-1]
        for _ in range(10):
            Roster(stores[number]._database).count_calls("c", {kind: (2, 1) for kind in kinds})

    at_once(count)
    total = (2 * 10 * MANY, 10 * MANY)
    found = Roster(stores[0]._database).calls()
    assert found == {"c": {"report": total, "submit": total, "cancel": total}}


def test_a_lock_is_one_transactions_and_other_names_are_free(lent: Databases, opened: Open) -> None:
    one, other = (opened(url) for url in [lent.migrated()] * 2)
    with ThreadPoolExecutor(1) as pool:

        def wait() -> str:
            with other.write() as connection:
                other.lock(connection, "admission")
                return str(connection.execute(text("SELECT max(name) FROM role")).scalar_one())

        with one.write() as connection:
            one.lock(connection, "admission")
            one.lock(connection, "admission")
            with other.write() as free:
                other.lock(free, "something else")
            waiting = pool.submit(wait)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
            connection.execute(text("INSERT INTO role VALUES ('a', 'b')"))
        # Whoever waited sees what was done meanwhile.
        assert waiting.result(10) == "a"
