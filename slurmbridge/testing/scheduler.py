"""A Slurm in memory, cranked by hand. Shipped, and held to the contract that the real ones keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from slurmbridge.errors import (
    ReplyUnreadable,
    SchedulerUnavailable,
    SubmissionNotSent,
    SubmissionRefused,
)
from slurmbridge.lifecycle import SlurmFlag, SlurmState, SlurmStatus
from slurmbridge.model import ComputeCapability
from slurmbridge.scheduler import TOO_LATE, ClusterNode, JobReport, Submission, SubmitOutcome, wire
from slurmbridge.scheduler.native_child import read_directives

_PENDING = SlurmStatus(SlurmState.PENDING)
_RUNNING = SlurmStatus(SlurmState.RUNNING)
# In Slurm's own words; see wire.refusal for what they mean.
RATE_LIMIT = "Slurm temporarily unable to accept job, sleeping and retrying: rate limit"
QOS_LIMIT = (
    "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits): "
    "QOSMaxSubmitJobPerUserLimit"
)


@dataclass(eq=False)
class FakeJob:
    """A job and what became of it."""

    report: JobReport
    script: str
    submitted_at: datetime
    # What accounting has been told of it, if anything.
    recorded: JobReport | None = None

    @property
    def waits(self) -> bool:
        """Whether it has not started."""
        return self.report.status.base is SlurmState.PENDING

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.report.ended_at is not None


@dataclass(frozen=True)
class _Message:
    """On its way to accounting."""

    due: datetime
    job: FakeJob
    report: JobReport


@dataclass
class Troubles:
    """What a Slurm suffers from.

    `silent` makes every call fail as a stopped slurmctld does, `accounting_silent` those that ask
    slurmdbd; `garbage` makes both print what nobody understands. `swallow` makes the next
    submission take effect without an answer. Each of `refusals` is what the next submission is told
    in Slurm's words. What is told to accounting arrives after `accounting_delay`. `most_jobs` is a
    QOS limit. Nodes in `down` start nothing; jobs in `stubborn` end when they are killed, and not
    before.
    """

    silent: bool = False
    accounting_silent: bool = False
    garbage: bool = False
    swallow: bool = False
    refusals: list[str] = field(default_factory=list)
    accounting_delay: timedelta = timedelta(0)
    min_job_age: timedelta | None = None
    most_jobs: int | None = None
    # Messages on their way to accounting, beside those about these jobs.
    lag: int = 0
    down: set[str] = field(default_factory=set)
    stubborn: set[int] = field(default_factory=set)


class FakeScheduler(Troubles):
    """Jobs wait until `start`, run until `end`, and are forgotten by the controller on `forget`, or
    when `min_job_age` has passed. What it suffers from is set as with Troubles.
    """

    name = "fake"

    def __init__(self, capability: ComputeCapability, *, clock: Callable[[], datetime]) -> None:
        super().__init__()
        self._capability = capability
        self._clock = clock
        self._known: dict[int, FakeJob] = {}
        # By the order in which they came: job ids may be used again.
        self._accounting: dict[int, FakeJob] = {}
        self._came = 0
        self._mail: list[_Message] = []
        self._next_id = 1
        self.calls: list[str] = []

    # --- the seam ---

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
        if submission.seconds_left() <= 0:
            return SubmissionNotSent(TOO_LATE)
        directives = read_directives(submission.script)
        if refusal := self._refusal(directives):
            return refusal
        job_id = self._add(str(directives["name"]), submission.script)
        if self.swallow:
            self.swallow = False
            return SchedulerUnavailable("Slurm did not answer: socket timed out")
        if self.garbage:
            return SchedulerUnavailable("sbatch printed what is not understood: 'Welcome!'")
        return job_id

    def _refusal(self, directives: dict[str, object]) -> SubmitOutcome | None:
        if self.refusals:
            return wire.refusal(self.refusals.pop(0))
        if problem := self._problem(directives):
            return SubmissionRefused(f"Slurm refused the job: {problem}")
        if self.most_jobs is not None and len(self.living()) >= self.most_jobs:
            return wire.refusal(QOS_LIMIT)
        return None

    def _add(self, name: str, script: str) -> int:
        job_id = self._next_id
        self._next_id += 1
        report = JobReport(job_id, name, _PENDING, "Priority", source="fake")
        job = FakeJob(report, script, self._clock())
        self._came += 1
        self._known[job_id] = self._accounting[self._came] = job
        self._tell(job)
        self.accepted(job)
        return job_id

    def accepted(self, job: FakeJob) -> None:
        """Called for each new job. A test may let it begin by itself."""

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
        if self.min_job_age is not None:
            oldest = self._clock() - self.min_job_age
            self._known = {
                job_id: job
                for job_id, job in self._known.items()
                if job.report.ended_at is None or job.report.ended_at > oldest
            }
        return [job.report for job in self._known.values()]

    def history(self, job_names: Sequence[str], *, since: datetime) -> list[JobReport]:
        """See Scheduler.history."""
        self._answer("history")
        if self.accounting_silent:
            raise SchedulerUnavailable("sacct ended with 1: slurmdbd is down")
        self._deliver()
        names = set(job_names)
        return [
            replace(job.recorded, source="fake accounting")
            for job in self._accounting.values()
            if job.recorded is not None
            and job.recorded.job_name in names
            and (job.recorded.ended_at is None or job.recorded.ended_at >= since)
        ]

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """See Scheduler.cancel."""
        self._answer("cancel")
        for job_id in job_ids:
            job = self._known.get(job_id)
            if job is None or job.ended:
                continue
            if job.waits:
                self.end(job_id, SlurmState.CANCELLED)
            else:
                self.terminate(job_id, kill=kill)

    def terminate(self, job_id: int, *, kill: bool) -> None:
        """What becomes of a job that runs and is canceled. A test may let it take longer."""
        if kill or job_id not in self.stubborn:
            self.end(job_id, SlurmState.CANCELLED)

    def withdraw(self, job_ids: Sequence[int]) -> None:
        """See Scheduler.withdraw."""
        self._answer("withdraw")
        for job_id in job_ids:
            job = self._known.get(job_id)
            if job and job.waits and not job.ended:
                self.end(job_id, SlurmState.CANCELLED)

    def backlog(self) -> int:
        """See Scheduler.backlog."""
        self._answer("backlog")
        self._deliver()
        return self.lag + len(self._mail)

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
        if self.garbage:
            raise ReplyUnreadable(
                "squeue printed what is not understood, beginning with 'Welcome!'"
            )

    def _tell(self, job: FakeJob) -> None:
        self._mail.append(_Message(self._clock() + self.accounting_delay, job, job.report))

    def _deliver(self) -> None:
        """In order, as slurmctld does: nothing overtakes what is late."""
        if self.accounting_silent:
            return
        now = self._clock()
        while self._mail and self._mail[0].due <= now:
            message = self._mail.pop(0)
            message.job.recorded = message.report

    # --- the crank ---

    def job(self, name: str) -> FakeJob:
        """The latest job of this name."""
        return [job for job in self._accounting.values() if job.report.job_name == name][-1]

    def living(self) -> list[FakeJob]:
        """The jobs that have not ended."""
        return [job for job in self._known.values() if not job.ended]

    def start(self, job_id: int, node: str = "node1") -> None:
        """Let a job run."""
        self._set(job_id, _RUNNING, started_at=self._clock(), nodes=node, expected_start=None)

    def end(self, job_id: int, state: SlurmState, exit_code: int | None = None) -> None:
        """Let a job end."""
        changes = {"ended_at": self._clock(), "exit_code": exit_code, "expected_start": None}
        self._set(job_id, SlurmStatus(state), **changes)

    def requeue(self, job_id: int) -> None:
        """Send a job back to the queue, as after a node's failure."""
        status = SlurmStatus(SlurmState.PENDING, frozenset({SlurmFlag.REQUEUED}))
        restarts = self._known[job_id].report.restarts + 1
        self._set(job_id, status, started_at=None, ended_at=None, nodes=None, restarts=restarts)

    def preempt(self, job_id: int) -> None:
        """End a job for the sake of another."""
        self.end(job_id, SlurmState.PREEMPTED)

    def fail_node(self, node: str) -> None:
        """End what runs on a node, which starts nothing from now on."""
        self.down.add(node)
        for job in self.living():
            if job.report.nodes == node:
                self.end(job.report.job_id, SlurmState.NODE_FAIL)

    def suspend(self, job_id: int) -> None:
        """Let a job that runs pause."""
        self._set(job_id, SlurmStatus(SlurmState.SUSPENDED))

    def resume(self, job_id: int) -> None:
        """Let it run on."""
        self._set(job_id, _RUNNING)

    def hold(self, job_id: int) -> None:
        """Keep a job that waits from starting."""
        self._set(job_id, _PENDING, reason="JobHeldUser", expected_start=None)

    def release(self, job_id: int) -> None:
        """Let it start when its turn comes."""
        self._set(job_id, _PENDING, reason="Priority")

    def expect(self, job_id: int, at: datetime) -> None:
        """Say when a job that waits is meant to start."""
        self._set(job_id, _PENDING, reason="Priority", expected_start=at)

    def forget(self, job_id: int, *, accounting: bool = False) -> None:
        """Drop a job from the controller, as after MinJobAge; and from accounting on request."""
        self._known.pop(job_id, None)
        if accounting:
            gone = [n for n, job in self._accounting.items() if job.report.job_id == job_id]
            for number in gone:
                del self._accounting[number]

    def reset(self, next_id: int = 1) -> None:
        """Let the controller lose its state: it knows no job, and uses job ids again."""
        self._known.clear()
        self._next_id = next_id

    def add_foreign(self, name: str) -> int:
        """A job of the same user that is not the bridge's; its id."""
        return self._add(name, "#!/bin/bash\n")

    def advance(self, status: SlurmStatus, job_id: int) -> None:
        """Give a job any status."""
        self._set(job_id, status)

    def knows(self, job: FakeJob) -> bool:
        """Whether the controller knows it."""
        return self._known.get(job.report.job_id) is job

    def _set(self, job_id: int, status: SlurmStatus, **changes: object) -> None:
        job = self._known.get(job_id) or next(
            job for job in reversed(self._accounting.values()) if job.report.job_id == job_id
        )
        changes = {"reason": None, **changes}
        job.report = replace(job.report, status=status, **changes)  # type: ignore[arg-type]
        self._tell(job)


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
