"""Rows of Processes, as the tests of the database add, claim and move them."""

from datetime import datetime
from typing import Any

from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.store import Change, ProcessStore, Roster, RunnerStatus
from tests.support.specs import START, process_id, spec

ONE, TWO, THREE = process_id(1), process_id(2), process_id(3)


def add(store: ProcessStore, *ids: str, now: datetime = START, **changes: Any) -> None:
    """Accept Processes."""
    store.add([(one, spec(**changes)) for one in ids], by="tester", now=now)


def change(
    wanted: str,
    before: ProcessState = ProcessState.QUEUED,
    after: ProcessState = ProcessState.RUNNING,
    phase: Phase = Phase.SUBMITTED,
    *,
    was: Phase = Phase.ACCEPTED,
    **values: Any,
) -> Change:
    """A move, of one state to another."""
    return Change(wanted, before, after, was, phase, "test", f"{before} to {after}", values)


def move(store: ProcessStore, *changes: Change, runner: str | None = None) -> frozenset[str]:
    """Carry out moves; those that were lost."""
    return store.apply(changes, runner=runner, now=START)


def enroll(store: ProcessStore, runner: str) -> None:
    """Let a Runner be on the roster."""
    roster = Roster(store._database)
    if runner not in roster.beats():
        roster.enter(RunnerStatus(runner, "host", "fake", START, None))


def strike(store: ProcessStore, runner: str) -> None:
    """Take a Runner for dead."""
    roster = Roster(store._database)
    assert roster.strike(runner, roster.beats()[runner])


def claim(
    store: ProcessStore,
    runner: str = "r1",
    *,
    phase: Phase = Phase.ACCEPTED,
    limit: int = 10,
    now: datetime = START,
) -> list[str]:
    """Claim; the ids that were got."""
    enroll(store, runner)
    claimed = store.claim(phase, runner=runner, limit=limit, now=now)
    return [entry.id for entry in claimed]


def listed(store: ProcessStore, **question: Any) -> list[str]:
    """The ids on a page."""
    return [process.id for process in store.page(**{"limit": 100, **question})]
