"""Runs the measures, on the cluster but for `read`; prints a table; writes JSON."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
ON_BRIDGE = "/opt/slurmbridge/src"
FLIGHTS = "/shared/data/flights/flights.csv"
READ_KINDS = ("audit", "full")
READ_LINES = 10_000_000
READ_GOAL = 250_000
GROWTH_MIB = 4
SOURCES = ("folder", "webdav", "s3")
MEMORY_MB = 200
AT_LEAST = {"ratio", "lines/s"}
Runs = list[dict[str, float]]


@dataclass(frozen=True)
class Measure:
    """A figure, what it is compared with, and the runs that it comes from."""

    value: float
    unit: str
    # None: it is only reported.
    goal: float | None
    holds: bool
    against: str
    runs: Runs


def on_bridge(module: str, *arguments: str) -> Runs:
    """Run a module of this folder on the bridge; its runs."""
    argv = [str(ROOT / "ci/cluster"), "exec", "bridge", "--"]
    argv += ["env", f"PYTHONPATH={ON_BRIDGE}", "/opt/slurmbridge/venv/bin/python"]
    return runs_of([*argv, "-m", f"ci.lib.{module}", *arguments])


def runs_of(argv: list[str]) -> Runs:
    """What a program prints as its last line."""
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    runs: Runs = json.loads(done.stdout.splitlines()[-1])
    return runs


def ratio(runs: Runs, of: str, to: str) -> float:
    """The median of the ratios, each within one round."""
    return median(run[of] / run[to] for run in runs)


def submit() -> Measure:
    """Accepted rows to stored job ids, against a loop that does nothing but submit."""
    runs = on_bridge("bench_submit")
    value = median(run["bridge_per_s"] / run["bare_pyslurm_per_s"] for run in runs)
    against = (
        "Processes a second from rows to job ids, as a share of a bare pyslurm loop with the same "
        "script in the same run; bound by slurmctld and its client sharing the cores"
    )
    return Measure(round(value, 3), "ratio", 0.5, value >= 0.5, against, runs)


def seal() -> Measure:
    """What the seal costs a Process: the script on the node against a bare container."""
    runs = on_bridge("bench_seal", "start")
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
    runs = on_bridge("bench_seal", "cpu")
    value, traced = (ratio(runs, f"{kind}_s", "bare_s") for kind in ("sealed", "traced"))
    against = (
        "time of a computing program, as a multiple of its time in a bare container in the same "
        f"run, medians; sealed. (Sealed and traced: {traced:.3f}.) A system call costs "
        "one table look-up more; what differs is the noise of a small machine"
    )
    return Measure(round(value, 3), "x", 1.03, value <= 1.03, against, runs)


def tracing(kind: str, goal: float | None, what: str, bound: str) -> Measure:
    """What a trace costs a program, by its own clock, beside the same seal without one."""
    runs = on_bridge("bench_tracing", kind)
    value, wall = (ratio(runs, f"audit_{name}", f"off_{name}") for name in ("program_s", "wall_s"))
    lines = median(run["audit_lines"] for run in runs)
    against = (
        f"time of {what} at level audit, as a multiple of its time at level off in the same job, "
        f"medians. (Of the whole script's time: {wall:.3f}; {lines:.0f} lines of trace.) {bound}"
    )
    return Measure(round(value, 3), "x", goal, goal is None or value <= goal, against, runs)


def trace_cpu() -> Measure:
    """A program that computes makes few calls."""
    bound = "Calls that are not recorded pass at full speed"
    return tracing("cpu", 1.03, "a computing program", bound)


def trace_flights() -> Measure:
    """The demo."""
    provide_flights()
    bound = "Bound by the files that Python opens to import pandas and matplotlib"
    return tracing("flights", 1.15, "the demo's analysis, from execve to exit,", bound)


def trace_compile() -> Measure:
    """Short processes, each of which opens many files."""
    build_programs()
    bound = "Bound by two stops for each file that is opened or looked for"
    return tracing("compile", None, "`make -j2` of 60 C files", bound)


@cache
def opens_runs(kind: str) -> Runs:
    """Two measures come from the same runs."""
    return on_bridge("bench_tracing", kind)


def loops(runs: Runs) -> list[str]:
    """The names of the loops that were timed: where the file lies, and what opens it."""
    times = [key for key in runs[0] if key.startswith("off_") and key.endswith("_s")]
    return [key.removeprefix("off_").removesuffix("_s") for key in times if key != "off_wall_s"]


def opens(kind: str, way: str, goal: float, bound: str) -> Measure:
    """The cost of audit for files that are only opened and closed; the worst loop counts."""
    runs = opens_runs(kind)
    found = {name: ratio(runs, f"audit_{name}_s", f"{way}_{name}_s") for name in loops(runs)}
    worst = max(found, key=lambda name: found[name])
    value = found[worst]
    others = ", ".join(f"{name} {number:.2f}" for name, number in found.items())
    against = (
        f"time of a loop that opens and closes a file at level audit, as a multiple of its time "
        f"{bound} The worst is {worst}, where the file lies and what opens it; all: {others}"
    )
    return Measure(round(value, 3), "x", goal, value <= goal, against, runs)


def trace_opens() -> Measure:
    """Against no trace."""
    bound = (
        "at level off, medians; one CPU. Bound by two stops for each open, at each of which the "
        "kernel changes from the program to strace and back."
    )
    return opens("opens", "off", 3, bound)


def trace_opens_plain() -> Measure:
    """Against `strace --follow-forks` with nothing else, in the same seal."""
    bound = "under `strace -f`, which records every call, medians; one CPU."
    return opens("opens", "plain", 0.5, bound)


def trace_opens_two() -> Measure:
    """Where strace and the program have a CPU each."""
    bound = (
        "at level off, medians; two CPUs. Bound by waking the other CPU, four times for each open; "
        "on a virtual machine each of these may go through its host."
    )
    found = opens("opens-two", "off", 3, bound)
    return replace(found, goal=None, holds=True)


def read(lines: int) -> Measure:
    """How fast a trace is read, on one core."""
    return reading(runs_of([sys.executable, str(ROOT / "ci/lib/bench_trace.py"), str(lines)]))


def reading(runs: Runs) -> Measure:
    """Both kinds of trace have to be read at this speed, and memory may not grow."""
    speeds = {kind: median(run[f"{kind}_lines_per_s"] for run in runs) for kind in READ_KINDS}
    growth = max(run[f"{kind}_growth_kib"] for run in runs for kind in READ_KINDS) / 1024
    value = min(speeds.values())
    lines = max(run["full_lines"] for run in runs)
    against = (
        f"lines of trace read in a second of one core's time; the lower of audit "
        f"({speeds['audit']:.0f}) and full ({speeds['full']:.0f}). Over {lines:.0f} lines of full, "
        f"memory grew by {growth:.1f} MiB (goal: below {GROWTH_MIB}); bound by Python"
    )
    holds = value >= READ_GOAL and growth < GROWTH_MIB
    return Measure(round(value), "lines/s", READ_GOAL, holds, against, runs)


def from_here(kind: str) -> Runs:
    """What is measured through the API, from this host."""
    return runs_of([sys.executable, str(ROOT / "ci/lib/bench_follow.py"), kind])


def calls() -> Measure:
    """What a Process costs the controller."""
    runs = from_here("calls")
    value = ratio(runs, "bridge_calls_per_process", "loop_calls_per_job")
    ours = median(run["bridge_calls_per_process"] for run in runs)
    against = (
        f"calls to slurmctld for each Process ({ours:.2f}, by sdiag, with all that the bridge asks "
        "meanwhile), as a share of what a loop of sbatch and then squeue every 2 s needs for each "
        "job in the same run; bound by one submission each, and one look a second for all"
    )
    return Measure(round(value, 3), "x", 1, value <= 1, against, runs)


def end() -> Measure:
    """How soon an end is known."""
    runs = from_here("end")
    value = median(run["median_s"] for run in runs)
    against = (
        "seconds from the end that Slurm gives (in whole seconds, so up to one is not the "
        "bridge's) to the final state in the database with outputs carried, median of 60 "
        "Processes among 1,000 running jobs; bound by one look a second and by carrying"
    )
    return Measure(round(value, 3), "s", 2, value < 2, against, runs)


def staged(size: str) -> tuple[Runs, dict[str, float], float]:
    """The runs, for each source its time as a multiple of the tool's, and the most memory in MB."""
    runs = runs_of([sys.executable, "-m", "ci.lib.bench_stage", size])
    times = {kind: ratio(runs, f"{kind}_s", f"{kind}_tool_s") for kind in SOURCES}
    return runs, times, max(run[f"{kind}_most_mb"] for run in runs for kind in SOURCES)


