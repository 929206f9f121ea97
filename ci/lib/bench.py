"""Runs the measures on the cluster; prints a table; writes JSON."""

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
ON_BRIDGE = "/opt/slurmbridge/src/ci/lib"


@dataclass(frozen=True)
class Measure:
    """A figure, what it is compared with, and the runs that it comes from."""

    value: float
    unit: str
    goal: float
    holds: bool
    against: str
    runs: list[dict[str, float]]


def on_bridge(script: str, *arguments: str) -> list[dict[str, float]]:
    """Run a script of this folder on the bridge; its runs."""
    argv = [str(ROOT / "ci/cluster"), "exec", "bridge", "--"]
    argv += ["/opt/slurmbridge/venv/bin/python", f"{ON_BRIDGE}/{script}", *arguments]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    runs: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return runs


def submit() -> Measure:
    """Accepted rows to stored job ids, against a loop that does nothing but submit."""
    runs = on_bridge("bench_submit.py")
    value = median(run["bridge_per_s"] / run["bare_pyslurm_per_s"] for run in runs)
    against = (
        "Processes a second from rows to job ids, as a share of a bare pyslurm loop with the same "
        "script in the same run; bound by slurmctld and its client sharing the cores"
    )
    return Measure(round(value, 3), "ratio", 0.5, value >= 0.5, against, runs)


def seal() -> Measure:
    """What the seal costs a Process: the script on the node against a bare container."""
    runs = on_bridge("bench_seal.py", "start")
    cost = {
        kind: median(run[f"{kind}_s"] for run in runs) - median(run["bare_s"] for run in runs)
        for kind in ("sealed", "traced")
    }
    value = max(cost.values())
    against = (
        "seconds that the whole script (pod, helpers, attestation, seal) takes beyond a bare "
        "`apptainer exec` of the same program and image on the same node, medians; the larger of "
        f"sealed ({cost['sealed']:+.3f} s) and traced ({cost['traced']:+.3f} s); bound by hashing "
        "the image and by starting the runtime"
    )
    return Measure(round(value, 3), "s", 0.6, value <= 0.6, against, runs)


def cpu() -> Measure:
    """What the seal costs a program that computes, by its own clock."""
    runs = on_bridge("bench_seal.py", "cpu")
    ratio = {
        kind: median(run[f"{kind}_s"] / run["bare_s"] for run in runs)
        for kind in ("sealed", "traced")
    }
    value = ratio["sealed"]
    against = (
        "time of a computing program, as a multiple of its time in a bare container in the same "
        f"run, medians; sealed. (Sealed and traced: {ratio['traced']:.3f}.) A system call costs "
        "one table look-up more; what differs is the noise of a small machine"
    )
    return Measure(round(value, 3), "x", 1.03, value <= 1.03, against, runs)


MEASURES: dict[str, Callable[[], Measure]] = {"submit": submit, "seal": seal, "cpu": cpu}


def show(measures: dict[str, Measure]) -> None:
    """A table, and below it the medians of what was measured."""
    table = Table("measure", "value", "goal", "holds", "against")
    for name, measure in measures.items():
        holds = "yes" if measure.holds else "NO"
        goal = f"{'>=' if measure.unit == 'ratio' else '<='} {measure.goal}"
        table.add_row(name, f"{measure.value} {measure.unit}", goal, holds, measure.against)
    console = Console()
    console.print(table)
    for name, measure in measures.items():
        medians = {key: median(run[key] for run in measure.runs) for key in measure.runs[0]}
        figures = ", ".join(f"{key} {value:.3f}" for key, value in medians.items())
        console.print(f"{name}, medians of {len(measure.runs)} runs: {figures}")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench")
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    names = arguments.measures or list(MEASURES)
    if unknown := [name for name in names if name not in MEASURES]:
        parser.error(f"there is no measure {unknown[0]!r}; there are: {', '.join(MEASURES)}")
    measures = {name: MEASURES[name]() for name in names}
    show(measures)
    if arguments.json:
        document: dict[str, Any] = {
            "measures": {name: asdict(measure) for name, measure in measures.items()}
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(measure.holds for measure in measures.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
