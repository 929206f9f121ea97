"""The ways to Slurm that keep one contract, each with the hand that moves its jobs on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from slurmbridge.lifecycle import ProcessState, SlurmState, classify
from slurmbridge.model import ComputeCapability, Partition
from slurmbridge.scheduler import JobReport, Scheduler, Submission
from slurmbridge.scheduler.commands import CommandScheduler
from slurmbridge.testing.scheduler import FakeScheduler
from tests.support.cluster import Cluster, until

NODES = ("node1", "node2", "node3")
CAPABILITY = ComputeCapability(
    cluster="fake",
    slurm_version="26.05.5",
    partitions=(
        Partition(
            name="main", default=True, up=True, nodes=3,
            cpus_per_node=4, memory_mib_per_node=4000, time_limit_minutes=1440, node_names=NODES,
        ),
        Partition(
            name="short", default=False, up=True, nodes=3,
            cpus_per_node=4, memory_mib_per_node=4000, time_limit_minutes=10, node_names=NODES,
        ),
        Partition(
            name="parked", default=False, up=False, nodes=3,
            cpus_per_node=4, memory_mib_per_node=4000, time_limit_minutes=None, node_names=NODES,
        ),
    ),
    accounts=("research", "teaching"),
    default_account="research",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """A scheduler; `let_end` makes a job end with an exit code, `let_start` lets one begin,
    `requeue` sends one back, and `expect` says when one is meant to start.
    """

    scheduler: Scheduler
    let_end: Callable[[int, int], None]
    folder: str
    real: bool
    let_start: Callable[[int], None]
    requeue: Callable[[int], None]
    expect: Callable[[int, datetime], None]

    def submission(self, name: str, body: str = "true", **directives: str) -> Submission:
        """A job with all that the contract needs."""
        lines = {
            "job-name": name,
            "nodes": "1",
            "ntasks": "1",
            "cpus-per-task": "1",
            "mem": "64M",
            "time": "5",
            "chdir": "/tmp",
            "output": f"{self.folder}/{name}.log",
            "open-mode": "append",
            **directives,
        }
        text = "".join(f"#SBATCH --{key}={value}\n" for key, value in lines.items())
        text += "#SBATCH --no-requeue\n#SBATCH --export=NIL\n"
        return Submission(name, f"#!/bin/bash\n{text}\n{body}\n")

    def report(self, job_id: int) -> JobReport:
        """What the controller says of one job."""
        [found] = [report for report in self.scheduler.jobs() if report.job_id == job_id]
        return found

    def running(self, job_id: int) -> JobReport:
        """Wait until a job runs."""
        self.let_start(job_id)

        def look() -> JobReport | None:
            report = self.report(job_id)
            return report if classify(report.status) is ProcessState.RUNNING else None

        return until(f"start of job {job_id}", look)

    def ended(self, job_id: int) -> JobReport:
        """Wait for the end of a job."""

        def look() -> JobReport | None:
            report = self.report(job_id)
            return report if classify(report.status).final else None

        return until(f"end of job {job_id}", look)

    def recorded(self, name: str, since: datetime) -> list[JobReport]:
        """Wait until accounting knows the end of the jobs with a name."""

        def look() -> list[JobReport] | None:
            reports = self.scheduler.history([name], since=since)
            ended = [report for report in reports if classify(report.status).final]
            return reports if reports and len(ended) == len(reports) else None

        return until(f"record of {name}", look)


def fake_world() -> World:
    """The shipped fake."""
    scheduler = FakeScheduler(CAPABILITY, clock=lambda: datetime.now(UTC))

    def let_end(job_id: int, exit_code: int) -> None:
        scheduler.start(job_id)
        scheduler.end(job_id, SlurmState.FAILED if exit_code else SlurmState.COMPLETED, exit_code)

    return World(
        scheduler, let_end, "/tmp", real=False,
        let_start=scheduler.start, requeue=scheduler.requeue, expect=scheduler.expect,
    )  # fmt: skip


def command_world(cluster: Cluster) -> World:
    """Slurm's programs, on the bridge."""
    scheduler = CommandScheduler(cluster.shell("bridge"), timeout_seconds=30)
    return _real(scheduler, cluster)


def native_world(cluster: Cluster) -> World:
    """pyslurm, on the bridge."""
    return _real(cluster.native_scheduler(), cluster)


def _real(scheduler: Scheduler, cluster: Cluster) -> World:
    def control(*words: str) -> None:
        cluster.must("controller", "scontrol", *words, user="root")

    def requeue(job_id: int) -> None:
        control("update", f"JobId={job_id}", "Requeue=1")
        control("requeue", str(job_id))

    def expect(job_id: int, at: datetime) -> None:
        control("update", f"JobId={job_id}", f"StartTime={at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}")

    return World(
        scheduler, _by_itself, "/shared/results", real=True,
        let_start=lambda job_id: _by_itself(job_id, 0), requeue=requeue, expect=expect,
    )  # fmt: skip


def _by_itself(_job_id: int, _exit_code: int) -> None:
    """A real job ends when its script does."""
    time.sleep(0)
