"""Brings the programs of this folder to where they run: into Processes, and under a bare strace."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster
from tests.support.truth import expected

FOLDER = Path(__file__).parent
_CODE, _DATA = "/shared/code/truth", "/shared/data/truth/data.csv"
_SOURCES = ("prog.c", "prog.py", "prog.sh", "Prog.java", "Hello.java", "hello.c")
_BARE = r"""
root=$(mktemp -d); trap 'chmod -R u+rwX "$root"; rm -rf "$root"' EXIT
mkdir "$root"/input "$root"/output "$root"/tmp; cp -r /shared/code/truth "$root/code"
cp /shared/data/truth/data.csv "$root/input"; chmod 444 "$root/input/data.csv"
cp "$root/code/prog" "$root/tmp/prog"; chmod 700 "$root/tmp/prog"
cd "$root/code"; eval "words=($1)"
strace --follow-forks --quiet=attach,personality,path-resolution \
    --absolute-timestamps=format:unix,precision:us --decode-fds=path --string-limit=1024 \
    --output="$root/trace" -- "${words[@]}" >/dev/null
sed "s|$root||g" "$root/trace"
"""
# Outside, the same with another root.
_OUTSIDE = {
    "C": '"$root/tmp/prog" "$root"',
    "Python": 'python3 -I "$root/code/prog.py" "$root"',
    "shell": 'sh "$root/code/prog.sh" "$root"',
}


def stage(bridge: Cluster, folder: Path) -> int:
    """The sources, the data, and what is written in C compiled; returns the size of prog."""
    gcc = shutil.which("gcc")
    assert gcc, "gcc is missing"
    program, hello = folder / "prog", folder / "hello"
    options = ("-static", "-O1", "-Wall", "-Werror", "-pthread")
    for made in (program, hello):
        source = FOLDER / f"{made.name}.c"
        subprocess.run([gcc, *options, "-o", str(made), str(source)], check=True)
    for path in (*(FOLDER / name for name in _SOURCES), program, hello):
        bridge.write("bridge", f"{_CODE}/{path.name}", path.read_bytes())
    bridge.must("bridge", "chmod", "755", f"{_CODE}/hello")
    bridge.write("bridge", _DATA, bytes(expected.DATA_BYTES))
    return program.stat().st_size


def specification(command: tuple[str, ...], level: str, **changes: Any) -> dict[str, Any]:
    """Of a Process that runs one of the programs."""
    return {
        "image": "python",
        "command": list(command),
        "code": {"source": "code:truth"},
        "inputs": [{"source": "data:truth/data.csv"}],
        "resources": {"memory_mib": 256},
        "time_limit_minutes": 5,
        "partition": "short",
        "account": "research",
        "trace": level,
        **changes,
    }


def under_bare_strace(cluster: Cluster, name: str) -> bytes:
    """What strace alone says of a program on a node, as if its folders lay where they do inside."""
    return cluster.must("node1", "bash", "-euc", _BARE, "bash", _OUTSIDE[name]).encode()
