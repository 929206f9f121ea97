"""On the bridge: traced scripts of a busy program, to be run one after the other.

    python -m ci.lib.soak_tracing make RUNS [FIRST]     prints a folder and makes a list in it
    python -m ci.lib.soak_tracing remove FOLDER

The program imports numpy, walks /usr/share, starts children that end, and threads that open files.
Every tenth run is recorded at level `full`.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from ci.lib.bench_scripts import Scripts
from slurmbridge.settings import load

PREFIX = "soak-"
BUSY = """
import multiprocessing, os, subprocess, threading
import numpy

def open_files(folder):
    for entry in os.scandir(folder):
        if entry.is_file():
            with open(entry.path, "rb") as file:
                file.read(16)

threads = [threading.Thread(target=open_files, args=["/etc"]) for _ in range(4)]
children = [subprocess.Popen(["sh", "-c", "ls -R /usr/lib/python3 | wc -l; exit 0"],
            stdout=subprocess.DEVNULL) for _ in range(3)]
forks = [multiprocessing.get_context("fork").Process(target=os.listdir, args=["/usr/bin"])
         for _ in range(3)]
for started in forks + threads:
    started.start()
files = sum(len(names) for _, _, names in os.walk("/usr/share"))
for started in forks + threads:
    started.join()
assert all(child.wait() == 0 for child in children)
assert all(fork.exitcode == 0 for fork in forks)
assert float(numpy.linalg.inv(numpy.eye(50)).sum()) == 50
print(files)
"""


def make(runs: int, first: int) -> Path:
    """Contexts and scripts; each line of the list is a level and a script."""
    contexts = Path(tempfile.mkdtemp(prefix=PREFIX, dir=load().contexts))
    made, lines = Scripts(contexts), []
    for number in range(first, first + runs):
        level = "full" if number % 10 == 0 else "audit"
        asked = {"image": "python", "command": ["python3", "-W", "ignore", "-c", BUSY]}
        script = made.write(*made.text({**asked, "trace": level}))
        lines.append(f"{level} {script}\n")
    (contexts / "list").write_text("".join(lines))
    return contexts


def main() -> int:
    """Make or remove."""
    match sys.argv[1:]:
        case ["make", runs, *first]:
            print(make(int(runs), int(first[0]) if first else 1))
        case ["remove", folder]:
            path = Path(folder).resolve()
            contexts = load().by_cluster["default"].contexts
            if path.parent != contexts.resolve() or not path.name.startswith(PREFIX):
                raise SystemExit(f"{folder} was not made here")
            shutil.rmtree(path)
        case _:
            raise SystemExit("usage: soak_tracing make RUNS [FIRST] | remove FOLDER")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
