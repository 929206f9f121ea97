"""Deliberate bugs, each planted from outside by putting something else in a method's place."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from slurmbridge.bridge import collect
from slurmbridge.bridge.collect import Collector, Verdict
from slurmbridge.bridge.desk import Desk
from slurmbridge.bridge.dispatch import Dispatcher
from slurmbridge.bridge.observe import Observer, Patience
from slurmbridge.context.left import Left
from slurmbridge.errors import ReplyUnreadable, SchedulerUnavailable, SubmissionNotSent
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.scheduler.manners import PoliteScheduler
from slurmbridge.store import Change, ProcessStore, claims, moves
from slurmbridge.store.claims import InProgress
from slurmbridge.testing.simulation import Focus, Hot
from slurmbridge.testing.simulation.cluster import Cluster

Planter = Callable[[ExitStack], None]


def _put(held: ExitStack, where: object, name: str, instead: object) -> None:
    held.enter_context(patch.object(where, name, instead))


def no_claim(held: ExitStack) -> None:
    """A job begins whether or not another has its context."""

    def claim(self: Cluster, context: Path, job_id: int) -> bool:
        real(self, context, job_id)
        return True

    real = Cluster.claim
    _put(held, Cluster, "claim", claim)


def no_intent(held: ExitStack) -> None:
    """What is about to be submitted is not written down before."""
    _put(held, Dispatcher, "_intend", lambda _self, ready: ready)


def lease_not_checked(held: ExitStack) -> None:
    """A move is written, whoever holds the Process."""
    _put(held, moves, "is_held_by", lambda _runner: moves.PROCESS.c.id.is_not(None))


def struck_runner_writes(held: ExitStack) -> None:
    """What a Runner writes counts, be it on the roster or not."""

    def apply(
        self: ProcessStore, changes: Any, *, runner: Any, now: Any, observer: Any = None
    ) -> Any:
        return real(self, changes, runner=None, now=now)

    real = ProcessStore.apply
    _put(held, ProcessStore, "apply", apply)


def unknown_is_complete(held: ExitStack) -> None:
    """A job of whose end nothing is known has ended well."""

    def judge(slurm_state: str | None, left: Left) -> Verdict:
        if slurm_state is None and left.exit_code is None:
            return Verdict(ProcessState.COMPLETE, 0, None)
        return real(slurm_state, left)

    real = collect.judge
    _put(held, collect, "judge", judge)


def one_look_is_enough(held: ExitStack) -> None:
    """What is not there at one look is absent, and nothing is on its way."""

    def absent(self: Patience) -> Callable[[], timedelta]:
        return timedelta

    _put(held, Patience, "absence", property(absent, lambda _self, _value: None))
    lag_ignored(held)


def lag_ignored(held: ExitStack) -> None:
    """Accounting is believed to know everything."""
    _put(held, PoliteScheduler, "backlog", lambda _self: 0)


def lost_is_the_end(held: ExitStack) -> None:
    """A job that Slurm has lost before it began ends its Process."""
    _put(held, collect, "_has_not_begun", lambda _entry, _left: False)


def silence_is_absence(held: ExitStack) -> None:
    """Who does not answer has no jobs."""

    def silent(name: str) -> Callable[..., list[Any]]:
        real = getattr(PoliteScheduler, name)

        def ask(*words: Any, **more: Any) -> list[Any]:
            try:
                return list(real(*words, **more))
            except (SchedulerUnavailable, ReplyUnreadable):
                return []

        return ask

    _put(held, PoliteScheduler, "jobs", silent("jobs"))
    _put(held, PoliteScheduler, "history", silent("history"))
    lag_ignored(held)


def not_queued_is_ended(held: ExitStack) -> None:
    """A job that squeue does not show has ended."""

    def decide(self: Observer, rows: Sequence[Any], now: Any) -> list[Change]:
        values = {"slurm_state": None, "ended_at": now}
        return [
            Change(
                row.id, row.state, row.state, Phase.SUBMITTED, Phase.COLLECTING, "runner",
                "it is not in the queue", values,
            )
            for row in rows
        ]  # fmt: skip

    _put(held, Observer, "_decide_absent", decide)


def second_jobs_stay(held: ExitStack) -> None:
    """Second jobs are not ended, and a job begins whether or not another has its context."""
    no_claim(held)
    _put(held, Observer, "_end_second_jobs", lambda _self, _rows, _jobs: [])


def context_goes_first(held: ExitStack) -> None:
    """The context is removed before the end is durable."""

    def apply(self: Collector, entry: Any, change: Change) -> None:
        if change.phase is Phase.DONE:
            self._rules.contexts.of(entry.id).remove()
        now = self._actor.clock.now()
        self._processes.apply([change], runner=self._actor.id, now=now)

    _put(held, Collector, "_apply", apply)


def key_not_looked_at(held: ExitStack) -> None:
    """Whoever asks again gets another Process."""

    def submit_once(self: Desk, spec: Any, *, by: str, key: str) -> Any:
        return self.submit(spec, by=by), True

    _put(held, Desk, "submit_once", submit_once)


def limits_forget_jobs(held: ExitStack) -> None:
    """Limits count what a Runner prepares, and not what Slurm has already."""
    _put(held, claims, "in_progress", lambda _connection, _cluster: InProgress(0, {}, {}))


def cancel_is_the_end(held: ExitStack) -> None:
    """A job that Slurm was asked to cancel has ended."""

    def cancel(self: Observer, rows: Any, changes: Any) -> list[Change]:
        asked = real(self, rows, changes)
        ended = [
            replace(
                change,
                before=change.after,
                phase=Phase.COLLECTING,
                values={"slurm_state": "CANCELLED", "ended_at": self._actor.clock.now()},
            )
            for change in asked
        ]
        self._processes.apply(ended, runner=None, now=self._actor.clock.now())
        return [*asked, *ended]

    real = Observer._cancel
    _put(held, Observer, "_cancel", cancel)


def unanswered_is_refused(held: ExitStack) -> None:
    """A submission that Slurm did not answer had no effect."""

    def outcome(self: Dispatcher, entry: Any, found: Any) -> Change:
        unsure = isinstance(found, SchedulerUnavailable)
        return real(self, entry, SubmissionNotSent(str(found)) if unsure else found)

    real = Dispatcher._outcome
    _put(held, Dispatcher, "_outcome", outcome)


PLANTS: dict[str, Planter] = {
    plant.__name__: plant
    for plant in (
        no_claim,
        no_intent,
        lease_not_checked,
        struck_runner_writes,
        unknown_is_complete,
        one_look_is_enough,
        lag_ignored,
        lost_is_the_end,
        silence_is_absence,
        not_queued_is_ended,
        second_jobs_stay,
        context_goes_first,
        key_not_looked_at,
        limits_forget_jobs,
        cancel_is_the_end,
        unanswered_is_refused,
    )
}

_STALLS_AT_SUBMIT = Focus({("submit", False): Hot(stall=0.5)})
# A second job does harm where it is not withdrawn in time.
_STALLS_AT_EACH_SUBMIT = Focus({("submit", False): Hot(stall=0.9)})
_CRASHES_AT_SUBMIT = Focus({("submit", True): Hot(crash=0.2)})
_UNANSWERED = Focus(weather={"late_submission": 0.3})
_STALLS_AT_WRITE = Focus({("write", False): Hot(stall=0.03), ("write", True): Hot(stall=0.03)})
_CRASHES_AT_REMOVE = Focus({("remove", True): Hot(crash=0.1)})
_UNSEEN_ENDS = Focus(
    {("jobs", False): Hot(broken=0.6)}, {"accounting_delay": 90.0, "ended_by_slurm": 0.4}
)
_SILENCE = Focus(
    {("jobs", False): Hot(broken=0.97), ("history", False): Hot(broken=0.97)},
    {"canceled": 0.3, "ended_by_slurm": 0.4},
)
_LOSS = Focus(weather={"controller_reset_every": 60.0})
_CANCELS = Focus(weather={"canceled": 0.3})
# Where something has to go wrong before a bug does harm: who knows it hunts for minutes less.
FOCUS: dict[str, Focus] = {
    "no_claim": _STALLS_AT_EACH_SUBMIT,
    "no_intent": _CRASHES_AT_SUBMIT,
    "second_jobs_stay": _STALLS_AT_SUBMIT,
    "lease_not_checked": _STALLS_AT_WRITE,
    "struck_runner_writes": _STALLS_AT_WRITE,
    "unknown_is_complete": _LOSS,
    "one_look_is_enough": _UNSEEN_ENDS,
    "lag_ignored": _UNSEEN_ENDS,
    "lost_is_the_end": _LOSS,
    "silence_is_absence": _SILENCE,
    "not_queued_is_ended": _UNSEEN_ENDS,
    "context_goes_first": _CRASHES_AT_REMOVE,
    "cancel_is_the_end": _CANCELS,
    "unanswered_is_refused": _UNANSWERED,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """One of them, as long as the block lasts."""
    with ExitStack() as held:
        PLANTS[name](held)
        yield
