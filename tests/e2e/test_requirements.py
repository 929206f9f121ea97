"""What a Process needs beside its code: installed by a job, once, and bound into it read-only."""

import json
import secrets
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster, copy_folder, until
from tests.support.cluster_stores import ClusterStore, is_whole
from tests.support.wheels import make_index, make_source, make_spy, make_wheel, sha256

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
# As in ci/slurm/slurmbridge.toml: on the nodes, and on the login node.
WHEELS = "/shared/images/wheels"
PORT = 8765
TIMES = 20
SETUP = "from setuptools import setup\nsetup()\n"


@dataclass
class Stock:
    """Packages whose names nobody has asked for before, as a wheelhouse and as an index."""

    cluster: Cluster
    folder: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    numbers: Iterator[int] = field(default_factory=count)

    def name(self, what: str) -> str:
        """The name of a package of this run."""
        return f"{what}{self.mark[:8]}"

    def wanted(self, text: str) -> str:
        """Where a requirements.txt with this text lies."""
        path = f"requirements/{self.mark}/{next(self.numbers)}/requirements.txt"
        self.cluster.write("bridge", f"/shared/code/{path}", text.encode())
        return f"code:{path}"


@pytest.fixture(scope="module")
def stock(bridge: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    found = Stock(bridge, tmp_path_factory.mktemp("stock"))
    wheels, archives = found.folder / "wheels", found.folder / "archives"
    wheels.mkdir()
    archives.mkdir()
    alpha, beta = found.name("alpha"), found.name("beta")
    source = f"def main():\n    print('tool of {alpha}')\n"
    make_wheel(
        wheels, alpha, requires=[beta],
        files={f"{alpha}/__init__.py": source.encode()},
        scripts={f"tool-{alpha}": f"{alpha}:main"},
    )  # fmt: skip
    make_wheel(wheels, beta, "2.0")
    copy_folder(bridge, wheels, WHEELS)
    for name in ("gamma", "many"):
        make_wheel(archives, found.name(name))
    make_source(archives, found.name("sourced"), files={"setup.py": SETUP})
    make_spy(archives, found.mark, found.name("spy"))
    index = found.folder / "index"
    make_index(index, [*archives.iterdir(), *wheels.iterdir()])
    place = f"/tmp/index-{found.mark}"
    copy_folder(bridge, index, place)
    serving = bridge.argv("login", "python3", "-m", "http.server", str(PORT), "-d", place)
    with subprocess.Popen(serving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        fetch = "import sys, urllib.request as r; r.urlopen(sys.argv[1])"
        look = ("python3", "-c", fetch, f"http://login:{PORT}/index/{alpha}/")
        until("index", lambda: bridge.run("node1", *look).exit_code == 0)
        yield found
        bridge.run("login", "pkill", "-f", f"http.server {PORT}")
        server.wait(30)
    bridge.run("login", "rm", "-r", place)
    bridge.run("login", "sh", "-c", f"rm {WHEELS}/*{found.mark[:8]}*")


def complete(client: Client, process: Process) -> str:
    """What it printed, when all went well."""
    stderr = client.log(process.id, "stderr").data
    assert process.state is ProcessState.COMPLETE, (process.reason, stderr)
    return client.log(process.id).data.decode()


def locked(process: Process) -> dict[str, str]:
    """What was installed, and the SHA-256 of each file."""
    assert process.requirements is not None
    return {
        f"{entry.name}=={entry.version}": entry.hashes["sha256"]
        for entry in process.requirements.lock
    }


def failed(process: Process) -> str:
    """Why the submitter has to mend it."""
    assert process.state is ProcessState.EXECUTOR_ERROR, process.reason
    assert process.job_id is None
    return process.reason or ""


SHOWS = """
import importlib, pathlib, subprocess, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
for path in ("/requirements", "/requirements/bin"):
    try:
        pathlib.Path(path, "new").touch()
    except OSError as error:
        print(error.strerror)
print(subprocess.run(["tool-" + sys.argv[1]], capture_output=True, text=True).stdout, end="")
"""


@pytest.mark.parametrize("source", ["wheels", "index"])
def test_what_was_installed_is_there_read_only_and_the_lock_says_what_it_is(
    stock: Stock, client: Client, run: Run, source: str
) -> None:
    alpha, beta = stock.name("alpha"), stock.name("beta")
    process = run(
        "python3", "-c", SHOWS, alpha, beta,
        requirements=stock.wanted(f"{alpha}\n"), requirements_source=source, trace="audit",
    )  # fmt: skip
    assert complete(client, process).splitlines() == [
        f"/requirements/{alpha}/__init__.py",
        f"/requirements/{beta}/__init__.py",
        "Read-only file system",
        "Read-only file system",
        f"tool of {alpha}",
    ]
    wheels = stock.folder / "wheels"
    assert locked(process) == {
        f"{alpha}==1.0": sha256(wheels / f"{alpha}-1.0-py3-none-any.whl"),
        f"{beta}==2.0": sha256(wheels / f"{beta}-2.0-py3-none-any.whl"),
    }
    assert process.attested
    assert "outside /requirements same" in client.attestation(process.id).facts
    details = [event.detail for event in client.events(process.id)]
    assert any(detail.startswith("its requirements are being installed") for detail in details)


def test_what_was_installed_is_there_in_every_pod(stock: Stock, client: Client, run: Run) -> None:
    alpha = stock.name("alpha")
    show = f"python3 -c 'import {alpha}; print({alpha}.__file__)'"
    process = run(
        "sh", "-c", f'{show}; /.sb/rsh sb2 "{show}"',
        requirements=stock.wanted(f"{alpha}\n"), requirements_source="index",
        parallel={"kind": "pods", "nodes": 2}, trace="off",
    )  # fmt: skip
    assert complete(client, process) == f"/requirements/{alpha}/__init__.py\n" * 2
    assert "sb2 outside /requirements same" in client.attestation(process.id).facts


def test_with_hashes_exactly_what_they_name_is_installed(
    stock: Stock, client: Client, run: Run
) -> None:
    gamma = stock.name("gamma")
    digest = sha256(stock.folder / "archives" / f"{gamma}-1.0-py3-none-any.whl")
    process = run(
        "python3", "-c", f"import {gamma}; print({gamma}.VERSION)",
        requirements=stock.wanted(f"{gamma}==1.0 --hash=sha256:{digest}\n"),
        requirements_source="index",
    )  # fmt: skip
    assert complete(client, process) == "1.0\n"
    assert locked(process) == {f"{gamma}==1.0": digest}


def test_what_cannot_be_installed_is_told_to_the_submitter(stock: Stock, run: Run) -> None:
    gone, sourced, alpha = stock.name("gone"), stock.name("sourced"), stock.name("alpha")
    wrong = "0" * 64
    expected = {
        f"{gone}\n": f"requirement {gone}: no version matches: there is no package of this name",
        f"{sourced}\n": f"requirement {sourced}: it has no wheel for this image",
        f"{alpha}==9\n": f"requirement {alpha}==9: no version matches; there are 1.0",
        f"{alpha}==1.0 --hash=sha256:{wrong}\n": f"requirement {alpha}: its hash is wrong: "
        f"expected sha256 {wrong}, got ",
        "-r other.txt\n": "requirements: line 1: the option '-r' is refused: other files are not "
        "read",
    }
    found = {
        text: failed(run("true", requirements=stock.wanted(text), requirements_source="index"))
        for text in expected
    }
    for text, sentence in expected.items():
        assert found[text].startswith(sentence)


def test_a_hostile_build_finds_neither_data_nor_secrets(
    stock: Stock, bridge: Cluster, client: Client, run: Run
) -> None:
    for folder in ("/shared/data", "/shared/code"):
        bridge.write("bridge", f"{folder}/requirements/{stock.mark}/secret", stock.mark.encode())
    bridge.write("login", f"/shared/contexts/.mark-{stock.mark}", stock.mark.encode())
    spy = stock.name("spy")
    process = run(
        "cat", f"/requirements/{spy}/seen.json",
        requirements=stock.wanted(f"{spy}\n"), requirements_source="building",
        inputs=[{"source": f"data:requirements/{stock.mark}/secret"}],
        environment={"TOKEN": stock.mark},
    )  # fmt: skip
    text = complete(client, process)
    bridge.run("login", "rm", f"/shared/contexts/.mark-{stock.mark}")
    seen = json.loads(text)
    assert seen["marked"] == []
    assert stock.mark not in text.replace(spy, "")
    # What the image has of these is empty.
    for place in ("/input", "/code", "/output", "/shared", "/etc/munge", "/run/munge", "/.sb"):
        assert seen["places"][place] in ([], "No such file or directory"), place
    assert not [name for name in seen["variables"] if name.startswith(("SLURM", "APPTAINER"))]
    assert seen["user"] == [1000, 1000, "sealed"]
    assert not [line for line in seen["mounts"] if "/shared/" in line]


def test_a_hundred_that_ask_at_once_are_served_by_one_job(
    stock: Stock, bridge: Cluster, client: Client
) -> None:
    many = stock.name("many")
    asked: dict[str, Any] = {
        "command": ["python3", "-c", f"import {many}"],
        "requirements": stock.wanted(f"{many}\n"),
        "requirements_source": "index",
    }
    spec = parse_spec({**SMALL, **asked, "resources": {"memory_mib": 64}})
    ids = [client.submit(spec).id for _ in range(100)]
    ended = [client.wait(one, timeout_seconds=600, poll_seconds=0.5) for one in ids]
    assert {process.state for process in ended} == {ProcessState.COMPLETE}
    keys = {process.requirements.key for process in ended if process.requirements}
    assert len(keys) == 1
    names = bridge.must("login", "squeue", "--me", "--states=all", "-ho", "%j").split()
    assert names.count(f"sb-requirements-{keys.pop()}-1") == 1


MEASURES = """#!/bin/bash
#SBATCH --account=research
#SBATCH --partition=short
#SBATCH --cpus-per-task=1
#SBATCH --mem=256M
#SBATCH --time=2
#SBATCH --output=/dev/null
#SBATCH --chdir=@folder@
export PATH=/usr/bin:/bin LC_ALL=C.UTF-8
refuse() { echo "$1" >>times; exit 78; }
@function@
once() {
    set -eu
    cd "$(mktemp -d run.XXXX)"
    image_server=$$
    local begun=$(date +%s%N)
    mount_requirements
    echo $(($(date +%s%N) - begun)) >>../times
    kill "$requirements_server"
    trap - EXIT
}
export -f refuse once mount_requirements
for ((n = 0; n < @times@; n++)); do
    unshare --user --map-user=1000 --map-group=1000 --keep-caps --mount -- /bin/bash -c once
done
"""


def test_what_is_installed_already_adds_less_than_a_tenth_of_a_second_on_the_node(
    stock: Stock, bridge: Cluster, client: Client, run: Run
) -> None:
    wanted = stock.wanted(f"{stock.name('alpha')}\n")
    process = run("true", requirements=wanted, requirements_source="wheels")
    complete(client, process)
    script = client.script(process.id) or ""
    begin = script.index("mount_requirements() {")
    function = script[begin : script.index("\n}\n", begin) + 3]
    folder = f"/shared/images/measured-{stock.mark}"
    text = MEASURES.replace("@function@", function).replace("@folder@", folder)
    bridge.must("login", "mkdir", folder)
    job = text.replace("@times@", str(TIMES)).encode()
    bridge.must("login", "sbatch", "--wait", stdin=job, timeout_seconds=300)
    times = [int(line) for line in bridge.read("login", f"{folder}/times").split()]
    bridge.run("login", "rm", "-r", folder)
    assert len(times) == TIMES
    assert statistics.median(times) < 100_000_000


# --- SANE ---

SCRIPT = """
import argparse, pathlib
import {alpha}
parser = argparse.ArgumentParser()
for flag in ("-i", "-o", "-t"):
    parser.add_argument(flag, type=pathlib.Path, required=True)
given = parser.parse_args()
text = (given.i / "values.csv").read_text()
(given.t / "between").write_text(text.upper())
(given.o / "result.csv").write_text((given.t / "between").read_text())
print({alpha}.__file__)
"""


def test_a_project_of_sane_runs_unchanged(stock: Stock, client: Client, bridge: Cluster) -> None:
    alpha = stock.name("alpha")
    project = f"sane/{stock.mark}"
    script = SCRIPT.format(alpha=alpha).encode()
    bridge.write("bridge", f"/shared/code/{project}/script.py", script)
    bridge.write("bridge", f"/shared/code/{project}/requirements.txt", f"{alpha}\n".encode())
    bridge.write("bridge", f"/shared/data/{project}/values.csv", b"a,b\n")
    asked = {
        **{key: value for key, value in SMALL.items() if key != "command"},
        "contract": "sane",
        "code": {"source": f"code:{project}"},
        "inputs": [{"source": f"data:{project}/values.csv"}],
    }
    submitted = client.submit(parse_spec(asked))
    process = client.wait(submitted.id, timeout_seconds=120, poll_seconds=0.3)
    assert complete(client, process) == f"/requirements/{alpha}/__init__.py\n"
    assert {file.path for file in process.outputs} >= {"output/result.csv", "stdout.txt"}
    assert set(locked(process)) == {f"{alpha}==1.0", f"{stock.name('beta')}==2.0"}


# --- the whole way ---

WHOLE = """
import csv, pathlib
import {alpha}
rows = [row for path in sorted(pathlib.Path("/input/tables").iterdir())
        for row in csv.DictReader(path.open())]
total = sum(int(row["count"]) for row in rows)
pathlib.Path("/output/total.txt").write_text(str(total))
print({alpha}.__file__, total)
"""


def test_from_a_web_store_with_requirements_from_an_index_back_to_a_web_store(
    stock: Stock, bridge: Cluster, client: Client
) -> None:
    alpha, store = stock.name("alpha"), ClusterStore(bridge, "dav")
    project = f"whole/{stock.mark}"
    store.put(f"{project}/code/main.py", WHOLE.format(alpha=alpha).encode())
    store.put(f"{project}/code/requirements.txt", f"{alpha}\n".encode())
    for number in range(3):
        table = f"name,count\na,{number}\nb,{10 * number}\n"
        store.put(f"{project}/tables/{number}.csv", table.encode())
    asked = {
        **SMALL,
        "command": ["python3", "main.py"],
        "code": {"source": f"dav:{project}/code"},
        "inputs": [{"source": f"dav:{project}/tables"}],
        "requirements": f"dav:{project}/code/requirements.txt",
        "requirements_source": "index",
        "outputs": {"destination": f"davout:{project}"},
        "trace": "audit",
    }
    submitted = client.submit(parse_spec(asked))
    process = client.wait(submitted.id, timeout_seconds=180, poll_seconds=0.3)
    assert complete(client, process) == f"/requirements/{alpha}/__init__.py 33\n"
    assert set(locked(process)) == {f"{alpha}==1.0", f"{stock.name('beta')}==2.0"}
    assert process.attested
    assert {"output/total.txt", "stdout.txt"} <= {file.path for file in process.outputs}
    is_whole(store, process)
    place = (process.outputs_location or "").partition(":")[2]
    assert store.get(f"{place}/output/total.txt") == b"33"
