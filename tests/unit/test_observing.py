"""What one look at Slurm means: second jobs, waiting, and jobs that will not end."""

from datetime import timedelta

import pytest

from slurmbridge.bridge.observe import EXPECTED_CHANGES, KILLED_AFTER_SECONDS, kept
from slurmbridge.lifecycle import ProcessState, SlurmState, SlurmStatus
from slurmbridge.scheduler import JobReport, Submission
from tests.support.builders import ABSENCE, Bridge, crash_before_record, end
from tests.support.specs import START

MINUTE = timedelta(minutes=1)


def second_job(bridge: Bridge, wanted: str) -> int:
    script = bridge.desk.script(wanted)
    assert script is not None
    [job_id] = bridge.slurm.submit([Submission(bridge.get(wanted).job_name, script)])
    assert isinstance(job_id, int)
    return job_id


def status(bridge: Bridge, job_id: int) -> str:
    [found] = [job for job in bridge.slurm.jobs() if job.job_id == job_id]
    return str(found.status)


def pending(bridge: Bridge, wanted: str, **said: object) -> None:
    job = bridge.job(wanted)
    bridge.slurm._set(job.report.job_id, SlurmStatus(SlurmState.PENDING))
    values = {name: getattr(job.report, name) for name in JobReport.__dataclass_fields__}
    job.report = JobReport(**{**values, **said})


# --- second jobs ---


@pytest.mark.parametrize(
    ("jobs", "taken_by", "known", "wanted"),
    [
        ({3, 2}, None, {2, 3}, 2),
        ({3, 2}, 3, {2, 3}, 3),
        ({3, 2}, 7, {2, 3}, 2),
        ({3, 2}, None, {3}, 3),
        ({3, 2}, 2, {3}, 2),
        ({3, 2}, None, set(), 2),
    ],
)
def test_the_job_that_has_the_context_is_kept_and_before_that_the_first_that_slurm_knows(
    jobs: set[int], taken_by: int | None, known: set[int], wanted: int
) -> None:
    assert kept(jobs, taken_by, known) == wanted


def test_a_second_job_is_ended_before_it_starts(bridge: Bridge) -> None:
    one = bridge.submitted()
    second = second_job(bridge, one)
    bridge.look()
    assert (status(bridge, second), status(bridge, 1)) == ("CANCELLED", "PENDING")
    assert bridge.get(one).job_id == 1
    assert bridge.state(one) is ProcessState.QUEUED


def test_a_second_job_that_has_the_context_becomes_the_job_and_the_first_is_ended(
    bridge: Bridge,
) -> None:
    one = bridge.submitted()
    second = second_job(bridge, one)
    (bridge.context(one) / "claim").symlink_to(str(second))
    bridge.slurm.start(second)
    bridge.look()
    assert bridge.get(one).job_id == second
    assert status(bridge, 1) == "CANCELLED"
    assert "job 2 is kept" in bridge.events(one)[-1].detail
    bridge.look()
    assert bridge.state(one) is ProcessState.RUNNING


def test_a_running_job_is_never_ended_for_being_the_second(bridge: Bridge) -> None:
    one = bridge.submitted()
    second = second_job(bridge, one)
    bridge.slurm.start(second)
    bridge.look()
    assert status(bridge, second) == "RUNNING"


def test_of_several_that_are_found_by_name_the_first_is_adopted_and_the_others_ended(
    bridge: Bridge,
) -> None:
    one = crash_before_record(bridge)
    second = second_job(bridge, one)
    bridge.verbs.recoverer.recover()
    assert bridge.get(one).job_id == 1
    assert "of jobs [1, 2]" in bridge.events(one)[-1].detail
    bridge.look()
    assert status(bridge, second) == "CANCELLED"


def test_the_ended_job_of_a_lost_submission_is_left_alone(bridge: Bridge) -> None:
    one = bridge.submitted()
    second = second_job(bridge, one)
    bridge.slurm.end(second, SlurmState.FAILED, 75)
    bridge.look()
    assert status(bridge, second) == "FAILED"
    assert "withdraw" not in bridge.slurm.calls


