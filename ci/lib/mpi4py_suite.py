"""From this host: mpi4py's own tests in the pods of one Process on three nodes."""

import re
import secrets
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.spec import parse_spec
from tests.support.cluster import WAYS, Cluster, copy_folder, provide_image

# That of Debian's python3-mpi4py in the image; its tests are in the source archive alone.
VERSION = "4.0.3"
# Modules, and why.
LEFT_OUT = {
    "spawn": "starts further processes by MPI_Comm_spawn, outside of the world that was asked for",
    "dynproc": "MPI_Comm_accept and connect need a name server",
    "ulfm": "fault tolerance, which Debian's Open MPI is built without",
}
# Tests by name, and why.
NOT_RUN = {
    "TestIOBasicWorld": "ranks of several nodes open one file; pods share no file system",
    "TestIOViewWorld": "as TestIOBasicWorld",
    "TestFileWorld": "as TestIOBasicWorld",
    "TestWinAllocateSharedWorld": "ranks of several nodes share no memory",
}
RANKS = 3


def fetched(folder: Path) -> Path:
    """The tests of the source archive."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:")
    subprocess.run((*pip, f"mpi4py=={VERSION}", "-d", str(folder)), check=True)
    with tarfile.open(folder / f"mpi4py-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"mpi4py-{VERSION}/test"


def main() -> int:
    """Run them, and say what came of it."""
    cluster = Cluster(WAYS["shared"])
    provide_image(
        cluster, "programs", "SLURMBRIDGE_DEFINITIONS=/opt/slurmbridge/src/tests/definitions"
    )
    token = cluster.must("bridge", "slurmbridge", "tokens", "add", f"mpi4py-{secrets.token_hex(4)}")
    place = f"mpi4py-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder:
        copy_folder(cluster, fetched(Path(folder)), f"/shared/code/{place}")
    left_out = [word for name in LEFT_OUT for word in ("-e", name)]
    left_out += [word for name in NOT_RUN for word in ("-x", name)]
    spec = parse_spec({
        "image": "programs",
        "command": ["python3", "main.py", "--no-threads", "--verbose", *left_out],
        "code": {"source": f"code:{place}"},
        # More ranks than this machine has cores.
        "environment": {"OMPI_MCA_mpi_yield_when_idle": "1"},
        "parallel": {"kind": "mpi", "nodes": RANKS, "tasks_per_node": 1},
        "resources": {"memory_mib": 1500},
        "time_limit_minutes": 30,
        "account": "research",
        "trace": "off",
    })  # fmt: skip
    url = f"http://127.0.0.1:{WAYS['shared'].published_port}"
    with Client(url, token.strip()) as client:
        process = client.wait(client.submit(spec).id, timeout_seconds=1800)
    log = f"/shared/results/processes/{process.id}/stderr.txt"
    said = cluster.must("bridge", "cat", log)
    ran = re.findall(r"^Ran (\d+) tests in .*$", said, re.MULTILINE)
    passed = len(re.findall(r"^OK( \(.*\))?$", said, re.MULTILINE))
    print(
        "\n".join(
            line for line in said.splitlines() if line.startswith(("Ran", "OK", "FAIL", "ERROR"))
        )
    )
    for name, why in (LEFT_OUT | NOT_RUN).items():
        print(f"left out: {name}: {why}")
    print(f"{process.id}: {process.state}, {len(ran)} ranks ran {'/'.join(sorted(set(ran)))} tests")
    return 0 if process.state is ProcessState.COMPLETE and len(ran) == passed == RANKS else 1


if __name__ == "__main__":
    sys.exit(main())
