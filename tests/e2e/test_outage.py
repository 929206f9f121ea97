"""What breaks under the bridge costs time, never a Process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slurmbridge.client import Client
from slurmbridge.errors import BridgeUnreachable
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


@contextmanager
def slurmctld_gone(cluster: Cluster) -> Iterator[None]:
    """slurmctld killed; its host starts it again when its supervisor goes on."""
    parent = cluster.must(
        "controller", "sh", "-c", "ps -o ppid= -p $(pgrep -x slurmctld)", user="root"
    ).strip()
    cluster.must("controller", "kill", "-STOP", parent, user="root")
    cluster.must("controller", "pkill", "-KILL", "-x", "slurmctld", user="root")
    try:
        yield
    finally:
        cluster.must("controller", "kill", "-CONT", parent, user="root")
        until(
            "slurmctld",
            lambda: "is UP" in cluster.run("controller", "scontrol", "ping").stdout,
        )


def test_without_slurmctld_processes_are_accepted_and_wait(bridge: Cluster, client: Client) -> None:
    with slurmctld_gone(bridge):
        problem = until("problem", lambda: " ".join(client.problems()))
        assert "Slurm" in problem
        process = client.submit(parse_spec({**SMALL, "command": ["true"]}))
        assert client.get(process.id).state is ProcessState.QUEUED
    ended = client.wait(process.id, timeout_seconds=90, poll_seconds=0.2)
    assert ended.state is ProcessState.COMPLETE
    until("ready bridge", client.ready)


def test_a_killed_runner_is_replaced_and_its_processes_end_once(
    bridge: Cluster, client: Client
) -> None:
    running = client.submit(parse_spec({**SMALL, "command": ["sleep", "5"]}))
    until("job", lambda: client.get(running.id).job_id)
    serving = _serving(bridge)
    bridge.must("bridge", "pkill", "-KILL", "-f", "slurmbridge.cli runner")
    # The API ends with it, a moment later, and both begin anew.
    until("API", lambda: _serving(bridge) not in {"", serving} and _answers(client))
    later = client.submit(parse_spec({**SMALL, "command": ["true"]}))
    for process in (running, later):
        ended = client.wait(process.id, timeout_seconds=90, poll_seconds=0.2)
        assert ended.state is ProcessState.COMPLETE
        names = bridge.must("login", "squeue", "--me", "--states=all", "-ho", "%j").split()
        assert names.count(process.job_name) == 1


def _serving(bridge: Cluster) -> str:
    return bridge.run("bridge", "pgrep", "-f", "slurmbridge.cli serve").stdout.strip()


def _answers(client: Client) -> bool:
    try:
        return client.ready()
    except BridgeUnreachable:
        return False


def test_what_a_dead_runner_held_is_taken_over_within_fifteen_seconds(
    bridge: Cluster, client: Client
) -> None:
    first = bridge.must("bridge", "sh", "-c", "pgrep -o -f 'slurmbridge.cli runner'").strip()
    bridge.must("bridge", "sh", "-c", "nohup slurmbridge runner >/tmp/second.log 2>&1 &")
    until("second Runner", lambda: "starts" in bridge.read("bridge", "/tmp/second.log"))
    second = bridge.must("bridge", "sh", "-c", "pgrep -n -f 'slurmbridge.* runner$'").strip()
    bridge.must("bridge", "kill", "-STOP", first)
    try:
        spec = parse_spec({**SMALL, "command": ["true"]})
        ids = [client.submit(spec).id for _ in range(20)]
        begun = {ProcessState.INITIALIZING, ProcessState.RUNNING}
        until("claim", lambda: any(client.get(one).state in begun for one in ids), every=0.02)
        bridge.must("bridge", "kill", "-KILL", second)
    finally:
        bridge.must("bridge", "kill", "-CONT", first)
    killed = time.monotonic()

    def is_taken(process: Process) -> bool:
        """Who was being submitted is looked for, until it is known that there is no job."""
        return process.job_id is not None or process.state is ProcessState.UNKNOWN

    until("takeover", lambda: all(is_taken(client.get(one)) for one in ids), seconds=30)
    assert time.monotonic() - killed <= 15
    ended = [client.wait(one, timeout_seconds=180, poll_seconds=0.5) for one in ids]
    assert {process.state for process in ended} == {ProcessState.COMPLETE}
    names = bridge.must("login", "squeue", "--me", "--states=all", "-ho", "%j").split()
    assert {names.count(process.job_name) for process in ended} == {1}
