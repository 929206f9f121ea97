"""On the bridge: what the sealed, and the traced, script costs beyond a bare `apptainer exec`.

All three run in turn within one job on one node, so that they share whatever disturbs them.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from slurmbridge.bridge.desk import new_ulid
from slurmbridge.bridge.render import Renderer
from slurmbridge.context.folder import ContextFolder
from slurmbridge.model import parse_spec
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.settings import load
from slurmbridge.store import Database, HelperStore, ImageStore

ROUNDS = 15
COMMAND = ["python3", "-c", "pass"]

JOB = """#!/bin/bash
set -euo pipefail
export PATH=/usr/bin:/bin
took() {
    local begun=$EPOCHREALTIME
    "$@"
    local ended=$EPOCHREALTIME
    took=$(( (${ended/./} - ${begun/./}) ))
}
while read -r sealed traced; do
    took env --ignore-environment PATH=/usr/bin:/bin HOME=/nonexistent \
        apptainer --silent exec --cwd / "$2" python3 -c pass; bare=$took
    took bash "$sealed"; sealed=$took
    took bash "$traced"; traced=$took
    echo "$bare $sealed $traced"
done <"$1"
"""


def prepare(contexts: Path) -> tuple[Path, str]:
    """Scripts as the bridge renders them, each with a context of its own; the image."""
    database = Database(load().database)
    image, helpers = ImageStore(database).get("python"), HelperStore(database).get()
    renderer = Renderer(Templates(DEFAULT_TEMPLATES), contexts)
    lines = []
    for _ in range(ROUNDS + 1):
        paths = []
        for trace in ("off", "audit"):
            spec = parse_spec({"image": "python", "command": COMMAND, "trace": trace})
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
    contexts = Path(tempfile.mkdtemp(prefix="bench-", dir=load().contexts))
    try:
        listing, image = prepare(contexts)
        job = contexts / "job"
        job.write_text(JOB)
        argv = ["srun", "--ntasks=1", "--cpus-per-task=2", "--mem=1G", "--export=NIL"]
        done = subprocess.run(
            [*argv, "/bin/bash", str(job), str(listing), image],
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
