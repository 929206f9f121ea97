"""Ordinary programs run under the seal as they do elsewhere, with a trace and without."""

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.support.cluster import ROOT, Cluster

pytestmark = pytest.mark.cluster
SOURCES = ROOT / "tests/support/programs"
ON_CLUSTER = "/shared/code/programs"
SPARK = "pyspark==4.0.1"
SPARK_SHA256 = "9d1f22d994f60369228397e3479003ffe2dd736ba79165003246ff7bd48e2c73"
NUMPY = (
    "cd /tmp && exec python3 -m pytest --pyargs numpy._core -q -p no:cacheprovider -m 'not slow'"
)


@dataclass(frozen=True)
class Program:
    """A program, and what it has to leave: in a file of its outputs, or on standard output."""

    command: tuple[str, ...]
    leaves: str
    in_file: str | None = None
    memory_mib: int = 1024
    environment: dict[str, str] = field(default_factory=dict)
    inputs: tuple[dict[str, str], ...] = ()


def shell(text: str) -> tuple[str, ...]:
    return ("sh", "-euc", text)


PROGRAMS = {
    "pandas": Program(
        ("python3", "analysis.py"), r"key,value\n0,499500000\n1,499501000\n", "sums.csv"
    ),
    "scikit-learn": Program(
        ("python3", "training.py"), r'\{"accuracy": 0\.9\d+\}', "accuracy.json"
    ),
    "a Java virtual machine": Program(("java", "Threads.java"), r"499995000000 child\n", "sum.txt"),
    "gcc": Program(shell("gcc -O2 -pthread -o /tmp/sieve sieve.c && /tmp/sieve"), r"33860\n"),
    "make and git": Program(
        shell(
            "cd /tmp && git init -q . && printf 'all:\\n\\t@echo made\\n' >Makefile && git add . &&"
            "git -c user.name=n -c user.email=e commit -qm m && git log --format=%s && make -j2"
        ),
        r"m\nmade\n",
    ),
    "R": Program(("Rscript", "model.R"), r'"slope","squares"\n-5.3445,30\n', "model.csv"),
    "MPICH": Program(
        shell("mpicc.mpich -o /tmp/ring ring.c && mpiexec.mpich -n 4 /tmp/ring"),
        r"4 ranks, sum 6\n",
    ),
    "Open MPI": Program(
        shell("mpicc.openmpi -o /tmp/ring ring.c && mpirun.openmpi -n 2 /tmp/ring"),
        r"2 ranks, sum 1\n",
    ),
    "mpi4py": Program(("mpirun.openmpi", "-n", "2", "python3", "ranks.py"), r"2 3\n"),
    "Spark": Program(
        # What is staged is not executable, and Spark starts the scripts of its own folder.
        shell(
            "mkdir /tmp/spark && cp -r /input/spark/pyspark/bin /tmp/spark && "
            "chmod +x /tmp/spark/bin/* && ln -s /input/spark/pyspark/jars /tmp/spark/jars && "
            "SPARK_HOME=/tmp/spark exec python3 counting.py"
        ),
        r"14286 14286 14286 14286 14286 14285 14285",
        "counts.txt",
        memory_mib=2048,
        environment={"PYTHONPATH": "/input/spark:/input/spark/lib/py4j-0.10.9.9-src.zip"},
        inputs=({"source": "data:spark"},),
    ),
    "numpy's own tests": Program(
        shell(NUMPY),
        r"\n3\d{4} passed, [^\n]*\n$",
        memory_mib=3000,
        # It asks the node how much memory there is, and would use it.
        environment={"NPY_AVAILABLE_MEM": "1 GB"},
    ),
}
# These take minutes with every call recorded, and are not what is recorded for.
UNTRACED = {"numpy's own tests"}


@pytest.fixture(scope="module")
def spark() -> Path:
    """The unpacked PySpark from the package index, kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slurmbridge/spark"
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"{SPARK.replace('==', '-')}.tar.gz"
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--no-binary=:all:", f"--dest={cache}", SPARK], check=True)
    with archive.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SPARK_SHA256
    return archive


@pytest.fixture(scope="module")
def staged(bridge: Cluster, programs: str, spark: Path) -> Cluster:
    """The image with all of these programs, their sources, and Spark."""
    assert programs
    for source in SOURCES.iterdir():
        if source.is_file():
            bridge.write("bridge", f"{ON_CLUSTER}/{source.name}", source.read_bytes())
    unpack_spark(bridge, spark)
    return bridge


def unpack_spark(bridge: Cluster, archive: Path) -> None:
    """Into the store, without what a local session does not need."""
    done = f"/shared/data/spark/.{SPARK_SHA256[:16]}"
    if bridge.run("bridge", "test", "-e", done).exit_code == 0:
        return
    unpack = "rm -rf /shared/data/spark && mkdir /shared/data/spark && cd /shared/data/spark && "
    unpack += (
        "tar -xz --strip-components=1 --wildcards '*/pyspark' '*/lib' '*/deps/jars' '*/deps/bin'"
    )
    unpack += f' && mv deps/jars deps/bin pyspark/ && rmdir deps && touch "{done}"'
    result = bridge.run(
        "bridge", "sh", "-euc", unpack, stdin=archive.read_bytes(), timeout_seconds=300
    )
    assert result.exit_code == 0, result.stderr


@pytest.fixture(scope="module")
def ended(staged: Cluster, client: Client) -> dict[tuple[str, str], Process]:
    """All programs, submitted together."""
    assert staged
    ids = {
        (name, trace): client.submit(parse_spec(document(program, trace))).id
        for name, program in PROGRAMS.items()
        for trace in ("off", "audit")
        if trace == "off" or name not in UNTRACED
    }
    return {key: client.wait(process, timeout_seconds=900) for key, process in ids.items()}


def document(program: Program, trace: str) -> dict[str, Any]:
    return {
        "image": "programs",
        "command": list(program.command),
        "code": {"source": "code:programs"},
        "inputs": list(program.inputs),
        "environment": program.environment,
        "resources": {"memory_mib": program.memory_mib, "cpus_per_task": 2},
        "time_limit_minutes": 15,
        "trace": trace,
    }


CASES = [
    (name, trace)
    for name in PROGRAMS
    for trace in ("off", "audit")
    if trace == "off" or name not in UNTRACED
]


@pytest.mark.parametrize(("name", "trace"), CASES)
def test_an_ordinary_program_runs_under_the_seal(
    ended: dict[tuple[str, str], Process],
    client: Client,
    bridge: Cluster,
    name: str,
    trace: str,
) -> None:
    process, program = ended[name, trace], PROGRAMS[name]
    printed = client.log(process.id).data.decode()
    complained = client.log(process.id, "stderr").data.decode()
    told = f"{process.reason}\n{printed[-2000:]}\n{complained[-4000:]}"
    assert process.state is ProcessState.COMPLETE, told
    left = printed
    if program.in_file:
        assert process.outputs_location is not None
        folder = process.outputs_location.replace("results:", "/shared/results/")
        left = bridge.read("bridge", f"{folder}/output/{program.in_file}")
    assert re.search(program.leaves, left), left[-2000:]
    assert process.attested
