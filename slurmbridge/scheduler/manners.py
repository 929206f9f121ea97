"""Good manners towards a controller that others need, too: a budget, a breaker, a count.

slurmctld serves everybody on a cluster, and each call of one is a wait of another. Where it limits
the rate of calls itself (SlurmctldParameters=rl_enable), who is above it is made to wait by Slurm's
own programs, with the call's deadline running.
"""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from slurmbridge.clock import Clock
from slurmbridge.errors import OverBudget, ReplyUnreadable, SchedulerUnavailable, SubmissionNotSent
from slurmbridge.model import ComputeCapability
from slurmbridge.scheduler import ClusterNode, JobReport, Scheduler, Submission, SubmitOutcome

T = TypeVar("T")
# Of what Slurm allows, so that the user's own commands find something left.
_SHARE = 0.5
# Of the bucket, what submissions leave for looking and canceling.
_RESERVE = 0.25
# Seconds: Slurm's own default (slurm.conf), for as long as a cluster's is not known.
_USUAL_MIN_JOB_AGE = 300
# Calls to slurmctld that one call of ours makes; what accounting is asked is none.
_COST = {"jobs": 1, "history": 0, "cancel": 1, "withdraw": 3, "backlog": 1, "capability": 4,
         "nodes": 1, "submit": 1}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Budget:
    """How many calls a second, on average, and how many at once."""

    per_second: float
    at_once: float

    def below(self, parameters: str) -> "Budget":
        """This, or half of what Slurm's own limit leaves each user, whichever is less. Pure.

        `parameters` is what of SlurmctldParameters limits calls. Slurm's defaults are those of its
        page "slurm.conf".
        """
        words = dict(word.partition("=")[::2] for word in re.split(r"[,\s]+", parameters))
        if "rl_enable" not in words:
            return self
        period = max(1.0, _number(words, "rl_refill_period", 1))
        rate = _number(words, "rl_refill_rate", 2) / period
        size = _number(words, "rl_bucket_size", 30)
        return Budget(min(self.per_second, _SHARE * rate), min(self.at_once, _SHARE * size))


def _number(words: dict[str, str], name: str, default: float) -> float:
    value = words.get(name, "")
    return float(value) if value.isdecimal() else default


class Bucket:
    """Tokens for calls, refilled as time passes."""

    def __init__(self, budget: Budget, monotonic: Callable[[], float]) -> None:
        self.wished = budget
        self._budget = budget
        self._monotonic = monotonic
        self._tokens = budget.at_once
        self._filled_at = monotonic()
        self._lock = threading.Lock()

    def set(self, budget: Budget) -> None:
        """Another budget, from now on."""
        with self._lock:
            self._budget = budget
            self._tokens = min(self._tokens, budget.at_once)

    def take(self, wanted: int, *, leave: float = 0.0) -> int:
        """Up to so many tokens, as long as `leave` of the whole bucket stay in it."""
        with self._lock:
            self._fill()
            free = int(max(0.0, self._tokens - leave * self._budget.at_once))
            taken = min(wanted, free)
            self._tokens -= taken
            return taken

    def seconds_until(self, wanted: int) -> float:
        """After how long so many tokens are there, or as many as ever can be."""
        with self._lock:
            self._fill()
            missing = min(wanted, self._budget.at_once) - self._tokens
            return max(0.0, missing / self._budget.per_second)

    def _fill(self) -> None:
        now = self._monotonic()
        passed = max(0.0, now - self._filled_at)
        self._filled_at = now
        added = passed * self._budget.per_second
        self._tokens = min(self._budget.at_once, self._tokens + added)


@dataclass(frozen=True, slots=True)
class Patience:
    """After how many failures in a row nothing is asked for a while, and for how long."""

    failures: int = 3
    first_seconds: float = 2.0
    most_seconds: float = 30.0


class Breaker:
    """Keeps from asking who does not answer."""

    def __init__(self, patience: Patience, monotonic: Callable[[], float]) -> None:
        self._patience = patience
        self._monotonic = monotonic
        self._failures = 0
        self._closed_until = 0.0
        self._last = ""
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise SubmissionNotSent while nothing shall be asked."""
        with self._lock:
            left = self._closed_until - self._monotonic()
            if left > 0:
                raise SubmissionNotSent(
                    f"{self._last}; it failed {self._failures} times in a row, and is asked again "
                    f"in {left:.0f} s"
                )

    def succeeded(self) -> None:
        """It answered."""
        with self._lock:
            self._failures = 0

    def failed(self, error: Exception) -> None:
        """It did not."""
        patience = self._patience
        with self._lock:
            self._failures += 1
            self._last = str(error)
            if self._failures >= patience.failures:
                doubled = patience.first_seconds * 2.0 ** (self._failures - patience.failures)
                self._closed_until = self._monotonic() + min(doubled, patience.most_seconds)


class Tally:
    """How often what was asked, and how often in vain."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def add(self, kind: str, calls: int = 1, failures: int = 0) -> None:
        """Count."""
        with self._lock:
            before = self._counted.get(kind, (0, 0))
            self._counted[kind] = (before[0] + calls, before[1] + failures)

    def take(self) -> dict[str, tuple[int, int]]:
        """What was counted since the last time."""
        with self._lock:
            counted, self._counted = self._counted, {}
            return counted


