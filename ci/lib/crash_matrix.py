"""The driver of ci/crash-matrix."""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.cluster import WAYS, Cluster, provide_image
from tests.support.crashing import crash, problems


def main() -> int:
    """Kill, and judge; 0 when nothing was lost and nothing ran twice."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    cluster = Cluster(WAYS["shared"])
    provide_image(cluster, "python")
    found = crash(cluster, kills=kills, at_once=6)
    processes = found["processes"]
    points, effects = len(found["killed"]), len(found["effects"])
    print(f"{found['kills']} kills at {points} points (before or after) of {effects} effects,")
    print(f"{found['killing_seconds']} s of killing, {found['seconds']} s in all")
    print(f"{len(processes)} Processes: {dict(Counter(entry['state'] for entry in processes))}")
    print(f"programs that ran n times: {dict(Counter(entry['runs'] for entry in processes))}")
    wrong = problems(cluster, found)
    for problem in wrong:
        print(f"WRONG: {problem}")
    for point, count in sorted(found["killed"].items()):
        print(f"  {count:3} {point}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
