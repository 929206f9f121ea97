"""From this host: what following Processes costs the controller, and how soon their end is known.

`calls`: every Process ends as soon as it can; what slurmctld counted (sdiag) is compared with a
loop that submits each job with sbatch and asks for it with squeue every two seconds.
`end`: the controller has a thousand running jobs, and some Processes end among them.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slurmbridge.client import Client
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.support.cluster import WAYS, Cluster, until

PROCESSES = 200
NAIVE = 12
RUNNING = 1000
ENDING = 60
# Sees thousands of jobs share its processors.
CROWD = "many"
SPEC: dict[str, Any] = {
    "image": "python",
    "command": ["sleep", "2"],
    "resources": {"memory_mib": 64},
    "time_limit_minutes": 5,
    "partition": "short",
    "account": "research",
    "trace": "off",
}
_USER = re.compile(r"^\s*slurmbridge\s*\(\s*\d+\)\s*count:(\d+)", re.MULTILINE)
_LOOP = """
job=$(sbatch --parsable --partition=short --mem=64 --wrap "sleep 2")
while [ -n "$(squeue --noheader --job="$job" 2>/dev/null)" ]; do sleep 2; done
"""


def counted(cluster: Cluster) -> int:
    """How many calls of the service user slurmctld has answered."""
    found = _USER.search(cluster.must("controller", "sdiag", user="root"))
    return int(found[1]) if found else 0


def calls_of(cluster: Cluster, act: Callable[[], object]) -> tuple[int, float]:
    """The calls that were counted meanwhile, and the seconds that it took."""
    before, began = counted(cluster), time.monotonic()
    act()
    return counted(cluster) - before, time.monotonic() - began


def run_all(client: Client, processes: int, **changes: Any) -> list[Process]:
    """Submit, and follow all to their end."""
    spec = parse_spec({**SPEC, **changes})
    ids = [client.submit(spec).id for _ in range(processes)]
    return [client.wait(one, timeout_seconds=900, poll_seconds=1) for one in ids]


def calls(cluster: Cluster, client: Client) -> dict[str, float]:
    """Calls to slurmctld for each Process, and for each job of the loop."""
    asleep, seconds = calls_of(cluster, lambda: time.sleep(30))
    ours, took = calls_of(cluster, lambda: run_all(client, PROCESSES))
    loops, looped = calls_of(cluster, lambda: naive(cluster))
    # The bridge looks around meanwhile.
    loops -= round(asleep * looped / seconds)
    return {
        "bridge_calls_per_process": ours / PROCESSES,
        "loop_calls_per_job": loops / NAIVE,
        "bridge_calls_per_s": ours / took,
        "idle_calls_per_s": asleep / seconds,
    }


def naive(cluster: Cluster) -> None:
    """Jobs as a simple program would follow them."""
    script = " ".join(f"( {_LOOP} ) &" for _ in range(NAIVE)) + " wait"
    cluster.must("login", "sh", "-c", script, timeout_seconds=600)


def end(cluster: Cluster, client: Client) -> dict[str, float]:
    """From the end that Slurm gives to the final state, in the crowd."""
    wrap = ("--wrap", "sleep 1800")
    crowd = cluster.must(
        "login", "sbatch", "--parsable", f"--partition={CROWD}", "--mem=8",
        f"--array=1-{RUNNING}", "--output=/dev/null", *wrap,
    ).strip()  # fmt: skip
    try:
        running = ("squeue", "--noheader", "--array", f"--job={crowd}", "--states=R")
        until(
            "crowd",
            lambda: len(cluster.must("login", *running).splitlines()) >= RUNNING,
            seconds=600,
            every=3,
        )
        ended = []
        for _ in range(ENDING // 6):
            ended += run_all(client, 6, partition=CROWD)
    finally:
        cluster.must("login", "scancel", crowd)
    # Slurm gives whole seconds: half of one is added to each by that, on average.
    found = [known(client, process) for process in ended]
    return {"median_s": median(found), "mean_s": mean(found), "most_s": max(found)}


def known(client: Client, process: Process) -> float:
    """Seconds between the end that Slurm gives and the last event."""
    assert process.ended_at is not None, process
    return (client.events(process.id)[-1].at - process.ended_at).total_seconds()


def main() -> None:
    """One of the two, once."""
    kind = sys.argv[1]
    cluster = Cluster(WAYS["shared"])
    token = cluster.must("bridge", "slurmbridge", "tokens", "add", "bench").strip()
    with Client(f"http://127.0.0.1:{cluster.way.published_port}", token) as client:
        print(json.dumps([{"calls": calls, "end": end}[kind](cluster, client)]))


if __name__ == "__main__":
    main()
