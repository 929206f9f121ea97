"""What Slurm and its administrators may do with a job, and what becomes of its Process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slurmbridge.client import Client
from slurmbridge.errors import InvalidProcess
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
NODES = 3
WHOLE = {"resources": {"cpus_per_task": 4, "memory_mib": 64}}
SAVES = """
import signal, sys, time
def save(*_):
    open("/output/saved", "w").close()
    sys.exit(int(sys.argv[1]))
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
print("begun", flush=True)
time.sleep(600)
"""


def submit(client: Client, *command: str, **changes: object) -> str:
    """A small Process; its id."""
    return client.submit(parse_spec({**SMALL, "command": list(command), **changes})).id


def ended(client: Client, process_id: str, seconds: float = 90) -> Process:
    """The Process, when it has."""
    return client.wait(process_id, timeout_seconds=seconds, poll_seconds=0.2)


def in_state(client: Client, process_id: str, state: ProcessState) -> Process:
    """The Process, when it has come to a state."""

    def look() -> Process | None:
        process = client.get(process_id)
        return process if process.state is state else None

    return until(f"{process_id} is {state}", look, seconds=60)


def scontrol(bridge: Cluster, *words: object) -> None:
    """As an administrator."""
    bridge.must("controller", "scontrol", *map(str, words), user="root")


def job_of(client: Client, process_id: str) -> int:
    """The job's id, when it has one."""
    found = until("job", lambda: client.get(process_id).job_id)
    assert found is not None
    return found


@pytest.fixture(scope="module", autouse=True)
def warned(client: Client, bridge: Cluster) -> str:
    """Takes a minute or more: submitted first, and looked at last."""
    assert bridge
    return submit(
        client, "python3", "-c", SAVES, "7",
        time_limit_minutes=2, warn={"seconds": 30}, trace="audit",
    )  # fmt: skip


def test_a_held_job_waits_and_says_for_whom(bridge: Cluster, client: Client) -> None:
    process_id = submit(client, "true", partition="parked")
    job = job_of(client, process_id)
    scontrol(bridge, "hold", job)
    said = until("reason", lambda: (client.get(process_id).reason or "").count("holds it"))
    assert said
    assert client.get(process_id).state is ProcessState.QUEUED
    scontrol(bridge, "release", job)
    scontrol(bridge, "update", f"jobid={job}", "partition=short")
    assert ended(client, process_id).state is ProcessState.COMPLETE


def test_a_dependency_that_is_never_satisfied_is_told_and_can_be_canceled(
    bridge: Cluster, client: Client
) -> None:
    failed = submit(client, "false")
    process_id = submit(client, "true", partition="parked")
    jobs = job_of(client, failed), job_of(client, process_id)
    ended(client, failed)
    scontrol(bridge, "update", f"jobid={jobs[1]}", f"dependency=afterok:{jobs[0]}")
    scontrol(bridge, "update", f"jobid={jobs[1]}", "partition=short")
    until("reason", lambda: (client.get(process_id).reason or "").count("in vain"), seconds=60)
    client.cancel(process_id)
    assert ended(client, process_id).state is ProcessState.CANCELED


def test_a_suspended_job_is_paused_and_goes_on(bridge: Cluster, client: Client) -> None:
    process_id = submit(client, "sh", "-c", "sleep 4; echo done")
    job = job_of(client, process_id)
    in_state(client, process_id, ProcessState.RUNNING)
    scontrol(bridge, "suspend", job)
    in_state(client, process_id, ProcessState.PAUSED)
    scontrol(bridge, "resume", job)
    assert ended(client, process_id).state is ProcessState.COMPLETE
    assert client.log(process_id).data == b"done\n"


def test_a_process_whose_node_fails_is_the_site_s_error_and_is_not_run_again(
    bridge: Cluster, client: Client
) -> None:
    # A whole node, so that nobody else is on it.
    process_id = submit(client, "sleep", "300", **WHOLE)
    node = in_state(client, process_id, ProcessState.RUNNING).nodes
    with node_down(bridge, str(node)):
        process = ended(client, process_id)
    assert process.state is ProcessState.SYSTEM_ERROR
    assert process.slurm_state == "NODE_FAIL"
    assert process.reason == "a node failed"
    names = bridge.must("login", "squeue", "--me", "--states=all", "-ho", "%j").split()
    assert names.count(process.job_name) == 1


@contextmanager
def node_down(bridge: Cluster, node: str) -> Iterator[None]:
    """Slurm takes a node for lost."""
    scontrol(bridge, "update", f"nodename={node}", "state=down", "reason=test")
    try:
        yield
    finally:
        # It may have come back by itself (ReturnToService).
        bridge.run("controller", "scontrol", "update", f"nodename={node}", "state=resume",
                   user="root")  # fmt: skip
        until("node", lambda: "idle" in bridge.must("login", "sinfo", "-hn", node, "-o%t"))


