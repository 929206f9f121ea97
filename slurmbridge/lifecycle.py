"""What states mean: ours, Slurm's, and the way from one to the other. Pure.

Slurm's states and flags are those of its page "Job State Codes"
(slurm.schedmd.com/job_state_codes.html). squeue and sacct print a flag *instead of* the base
state when one is set, so either may be all that is known.
"""

from dataclasses import dataclass
from enum import StrEnum


class ProcessState(StrEnum):
    """The GA4GH TES state names."""

    UNKNOWN = "UNKNOWN"
    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELING = "CANCELING"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"
    PREEMPTED = "PREEMPTED"

    @property
    def final(self) -> bool:
        """Whether nothing follows this state."""
        return self in FINAL_STATES


FINAL_STATES = frozenset(
    {
        ProcessState.COMPLETE,
        ProcessState.EXECUTOR_ERROR,
        ProcessState.SYSTEM_ERROR,
        ProcessState.CANCELED,
        ProcessState.PREEMPTED,
    }
)


class Phase(StrEnum):
    """What a Runner has to do next for a Process. Not shown to submitters."""

    ACCEPTED = "ACCEPTED"  # prepare its context; nothing has reached Slurm
    SUBMITTING = "SUBMITTING"  # the intent is written: from here on Slurm may know it
    SUBMITTED = "SUBMITTED"  # observe its job
    COLLECTING = "COLLECTING"  # its job ended: carry the outputs
    DONE = "DONE"  # nothing
    RELEASING = "RELEASING"  # a reviewer let its outputs out: carry them from where they wait
    REJECTING = "REJECTING"  # a reviewer did not: destroy them


class ReviewState(StrEnum):
    """How far the review of a Process's outputs is. It begins when the Process has ended."""

    WAITING = "WAITING"
    RELEASING = "RELEASING"
    RELEASED = "RELEASED"
    REJECTING = "REJECTING"
    REJECTED = "REJECTED"


class SlurmState(StrEnum):
    """Slurm's base states."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"


class SlurmFlag(StrEnum):
    """Slurm's state flags."""

    COMPLETING = "COMPLETING"
    CONFIGURING = "CONFIGURING"
    EXPEDITING = "EXPEDITING"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    POWER_UP_NODE = "POWER_UP_NODE"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESIZING = "RESIZING"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    REVOKED = "REVOKED"
    SIGNALING = "SIGNALING"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    UPDATE_DB = "UPDATE_DB"


STATE_OF_BASE: dict[SlurmState, ProcessState] = {
    SlurmState.PENDING: ProcessState.QUEUED,
    SlurmState.RUNNING: ProcessState.RUNNING,
    SlurmState.SUSPENDED: ProcessState.PAUSED,
    SlurmState.COMPLETED: ProcessState.COMPLETE,
    SlurmState.CANCELLED: ProcessState.CANCELED,
    SlurmState.FAILED: ProcessState.EXECUTOR_ERROR,
    SlurmState.TIMEOUT: ProcessState.EXECUTOR_ERROR,
    SlurmState.NODE_FAIL: ProcessState.SYSTEM_ERROR,
    SlurmState.PREEMPTED: ProcessState.PREEMPTED,
    SlurmState.BOOT_FAIL: ProcessState.SYSTEM_ERROR,
    SlurmState.DEADLINE: ProcessState.EXECUTOR_ERROR,
    SlurmState.OUT_OF_MEMORY: ProcessState.EXECUTOR_ERROR,
}

# What a flag says whatever the base state; None: the base state decides. Earlier rows win.
STATE_OF_FLAG: dict[SlurmFlag, ProcessState | None] = {
    SlurmFlag.REQUEUED: ProcessState.QUEUED,
    SlurmFlag.REQUEUE_FED: ProcessState.QUEUED,
    SlurmFlag.REQUEUE_HOLD: ProcessState.QUEUED,
    SlurmFlag.SPECIAL_EXIT: ProcessState.QUEUED,
    SlurmFlag.RESV_DEL_HOLD: ProcessState.QUEUED,
    # The job's processes may still run and its files still change.
    SlurmFlag.COMPLETING: ProcessState.RUNNING,
    SlurmFlag.STAGE_OUT: ProcessState.RUNNING,
    SlurmFlag.SIGNALING: ProcessState.RUNNING,
    SlurmFlag.RESIZING: ProcessState.RUNNING,
    SlurmFlag.STOPPED: ProcessState.PAUSED,
    SlurmFlag.CONFIGURING: ProcessState.INITIALIZING,
    SlurmFlag.POWER_UP_NODE: ProcessState.INITIALIZING,
    SlurmFlag.LAUNCH_FAILED: ProcessState.SYSTEM_ERROR,
    SlurmFlag.RECONFIG_FAIL: ProcessState.SYSTEM_ERROR,
    SlurmFlag.REVOKED: ProcessState.SYSTEM_ERROR,
    SlurmFlag.EXPEDITING: None,
    SlurmFlag.UPDATE_DB: None,
}


@dataclass(frozen=True, slots=True)
class SlurmStatus:
    """Slurm's word on a job: a base state, flags, or (of an unlisted word) neither."""

    base: SlurmState | None
    flags: frozenset[SlurmFlag] = frozenset()
    unlisted: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [self.base.value] if self.base else []
        return "+".join([*words, *sorted(self.flags), *self.unlisted]) or "(none)"


def read_status(text: str) -> SlurmStatus:
    """Read a state as Slurm's programs print it: `RUNNING`, `CANCELLED by 1000`, `FAILED,REQUEUED`.

    Never raises: words that Slurm's page does not list are kept as `unlisted`.
    """
    base: SlurmState | None = None
    flags: set[SlurmFlag] = set()
    unlisted: list[str] = []
    for part in text.replace("+", ",").replace("|", ",").split(","):
        word = part.strip().split(" ", 1)[0].upper()
        if word in SlurmState.__members__:
            base = SlurmState(word)
        elif word in SlurmFlag.__members__:
            flags.add(SlurmFlag(word))
        elif word:
            unlisted.append(word)
    return SlurmStatus(base, frozenset(flags), tuple(unlisted))


def classify(status: SlurmStatus) -> ProcessState:
    """What Slurm's word means for a Process. What is not listed is UNKNOWN, and stays open."""
    if status.unlisted:
        return ProcessState.UNKNOWN
    for flag, state in STATE_OF_FLAG.items():
        if flag in status.flags and state is not None:
            # A pending job carries flags such as SIGNALING or STOPPED from an earlier attempt.
            if status.base is SlurmState.PENDING and state is ProcessState.RUNNING:
                continue
            return state
    return STATE_OF_BASE[status.base] if status.base else ProcessState.UNKNOWN


_OPEN = frozenset(ProcessState) - FINAL_STATES

# Every move between two states that may happen. Final states are left by nobody. A job can be
# requeued (RUNNING to QUEUED), and a cancel can come too late (CANCELING to COMPLETE).
LEGAL_TRANSITIONS: frozenset[tuple[ProcessState, ProcessState]] = frozenset(
    {
        (before, after)
        for before in _OPEN - {ProcessState.CANCELING}
        for after in ProcessState
        if before is not after
    }
    | {(ProcessState.CANCELING, after) for after in FINAL_STATES | {ProcessState.UNKNOWN}}
)


def is_legal(before: ProcessState, after: ProcessState) -> bool:
    """Whether a Process in `before` may move to `after`."""
    return (before, after) in LEGAL_TRANSITIONS
