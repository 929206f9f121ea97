"""A sealed program reaches nothing but its context."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
LEVELS = pytest.mark.parametrize("trace", ["off", "audit"])


def printed(client: Client, process: Process) -> str:
    assert process.state is ProcessState.COMPLETE, client.log(process.id, "stderr").data
    return client.log(process.id).data.decode()


@LEVELS
def test_the_only_interface_is_lo(client: Client, run: Run, trace: str) -> None:
    text = printed(client, run("ip", "-json", "addr", trace=trace))
    assert [link["ifname"] for link in json.loads(text)] == ["lo"]
    assert printed(client, run("ip", "-json", "route", trace=trace)).strip() in {"[]", "[ ]"}


CONNECT = """
import socket, sys
for host, port in (("node1", 6818), ("controller", 6817), (sys.argv[1], 6817)):
    try:
        socket.create_connection((host, port), 5).close()
        print("open")
    except OSError as error:
        print("closed")
"""


def test_no_host_of_the_cluster_can_be_reached_from_inside(
    bridge: Cluster, client: Client, run: Run
) -> None:
    address = bridge.must("node1", "getent", "ahostsv4", "controller").split()[0]
    # The control: outside the seal, on the same nodes, each of these answers.
    outside = bridge.must("login", "srun", "python3", "-c", CONNECT, address)
    assert outside.split() == ["open"] * 3
    assert printed(client, run("python3", "-c", CONNECT, address)).split() == ["closed"] * 3


@LEVELS
def test_no_privilege_is_left_and_none_can_be_gained(client: Client, run: Run, trace: str) -> None:
    text = printed(client, run("cat", "/proc/self/status", trace=trace))
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert {status[f"Cap{which}"] for which in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    # The tracer stands in another process namespace.
    assert status["TracerPid"] == "0"


WRITE = """
import os
for folder in (
    "/", "/etc", "/usr/bin", "/input", "/code", "/var", "/root", "/proc", "/output", "/tmp",
    "/var/tmp", "/dev", "/dev/shm",
):
    try:
        open(os.path.join(folder, "x"), "w").close()
        print(folder)
    except OSError:
        pass
"""


@LEVELS
def test_only_its_own_places_can_be_written_to(client: Client, run: Run, trace: str) -> None:
    written = printed(client, run("python3", "-c", WRITE, trace=trace)).split()
    # The last three are in memory, and the container's own.
    assert written == ["/output", "/tmp", "/var/tmp", "/dev", "/dev/shm"]


def test_nothing_of_the_node_is_inside(client: Client, run: Run) -> None:
    paths = [
        "/shared", "/home/slurmbridge", "/home/alice", "/etc/slurm/slurm.conf", "/run/munge",
        "/var/spool/slurmd", "/etc/munge", "/opt/slurmbridge", "/dev/fuse", "/dev/net/tun",
        "/sys/class/net", "/.singularity.d/libs/x",
    ]  # fmt: skip
    look = "import os, sys; print([path for path in sys.argv[1:] if os.path.exists(path)])"
    assert printed(client, run("python3", "-c", look, *paths)).strip() == "[]"


def test_no_variable_of_slurm_or_of_the_bridge_is_inside(client: Client, run: Run) -> None:
    names = printed(client, run("python3", "-c", "import os; print(*os.environ)")).split()
    assert not [name for name in names if name.startswith(("SLURM", "SBATCH", "MUNGE", "SB_"))]


def test_only_its_own_processes_are_visible(client: Client, run: Run) -> None:
    look = "import os; print(os.getpid(), *filter(str.isdigit, os.listdir('/proc')))"
    own, *visible = printed(client, run("python3", "-c", look)).split()
    # The first process is sbseal.
    assert visible == ["1", own]


def test_the_name_of_the_node_is_not_told(client: Client, run: Run) -> None:
    assert printed(client, run("cat", "/proc/sys/kernel/hostname")).strip() == "sealed"


def test_an_image_that_was_changed_does_not_start(
    bridge: Cluster, client: Client, run: Run
) -> None:
    [path] = [image.path for image in client.images() if image.name == "python"][:1]
    node, path = bridge.way.files_node, f"{bridge.way.images}/{Path(path).name}"
    bridge.must(node, "mv", path, f"{path}.kept")
    try:
        bridge.must(node, "sh", "-c", 'head -c 1000000 "$1.kept" >"$1"', "sh", path)
        process = run("true")
    finally:
        bridge.must(node, "mv", f"{path}.kept", path)
    assert process.state is ProcessState.SYSTEM_ERROR
    assert process.reason == "the node refused: the image is not the recorded one"
