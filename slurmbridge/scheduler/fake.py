"""A Slurm in memory, cranked by hand. Shipped, and held to the contract that the real ones keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slurmbridge.errors import SchedulerUnavailable, SubmissionNotSent, SubmissionRefused
from slurmbridge.lifecycle import SlurmFlag, SlurmState, SlurmStatus
from slurmbridge.model import ComputeCapability
from slurmbridge.scheduler import ClusterNode, JobReport, Submission, SubmitOutcome
from slurmbridge.scheduler.native_child import read_directives

_PENDING = SlurmStatus(SlurmState.PENDING)


@dataclass
class FakeJob:
    """A job and what became of it."""

    report: JobReport
    script: str
    submitted_at: datetime


class FakeScheduler:
    """Jobs wait until `start`, run until `end`, and are forgotten by the controller on `forget`.

    `silent` makes every call fail as a stopped slurmctld does; `swallow` makes the next submission
    take effect without an answer; nodes in `down` start nothing.
    """

    name = "fake"

    def __init__(self, capability: ComputeCapability, *, clock: Callable[[], datetime]) -> None:
        self._capability = capability
        self._clock = clock
        self._known: dict[int, FakeJob] = {}
        self._accounting: dict[int, FakeJob] = {}
        self._next_id = 1
        self.silent = False
        self.swallow = False
        # Messages on their way to accounting.
        self.lag = 0
        self.down: set[str] = set()
        self.calls: list[str] = []

    def submit(
        self,
        submissions: Sequence[Submission],
        on_outcome: Callable[[int, SubmitOutcome], None] | None = None,
    ) -> list[SubmitOutcome]:
        """See Scheduler.submit."""
        self.calls.append("submit")
        outcomes = []
        for index, submission in enumerate(submissions):
            outcome = self._submit_one(submission)
            outcomes.append(outcome)
            if on_outcome:
                on_outcome(index, outcome)
        return outcomes

    def _submit_one(self, submission: Submission) -> SubmitOutcome:
        if self.silent:
            return SubmissionNotSent("Slurm cannot be reached: connect failure")
        directives = read_directives(submission.script)
        if problem := self._problem(directives):
            return SubmissionRefused(f"Slurm refused the job: {problem}")
        job_id = self._next_id
        self._next_id += 1
        report = JobReport(job_id, str(directives["name"]), _PENDING, "Priority", source="fake")
        job = FakeJob(report, submission.script, self._clock())
        self._known[job_id] = self._accounting[job_id] = job
        if self.swallow:
            self.swallow = False
            return SchedulerUnavailable("Slurm did not answer: socket timed out")
        return job_id

    def _problem(self, directives: dict[str, object]) -> str | None:
        partition = self._capability.partition(_text(directives.get("partitions")))
        if partition is None:
            return "invalid partition specified"
        node = directives.get("required_nodes")
        if node is not None and node not in partition.node_names:
            return "Invalid node name specified"
        account = directives.get("account")
        if account is not None and account not in self._capability.accounts:
            return "Invalid account or account/partition combination specified"
        limit, asked = (
            partition.time_limit_minutes,
            _minutes(str(directives.get("time_limit", "0-0:1:0"))),
        )
        if limit is not None and asked > limit:
            return "Requested time limit is invalid (missing or exceeds some limit)"
        return None

    def jobs(self) -> list[JobReport]:
        """See Scheduler.jobs."""
        self._answer("jobs")
        return [job.report for job in self._known.values()]

    def history(self, job_names: Sequence[str], *, since: datetime) -> list[JobReport]:
        """See Scheduler.history."""
        self._answer("history")
        return [
            replace(job.report, source="fake accounting")
            for job in self._accounting.values()
            if job.report.job_name in job_names and job.submitted_at >= since
        ]

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """See Scheduler.cancel."""
        self._answer("cancel")
        for job_id in job_ids:
            job = self._known.get(job_id)
            if job and job.report.ended_at is None:
                self.end(job_id, SlurmState.CANCELLED)

    def withdraw(self, job_ids: Sequence[int]) -> None:
        """See Scheduler.withdraw."""
        self._answer("withdraw")
        for job_id in job_ids:
            job = self._known.get(job_id)
            if job and job.report.status.base is SlurmState.PENDING:
                self.end(job_id, SlurmState.CANCELLED)

    def backlog(self) -> int:
        """See Scheduler.backlog."""
        self._answer("backlog")
        return self.lag

    def capability(self) -> ComputeCapability:
        """See Scheduler.capability."""
        self._answer("capability")
        return self._capability.model_copy(update={"observed_at": self._clock()})

    def nodes(self) -> list[ClusterNode]:
        """See Scheduler.nodes."""
        self._answer("nodes")
        partitions = self._capability.partitions
        names = sorted({name for partition in partitions for name in partition.node_names})
        return [
            ClusterNode(
                name,
                tuple(sorted(entry.name for entry in partitions if name in entry.node_names)),
                name not in self.down,
            )
            for name in names
        ]

    def close(self) -> None:
        """See Scheduler.close."""

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.silent:
            raise SchedulerUnavailable("Slurm did not answer: connect failure")

    # --- the crank ---

    def job(self, name: str) -> FakeJob:
        """The latest job of this name."""
        return [job for job in self._accounting.values() if job.report.job_name == name][-1]

    def start(self, job_id: int) -> None:
        """Let a job run."""
        self._set(job_id, SlurmStatus(SlurmState.RUNNING), started_at=self._clock(), nodes="node1")

    def end(self, job_id: int, state: SlurmState, exit_code: int | None = None) -> None:
        """Let a job end."""
        changes = {"ended_at": self._clock(), "exit_code": exit_code}
        self._set(job_id, SlurmStatus(state), **changes)

    def requeue(self, job_id: int) -> None:
        """Send a job back to the queue, as after a node's failure."""
        status = SlurmStatus(SlurmState.PENDING, frozenset({SlurmFlag.REQUEUED}))
        restarts = self._accounting[job_id].report.restarts + 1
        self._set(job_id, status, started_at=None, nodes=None, restarts=restarts)

    def forget(self, job_id: int, *, accounting: bool = False) -> None:
        """Drop a job from the controller, as after MinJobAge; and from accounting on request."""
        self._known.pop(job_id, None)
        if accounting:
            self._accounting.pop(job_id, None)

    def advance(self, status: SlurmStatus, job_id: int) -> None:
        """Give a job any status."""
        self._set(job_id, status)

    def _set(self, job_id: int, status: SlurmStatus, **changes: object) -> None:
        job = self._accounting[job_id]
        job.report = replace(job.report, status=status, reason=None, **changes)  # type: ignore[arg-type]


def _minutes(limit: str) -> int:
    days, _, rest = limit.partition("-")
    hours, minutes, _seconds = (int(part) for part in rest.split(":"))
    return (int(days) * 24 + hours) * 60 + minutes


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def hand_clock(start: datetime) -> tuple[Callable[[], datetime], Callable[[timedelta], None]]:
    """A clock that stands still, and the hand that moves it."""
    now = [start]

    def advance(by: timedelta) -> None:
        now[0] += by

    return lambda: now[0], advance
