"""What only a real cluster can show of the ways to Slurm."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable

import pytest

from slurmbridge.errors import SchedulerUnavailable
from slurmbridge.scheduler import JobReport
from tests.contract.scheduler_worlds import World, command_world, native_world
from tests.support.cluster import Cluster, until

pytestmark = pytest.mark.cluster
WORLDS: list[Callable[[Cluster], World]] = [command_world, native_world]
# What Slurm itself and bash put into a job's environment.
OWN = ("SLURM_", "SLURMD_", "HYDRA_", "I_MPI_", "OMPI_MCA_", "PRTE_MCA_")
OWN_NAMES = {"PATH", "PWD", "SHLVL", "_", "HOSTNAME", "TMPDIR", "ENVIRONMENT", "OLDPWD"}


@pytest.mark.parametrize("make_world", WORLDS)
def test_not_one_variable_of_the_runner_reaches_the_job(
    cluster: Cluster, make_world: Callable[[Cluster], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMBRIDGE_SECRET", "1")
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "1")
    world = make_world(cluster)
    name = f"sb-environment-{secrets.token_hex(6)}"
    [job_id] = world.scheduler.submit([world.submission(name, "env -0")])
    assert isinstance(job_id, int)
    world.ended(job_id)
    text = cluster.read("bridge", f"/shared/results/{name}.log")
    names = {line.partition("=")[0] for line in text.split("\0") if line}
    assert {found for found in names if not found.startswith(OWN)} - OWN_NAMES == set()
    world.scheduler.close()


def test_a_hanging_pyslurm_is_killed_at_its_deadline_and_replaced(cluster: Cluster) -> None:
    scheduler = cluster.native_scheduler(timeout_seconds=3)
    assert isinstance(scheduler.jobs(), list)
    child = scheduler.child_pid
    assert child
    os.kill(child, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(SchedulerUnavailable):
        scheduler.jobs()
    assert time.monotonic() - begun < 6
    assert isinstance(scheduler.jobs(), list)
    assert scheduler.child_pid != child
    scheduler.close()


def test_a_stopped_slurmctld_holds_up_the_child_and_not_its_parent(cluster: Cluster) -> None:
    scheduler = cluster.native_scheduler(timeout_seconds=2)
    assert isinstance(scheduler.jobs(), list)
    cluster.must("controller", "pkill", "-STOP", "-x", "slurmctld", user="root")
    try:
        ticks = 0
        seen: list[object] = []

        def ask() -> None:
            try:
                seen.append(scheduler.jobs())
            except SchedulerUnavailable as error:
                seen.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while asking.is_alive():
            time.sleep(0.01)
            ticks += 1
        assert ticks > 100
        assert isinstance(seen[0], SchedulerUnavailable)
    finally:
        cluster.must("controller", "pkill", "-CONT", "-x", "slurmctld", user="root")
    assert isinstance(until("answer", lambda: _jobs(scheduler.jobs)), list)
    scheduler.close()


def _jobs(ask: Callable[[], list[JobReport]]) -> list[JobReport] | None:
    try:
        return ask() or []
    except SchedulerUnavailable:
        return None