def test_a_cancel_before_there_is_a_job_needs_none(bridge: Cluster, client: Client) -> None:
    with stopped_runner(bridge):
        process_id = submit(client, "true")
        client.cancel(process_id)
    process = ended(client, process_id)
    assert process.state is ProcessState.CANCELED
    assert process.job_id is None


def test_a_job_that_was_forgotten_before_it_was_seen_to_end_has_its_own_end(
    bridge: Cluster, client: Client
) -> None:
    process_id = submit(client, "sh", "-c", "sleep 3; exit 5")
    job = job_of(client, process_id)
    in_state(client, process_id, ProcessState.RUNNING)
    with forgetful(bridge), stopped_runner(bridge):
        # slurmctld forgets once a minute.
        until(
            "forgotten",
            lambda: bridge.run("controller", "scontrol", "show", "job", str(job)).exit_code,
            seconds=150,
        )
    process = ended(client, process_id)
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 5)
    assert "sacct" in {event.source for event in client.events(process_id)}


@contextmanager
def forgetful(bridge: Cluster) -> Iterator[None]:
    """The controller forgets ended jobs as soon as it can."""
    _set_min_job_age(bridge, 2)
    try:
        yield
    finally:
        _set_min_job_age(bridge, 300)


def _set_min_job_age(bridge: Cluster, seconds: int) -> None:
    change = f"s/^MinJobAge=.*/MinJobAge={seconds}/"
    bridge.must("controller", "sed", "-i", change, "/etc/slurm/slurm.conf", user="root")
    # Begins anew: after `scontrol reconfigure` it is a process of another name.
    bridge.must("controller", "pkill", "-TERM", "-x", "slurmctld", user="root")
    until("slurmctld", lambda: "is UP" in bridge.run("login", "scontrol", "ping").stdout)
    until("slurmctld", lambda: bridge.run("controller", "pgrep", "-x", "slurmctld").stdout)


@contextmanager
def stopped_runner(bridge: Cluster) -> Iterator[None]:
    """Nobody looks at anything."""
    bridge.must("bridge", "pkill", "-STOP", "-f", "slurmbridge.cli runner")
    try:
        time.sleep(1)
        yield
    finally:
        bridge.must("bridge", "pkill", "-CONT", "-f", "slurmbridge.cli runner")


def test_a_warned_program_saves_before_its_time_is_over(client: Client, warned: str) -> None:
    process = ended(client, warned, 180)
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 7)
    assert process.slurm_state == "FAILED"
    assert "output/saved" in [file.path for file in process.outputs]
    assert process.started_at
    assert process.ended_at
    took = (process.ended_at - process.started_at).total_seconds()
    # Slurm looks at time limits twice a minute, and may be early by one.
    assert 25 <= took < 120


@pytest.fixture
def spares(client: Client, warned: str) -> Iterator[list[str]]:
    """A Process on each node that has to go when another one needs its place."""
    ended(client, warned, 180)
    ids = [
        submit(client, "python3", "-c", SAVES, "3", partition="spare", **WHOLE)
        for _ in range(NODES)
    ]
    yield ids
    for one in ids:
        if not client.get(one).state.final:
            client.cancel(one)


def test_who_is_preempted_may_save_and_ends_so(client: Client, spares: list[str]) -> None:
    until("begun", lambda: all(client.log(one).data == b"begun\n" for one in spares))
    urgent = ended(client, submit(client, "true", **WHOLE))
    assert urgent.state is ProcessState.COMPLETE

    def preempted() -> list[Process]:
        found = [client.get(one) for one in spares]
        return [process for process in found if process.state.final]

    [process] = until("preempted", preempted)
    assert process.state is ProcessState.PREEMPTED
    assert process.reason == "Slurm preempted it for another job"
    assert "output/saved" in [file.path for file in process.outputs]


GIVEN = {"memory_mib": 64, "gres": "gpu:none:1"}


def test_generic_resources_are_given_and_counted_by_slurm(bridge: Cluster, client: Client) -> None:
    process = ended(client, submit(client, "ls", "/dev", resources=GIVEN))
    assert (process.state, process.nodes) == (ProcessState.COMPLETE, "node1")
    asked = ("sacct", "-nXPo", "AllocTRES", "-j", str(process.job_id))
    until("counted", lambda: "gres/gpu=1" in bridge.must("login", *asked))
    # The device is the job's, and no way into its container.
    assert not [name for name in client.log(process.id).data.split() if name.startswith(b"gpu")]


def test_more_than_any_node_has_is_refused(client: Client) -> None:
    with pytest.raises(InvalidProcess, match=r"gpu:3 is more than a node of short .*gpu:none:2"):
        submit(client, "true", resources={"gres": "gpu:3"})
