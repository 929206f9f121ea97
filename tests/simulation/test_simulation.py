"""The whole bridge under faults, over seeds that nobody has tried; and bugs that must be found."""

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from slurmbridge.testing.simulation import Finding, Simulator, Totals, campaign, run_seed
from slurmbridge.testing.simulation.truth import TRESPASS
from slurmbridge.testing.simulation.weather import NO_FOCUS
from tests.simulation.plants import FOCUS, PLANTS, planted

LIFETIMES = 5_000
# Each bug has to be found within so many worlds.
MOST_SEEDS = 500
JOBS = len(os.sched_getaffinity(0))
# What they found, before it was mended.
FAILED_ONCE = {
    925_062_946_944: "a struck-off Runner began anew what it was still about",
    20_000_111: "a Runner that was taken for dead noted that a context was gone",
    20_000_170: "the same",
    20_000_341: "the same",
    370_701_390_052: "a clock that was set in the midst of a look put off the next one for hours",
}


def fresh() -> int:
    """A seed that nobody has tried."""
    return int.from_bytes(os.urandom(5))


def test_nothing_is_lost_or_run_twice_or_stuck_or_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = fresh()
    began = time.monotonic()

    def stop_at_the_first(totals: Totals) -> None:
        assert not totals.findings, totals.findings[0].text

    totals = campaign(first, lifetimes=LIFETIMES, jobs=JOBS, on_progress=stop_at_the_first)
    seconds = time.monotonic() - began
    with capsys.disabled():
        sys.stdout.write(f"\nsimulated from seed {first} in {seconds:.0f} s: {totals}\n")
    assert totals.lifetimes >= LIFETIMES


def test_seeds_that_failed_once_are_sound() -> None:
    with Simulator() as simulator:
        found = {seed: run_seed(simulator, seed) for seed in FAILED_ONCE}
    assert {seed: one.text for seed, one in found.items() if isinstance(one, Finding)} == {}


def hunt(name: str, first: int) -> tuple[str, int | None, str]:
    """The number of worlds that it took to find a bug, and what was seen of it."""
    with Simulator(FOCUS.get(name, NO_FOCUS)) as simulator, planted(name):
        for number in range(MOST_SEEDS):
            found = run_seed(simulator, first + number)
            if isinstance(found, Finding) and found.rule != TRESPASS:
                return name, number + 1, found.text.partition("\n")[0]
    return name, None, "not found"


def test_every_planted_bug_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    first = fresh()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(JOBS, mp_context=context) as pool:
        found = list(pool.map(hunt, PLANTS, [first] * len(PLANTS)))
    with capsys.disabled():
        sys.stdout.write(f"\nbugs planted from seed {first}:\n")
        for name, seeds, text in found:
            sys.stdout.write(f"  {name:24} after {seeds} worlds: {text}\n")
    missed = [name for name, seeds, _ in found if seeds is None]
    assert not missed
