"""Many simulations, over all CPUs: each seed is a world of its own."""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count

from slurmbridge.testing.simulation.truth import TRESPASS, Violation
from slurmbridge.testing.simulation.world import Outcome, Simulator

# How many seeds a worker is given at a time, and after how many it makes room for another: what is
# cached somewhere must not grow for hours.
_SEEDS_AT_ONCE = 4
_CALLS_OF_A_WORKER = 100
_STACK_BYTES = 512 * 1024


@dataclass(frozen=True)
class Finding:
    """A seed that broke a rule."""

    seed: int
    rule: str
    text: str


@dataclass
class Totals:
    """What came of many simulations."""

    seeds: int = 0
    lifetimes: int = 0
    steps: int = 0
    simulated_seconds: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    # What is known and not mended yet: see truth.TRESPASS.
    known: list[Finding] = field(default_factory=list)
    # All seeds below this one have been tried.
    next_seed: int = 0

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.seeds += 1
        self.lifetimes += outcome.lifetimes
        self.steps += outcome.steps
        self.simulated_seconds += outcome.seconds
        self.figures += outcome.figures

    def __str__(self) -> str:
        found = self.figures
        ends = ", ".join(
            f"{name.removeprefix('ended as ')} {found[name]}"
            for name in sorted(found)
            if name.startswith("ended as ")
        )
        return (
            f"{self.lifetimes} lifetimes in {self.seeds} worlds, {self.steps} steps, "
            f"{self.simulated_seconds / 3600:.1f} h of their time; {found['crashes']} crashes, "
            f"{found['freezes']} freezes, {found['Runners taken for dead']} Runners taken for "
            f"dead, {found['answers lost']} answers lost, {found['second jobs']} second jobs; "
            f"ends: {ends or 'none'}; {len(self.known)} trespasses that did harm; "
            f"{len(self.findings)} violations"
        )


def run_seed(
    simulator: Simulator, seed: int, listener: Callable[[str], object] | None = None
) -> Outcome | Finding:
    """One simulation."""
    try:
        return simulator.run(seed, listener)
    except Violation as violation:
        rule, what = violation.rule, str(violation)
        notes = "\n".join(getattr(violation, "__notes__", ()))
    except Exception as error:
        # What no program expects ends the simulation, and not the campaign.
        rule, what = "error", repr(error)
        notes = "".join(traceback.format_exception(error)).rstrip()
    text = f"seed {seed}: {what}\n{notes}\nreplay: ci/simulate --seed {seed} --verbose"
    return Finding(seed, rule, text)


def campaign(
    first: int, *, lifetimes: int, jobs: int, on_progress: Callable[[Totals], object]
) -> Totals:
    """Simulate seed after seed until there were so many lifetimes, or until it is interrupted."""
    totals = Totals(next_seed=first)
    done: dict[int, int] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, max_tasks_per_child=_CALLS_OF_A_WORKER
    ) as pool:
        running: dict[Future[list[Outcome | Finding]], int] = {}
        seeds = count(first, _SEEDS_AT_ONCE)
        try:
            while totals.lifetimes < lifetimes:
                for seed in _some(seeds, 2 * jobs - len(running)):
                    running[pool.submit(_run_some, seed)] = seed
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    done[running.pop(future)] = _SEEDS_AT_ONCE
                    _add(totals, future.result())
                while totals.next_seed in done:
                    totals.next_seed += done.pop(totals.next_seed)
                on_progress(totals)
        except KeyboardInterrupt:
            pass
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return totals


def _some(seeds: Iterator[int], most: int) -> list[int]:
    return [next(seeds) for _ in range(most)]


def _add(totals: Totals, results: list[Outcome | Finding]) -> None:
    for result in results:
        if isinstance(result, Finding) and result.rule == TRESPASS:
            totals.known.append(result)
        elif isinstance(result, Finding):
            totals.findings.append(result)
        else:
            totals.add(result)


def _begin() -> None:
    """At a terminal, the one who started it decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.stack_size(_STACK_BYTES)
    cpus = sorted(os.sched_getaffinity(0))
    # A baton that stays on one CPU is handed on faster.
    number = multiprocessing.current_process()._identity[0]
    os.sched_setaffinity(0, {cpus[number % len(cpus)]})


def _run_some(first: int) -> list[Outcome | Finding]:
    with Simulator() as simulator:
        found = [run_seed(simulator, first + number) for number in range(_SEEDS_AT_ONCE)]
    gc.collect()
    return found
