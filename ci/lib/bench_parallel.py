"""From this host: what the seal and the private network cost an MPI program.

The same ping-pong between two ranks, on two nodes and on one: in pods of a Process, and in bare
containers on the nodes' own network, started by srun with Slurm's PMI, which no pod is given.
"""

import json
import secrets
import sys
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
_BUILD = 'cd "$(mktemp -d)"; printf %s "$PING_PONG" >p.c; mpicc.mpich -O2 -o p p.c; exec ./p'


def sealed(client: Client, nodes: int) -> dict[str, float]:
    """In pods."""
    spec: dict[str, Any] = {
        "image": "programs",
        "command": ["sh", "-c", _BUILD],
        "environment": {"PING_PONG": PING_PONG, "MPIRUN": "mpirun.mpich"},
        "parallel": {"kind": "mpi", "nodes": nodes, "tasks_per_node": 2 // nodes},
        "resources": {"memory_mib": 512},
        "time_limit_minutes": 5,
        "partition": "short",
        "account": "research",
        "trace": "off",
    }
    process = client.wait(client.submit(parse_spec(spec)).id, timeout_seconds=300)
    if process.state is not ProcessState.COMPLETE:
        raise SystemExit(f"{process.id}: {process.reason}")
    found: dict[str, float] = json.loads(client.log(process.id).data)
    return found


def bare(cluster: Cluster, folder: str, image: str, nodes: int) -> dict[str, float]:
    """In containers that are not sealed, on the nodes' own network."""
    inside = f"apptainer --silent exec --bind {folder} {image}"
    script = f"#!/bin/sh\nsrun --mpi=pmi2 {inside} {folder}/p\n"
    argv = ("sbatch", "--parsable", "--wait", f"--nodes={nodes}", "--ntasks=2", "--mem=512")
    place = ("--partition=short", "--account=research", "--time=5", f"--output={folder}/out")
    cluster.must("login", *argv, *place, stdin=script.encode())
    said = until("its output", lambda: cluster.must("login", "cat", f"{folder}/out"))
    found: dict[str, float] = json.loads(said or "")
    return found


def main() -> int:
    """Rounds of all, one after the other."""
    cluster = Cluster(WAYS["shared"])
    token = cluster.must("bridge", "slurmbridge", "tokens", "add", f"bench-{secrets.token_hex(4)}")
    url = f"http://127.0.0.1:{WAYS['shared'].published_port}"
    folder = f"/shared/bench-{secrets.token_hex(4)}"
    runs = []
    cluster.must("login", "install", "-d", "-m", "1777", folder, user="root")
    try:
        with Client(url, token.strip()) as client:
            images = {image.name: image.path for image in client.images()}
            image = images["programs"]
            cluster.write("login", f"{folder}/p.c", PING_PONG.encode())
            compile_it = ("mpicc.mpich", "-O2", "-o", f"{folder}/p", f"{folder}/p.c")
            build = ("apptainer", "--silent", "exec", "--bind", folder, image, *compile_it)
            cluster.must("node1", *build)
            for _ in range(ROUNDS):
                run: dict[str, float] = {}
                for name, nodes in (("between", 2), ("within", 1)):
                    for way, found in (
                        ("sealed", sealed(client, nodes)),
                        ("bare", bare(cluster, folder, image, nodes)),
                    ):
                        run |= {f"{name}_{way}_{key}": value for key, value in found.items()}
                print(json.dumps(run), file=sys.stderr, flush=True)
                runs.append(run)
    finally:
        cluster.must("login", "rm", "-rf", folder, user="root")
    print(json.dumps(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
