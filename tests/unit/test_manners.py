"""A budget of calls, a breaker, a count, and how often the queue is looked at."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.clock import Clock
from slurmbridge.errors import OverBudget, SchedulerUnavailable, SubmissionNotSent
from slurmbridge.scheduler import Scheduler, Submission
from slurmbridge.scheduler.manners import (
    Breaker,
    Bucket,
    Budget,
    Patience,
    PoliteScheduler,
    next_look_seconds,
)
from tests.support.builders import HookedScheduler
from tests.support.specs import CAPABILITY, START

DIRECTIVES = "#!/bin/bash\n#SBATCH --job-name={}\n#SBATCH --partition=main\n"


class Hand:
    """A clock whose hand is moved, and which moves on while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.clock = Clock(
            lambda: START + timedelta(seconds=self.seconds), lambda: self.seconds, self.sleep
        )

    def sleep(self, seconds: float) -> None:
        """Time goes on."""
        self.seconds += seconds


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def slurm(hand: Hand) -> HookedScheduler:
    return HookedScheduler(CAPABILITY, clock=hand.clock.now)


def polite(slurm: Scheduler, hand: Hand, budget: Budget = Budget(1, 8)) -> PoliteScheduler:  # noqa: B008
    bucket = Bucket(budget, hand.clock.monotonic)
    breaker = Breaker(Patience(failures=3, first_seconds=2, most_seconds=10), hand.clock.monotonic)
    return PoliteScheduler(slurm, bucket, breaker, clock=hand.clock)


def submissions(number: int) -> list[Submission]:
    return [Submission(f"sb-{n}", DIRECTIVES.format(f"sb-{n}")) for n in range(number)]


# --- budget ---


@given(
    budget=st.tuples(st.floats(0.1, 100), st.floats(1, 100)),
    steps=st.lists(st.tuples(st.floats(0, 10), st.integers(0, 50)), max_size=50),
)
def test_no_more_is_taken_than_was_filled_in(
    budget: tuple[float, float], steps: list[tuple[float, int]]
) -> None:
    hand = Hand()
    bucket = Bucket(Budget(*budget), hand.clock.monotonic)
    taken = 0
    for seconds, wanted in steps:
        hand.seconds += seconds
        taken += bucket.take(wanted)
        assert taken <= budget[1] + budget[0] * hand.seconds + 1e-6


def test_what_is_above_the_budget_is_surely_not_sent(slurm: HookedScheduler, hand: Hand) -> None:
    outcomes = polite(slurm, hand).submit(submissions(10))
    assert outcomes[:6] == [1, 2, 3, 4, 5, 6]
    assert all(isinstance(entry, OverBudget) for entry in outcomes[6:])
    assert len(slurm.jobs()) == 6


def test_submissions_leave_something_for_looking(slurm: HookedScheduler, hand: Hand) -> None:
    scheduler = polite(slurm, hand)
    scheduler.submit(submissions(10))
    for _ in range(2):
        scheduler.jobs()
    assert hand.seconds == 0
    scheduler.jobs()
    assert hand.seconds > 0, "it is late rather than left out"


def test_time_fills_the_budget_up(slurm: HookedScheduler, hand: Hand) -> None:
    scheduler = polite(slurm, hand)
    scheduler.submit(submissions(10))
    hand.seconds += 3
    outcomes = scheduler.submit(submissions(10))
    assert [isinstance(entry, int) for entry in outcomes].count(True) == 3


@pytest.mark.parametrize(
    ("parameters", "budget"),
    [
        ("", Budget(10, 100)),
        ("enable_configless", Budget(10, 100)),
        ("enable_configless,rl_enable", Budget(1, 15)),
        ("rl_enable,rl_bucket_size=50,rl_refill_rate=10,rl_refill_period=2", Budget(2.5, 25)),
        ("rl_bucket_size=50", Budget(10, 100)),
        ("rl_enable,rl_bucket_size=1000,rl_refill_rate=1000", Budget(10, 100)),
        ("rl_enable,rl_refill_rate=x", Budget(1, 15)),
    ],
)
def test_the_budget_stays_below_slurms_own_limit(parameters: str, budget: Budget) -> None:
    assert Budget(10, 100).below(parameters) == budget


# --- breaker ---


def test_who_does_not_answer_is_left_alone_for_longer_and_longer(
    slurm: HookedScheduler, hand: Hand
) -> None:
    slurm.silent = True
    scheduler = polite(slurm, hand, Budget(1000, 1000))
    asked_at: list[float] = []
    while hand.seconds < 60:
        before = len(slurm.calls)
        with pytest.raises(SchedulerUnavailable):
            scheduler.jobs()
        if len(slurm.calls) > before:
            asked_at.append(hand.seconds)
        hand.seconds += 0.5
    pauses = [late - early for early, late in pairwise(asked_at)]
    assert pauses[:6] == [0.5, 0.5, 2.0, 4.0, 8.0, 10.0]
    slurm.silent = False
    hand.seconds += 10
    scheduler.jobs()
    scheduler.jobs()


def test_while_nothing_is_asked_a_submission_is_surely_not_sent(
    slurm: HookedScheduler, hand: Hand
) -> None:
    slurm.answer = SchedulerUnavailable("socket timed out")
    scheduler = polite(slurm, hand)
    for _ in range(3):
        [outcome] = scheduler.submit(submissions(1))
        assert not isinstance(outcome, SubmissionNotSent)
    slurm.answer = None
    [outcome] = scheduler.submit(submissions(1))
    assert isinstance(outcome, SubmissionNotSent)
    assert "failed 3 times in a row" in str(outcome)
    assert slurm.jobs() == []


def test_accounting_that_is_silent_keeps_nobody_from_the_controller(
    slurm: HookedScheduler, hand: Hand
) -> None:
    scheduler = polite(slurm, hand)
    for _ in range(5):
        slurm.silent = True
        with pytest.raises(SchedulerUnavailable):
            scheduler.history(["x"], since=START)
        slurm.silent = False
    scheduler.jobs()


# --- count ---


def test_calls_and_failures_are_counted_and_told_once(slurm: HookedScheduler, hand: Hand) -> None:
    scheduler = polite(slurm, hand, Budget(1000, 1000))
    scheduler.submit(submissions(3))
    scheduler.jobs()
    slurm.silent = True
    with pytest.raises(SchedulerUnavailable):
        scheduler.jobs()
    assert scheduler.tally.take() == {"submit": (3, 0), "jobs": (2, 1)}
    assert scheduler.tally.take() == {}


# --- pace ---


@pytest.mark.parametrize(
    ("poll", "rest", "age", "seconds"),
    [
        (2, 0.6, 300, 2),
        (2, 20, 300, 20),
        (2, 1200, 300, 100),
        (2, 1200, None, 100),
        (2, 72_000, 0, 100),
        (200, 1200, None, 200),
        (5, 0.2, 2, 5),
        (2, 200, 6, 2),
    ],
)
def test_the_queue_is_looked_at_as_often_as_the_controller_can_bear(
    poll: float, rest: float, age: int | None, seconds: float
) -> None:
    assert next_look_seconds(poll, rest, age) == seconds
