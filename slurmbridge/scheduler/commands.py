"""Slurm through its own programs, over any Shell."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from slurmbridge.errors import (
    ReplyUnreadable,
    SchedulerUnavailable,
    ShellUnavailable,
    SiteError,
    SubmissionNotSent,
    SubmissionRefused,
)
from slurmbridge.lifecycle import SlurmState
from slurmbridge.model import ComputeCapability
from slurmbridge.scheduler import ClusterNode, JobReport, Submission, SubmitOutcome, wire
from slurmbridge.shell import Command, Reply, Shell

# Beyond this slurmctld answers no faster, and other users of the cluster wait longer.
SUBMITTERS = 4


def job_usage(shell: Shell, job_id: int, *, timeout_seconds: float) -> dict[str, str]:
    """What accounting knows of a job's use, in sacct's words; empty when it does not know the job.

    Raises:
        SchedulerUnavailable
        ReplyUnreadable
    """
    command = Command(wire.usage(job_id), timeout_seconds=timeout_seconds)
    try:
        return wire.read_usage(shell.run(command))
    except ShellUnavailable as error:
        raise SchedulerUnavailable(f"Slurm cannot be asked: {error}") from error


class CommandScheduler:
    """sbatch, squeue, sacct, scancel, sinfo, scontrol and sacctmgr."""

    def __init__(self, shell: Shell, *, timeout_seconds: float, name: str = "commands") -> None:
        self.name = name
        self._shell = shell
        self._timeout_seconds = timeout_seconds
        self._user: str | None = None

    def submit(
        self,
        submissions: Sequence[Submission],
        on_outcome: Callable[[int, SubmitOutcome], None] | None = None,
    ) -> list[SubmitOutcome]:
        """See Scheduler.submit."""
        outcomes: list[SubmitOutcome] = []
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            for index, outcome in enumerate(pool.map(self._submit_one, submissions)):
                outcomes.append(outcome)
                if on_outcome:
                    on_outcome(index, outcome)
        return outcomes

    def _submit_one(self, submission: Submission) -> SubmitOutcome:
        try:
            submission.check()
            return wire.read_submit(self._run(wire.SUBMIT, stdin=submission.script))
        except (SubmissionRefused, SchedulerUnavailable) as error:
            return _not_sent(error)
        except SiteError as error:
            # sbatch may have been ended after the controller took the job.
            return SchedulerUnavailable(str(error))

    def jobs(self) -> list[JobReport]:
        """See Scheduler.jobs."""
        return wire.read_queue(self._run(wire.QUEUE))

    def history(self, job_names: Sequence[str], *, since: datetime) -> list[JobReport]:
        """See Scheduler.history."""
        reports: list[JobReport] = []
        step = wire.HISTORY_NAMES_PER_CALL
        for first in range(0, len(job_names), step):
            argv = wire.history(job_names[first : first + step], since)
            reports += wire.read_history(self._run(argv))
        return reports

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """See Scheduler.cancel."""
        if job_ids:
            wire.read_cancel(self._run(wire.cancel(job_ids, kill=kill)))

    def withdraw(self, job_ids: Sequence[int]) -> None:
        """See Scheduler.withdraw. What is held cannot start between the look and the cancel."""
        if not job_ids:
            return
        wire.read_hold(self._run(wire.hold(job_ids)))
        waiting = [
            report.job_id
            for report in self.jobs()
            if report.job_id in job_ids and report.status.base is SlurmState.PENDING
        ]
        self.cancel(waiting)

    def backlog(self) -> int:
        """See Scheduler.backlog."""
        return wire.read_backlog(self._run(wire.STATISTICS))

    def capability(self) -> ComputeCapability:
        """See Scheduler.capability."""
        capability = wire.read_capability(
            self._run(wire.CONFIGURATION),
            self._run(wire.PARTITIONS),
            self._run(wire.associations(self._user_name())),
            nodes=self.nodes(),
        )
        return capability.model_copy(update={"observed_at": datetime.now(UTC)})

    def nodes(self) -> list[ClusterNode]:
        """See Scheduler.nodes."""
        return wire.read_nodes(self._run(wire.NODES))

    def close(self) -> None:
        """See Scheduler.close."""

    def _user_name(self) -> str:
        if self._user is None:
            reply = self._run(wire.USER_NAME)
            if reply.exit_code != 0 or not reply.stdout.strip():
                raise ReplyUnreadable("id -un names no user")
            self._user = reply.stdout.strip()
        return self._user

    def _run(self, argv: Sequence[str], *, stdin: str = "") -> Reply:
        command = Command(tuple(argv), stdin=stdin, timeout_seconds=self._timeout_seconds)
        try:
            return self._shell.run(command)
        except ShellUnavailable as error:
            raise SchedulerUnavailable(f"Slurm cannot be asked: {error}") from error


def _not_sent(error: SubmissionRefused | SchedulerUnavailable) -> SubmitOutcome:
    cause = error.__cause__
    if isinstance(cause, ShellUnavailable) and cause.never_started:
        return SubmissionNotSent(str(error))
    return error
