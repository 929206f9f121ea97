"""From this host: what the seal and the private network cost an MPI program.

The same ping-pong between two ranks, on two nodes and on one: in pods of a Process, and in bare
containers on the nodes' own network, started by srun with Slurm's PMI, which no pod is given. And
how long after the start of the job a world of three nodes stands.
"""

import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.spec import parse_spec
from tests.support.cluster import WAYS, Cluster, until

ROUNDS = 5
# After MPI_Init: half of the time of a round trip of 8 bytes, and the bytes a second of 4 MiB.
PING_PONG = r"""
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
static double pass(int rank, char *bytes, int size, int times) {
    double best = 1e9;
    for (int repeat = 0; repeat < 5; repeat++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double began = MPI_Wtime();
        for (int i = 0; i < times; i++)
            if (rank == 0) {
                MPI_Send(bytes, size, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
                MPI_Recv(bytes, size, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            } else {
                MPI_Recv(bytes, size, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Send(bytes, size, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
            }
        double took = (MPI_Wtime() - began) / times / 2;
        if (took < best)
            best = took;
    }
    return best;
}
int main(int count, char **arguments) {
    int rank, size;
    char *bytes = calloc(1, 1 << 22);
    MPI_Init(&count, &arguments);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != 2)
        return 2;
    double small = pass(rank, bytes, 8, 100), large = pass(rank, bytes, 1 << 22, 10);
    if (rank == 0)
        printf("{\"latency_us\": %g, \"mib_per_s\": %g}\n", small * 1e6, 4 / large);
    return MPI_Finalize();
}
"""
# When the world of three nodes stands, in seconds of the clock that all nodes share.
START = r"""
#include <mpi.h>
#include <stdio.h>
#include <sys/time.h>
int main(int count, char **arguments) {
    int rank;
    struct timeval now;
    MPI_Init(&count, &arguments);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Barrier(MPI_COMM_WORLD);
    gettimeofday(&now, NULL);
    if (rank == 0)
        printf("{\"stands\": %ld.%06ld}\n", (long)now.tv_sec, (long)now.tv_usec);
    return MPI_Finalize();
}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the compiled programs lie, as the nodes see them and as a specification names them."""

    cluster: Cluster
    image: str
    folder: str

    def compiled(self, name: str, source: str) -> None:
        """A program of MPICH."""
        path = f"/shared/code/{self.folder}/{name}"
        self.cluster.write("login", f"{path}.c", source.encode())
        inside = ("apptainer", "--silent", "exec", "--bind", "/shared/code", self.image)
        self.cluster.must("node1", *inside, "mpicc.mpich", "-O2", "-o", path, f"{path}.c")

    def began(self, job: str) -> float:
        """When Slurm started a job, in whole seconds."""
        asked = ("sacct", "-Xn", "-j", job, "-o", "Start")
        return until(
            "its record",
            lambda: float(self.cluster.must("login", "env", "SLURM_TIME_FORMAT=%s", *asked) or 0),
        )


def figures(said: str) -> dict[str, float]:
    """What a program has printed; UCX may complain of the node before, on the same stream."""
    found: dict[str, float] = json.loads(said[said.rindex("{") :])
    return found


def sealed(client: Client, place: Place, program: str, nodes: int, tasks: int) -> dict[str, float]:
    """In pods."""
    spec: dict[str, Any] = {
        "image": "programs",
        "command": [f"./{program}"],
        "code": {"source": f"code:{place.folder}"},
        "environment": {"MPIRUN": "mpirun.mpich"},
        "parallel": {"kind": "mpi", "nodes": nodes, "tasks_per_node": tasks},
        "resources": {"memory_mib": 512},
        "time_limit_minutes": 5,
        "partition": "short",
        "account": "research",
        "trace": "off",
    }
    process = client.wait(client.submit(parse_spec(spec)).id, timeout_seconds=300)
    if process.state is not ProcessState.COMPLETE:
        raise SystemExit(f"{process.id}: {process.reason}")
    found = figures(client.log(process.id).data.decode())
    if "stands" in found:
        return {"s": found["stands"] - place.began(str(process.job_id))}
    return found


def bare(place: Place, program: str, nodes: int, tasks: int) -> dict[str, float]:
    """In containers that are not sealed, on the nodes' own network."""
    folder = f"/shared/code/{place.folder}"
    inside = f"apptainer --silent exec --bind {folder} {place.image}"
    script = f"#!/bin/sh\nsrun --mpi=pmi2 {inside} {folder}/{program}\n"
    argv = ("sbatch", "--parsable", "--wait", f"--nodes={nodes}", f"--ntasks={nodes * tasks}")
    where = ("--mem=512", "--partition=short", "--account=research", "--time=5")
    output = f"--output={folder}/out"
    job = place.cluster.must("login", *argv, *where, output, stdin=script.encode()).strip()
    said = until("its output", lambda: place.cluster.must("login", "cat", f"{folder}/out"))
    found = figures(said or "")
    if "stands" in found:
        return {"s": found["stands"] - place.began(job)}
    return found


CASES = (("between", "p", 2, 1), ("within", "p", 1, 2), ("start", "start", 3, 1))


def main() -> int:
    """Rounds of all, one after the other."""
    cluster = Cluster(WAYS["shared"])
    token = cluster.must("bridge", "slurmbridge", "tokens", "add", f"bench-{secrets.token_hex(4)}")
    url = f"http://127.0.0.1:{WAYS['shared'].published_port}"
    folder = f"bench-{secrets.token_hex(4)}"
    runs = []
    cluster.must("login", "install", "-d", "-m", "1777", f"/shared/code/{folder}", user="root")
    try:
        with Client(url, token.strip()) as client:
            image = {image.name: image.path for image in client.images()}["programs"]
            place = Place(cluster, image, folder)
            place.compiled("p", PING_PONG)
            place.compiled("start", START)
            for _ in range(ROUNDS):
                run: dict[str, float] = {}
                for name, program, nodes, tasks in CASES:
                    for way, found in (
                        ("sealed", sealed(client, place, program, nodes, tasks)),
                        ("bare", bare(place, program, nodes, tasks)),
                    ):
                        run |= {f"{name}_{way}_{key}": value for key, value in found.items()}
                print(json.dumps(run), file=sys.stderr, flush=True)
                runs.append(run)
    finally:
        cluster.must("login", "rm", "-rf", f"/shared/code/{folder}", user="root")
    print(json.dumps(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