def stage_large() -> Measure:
    """How fast a large input comes into a context."""
    runs, times, memory = staged("large")
    speeds = {kind: 1 / time for kind, time in times.items()}
    value = min(speeds.values())
    all_of_them = ", ".join(f"{kind} {speed:.2f}" for kind, speed in speeds.items())
    against = (
        "speed of staging a file of 2 GB with its SHA-256, as a share of `cp` (folder) and `curl` "
        f"(WebDAV by Apache, S3 by moto) in the same run, on this host; the lowest of {all_of_them}"
        f". Most memory of the process: {memory:.0f} MB (goal: below {MEMORY_MB}); bound by the "
        "disk, and by one core's SHA-256"
    )
    return Measure(
        round(value, 3), "ratio", 0.8, value >= 0.8 and memory < MEMORY_MB, against, runs
    )


def stage_small() -> Measure:
    """How fast many small files come into a context."""
    runs, times, memory = staged("small")
    value = max(times.values())
    all_of_them = ", ".join(f"{kind} {time:.2f}" for kind, time in times.items())
    against = (
        "time of staging 10,000 files of 4 KiB, as a multiple of `rclone copy` from the same "
        f"source in the same run, on this host; the highest of {all_of_them}. Most memory of the "
        f"process: {memory:.0f} MB (goal: below {MEMORY_MB}); bound by Python, one core for all"
    )
    return Measure(round(value, 3), "x", 3, value <= 3 and memory < MEMORY_MB, against, runs)