# --- waiting ---


def test_a_waiting_process_says_why_and_until_when(bridge: Bridge) -> None:
    one = bridge.submitted()
    pending(bridge, one, reason="QOSMaxJobsPerUserLimit", expected_start=START + MINUTE)
    bridge.look()
    process = bridge.get(one)
    assert process.slurm_reason == "QOSMaxJobsPerUserLimit"
    assert str(process.reason).startswith("it waits: a limit of its QOS")
    assert process.expected_start == START + MINUTE
    bridge.start(one)
    bridge.look()
    assert (bridge.get(one).reason, bridge.get(one).expected_start) == (None, None)


def test_an_expected_start_that_moves_is_written_without_an_event_and_not_for_seconds(
    bridge: Bridge,
) -> None:
    one = bridge.submitted()
    pending(bridge, one, reason="Priority", expected_start=START + MINUTE)
    bridge.look()
    events = len(bridge.events(one))
    slightly = START + MINUTE + EXPECTED_CHANGES - timedelta(seconds=1)
    pending(bridge, one, reason="Priority", expected_start=slightly)
    bridge.look()
    assert bridge.get(one).expected_start == START + MINUTE
    pending(bridge, one, reason="Priority", expected_start=START + 3 * MINUTE)
    bridge.look()
    assert bridge.get(one).expected_start == START + 3 * MINUTE
    assert len(bridge.events(one)) == events


def test_a_job_that_begins_anew_is_told(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.requeue(1)
    bridge.look()
    assert (bridge.state(one), bridge.get(one).restarts) == (ProcessState.QUEUED, 1)


# --- jobs that will not end ---


def test_a_job_that_does_not_end_when_canceled_is_killed_after_a_while(bridge: Bridge) -> None:
    killed: list[bool] = []
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.deaf = True
    works = bridge.slurm.cancel

    def cancel(job_ids: list[int], *, kill: bool = False) -> None:
        killed.append(kill)
        works(job_ids, kill=kill)

    bridge.slurm.cancel = cancel  # type: ignore[method-assign, assignment]
    bridge.desk.cancel(one, by="alice")
    bridge.look()
    bridge.advance(timedelta(seconds=KILLED_AFTER_SECONDS - 1))
    bridge.look()
    assert killed == [False, False]
    bridge.advance(timedelta(seconds=1))
    bridge.look()
    bridge.look()
    assert killed[2:] == [True, False, True, False]
    assert bridge.state(one) is ProcessState.CANCELING
    told = [event for event in bridge.events(one) if "asked to kill" in event.detail]
    assert len(told) == 1


def test_canceling_ends_only_when_slurm_says_how_it_ended(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.desk.cancel(one, by="alice")
    bridge.slurm.deaf = True
    for _ in range(3):
        bridge.look()
        bridge.advance(ABSENCE)
        assert bridge.state(one) is ProcessState.CANCELING
    end(bridge, one)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


# --- absence ---


def test_while_accounting_lags_no_absence_is_proven(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.slurm.forget(1, accounting=True)
    bridge.slurm.lag = 3
    for _ in range(5):
        bridge.look()
        bridge.advance(ABSENCE)
    assert bridge.state(one) is ProcessState.QUEUED
    bridge.slurm.lag = 0
    bridge.look()
    bridge.advance(ABSENCE)
    bridge.look()
    assert "lost job 1" in bridge.events(one)[-1].detail


def test_while_accounting_lags_nothing_is_submitted_again(bridge: Bridge) -> None:
    one = crash_before_record(bridge)
    hidden = dict(bridge.slurm._accounting)
    bridge.slurm.forget(1, accounting=True)
    bridge.slurm.lag = 1
    for _ in range(5):
        bridge.look()
        bridge.verbs.dispatcher.dispatch()
        bridge.advance(ABSENCE)
    bridge.slurm._accounting.update(hidden)
    bridge.slurm.lag = 0
    bridge.look()
    assert bridge.get(one).job_id == 1
    assert bridge.jobs_of(one) == [1]
