"""Nodes that are examined by real jobs, and one that is really broken and mended again."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.errors import InvalidProcess
from slurmbridge.spec import parse_spec
from tests.support.cluster import Cluster, until

pytestmark = pytest.mark.cluster
NODES = ("node1", "node2", "node3")
CONF = "/etc/apptainer/apptainer.conf"
FUSE = ("chmod 600 /dev/fuse", "chmod 666 /dev/fuse")


def examined(cluster: Cluster, *nodes: str) -> dict[str, Any]:
    """What `slurmbridge doctor` says of each node, and its exit code."""
    named = [word for node in nodes for word in ("--node", node)]
    result = cluster.run("bridge", "slurmbridge", "doctor", "--json", *named)
    assert result.stdout, result.stderr
    found = {node["node"]: node for node in json.loads(result.stdout)["nodes"]}
    return found | {"exit_code": result.exit_code}


@contextmanager
def broken(cluster: Cluster, commands: tuple[str, str]) -> Iterator[None]:
    """node3 as the first command leaves it; the second one mends it."""
    cluster.must("node3", "sh", "-c", commands[0], user="root")
    try:
        yield
    finally:
        cluster.must("node3", "sh", "-c", commands[1], user="root")


@pytest.fixture(scope="module", autouse=True)
def mended(cluster: Cluster) -> Iterator[None]:
    """In the end the bridge knows that all is well again."""
    yield
    node = examined(cluster, "node3")["node3"]
    assert (node["can_seal"], node["can_trace"]) == (True, True), node


def test_all_nodes_of_the_cluster_can_seal_and_trace(cluster: Cluster) -> None:
    found = examined(cluster)
    assert found["exit_code"] == 0
    for name in NODES:
        node = found[name]
        assert (node["can_seal"], node["can_trace"]) == (True, True), node
        assert (node["problems"], node["trace_problems"], node["remark"]) == ([], [], None)
        assert node["warnings"] == []
        assert node["facts"]["container"] == "yes"
    jobs = cluster.must("bridge", "squeue", "--me", "--noheader", "--format=%j")
    assert "sb-doctor" not in jobs
    assert cluster.must("bridge", "ls", "/shared/contexts/.doctor") == ""


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (FUSE, "/dev/fuse cannot be opened"),
        (("mv /usr/bin/squashfuse_ll /root", "mv /root/squashfuse_ll /usr/bin"), "install squash"),
        (("mv /usr/bin/apptainer /root", "mv /root/apptainer /usr/bin"), "install 1.4.5"),
        (
            (f"cp -p {CONF} /root && sed -i 's/^user bind control = .*/user bind control = no/' "
             + CONF, f"mv /root/apptainer.conf {CONF}"),
            "`user bind control` is no",
        ),
        (
            (f"cp -p {CONF} /root && sed -i 's/^allow pid ns = .*/allow pid ns = no/' " + CONF,
             f"mv /root/apptainer.conf {CONF}"),
            "`allow pid ns` is no",
        ),
    ],
    ids=["fuse", "squashfuse", "apptainer", "bind control", "pid"],
)  # fmt: skip
def test_a_node_that_lacks_something_cannot_seal_and_says_what(
    cluster: Cluster, commands: tuple[str, str], said: str
) -> None:
    with broken(cluster, commands):
        found = examined(cluster, "node3")
    assert found["exit_code"] == 1
    assert (found["node3"]["can_seal"], found["node3"]["can_trace"]) == (False, False)
    assert any(said in problem for problem in found["node3"]["problems"]), found["node3"]


@pytest.mark.parametrize("program", ["strace", "zstd"])
def test_without_what_records_a_node_can_still_seal(cluster: Cluster, program: str) -> None:
    with broken(cluster, (f"mv /usr/bin/{program} /root", f"mv /root/{program} /usr/bin")):
        found = examined(cluster, "node3")
    assert found["exit_code"] == 0
    assert (found["node3"]["can_seal"], found["node3"]["can_trace"]) == (True, False)
    assert program in found["node3"]["trace_problems"][0]


def test_a_node_that_starts_no_jobs_says_so_and_is_not_waited_for(cluster: Cluster) -> None:
    def update(state: str) -> None:
        words = ("nodename=node3", f"state={state}", "reason=test_doctor")
        cluster.must("controller", "scontrol", "update", *words, user="root")

    update("drain")
    try:
        node = examined(cluster, "node3")["node3"]
    finally:
        update("resume")
    assert "starts no jobs now" in node["remark"]


# --- what is offered ---


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of the bridge."""
    url = f"http://127.0.0.1:{os.environ.get('SLURMBRIDGE_PORT', '8642')}"
    token = cluster.must("bridge", "slurmbridge", "tokens", "add", "doctor").strip()
    with Client(url, token) as found:
        yield found


@pytest.fixture
def third(cluster: Cluster) -> Iterator[str]:
    """A partition that is node3 alone."""
    name = f"third-{secrets.token_hex(3)}"
    words = ("create", f"partitionname={name}", "nodes=node3", "state=up")
    cluster.must("controller", "scontrol", *words, user="root")
    try:
        yield name
    finally:
        gone = ("scontrol", "delete", f"partitionname={name}")
        until(
            "end of its jobs", lambda: cluster.run("controller", *gone, user="root").exit_code == 0
        )


def process(**changes: Any) -> Any:
    """A Process that does nothing."""
    wanted = {
        "image": "python",
        "command": ["true"],
        "time_limit_minutes": 2,
        "account": "research",
    }
    return parse_spec({**wanted, **changes})


def test_a_partition_whose_only_node_cannot_seal_is_refused_with_the_reason(
    cluster: Cluster, client: Client, third: str
) -> None:
    with broken(cluster, FUSE):
        examined(cluster, "node3")
        seen = client.capability()
        assert third not in {entry.name for entry in seen.partitions}
        [refused] = [entry for entry in seen.refused if entry.name == third]
        assert "/dev/fuse cannot be opened" in refused.reason
        with pytest.raises(InvalidProcess, match="its only node cannot seal"):
            client.submit(process(partition=third))
    examined(cluster, "node3")
    [offered] = [entry for entry in client.capability().partitions if entry.name == third]
    assert (offered.node_names, offered.sealing_nodes, offered.tracing_nodes) == (("node3",), 1, 1)


def test_a_trace_is_refused_where_the_only_node_cannot_trace(
    cluster: Cluster, client: Client, third: str
) -> None:
    with broken(cluster, ("mv /usr/bin/strace /root", "mv /root/strace /usr/bin")):
        examined(cluster, "node3")
        with pytest.raises(InvalidProcess, match=r"trace: is not possible in .* install 6\.6"):
            client.submit(process(partition=third))


def test_a_job_keeps_away_from_a_node_that_cannot_seal(cluster: Cluster, client: Client) -> None:
    with broken(cluster, FUSE):
        examined(cluster, "node3")
        # A Runner believes what it has read for 5 s.
        script = until("script that avoids node3", lambda: _avoiding(client), seconds=30, every=2)
    assert "\n#SBATCH --exclude=node3\n" in script


def _avoiding(client: Client) -> str | None:
    """The script of a Process that never starts, when it avoids a node."""
    one = client.submit(process(partition="parked")).id
    try:
        script = until("script", lambda: client.script(one))
    finally:
        client.cancel(one)
    return script if "--exclude" in script else None