@cache
def parallel_runs() -> Runs:
    """Of all that is measured in pods, one run."""
    build_programs()
    return runs_of([sys.executable, str(ROOT / "ci/lib/bench_parallel.py")])


def parallel(where: str, what: str, goal: float, bound: str) -> Measure:
    """What pods cost MPI, beside bare containers on the nodes' own network."""
    runs = parallel_runs()
    value = ratio(runs, f"{where}_sealed_{what}", f"{where}_bare_{what}")
    found = {
        way: median(run[f"{where}_{way}_{what}"] for run in runs) for way in ("sealed", "bare")
    }
    figures = f"{found['sealed']:.4g} to {found['bare']:.4g} {what}"
    against = f"MPICH's ping-pong in pods to the same in bare containers ({figures}), {bound}"
    if what == "latency_us":
        return Measure(round(value, 3), "x", goal, value <= goal, against, runs)
    return Measure(round(value, 3), "ratio", goal, value >= goal, against, runs)


def mpi_latency() -> Measure:
    """Between nodes, 8 bytes."""
    bound = "bound by two virtual devices and the encapsulation of each packet"
    return parallel("between", "latency_us", 1.5, bound)


def mpi_bandwidth() -> Measure:
    """Between nodes, 4 MiB."""
    bound = "bound by copying and encapsulating on the two cores that both nodes share"
    return parallel("between", "mib_per_s", 0.9, bound)


def mpi_within() -> Measure:
    """Within a node, 8 bytes."""
    return parallel("within", "latency_us", 1.1, "bound by shared memory; no network is used")


def mpi_start() -> Measure:
    """On three nodes, from the start of the job."""
    runs = parallel_runs()
    found = {way: median(run[f"start_{way}_s"] for run in runs) for way in ("sealed", "bare")}
    value = found["sealed"] - found["bare"]
    against = (
        f"from Slurm's start of the job (whole seconds) to a world of three nodes, in pods "
        f"({found['sealed']:.2f} s) less srun of bare containers ({found['bare']:.2f} s); bound by "
        "preparing and probing three pods on the two cores that the nodes share"
    )
    return Measure(round(value, 3), "s", 2, value <= 2, against, runs)


