"""Runners on two hosts that share a database, ssh to a cluster, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slurmbridge.client import Client
from slurmbridge.errors import BridgeUnreachable
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import WAYS, Cluster, provide_image, until
from tests.support.cluster_stores import ClusterStore
from tests.support.outages import jobs_that_ran

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
RUNNER = r"slurmbridge(\.cli)? runner$"
LOG = "/tmp/other-host.log"
# Of the host that has the Runner only; the other has the API, too.
START = f"nohup slurmbridge --config /opt/slurmbridge/cluster/far.toml runner >{LOG} 2>&1 &"
# Before both have been seen at work, and after one is gone.
MOST = 40
ALONE = 10


@pytest.fixture(scope="module")
def far(bridge: Cluster) -> Cluster:
    """The host with the API and a Runner."""
    cluster = Cluster(WAYS["ssh"])
    cluster.run("bridge", "pkill", "-f", "slurmbridge.cli up")
    provide_image(cluster, "python")
    return cluster


@pytest.fixture(scope="module")
def far_client(far: Cluster) -> Iterator[Client]:
    token = far.must("bridge", "slurmbridge", "tokens", "add", "hosts").strip()
    with Client(f"http://127.0.0.1:{far.way.published_port}", token) as client:
        until("ready bridge", lambda: _is_ready(client))
        yield client


def _is_ready(client: Client) -> bool:
    try:
        return client.ready() and bool(client.capability())
    except BridgeUnreachable:
        return False


@contextmanager
def another_host(cluster: Cluster) -> Iterator[None]:
    """A Runner on a host that has had no part in it so far."""
    host = Cluster(WAYS["shared"])
    host.must("bridge", "sh", "-c", START)
    until("other Runner", lambda: "starts" in host.read("bridge", LOG))
    process_id = host.must("bridge", "pgrep", "-n", "-f", r"far.toml runner$").strip()
    try:
        yield
    finally:
        host.must("bridge", "kill", process_id)
        until("end", lambda: host.run("bridge", "kill", "-0", process_id).exit_code != 0)


@contextmanager
def without_its_runner(far: Cluster) -> Iterator[None]:
    """The first host's Runner is killed, and nobody starts it again while the block lasts."""
    runner = far.must("bridge", "pgrep", "-f", RUNNER).split()[0]
    parent = far.must("bridge", "ps", "-o", "ppid=", "-p", runner).strip()
    far.must("bridge", "kill", "-STOP", parent)
    try:
        far.must("bridge", "kill", "-KILL", runner)
        yield
    finally:
        far.must("bridge", "kill", "-CONT", parent)


def holders(cluster: Cluster) -> set[str]:
    """The hosts whose Runners hold Processes now."""
    rows = cluster.must(
        "database", "runuser", "-u", "postgres", "--", "psql", "-At", "slurmbridge", "-c",
        "select distinct claimed_by from process where claimed_by is not null", user="root",
    )  # fmt: skip
    return {name.split("-")[0] for name in rows.split()}


def test_two_hosts_share_the_work_and_one_goes_on_alone(far: Cluster, far_client: Client) -> None:
    store = ClusterStore(far, "dav")
    store.put("hosts/main.sh", b"echo run >>/output/runs; sleep 1\n")
    spec = parse_spec({
        **SMALL, "command": ["sh", "main.sh"], "resources": {"memory_mib": 64},
        "code": {"source": "dav:hosts/main.sh"}, "outputs": {"destination": "davout:hosts"},
    })  # fmt: skip
    seen: set[str] = set()
    ids: list[str] = []

    def both() -> bool:
        # One alone may be quick enough for what waits, so that more comes until both are seen.
        if len(ids) < MOST:
            ids.append(far_client.submit(spec).id)
        seen.update(holders(far))
        return seen >= {"bridge", "far"}

    with another_host(far):
        until("work at both", both, every=0.05)
        with without_its_runner(far):
            ids += [far_client.submit(spec).id for _ in range(ALONE)]
            ended = [far_client.wait(one, timeout_seconds=240, poll_seconds=0.5) for one in ids]
    assert {process.state for process in ended} == {ProcessState.COMPLETE}, reasons(ended)
    for process in ended:
        assert process.outputs_location == f"davout:hosts/{process.id}"
        assert store.get(f"hosts/{process.id}/output/runs") == b"run\n"
    assert set(jobs_that_ran(far, ended).values()) == {1}


def reasons(processes: list[Process]) -> list[str]:
    return [process.reason for process in processes if process.reason]
