"""Whether a Runner still stands: on the roster, and heard of not long ago."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from slurmbridge.clock import Clock, always
from slurmbridge.errors import NotStanding
from slurmbridge.store import Roster, RunnerStatus

# Who has not moved for so many beats of another is struck off.
PATIENCE = 4


@dataclass(frozen=True, slots=True)
class Beats:
    """How often a Runner shows that it lives.

    Another strikes it off no sooner than PATIENCE beats after it was last seen to move, so whoever
    has not been heard of for `valid_seconds`, the half of that, may not act any more.
    """

    every_seconds: float

    @property
    def valid_seconds(self) -> float:
        """For how long a Runner may act after a beat."""
        return self.every_seconds * PATIENCE / 2


def beats_of(lease_seconds: float) -> Beats:
    """The beats with which a dead Runner's work is free after this time at the latest."""
    return Beats(lease_seconds / (PATIENCE + 1))


class Standing:
    """One Runner's place on the roster. Used by the Runner and by the thread that beats."""

    def __init__(self, roster: Roster, status: RunnerStatus, beats: Beats, clock: Clock) -> None:
        self._roster = roster
        self._status = status
        self._beats = beats
        self._clock = clock
        self._lock = threading.Lock()
        self._heard_at: float | None = None
        self._struck = False
        # Of every other Runner: its count, and for how many of our beats it has stood still.
        self._seen: dict[str, tuple[int, int]] = {}

    @property
    def id(self) -> str:
        """The Runner."""
        return self._status.id

    @property
    def cluster(self) -> str:
        """The cluster that it works for."""
        return self._status.cluster

    @property
    def scheduler_error(self) -> str | None:
        """Why Slurm could not be asked last time."""
        return self._status.scheduler_error

    @property
    def struck(self) -> bool:
        """Whether others have taken it for dead. It stays so: a new Runner has to begin."""
        return self._struck

    def enter(self) -> None:
        """Begin."""
        began = self._clock.monotonic()
        self._roster.enter(self._status)
        self._heard_at = began

    def leave(self) -> None:
        """End in good order: what it holds is free at once."""
        self._heard_at = None
        self._roster.leave(self._status.id)

    def tell(self, scheduler_error: str | None) -> None:
        """Say whether Slurm answers, from the next beat on."""
        with self._lock:
            self._status = replace(self._status, scheduler_error=scheduler_error)

    def beat(self) -> None:
        """Show that this Runner lives."""
        with self._lock:
            began = self._clock.monotonic()
            status = replace(
                self._status, beat=self._status.beat + 1, heartbeat_at=self._clock.now()
            )
            if not self._roster.beat(status):
                self._struck = True
                return
            self._status = status
            self._heard_at = began

    def look_round(self) -> None:
        """After each regular beat: strike off those that have stood still for PATIENCE of them."""
        beats = self._roster.beats()
        beats.pop(self.id, None)
        self._seen = {runner: self._still(runner, count) for runner, count in beats.items()}
        for runner, (count, still) in self._seen.items():
            if still >= PATIENCE:
                self._roster.strike(runner, count)

    def _still(self, runner: str, count: int) -> tuple[int, int]:
        before, still = self._seen.get(runner, (-1, 0))
        return (count, still + 1) if before == count else (count, 0)

    def count_calls(self, calls: Mapping[str, tuple[int, int]]) -> None:
        """Add to how often the cluster was asked for what, and how often in vain."""
        self._roster.count_calls(self.cluster, calls)

    def has_role(self, name: str) -> bool:
        """Whether this Runner does something for all: it already did, or nobody else does."""
        return self._roster.take_role(name, self.id)

    def seconds_left(self) -> float:
        """For how long it may act without being heard of again; 0: not now."""
        if self._struck or self._heard_at is None:
            return 0.0
        return max(0.0, self._heard_at + self._beats.valid_seconds - self._clock.monotonic())

    @property
    def stands(self) -> bool:
        """Whether it may act now."""
        return self.seconds_left() > 0

    def check(self) -> None:
        """Called before anything is done that others can see.

        Raises:
            NotStanding: others may have taken over.
        """
        if not self.stands:
            raise NotStanding(
                f"the Runner {self.id} has not been heard of for too long: it does nothing more"
            )


def _unguarded() -> None:
    """Who works alone always stands."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a Runner, its clock, `guard`, which raises NotStanding when it may not, and for how
    long it may.
    """

    id: str
    clock: Clock = field(default_factory=Clock)
    guard: Callable[[], None] = _unguarded
    seconds_left: Callable[[], float] = always