class PoliteScheduler:
    """A Scheduler that asks no more than its budget allows, and not at all who does not answer."""

    def __init__(
        self,
        scheduler: Scheduler,
        bucket: Bucket,
        breaker: Breaker,
        *,
        clock: Clock,
        longest_wait_seconds: float = 10.0,
    ) -> None:
        self._scheduler = scheduler
        self._bucket = bucket
        self._breaker = breaker
        self._clock = clock
        self._longest_wait = longest_wait_seconds
        self.name = scheduler.name
        self.tally = Tally()

    def submit(
        self,
        submissions: Sequence[Submission],
        on_outcome: Callable[[int, SubmitOutcome], None] | None = None,
    ) -> list[SubmitOutcome]:
        """See Scheduler.submit. What is above the budget is surely not sent."""
        try:
            self._breaker.check()
        except SubmissionNotSent as error:
            return [error for _ in submissions]
        granted = self._bucket.take(len(submissions), leave=_RESERVE)
        outcomes = self._scheduler.submit(submissions[:granted], on_outcome) if granted else []
        silent = [entry for entry in outcomes if isinstance(entry, SchedulerUnavailable)]
        self.tally.add("submit", granted, len(silent))
        if silent:
            self._breaker.failed(silent[0])
        elif granted:
            self._breaker.succeeded()
        late = OverBudget("the budget of calls to Slurm is used up for the moment")
        return [*outcomes, *(late for _ in submissions[granted:])]

    def jobs(self) -> list[JobReport]:
        """See Scheduler.jobs."""
        return self._ask("jobs", self._scheduler.jobs)

    def history(self, job_names: Sequence[str], *, since: datetime) -> list[JobReport]:
        """See Scheduler.history. It asks slurmdbd, whose silence is not the controller's."""
        self.tally.add("history")
        return self._scheduler.history(job_names, since=since)

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """See Scheduler.cancel."""
        if job_ids:
            self._ask("cancel", lambda: self._scheduler.cancel(job_ids, kill=kill), len(job_ids))

    def withdraw(self, job_ids: Sequence[int]) -> None:
        """See Scheduler.withdraw."""
        if job_ids:
            self._ask("withdraw", lambda: self._scheduler.withdraw(job_ids))

    def backlog(self) -> int:
        """See Scheduler.backlog."""
        return self._ask("backlog", self._scheduler.backlog)

    def capability(self) -> ComputeCapability:
        """See Scheduler.capability."""
        capability = self._ask("capability", self._scheduler.capability)
        self._bucket.set(self._bucket.wished.below(capability.call_limits))
        return capability

    def nodes(self) -> list[ClusterNode]:
        """See Scheduler.nodes."""
        return self._ask("nodes", self._scheduler.nodes)

    def close(self) -> None:
        """See Scheduler.close."""
        self._scheduler.close()

    def _ask(self, kind: str, ask: Callable[[], T], times: int = 1) -> T:
        self._breaker.check()
        self._wait_for(_COST[kind] * times)
        try:
            answer = ask()
        except (SchedulerUnavailable, ReplyUnreadable) as error:
            self.tally.add(kind, 1, 1)
            self._breaker.failed(error)
            raise
        self.tally.add(kind)
        self._breaker.succeeded()
        return answer

    def _wait_for(self, tokens: int) -> None:
        """Looking is what everything else depends on: it is late rather than left out."""
        wait = self._bucket.seconds_until(tokens)
        if wait > 0:
            self._clock.sleep(min(wait, self._longest_wait))
        self._bucket.take(tokens)


def next_look_seconds(poll_seconds: float, rest_seconds: float, min_job_age: int | None) -> float:
    """How long to wait until the next look at the queue. Pure.

    A controller that takes long for an answer has much to do, and is left to it for a multiple of
    that time. But an ended job is known for MinJobAge alone, and has to be seen in it. What was
    measured is believed no further than that: a host that slept, or a clock that was set, in the
    midst of a look makes it seem to have lasted for hours.
    """
    longest = (min_job_age or _USUAL_MIN_JOB_AGE) / 3
    return min(max(poll_seconds, rest_seconds), max(poll_seconds, longest))
