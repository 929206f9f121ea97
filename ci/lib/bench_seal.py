"""On the bridge: what the sealed, and the traced, script costs beyond a bare `apptainer exec`.

    bench_seal.py start     seconds of the whole script, for a program that does nothing
    bench_seal.py cpu       seconds that a program takes by its own clock, when it computes

All three run in turn within one job on one node, so that they share whatever disturbs them.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from slurmbridge.bridge.desk import new_ulid
from slurmbridge.bridge.render import Renderer
from slurmbridge.container.helpers import source_sha256
from slurmbridge.context.folder import ContextFolder
from slurmbridge.model import parse_spec
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.settings import load
from slurmbridge.store import Database, HelperStore, ImageStore

BARE = """env --ignore-environment PATH=/usr/bin:/bin HOME=/nonexistent \\
    APPTAINERENV_OPENBLAS_NUM_THREADS=1 apptainer --silent exec --cwd / "$2" python3 -c "$3" """

START = f"""#!/bin/bash
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

CPU = f"""#!/bin/bash
set -euo pipefail
export PATH=/usr/bin:/bin
while read -r sealed traced; do
    bare=$({BARE})
    bash "$sealed"
    bash "$traced"
    echo "$bare $(<"${{sealed%.sbatch}}/stdout.txt") $(<"${{traced%.sbatch}}/stdout.txt")"
done <"$1"
"""

# Python's own loop, arrays, and memory that comes and goes: about two seconds in microseconds.
COMPUTE = """
import time, numpy
begun = time.perf_counter()
sum(number * number % 7 for number in range(8_000_000))
for _ in range(20):
    array = numpy.random.default_rng(7).random((600, 600))
    numpy.linalg.eigvalsh(array + array.T)
print(int((time.perf_counter() - begun) * 1e6))
"""


@dataclass(frozen=True)
class Kind:
    """A job, the program that it runs in three ways, and how often."""

    job: str
    program: str
    rounds: int


KINDS = {"start": Kind(START, "pass", 15), "cpu": Kind(CPU, COMPUTE, 9)}


def prepare(contexts: Path, kind: Kind) -> tuple[Path, str]:
    """Scripts as the bridge renders them, each with a context of its own; the image."""
    database = Database(load().database)
    image, helpers = (
        ImageStore(database).get("python"),
        HelperStore(database, source_sha256()).get(),
    )
    renderer = Renderer(Templates(DEFAULT_TEMPLATES), contexts)
    command = ["python3", "-c", kind.program]
    # One thread: with more, what else runs on the node decides.
    variables = {"OPENBLAS_NUM_THREADS": "1"}
    lines = []
    for _ in range(kind.rounds + 1):
        paths = []
        for trace in ("off", "audit"):
            asked = {"image": "python", "command": command, "environment": variables}
            spec = parse_spec({**asked, "trace": trace})
            process_id = new_ulid()
            folder = ContextFolder(contexts, process_id)
            ready = renderer.prepared(process_id, spec, image)
            folder.make(ready.command, ready.environment, ready.expected_facts)
            path = contexts / f"{process_id}.sbatch"
            path.write_text(renderer.render(process_id, spec, image, helpers).text)
            paths.append(str(path))
        lines.append(" ".join(paths))
    listing = contexts / "scripts"
    listing.write_text("\n".join(lines) + "\n")
    return listing, image.path


def main() -> None:
    """One job; its first round only warms up."""
    kind = KINDS[sys.argv[1]]
    contexts = Path(tempfile.mkdtemp(prefix="bench-", dir=load().contexts))
    try:
        listing, image = prepare(contexts, kind)
        job = contexts / "job"
        job.write_text(kind.job)
        argv = ["srun", "--ntasks=1", "--cpus-per-task=2", "--mem=1G", "--export=NIL"]
        done = subprocess.run(
            [*argv, "/bin/bash", str(job), str(listing), image, kind.program],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
    finally:
        shutil.rmtree(contexts)
    rows = [[int(word) / 1e6 for word in line.split()] for line in done.stdout.splitlines()][1:]
    names = ("bare_s", "sealed_s", "traced_s")
    print(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))


if __name__ == "__main__":
    main()
