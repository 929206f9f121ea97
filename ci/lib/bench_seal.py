"""On the bridge: what the sealed, and the traced, script costs beyond a bare `apptainer exec`.

    python -m ci.lib.bench_seal start   seconds of the whole script, for a program that does nothing
    python -m ci.lib.bench_seal cpu     seconds that a program takes by its own clock

All three run in turn within one job on one node, so that they share whatever disturbs them.
"""

import json
import sys
from dataclasses import dataclass

from ci.lib.bench_programs import COMPUTE
from ci.lib.bench_scripts import Scripts, in_job, scripts

BARE = """env --ignore-environment PATH=/usr/bin:/bin HOME=/nonexistent \\
    APPTAINERENV_OPENBLAS_NUM_THREADS=1 apptainer --silent exec --cwd / "$2" python3 -c "$3" """

START = f"""
set -euo pipefail
export PATH=/usr/bin:/bin
took() {{
    local begun=$EPOCHREALTIME
    "$@"
    local ended=$EPOCHREALTIME
    took=$(( (${{ended/./}} - ${{begun/./}}) ))
}}
while read -r sealed traced; do
    took {BARE}; bare=$took
    took bash "$sealed"; sealed=$took
    took bash "$traced"; traced=$took
    echo "$bare $sealed $traced"
done <"$1"
"""

# The program prints `took program MICROSECONDS`.
CPU = f"""
set -euo pipefail
export PATH=/usr/bin:/bin
while read -r sealed traced; do
    bare=$({BARE})
    bash "$sealed"
    bash "$traced"
    sealed=$(<"${{sealed%.sbatch}}/stdout.txt") traced=$(<"${{traced%.sbatch}}/stdout.txt")
    echo "${{bare##* }} ${{sealed##* }} ${{traced##* }}"
done <"$1"
"""


@dataclass(frozen=True)
class Kind:
    """A job, the program that it runs in three ways, and how often."""

    job: str
    program: str
    rounds: int


KINDS = {"start": Kind(START, "pass", 15), "cpu": Kind(CPU, COMPUTE, 9)}


def prepare(made: Scripts, kind: Kind) -> str:
    """A list of scripts, two in a line; its path."""
    # One thread: with more, what else runs on the node decides.
    variables = {"OPENBLAS_NUM_THREADS": "1"}
    asked = {
        "image": "python",
        "command": ["python3", "-c", kind.program],
        "environment": variables,
    }
    lines = []
    for _ in range(kind.rounds + 1):
        paths = [made.write(*made.text({**asked, "trace": trace})) for trace in ("off", "audit")]
        lines.append(" ".join(str(path) for path in paths))
    listing = made.contexts / "scripts"
    listing.write_text("\n".join(lines) + "\n")
    return str(listing)


def main() -> None:
    """One job; its first round only warms up."""
    kind = KINDS[sys.argv[1]]
    with scripts("bench-") as made:
        listing, image = prepare(made, kind), made.image_path("python")
        printed = in_job(kind.job, listing, image, kind.program, cpus=2)
    rows = [[int(word) / 1e6 for word in line.split()] for line in printed][1:]
    names = ("bare_s", "sealed_s", "traced_s")
    print(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))


if __name__ == "__main__":
    main()
