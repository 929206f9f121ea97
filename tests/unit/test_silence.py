"""Slurm or its accounting is silent, or a job is not there: nothing ends before that is proven."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slurmbridge.errors import SchedulerUnavailable
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.lifecycle import SlurmStatus as Status
from slurmbridge.scheduler import JobReport
from slurmbridge.store import Roster
from tests.support.builders import (
    ABSENCE,
    RETRY,
    Bridge,
    crash_before_record,
    crash_before_submission,
    end,
)
from tests.support.specs import START

SECOND = timedelta(seconds=1)


# --- silence ---


def test_while_slurm_is_silent_a_process_waits_and_nothing_is_lost(bridge: Bridge) -> None:
    ids = [bridge.submit() for _ in range(3)]
    bridge.slurm.silent = True
    for _ in range(3):
        bridge.verbs.dispatcher.dispatch()
        with pytest.raises(SchedulerUnavailable):
            bridge.look()
        assert {bridge.state(one) for one in ids} == {ProcessState.QUEUED}
        bridge.advance(RETRY)
    bridge.slurm.silent = False
    bridge.verbs.dispatcher.dispatch()
    assert [len(bridge.jobs_of(one)) for one in ids] == [1, 1, 1]


def test_while_slurm_is_silent_the_batches_behind_are_not_tried(bridge: Bridge) -> None:
    ids = [bridge.submit() for _ in range(10)]
    bridge.slurm.silent = True
    bridge.new_verbs("runner-1", batch=2).dispatcher.dispatch()
    assert bridge.slurm.calls.count("submit") == 1
    assert {bridge.state(one) for one in ids} == {ProcessState.QUEUED}


def test_a_silence_ends_no_running_process(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.silent = True
    bridge.advance(10 * ABSENCE)
    with pytest.raises(SchedulerUnavailable):
        bridge.look()
    assert bridge.state(one) is ProcessState.RUNNING
    bridge.slurm.silent = False
    end(bridge, one)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_after_a_swallowed_answer_the_job_is_found_by_its_name(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.slurm.swallow = True
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.UNKNOWN
    assert bridge.get(one).job_id is None
    bridge.verbs.dispatcher.dispatch()
    bridge.advance(RETRY)
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED
    assert bridge.jobs_of(one) == [1]
    assert bridge.get(one).job_id == 1


def test_a_job_that_was_adopted_after_it_had_ended_is_collected(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.slurm.swallow = True
    bridge.verbs.dispatcher.dispatch()
    bridge.start(one)
    end(bridge, one)
    bridge.slurm.forget(1)
    bridge.advance(RETRY)
    bridge.look()
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_after_a_crash_between_submission_and_record_another_runner_adopts_the_job(
    bridge: Bridge,
) -> None:
    bridge.processes.dead = True
    one = crash_before_record(bridge)
    bridge.processes.dead = False
    assert bridge.get(one).job_id is None
    other = bridge.new_verbs("runner-2")
    assert other.recoverer.recover() == 0  # the first may still live
    bridge.strike()
    other.dispatcher.dispatch()
    assert other.recoverer.recover() == 1
    assert (bridge.get(one).job_id, bridge.jobs_of(one)) == (1, [1])
    assert "found by its name as job 1" in bridge.events(one)[-1].detail


def test_after_a_crash_between_intent_and_submission_it_is_submitted_once_its_absence_is_proven(
    bridge: Bridge,
) -> None:
    one = crash_before_submission(bridge)
    bridge.advance(SECOND)
    other = bridge.new_verbs("runner-2")
    other.recoverer.recover()
    bridge.advance(ABSENCE - SECOND)
    other.recoverer.recover()
    other.dispatcher.dispatch()
    assert (bridge.state(one), bridge.jobs_of(one)) == (ProcessState.UNKNOWN, [])
    bridge.advance(RETRY)
    other.recoverer.recover()
    assert bridge.state(one) is ProcessState.QUEUED
    other.dispatcher.dispatch()
    assert bridge.jobs_of(one) == [1]


def test_what_is_in_doubt_stays_in_doubt_until_its_absence_has_lasted(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.slurm.answer = SchedulerUnavailable("socket timed out")
    bridge.verbs.dispatcher.dispatch()
    bridge.slurm.answer = None
    bridge.advance(RETRY)
    waited = timedelta()
    while waited < ABSENCE:
        assert bridge.verbs.recoverer.recover() == 1
        assert bridge.state(one) is ProcessState.UNKNOWN
        bridge.verbs.dispatcher.dispatch()
        assert bridge.jobs_of(one) == []
        bridge.advance(RETRY)
        waited += RETRY
    bridge.verbs.recoverer.recover()
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == [1]


def test_while_slurm_is_silent_no_absence_is_proven(bridge: Bridge) -> None:
    one = crash_before_record(bridge)
    bridge.slurm.silent = True
    bridge.advance(10 * ABSENCE)
    with pytest.raises(SchedulerUnavailable):
        bridge.verbs.recoverer.recover()
    bridge.slurm.silent = False
    bridge.advance(SECOND)
    bridge.verbs.recoverer.recover()
    assert bridge.jobs_of(one) == [1]
    assert bridge.get(one).job_id == 1


# --- absence ---


def test_a_job_that_only_accounting_knows_to_have_ended_is_collected_at_once(
    bridge: Bridge,
) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.slurm.forget(1)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE
    assert "fake accounting" in {event.source for event in bridge.events(one)}


def test_a_job_that_nobody_knows_is_lost_only_after_its_absence_has_lasted(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.forget(1, accounting=True)
    bridge.look()
    bridge.advance(ABSENCE - SECOND)
    bridge.look()
    assert bridge.state(one) is ProcessState.RUNNING
    assert bridge.context(one).exists()
    bridge.advance(SECOND)
    bridge.look()
    assert bridge.state(one) is ProcessState.SYSTEM_ERROR
    assert "know nothing of the job's end" in str(bridge.get(one).reason)


def lost(bridge: Bridge, one: str) -> None:
    """Slurm loses a job, and everybody has waited for long enough."""
    bridge.slurm.forget(1, accounting=True)
    bridge.look()
    bridge.advance(ABSENCE)
    bridge.look()


def test_a_job_that_was_lost_before_it_began_is_submitted_again(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.look()
    lost(bridge, one)
    assert "Slurm has lost job 1 before it began: again" in str(bridge.events(one)[-1].detail)
    bridge.verbs.dispatcher.dispatch()
    [second] = bridge.jobs_of(one)
    assert bridge.get(one).job_id == second
    end(bridge, one)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_a_lost_job_whose_context_is_not_there_may_have_begun(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.look()
    bridge.context(one).rename(bridge.root / "elsewhere")
    lost(bridge, one)
    assert bridge.state(one) is not ProcessState.COMPLETE
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == []


def test_a_lost_job_that_was_to_be_canceled_is_not_submitted_again(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.look()
    bridge.desk.cancel(one, by="alice")
    lost(bridge, one)
    assert bridge.state(one).final
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == []


def test_a_job_that_nobody_knows_but_that_left_its_exit_code_has_ended(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.leave(one, {"exit_code": "0\n"})
    bridge.attest(one)
    bridge.slurm.forget(1, accounting=True)
    bridge.look()
    bridge.advance(ABSENCE)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_a_job_that_reappears_was_not_absent(bridge: Bridge) -> None:
    one = bridge.submitted()
    known = bridge.slurm._known.copy()
    accounting = bridge.slurm._accounting.copy()
    bridge.slurm.forget(1, accounting=True)
    bridge.look()
    bridge.slurm._known.update(known)
    bridge.slurm._accounting.update(accounting)
    bridge.look()
    bridge.slurm.forget(1, accounting=True)
    bridge.advance(ABSENCE)
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED


def test_a_job_with_the_same_id_and_another_name_is_another_job(bridge: Bridge) -> None:
    one = bridge.submitted()
    job = bridge.job(one)
    bridge.slurm.forget(1, accounting=True)
    other = replace(job.report, job_name="somebody-elses", status=Status(SlurmState.COMPLETED))
    job.report = other
    bridge.slurm._known[1] = job
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED


# slurmdbd keeps such "runaway jobs" until an operator fixes them (sacctmgr show runawayjobs).
def test_a_job_that_only_accounting_believes_to_run_is_lost_after_its_absence(
    bridge: Bridge,
) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.forget(1)
    for _ in range(10):
        bridge.look()
        bridge.advance(ABSENCE)
    assert bridge.state(one) is ProcessState.SYSTEM_ERROR


# --- after an outage ---


@pytest.mark.parametrize("away", [timedelta(), 10 * ABSENCE])
def test_after_an_outage_nothing_is_submitted_again_at_the_first_look(
    bridge: Bridge, away: timedelta
) -> None:
    one = crash_before_submission(bridge)
    bridge.slurm.silent = True
    bridge.advance(away)
    with pytest.raises(SchedulerUnavailable):
        bridge.verbs.recoverer.recover()
    bridge.slurm.silent = False
    bridge.advance(SECOND)
    for _ in range(2):
        bridge.verbs.recoverer.recover()
        bridge.verbs.dispatcher.dispatch()
        assert (bridge.state(one), bridge.jobs_of(one)) == (ProcessState.UNKNOWN, [])
        bridge.advance(RETRY)
    bridge.advance(ABSENCE)
    bridge.verbs.recoverer.recover()
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == [1]


# --- accounting is silent ---


def silent_accounting(bridge: Bridge) -> None:
    def history(*_: Any, **__: Any) -> list[JobReport]:
        raise SchedulerUnavailable("sacct: slurmdbd does not answer")

    bridge.slurm.history = history  # type: ignore[method-assign]


def test_while_accounting_is_silent_the_ends_of_others_are_recorded(bridge: Bridge) -> None:
    missing, ended, running = (bridge.submitted() for _ in range(3))
    for each in (missing, ended, running):
        bridge.start(each)
    bridge.look()
    bridge.slurm.forget(1)
    end(bridge, ended)
    silent_accounting(bridge)
    for _ in range(3):
        bridge.verbs.observer.observe()
        bridge.verbs.collector.collect()
        bridge.advance(ABSENCE)
    assert bridge.state(ended) is ProcessState.COMPLETE
    assert [bridge.state(each) for each in (missing, running)] == [ProcessState.RUNNING] * 2


def test_while_accounting_is_silent_slurm_does_not_count_as_unreachable(bridge: Bridge) -> None:
    missing = bridge.submitted()
    bridge.slurm.forget(1)
    silent_accounting(bridge)
    runner = bridge.runner()
    two = bridge.submit()
    runner.step()
    assert bridge.get(two).job_id == 2
    assert bridge.state(missing) is ProcessState.QUEUED
    runner.standing.beat()
    [status] = [
        entry
        for entry in Roster(bridge.database).runners(since=START)
        if entry.id == runner.standing.id
    ]
    assert status.scheduler_error is None


def test_a_cancel_that_fails_keeps_no_end_from_being_recorded(bridge: Bridge) -> None:
    canceled, ended = bridge.submitted(), bridge.submitted()
    bridge.start(canceled)
    bridge.look()
    bridge.desk.cancel(canceled, by="alice")
    end(bridge, ended)

    def cancel(job_ids: Sequence[int], *, kill: bool = False) -> None:
        raise SchedulerUnavailable("scancel does not answer")

    works = bridge.slurm.cancel
    bridge.slurm.cancel = cancel  # type: ignore[method-assign]
    bridge.look()
    assert bridge.state(ended) is ProcessState.COMPLETE
    assert bridge.state(canceled) is ProcessState.RUNNING
    bridge.slurm.cancel = works  # type: ignore[method-assign]
    bridge.look()
    bridge.look()
    assert bridge.state(canceled) is ProcessState.CANCELED
