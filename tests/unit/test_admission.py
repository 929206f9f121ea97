"""How many Processes may be in progress: counted anew each time, shared fairly."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.store import Limits, ProcessStore
from slurmbridge.store.claims import InProgress, Waiting, admit
from tests.support.rows import ONE, THREE, TWO, add, change, enroll, move
from tests.support.specs import START, process_id

NAMES = st.sampled_from(["a", "b", "c"])
WAITING = st.lists(st.tuples(NAMES, NAMES), max_size=30)
LIMIT = st.none() | st.integers(min_value=0, max_value=5)
NOTHING = InProgress(0, {}, {})


@given(waiting=WAITING, cluster=LIMIT, account=LIMIT, partition=LIMIT, most=st.integers(0, 40))
def test_no_limit_is_passed_and_nothing_waits_for_which_there_is_room(
    waiting: list[tuple[str, str]],
    cluster: int | None,
    account: int | None,
    partition: int | None,
    most: int,
) -> None:
    limits = Limits(cluster, account, partition)
    entries = [Waiting(str(number), *names) for number, names in enumerate(waiting)]
    taken = admit(entries, NOTHING, limits, most=most)
    assert taken == sorted(taken, key=int)
    accounts = Counter(entries[int(one)].account for one in taken)
    partitions = Counter(entries[int(one)].partition for one in taken)
    unlimited = len(entries) + 1
    assert len(taken) <= min(most, unlimited if cluster is None else cluster)
    assert all(count <= (account or 0) for count in accounts.values()) or account is None
    assert all(count <= (partition or 0) for count in partitions.values()) or partition is None
    if len(taken) == most or len(taken) == cluster:
        return
    for entry in entries:
        if entry.id not in taken:
            full_account = account is not None and accounts[entry.account] >= account
            full_partition = partition is not None and partitions[entry.partition] >= partition
            assert full_account or full_partition


def claim(store: ProcessStore, limits: Limits, **changes: Any) -> list[str]:
    enroll(store, "r1")
    arguments: dict[str, Any] = {"runner": "r1", "limit": 10, "now": START, "limits": limits}
    return [entry.id for entry in store.claim(Phase.ACCEPTED, **{**arguments, **changes})]


def submitted(store: ProcessStore, one: str) -> None:
    move(store, change(one, after=ProcessState.QUEUED))


def test_what_was_submitted_counts_until_it_was_collected(store: ProcessStore) -> None:
    add(store, ONE, TWO)
    submitted(store, ONE)
    limits = Limits(cluster=1)
    assert claim(store, limits) == []
    collecting = (ProcessState.QUEUED, ProcessState.QUEUED, Phase.COLLECTING)
    move(store, change(ONE, *collecting, was=Phase.SUBMITTED))
    assert claim(store, limits) == []
    done = (ProcessState.QUEUED, ProcessState.COMPLETE, Phase.DONE)
    move(store, change(ONE, *done, was=Phase.COLLECTING))
    assert claim(store, limits) == [TWO]


def test_what_another_has_taken_counts_and_what_a_dead_one_had_does_not(
    store: ProcessStore,
) -> None:
    add(store, ONE, TWO)
    limits = Limits(cluster=1)
    assert claim(store, limits) == [ONE]
    assert claim(store, limits) == []
    store.let_go([ONE], runner="r1")
    assert claim(store, limits) == [ONE]


def test_a_project_whose_share_is_used_up_hides_no_other(store: ProcessStore) -> None:
    for number in range(1, 60):
        add(store, process_id(number), account="research")
    add(store, process_id(60), account="teaching")
    submitted(store, process_id(1))
    assert claim(store, Limits(account=1), limit=5) == [process_id(60)]


@pytest.mark.parametrize("field", ["account", "partition"])
def test_each_account_and_partition_has_its_own_share(store: ProcessStore, field: str) -> None:
    name = {"account": "research", "partition": "short"}[field]
    add(store, ONE, TWO)
    changes: dict[str, Any] = {field: name}
    add(store, THREE, **changes)
    assert claim(store, Limits(**{field: 1})) == [ONE, THREE]


def test_another_cluster_has_room_of_its_own(store: ProcessStore, database: Any) -> None:
    other = ProcessStore(database, "other")
    add(store, ONE)
    add(other, TWO)
    assert claim(store, Limits(cluster=1)) == [ONE]
    assert claim(other, Limits(cluster=1)) == [TWO]
