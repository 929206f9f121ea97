"""What really happened, which the bridge has to find out: jobs, claims, programs. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slurmbridge.lifecycle import STATE_OF_BASE, ProcessState, SlurmState
from slurmbridge.testing.scheduler import FakeJob

# What comes of two Runners that work in one context: of one that stood still in the midst of a
# change, while the Process was taken over. It is known, and counted by itself.
TRESPASS = "trespass"


class Violation(Exception):
    """Something that must never be."""

    def __init__(self, rule: str, about: str, detail: str) -> None:
        super().__init__(f"{rule}: {about}: {detail}")
        self.rule = rule
        self.about = about


@dataclass(eq=False)
class Life:
    """What one job really did."""

    process_id: str
    job: FakeJob
    folder: Path
    claimed: bool = False
    # Whether the program was started.
    ran: bool = False
    # It is on its way to its end, and nothing else ends it.
    ending: bool = False
    # How it ended, when Slurm knows; what the script wrote of it.
    end: SlurmState | None = None
    exit_code: int | None = None
    # The controller lost it.
    vanished: bool = False
    # Slurm ended it for reasons of its own.
    by_slurm: bool = False
    result: bytes = b""


@dataclass
class Truth:
    """Of all Processes."""

    lives: dict[str, list[Life]] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    # The Processes in whose context a Runner has worked that did not hold them.
    trespassed: set[str] = field(default_factory=set)

    def add(self, life: Life) -> None:
        """A job has come."""
        self.lives.setdefault(life.process_id, []).append(life)

    def ran(self, life: Life) -> None:
        """A program was started. Raises Violation: not for the first time."""
        life.ran = True
        self.runs[life.process_id] = self.runs.get(life.process_id, 0) + 1
        if self.runs[life.process_id] > 1:
            detail = f"by job {life.job.report.job_id} for the second time"
            raise Violation("run twice", life.process_id, detail)

    def works_in(self, process_id: str) -> Life | None:
        """The job that lives in a context, and has taken it."""
        for life in self.lives.get(process_id, ()):
            if life.claimed and life.end is None and not life.vanished:
                return life
        return None


@dataclass(frozen=True, slots=True)
class Told:
    """How a Process ended, as the bridge tells it."""

    process_id: str
    state: ProcessState
    exit_code: int | None
    reason: str | None
    outputs: Mapping[str, str]


def check_end(told: Told, lives: Iterable[Life], *, canceled: bool, ran: int) -> Life | None:
    """Whether an end is the one that the evidence supports; the job that counts.

    Raises:
        Violation
    """
    lives = list(lives)
    claimed = [life for life in lives if life.claimed]
    allowed: set[ProcessState] = set()
    for life in claimed or lives:
        allowed |= _ends(life, canceled=canceled)
    if canceled and not claimed:
        allowed.add(ProcessState.CANCELED)
    if told.state not in allowed:
        rule = "lost" if not ran and not canceled else "wrong end"
        expected = ", ".join(sorted(allowed)) or "none: nothing has ended it"
        detail = f"{told.state} ({told.reason}), but the evidence says {expected}"
        raise Violation(rule, told.process_id, detail)
    if told.state is ProcessState.COMPLETE and told.exit_code != 0:
        raise Violation("wrong end", told.process_id, f"complete with {told.exit_code}")
    return claimed[0] if claimed else None


def _ends(life: Life, *, canceled: bool) -> set[ProcessState]:
    """What a job's own end means for its Process. Pure."""
    if not life.claimed and life.ran is False and life.end is SlurmState.FAILED:
        # It found no context, or one that is another's: that is no end of a Process.
        return set()
    by_script = _by_exit_code(life.exit_code)
    if life.vanished and not (life.claimed or canceled):
        # Another job has to come for it.
        return set()
    if life.vanished or life.end is None:
        return {by_script or ProcessState.SYSTEM_ERROR} if life.vanished else set()
    if life.end in {SlurmState.COMPLETED, SlurmState.FAILED}:
        return {by_script} if by_script else set()
    if life.end is SlurmState.CANCELLED and not (canceled or life.by_slurm):
        return set()
    return {STATE_OF_BASE[life.end]}


def _by_exit_code(code: int | None) -> ProcessState | None:
    if code is None:
        return None
    return ProcessState.EXECUTOR_ERROR if code else ProcessState.COMPLETE
