"""On the bridge: what a trace costs a sealed program, beside the same program without one.

    python -m ci.lib.bench_tracing cpu | flights | compile | opens | opens-two [ROUNDS]

All ways run in turn within one job on one node. Two times are taken of each: the program's own,
and that of the whole script. Prints one JSON list, an entry for each round.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ci.lib.bench_programs import COMPUTE, OPENS, OPENS_C, TIMED, project
from ci.lib.bench_scripts import Scripts, Staged, in_job, scripts

ROOT = Path(__file__).resolve().parents[2]
FLIGHTS = Path("/shared/data/flights/flights.csv")
OPENS_COUNT = 10_000
TOOK = re.compile(r"^took (\w+) (\d+)$", re.MULTILINE)

JOB = """
set -euo pipefail
export PATH=/usr/bin:/bin
# The nodes of the development cluster have fewer CPUs than Slurm is told.
(($(nproc) >= $2)) || { echo "the job has $(nproc) CPUs and not $2" >&2; exit 1; }
while read -r script; do
    begun=$EPOCHREALTIME
    bash "$script" </dev/null >&2 || echo "$script: exit code $?" >&2
    ended=$EPOCHREALTIME
    echo "$script $((${ended/./} - ${begun/./}))"
done <"$1"
"""


@dataclass(frozen=True)
class Kind:
    """A program, and the ways in which it runs."""

    asked: Mapping[str, Any]
    staged: Callable[[], Staged] = Staged
    ways: tuple[str, ...] = ("off", "audit")
    cpus: int = 1
    rounds: int = 9


def flights() -> Staged:
    """The demo's code and data."""
    code = (ROOT / "examples/flights/analysis.py").read_bytes()
    return Staged({"analysis.py": code}, {"flights.csv": FLIGHTS.read_bytes()})


def opens() -> Staged:
    """A program in C, and a file."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "opens"
        argv = ["gcc", "-O2", "-static", "-x", "c", "-o", str(program), "-"]
        subprocess.run(argv, input=OPENS_C, text=True, check=True)
        return Staged({"opens": program.read_bytes(), "file": b"content\n"})


def timed(*command: str) -> list[str]:
    """A command that tells its time."""
    return ["bash", "-c", TIMED, "bash", *command]


ANALYSIS = timed("python3", "analysis.py", "-i", "/input", "-o", "/output", "-t", "/tmp")  # noqa: S108
ALL_WAYS = ("off", "audit", "unfiltered", "plain")
_OPENS = {"image": "python", "command": ["python3", "-c", OPENS, str(OPENS_COUNT)]}
KINDS = {
    "cpu": Kind(
        {
            "image": "python",
            "command": ["python3", "-c", COMPUTE],
            # One thread: with more, what else runs on the node decides.
            "environment": {"OPENBLAS_NUM_THREADS": "1"},
        }
    ),
    "flights": Kind({"image": "python", "command": ANALYSIS}, flights),
    "compile": Kind(
        {
            "image": "programs",
            "command": timed("make", "-s", "-j2", "-C", "/tmp", "-f", "/code/Makefile"),  # noqa: S108
        },
        lambda: Staged(project()),
        cpus=2,
        rounds=5,
    ),
    "opens": Kind(_OPENS, opens, ALL_WAYS, rounds=5),
    "opens-two": Kind(_OPENS, opens, ALL_WAYS, cpus=2, rounds=3),
}


def changed(script: str, way: str) -> str:
    """A traced script whose strace does the same without its filter, or nothing but its default."""
    if way == "unfiltered":
        pattern, text = r"^ +--seccomp-bpf \\\n", ""
    elif way == "plain":
        pattern = r"\bstrace --[a-z].*?(?= --output=trace\.fifo)"
        text = "strace --follow-forks"
    else:
        return script
    new, count = re.subn(pattern, text, script, flags=re.MULTILINE | re.DOTALL)
    if count != 1:
        raise SystemExit(f"strace's command line in the script is not as {way!r} needs it")
    return new


def prepare(made: Scripts, kind: Kind, rounds: int) -> list[list[Path]]:
    """The contexts of each round, one for each way."""
    staged = kind.staged()
    found, listed = [], []
    for _ in range(rounds):
        contexts = []
        for way in kind.ways:
            trace = "off" if way == "off" else "audit"
            context, text = made.text({**kind.asked, "trace": trace}, staged)
            listed.append(str(made.write(context, changed(text, way))))
            contexts.append(context)
        found.append(contexts)
    (made.contexts / "scripts").write_text("\n".join(listed) + "\n")
    return found


def outcome(context: Path, wall: int) -> dict[str, float]:
    """The times of one run in seconds, and the lines of its trace."""

    def kept(name: str) -> str:
        path = context / name
        return path.read_text(errors="replace").strip() if path.exists() else ""

    times = {f"{name}_s": int(took) / 1e6 for name, took in TOOK.findall(kept("stdout.txt"))}
    if kept("exit_code") != "0" or not times:
        raise SystemExit(f"a run failed: {kept('refused') or kept('stderr.txt')[-1000:]}")
    trace, lines = context / "trace.zst", 0
    if trace.exists():
        with subprocess.Popen(["zstd", "-dcq", str(trace)], stdout=subprocess.PIPE) as unpacked:
            assert unpacked.stdout
            pieces = iter(partial(unpacked.stdout.read, 1024 * 1024), b"")
            lines = sum(piece.count(b"\n") for piece in pieces)
    return {**times, "wall_s": wall / 1e6, "lines": lines}


def measure(kind: Kind, rounds: int) -> list[dict[str, float]]:
    """One job; its first round only warms up."""
    with scripts("bench-") as made:
        contexts = prepare(made, kind, rounds + 1)
        listing, cpus = str(made.contexts / "scripts"), kind.cpus
        printed = in_job(JOB, listing, str(cpus), cpus=cpus, alone=cpus > 1)
        walls = dict(line.split() for line in printed)
        runs = []
        for turn in contexts:
            run: dict[str, float] = {}
            for way, context in zip(kind.ways, turn, strict=True):
                found = outcome(context, int(walls[f"{context}.sbatch"]))
                run |= {f"{way}_{name}": value for name, value in found.items()}
            runs.append(run)
    return runs[1:]


def main() -> None:
    """One kind."""
    kind = KINDS[sys.argv[1]]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else kind.rounds
    print(json.dumps(measure(kind, rounds)))


if __name__ == "__main__":
    main()
