"""The seam to Slurm. Nothing above this package knows Slurm's text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from slurmbridge.clock import always
from slurmbridge.errors import SubmissionNotSent
from slurmbridge.lifecycle import SlurmStatus
from slurmbridge.model import ComputeCapability

TOO_LATE = "it was not submitted: whoever was to do it stood still for too long"


@dataclass(frozen=True, slots=True)
class Submission:
    """A rendered script and the name that its job will carry.

    Everything else that Slurm is told stands in the script's own #SBATCH lines. `seconds_left` says
    for how long it may still be sent. It is asked as late as can be: who submits many may be made
    to stand still between two of them, for so long that others do it by then.
    """

    job_name: str
    script: str
    seconds_left: Callable[[], float] = always

    def check(self) -> None:
        """Raise SubmissionNotSent when it may not be sent any more."""
        if self.seconds_left() <= 0:
            raise SubmissionNotSent(TOO_LATE)


@dataclass(frozen=True, slots=True)
class JobReport:
    """What Slurm says of a job. Times are UTC; None where Slurm does not know."""

    job_id: int
    job_name: str
    status: SlurmStatus
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    nodes: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    # When Slurm means to start one that waits; and how often it has been started anew.
    expected_start: datetime | None = None
    restarts: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node as Slurm reports it. `up`: a job that is sent to it now would be started there."""

    name: str
    partitions: tuple[str, ...]
    up: bool


# What became of one submission: a job id, or the SubmissionRefused / SchedulerUnavailable that it
# met. After SchedulerUnavailable the job may exist all the same.
SubmitOutcome = int | Exception


class Scheduler(Protocol):
    """What is asked of Slurm. Every call has a deadline.

    Raises (all methods):
        SchedulerUnavailable: Slurm did not answer.
        ReplyUnreadable: it answered with something else.
    """

    name: str

    def submit(
        self,
        submissions: Sequence[Submission],
        on_outcome: Callable[[int, SubmitOutcome], None] | None = None,
    ) -> list[SubmitOutcome]:
        """Submit in order. One outcome each; never raises for a single submission.

        `on_outcome` is told (index, outcome) as soon as each is known.
        """
        ...

    def jobs(self) -> list[JobReport]:
        """Every job of the bridge's user that the controller knows, in all states. One query."""
        ...

    def history(self, job_names: Sequence[str], *, since: datetime) -> list[JobReport]:
        """What accounting says of the jobs with these names that existed after `since`."""
        ...

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """Ask Slurm to end these jobs. One that has ended already is not an error.

        `kill`: without giving their processes time to end.
        """
        ...

    def withdraw(self, job_ids: Sequence[int]) -> None:
        """End those of these jobs that have not started, and surely no other."""
        ...

    def backlog(self) -> int:
        """How many messages are on their way to accounting.

        While there are any, accounting may not know of a job that the controller has forgotten.
        """
        ...

    def capability(self) -> ComputeCapability:
        """What the cluster offers."""
        ...

    def nodes(self) -> list[ClusterNode]:
        """Every node that is in a partition, by name."""
        ...

    def close(self) -> None:
        """Let go of whatever is held."""
        ...
