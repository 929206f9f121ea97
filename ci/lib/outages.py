"""The driver of ci/outages."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slurmbridge.client import Client
from tests.support.cluster import WAYS, Cluster, provide_image
from tests.support.outages import FAULTS, Outcome, go_through


def main() -> int:
    """Go through the outages that are asked for; 0 when all were sound."""
    parser = argparse.ArgumentParser(prog="ci/outages")
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--way", choices=sorted(WAYS), default="shared")
    parser.add_argument("names", nargs="*", metavar="NAME")
    asked = parser.parse_args()
    faults = FAULTS[asked.way]
    if unknown := sorted(set(asked.names) - set(faults)):
        parser.error(f"no outage {', '.join(unknown)} on this way: there are {', '.join(faults)}")
    cluster = Cluster(WAYS[asked.way])
    provide_image(cluster, "python")
    token = cluster.must("bridge", "slurmbridge", "tokens", "add", "outages").strip()
    sound = True
    with Client(f"http://127.0.0.1:{cluster.way.published_port}", token) as client:
        for name in asked.names or faults:
            outcome = go_through(cluster, client, faults[name], asked.processes)
            tell(name, outcome)
            sound = sound and is_sound(name, outcome)
    return 0 if sound else 1


def is_sound(name: str, outcome: Outcome) -> bool:
    """What a controller that lost its state ends by itself is no fault of the bridge."""
    return outcome.sound_but_canceled if name == "slurmctld-killed" else outcome.sound


def tell(name: str, outcome: Outcome) -> None:
    """One outage in a few lines."""
    print(f"{name}: {outcome.processes} Processes in {outcome.seconds:.0f} s: ", end="")
    print("sound" if is_sound(name, outcome) else "NOT SOUND", flush=True)
    print(f"  states {dict(outcome.states)}, programs that ran n times {dict(outcome.runs)},")
    print(f"  jobs that got the context {dict(outcome.jobs)}")
    for reason, count in outcome.reasons.most_common(5):
        print(f"  {count} x {reason}")


if __name__ == "__main__":
    sys.exit(main())