def provide_flights() -> None:
    """The demo's data, where the bridge finds them."""
    on = [str(ROOT / "ci/cluster"), "exec", "bridge", "--"]
    if subprocess.run([*on, "test", "-s", FLIGHTS], check=False).returncode:
        demo = [sys.executable, str(ROOT / "ci/lib/demo.py"), "data"]
        data = subprocess.run(demo, check=True, stdout=subprocess.PIPE).stdout
        put = 'mkdir -p "$(dirname "$1")" && cat >"$1.new" && mv "$1.new" "$1"'
        subprocess.run([*on, "sh", "-c", put, "sh", FLIGHTS], input=data, check=True)


def build_programs() -> None:
    """The image with a compiler; it takes minutes the first time."""
    argv = [str(ROOT / "ci/cluster"), "exec", "bridge", "--", "env"]
    argv += [f"SLURMBRIDGE_DEFINITIONS={ON_BRIDGE}/tests/definitions"]
    argv += ["slurmbridge", "images", "build", "programs"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


MEASURES: dict[str, Callable[[], Measure]] = {
    "submit": submit,
    "calls": calls,
    "end": end,
    "seal": seal,
    "mpi-latency": mpi_latency,
    "mpi-bandwidth": mpi_bandwidth,
    "mpi-within": mpi_within,
    "mpi-start": mpi_start,
    "cpu": cpu,
    "trace-cpu": trace_cpu,
    "trace-flights": trace_flights,
    "trace-compile": trace_compile,
    "trace-opens": trace_opens,
    "trace-opens-plain": trace_opens_plain,
    "trace-opens-two": trace_opens_two,
    "stage-large": stage_large,
    "stage-small": stage_small,
    "read": lambda: read(READ_LINES),
}


def goal_of(measure: Measure) -> str:
    """A goal as a reader sees it."""
    if measure.goal is None:
        return "-"
    return f"{'>=' if measure.unit in AT_LEAST else '<='} {measure.goal}"


def named(names: list[str]) -> list[str]:
    """The measures that somebody asked for: by name, or all that begin with it and a dash.

    Raises:
        ValueError: there is none of that name.
    """
    found = []
    for name in names or list(MEASURES):
        group = [other for other in MEASURES if other == name or other.startswith(f"{name}-")]
        if not group:
            raise ValueError(f"there is no measure {name!r}; there are: {', '.join(MEASURES)}")
        found += group if name not in MEASURES else [name]
    return list(dict.fromkeys(found))


def show(measures: dict[str, Measure]) -> None:
    """A table, and below it the medians of what was measured."""
    table = Table("measure", "value", "goal", "holds", "against")
    for name, measure in measures.items():
        holds = "yes" if measure.holds else "NO"
        table.add_row(
            name, f"{measure.value} {measure.unit}", goal_of(measure), holds, measure.against
        )
    console = Console()
    console.print(table)
    shown: list[Runs] = []
    for name, measure in measures.items():
        if any(measure.runs is runs for runs in shown):
            continue
        shown.append(measure.runs)
        medians = {key: median(run[key] for run in measure.runs) for key in measure.runs[0]}
        figures = ", ".join(f"{key} {value:.3f}" for key, value in medians.items())
        console.print(f"{name}, medians of {len(measure.runs)} runs: {figures}")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench")
    parser.add_argument(
        "measures", nargs="*", metavar="MEASURE", help=", ".join([*MEASURES, "trace"])
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    lines_help = "of `full` that the measure `read` reads (default: %(default)s)"
    parser.add_argument("--lines", type=int, default=READ_LINES, metavar="N", help=lines_help)
    arguments = parser.parse_args()
    try:
        names = named(arguments.measures)
    except ValueError as error:
        parser.error(str(error))
    MEASURES["read"] = lambda: read(arguments.lines)
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
