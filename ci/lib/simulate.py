"""Simulates the whole bridge, seed after seed. See docs/testing.md."""

import argparse
import os
import sys
import time
from pathlib import Path

from slurmbridge.testing.simulation import Finding, Simulator, Totals, campaign, run_seed

_EVERY_SECONDS = 10.0


def main() -> int:
    """One seed, or as many as it takes."""
    options = _options()
    if options.seed is not None:
        return _one(options.seed, verbose=options.verbose)
    first = options.first if options.first is not None else int.from_bytes(os.urandom(5))
    print(f"seeds from {first}", flush=True)
    began = shown = time.monotonic()
    told = 0

    def progress(totals: Totals) -> None:
        nonlocal shown, told
        for finding in totals.findings[told:]:
            print(finding.text, flush=True)
        told = len(totals.findings)
        if time.monotonic() - shown >= _EVERY_SECONDS:
            shown = time.monotonic()
            rate = totals.lifetimes / (shown - began)
            print(
                f"[{shown - began:.0f} s] {totals.lifetimes} lifetimes, {rate:.0f}/s, "
                f"{len(totals.findings)} violations, next seed {totals.next_seed}",
                flush=True,
            )

    totals = campaign(first, lifetimes=options.lifetimes, jobs=options.jobs, on_progress=progress)
    seconds = time.monotonic() - began
    print(f"{totals}\n{seconds:.0f} s; go on with: ci/simulate --from {totals.next_seed}")
    return 1 if totals.findings else 0


def _one(seed: int, *, verbose: bool) -> int:
    with Simulator() as simulator:
        found = run_seed(simulator, seed, print if verbose else None)
    print(found.text if isinstance(found, Finding) else found)
    return 1 if isinstance(found, Finding) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ci/simulate", description=__doc__)
    parser.add_argument("--lifetimes", type=int, default=1_000_000, help="how many, at least")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--verbose", action="store_true", help="with --seed: all that happens")
    parser.add_argument("--from", type=int, dest="first", help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
