"""Outages of the development cluster, each with many Processes in flight, and what came of them.

Each outage is a context manager: the fault holds while it is open. What is judged is the same for
all: every Process ends COMPLETE, its program ran once, and Slurm started one job for it, as Slurm's
accounting says.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from slurmbridge.client import Client
from slurmbridge.errors import BridgeUnreachable, SiteError
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.support.cluster import Cluster, until

# What a job says that found its context taken.
TAKEN = 75
Fault = Callable[[Cluster], AbstractContextManager[None]]
SPEC: dict[str, Any] = {
    "image": "python",
    "command": ["sh", "-c", "echo run >>/output/runs; sleep 3"],
    "resources": {"memory_mib": 64},
    "time_limit_minutes": 5,
    "partition": "short",
    "account": "research",
    "trace": "off",
}


@contextmanager
def _daemon_gone(
    cluster: Cluster, node: str, name: str, seconds: float, signal: str = "KILL"
) -> Iterator[None]:
    """A daemon is ended, and its supervisor kept from starting it again."""
    find = f"ps -o ppid= -p $(pgrep -o -x {name})"
    parent = cluster.must(node, "sh", "-c", find, user="root").strip()
    cluster.must(node, "kill", "-STOP", parent, user="root")
    try:
        cluster.must(node, "pkill", f"-{signal}", "-x", name, user="root")
        yield
        time.sleep(seconds)
    finally:
        cluster.must(node, "kill", "-CONT", parent, user="root")


@contextmanager
def slurmctld(cluster: Cluster) -> Iterator[None]:
    """The controller is stopped, and away for a minute."""
    with _daemon_gone(cluster, "controller", "slurmctld", 60, "TERM"):
        yield


@contextmanager
def slurmctld_killed(cluster: Cluster) -> Iterator[None]:
    """The controller is killed, and away for a minute. Of what it had not saved it knows nothing
    afterwards: it gives job ids again, and drains nodes on which it finds other jobs than it knows.
    So an administrator looks after the nodes.
    """
    with _daemon_gone(cluster, "controller", "slurmctld", 60):
        yield
    until("slurmctld", lambda: "is UP" in cluster.run("login", "scontrol", "ping").stdout)
    time.sleep(15)
    argv = ("scontrol", "update", "nodename=node[1-3]", "state=resume")
    cluster.run("controller", *argv, user="root")


@contextmanager
def slurmdbd(cluster: Cluster) -> Iterator[None]:
    """Accounting is away for a minute."""
    with _daemon_gone(cluster, "controller", "slurmdbd", 60):
        yield


@contextmanager
def slurmd(cluster: Cluster) -> Iterator[None]:
    """A node's daemon is killed and comes back after ten seconds."""
    with _daemon_gone(cluster, "node2", "slurmd", 10):
        yield


@contextmanager
def dropped(cluster: Cluster) -> Iterator[None]:
    """What login answers to the bridge is dropped without a word, for half a minute."""
    address = cluster.must("login", "getent", "ahostsv4", cluster.way.node).split()[0]
    cluster.must("login", "ip", "route", "add", "blackhole", f"{address}/32", user="root")
    try:
        yield
        time.sleep(30)
    finally:
        cluster.must("login", "ip", "route", "del", "blackhole", f"{address}/32", user="root")


@contextmanager
def postgresql(cluster: Cluster) -> Iterator[None]:
    """The database is killed, and begins anew after ten seconds."""
    with _daemon_gone(cluster, "database", "postgres", 10):
        yield


@contextmanager
def _mounted(cluster: Cluster, *command: str, undo: tuple[str, ...]) -> Iterator[None]:
    cluster.must("bridge", *command, user="root")
    try:
        yield
        time.sleep(30)
    finally:
        cluster.must("bridge", *undo, user="root")


@contextmanager
def read_only(cluster: Cluster) -> Iterator[None]:
    """The bridge finds the shared folder read-only."""
    with _mounted(
        cluster, "mount", "-o", "remount,bind,ro", "/shared",
        undo=("mount", "-o", "remount,bind,rw", "/shared"),
    ):  # fmt: skip
        yield


@contextmanager
def full(cluster: Cluster) -> Iterator[None]:
    """The bridge finds no space where it makes contexts, and none where it carries results."""
    # Not even one file: what is written here is gone afterwards, as on no disk that is full.
    size = "nr_inodes=1,mode=777"
    with (
        _mounted(
            cluster, "mount", "-t", "tmpfs", "-o", size, "none", "/shared/results",
            undo=("umount", "-l", "/shared/results"),
        ),
        _mounted(
            cluster, "mount", "-t", "tmpfs", "-o", size, "none", "/shared/contexts",
            undo=("umount", "-l", "/shared/contexts"),
        ),
    ):  # fmt: skip
        yield


def _runners(cluster: Cluster) -> tuple[str, str]:
    """The process ids of the bridge's own Runner, and of the one that was started last."""
    found = cluster.must("bridge", "pgrep", "-f", r"slurmbridge(\.cli)? runner$").split()
    return found[0], found[-1]


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """Of two Runners, the one that works is frozen for a minute and woken."""
    cluster.must("bridge", "sh", "-c", "nohup slurmbridge runner >/tmp/second.log 2>&1 &")
    until("second Runner", lambda: "starts" in cluster.read("bridge", "/tmp/second.log"))
    first, second = _runners(cluster)
    try:
        cluster.must("bridge", "kill", "-STOP", first)
        yield
        time.sleep(60)
    finally:
        cluster.must("bridge", "kill", "-CONT", first)
        time.sleep(15)
        cluster.must("bridge", "kill", second)


def _set_clock(cluster: Cluster, offset: bytes) -> None:
    """In one step: who finds the file empty is ended by libfaketime."""
    cluster.write("bridge", "/tmp/faketime.new", offset)
    cluster.must("bridge", "mv", "/tmp/faketime.new", "/tmp/faketime")


@contextmanager
def clock(cluster: Cluster) -> Iterator[None]:
    """The clock of the only Runner jumps ahead by an hour, and back after half a minute."""
    library = cluster.must("bridge", "sh", "-c", "ls /usr/lib/*/faketime/libfaketime.so.1").strip()
    faked = ("env", f"LD_PRELOAD={library}", "FAKETIME_TIMESTAMP_FILE=/tmp/faketime",
             "FAKETIME_NO_CACHE=1")  # fmt: skip
    _set_clock(cluster, b"+0\n")
    runner = " ".join((*faked, "slurmbridge", "runner"))
    cluster.must("bridge", "sh", "-c", f"nohup {runner} >/tmp/second.log 2>&1 &")
    until("second Runner", lambda: "starts" in cluster.read("bridge", "/tmp/second.log"))
    own, second = _runners(cluster)
    try:
        # Its own Runner does nothing meanwhile, and so is taken for dead.
        cluster.must("bridge", "kill", "-STOP", own)
        time.sleep(20)
        _set_clock(cluster, b"+3600\n")
        yield
        time.sleep(30)
        _set_clock(cluster, b"+0\n")
        time.sleep(15)
    finally:
        cluster.must("bridge", "kill", "-CONT", own)
        cluster.must("bridge", "kill", second)


# Those that make no sense for a bridge that shares nothing with its cluster, and the others.
FAULTS: Mapping[str, Mapping[str, Fault]] = {
    "shared": {
        "slurmctld": slurmctld,
        "slurmctld-killed": slurmctld_killed,
        "slurmdbd": slurmdbd,
        "slurmd": slurmd,
        "read-only": read_only,
        "full": full,
        "frozen": frozen,
        "clock": clock,
    },
    "ssh": {"slurmctld": slurmctld, "dropped": dropped, "postgresql": postgresql},
}


@dataclass
class Outcome:
    """What came of Processes that went through an outage."""

    processes: int
    seconds: float
    states: Counter[str] = field(default_factory=Counter)
    # Processes by how often their program says that it ran, and by how many jobs got a context.
    runs: Counter[int] = field(default_factory=Counter)
    jobs: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing run twice."""
        once = Counter({1: self.processes})
        complete = Counter({ProcessState.COMPLETE.value: self.processes})
        return self.states == complete and self.runs == once and self.jobs == once

    @property
    def sound_but_canceled(self) -> bool:
        """The same, but for those that Slurm canceled of its own accord, as it does with jobs that
        it finds on nodes and does not know.
        """
        states = set(self.states) <= {ProcessState.COMPLETE.value, ProcessState.CANCELED.value}
        complete = self.states[ProcessState.COMPLETE.value]
        return states and set(self.runs) <= {0, 1} and self.runs[1] >= complete


def go_through(cluster: Cluster, client: Client, fault: Fault, processes: int) -> Outcome:
    """Bring so many Processes under way, let the fault happen in their midst, and judge."""
    began = time.monotonic()
    ids = [client.submit(parse_spec(SPEC)).id for _ in range(processes // 2)]
    until("job", lambda: any(client.get(one).job_id for one in ids[:5]))
    keys = [str(uuid4()) for _ in range(processes - len(ids))]
    with fault(cluster):
        ids += _submitted(client, keys, attempts=1)
    # What the API did not accept was promised to nobody; what it may have accepted is asked for
    # again under the same key.
    ids += _submitted(client, keys, attempts=60)
    ended = [_end(client, one, seconds=900) for one in ids]
    outcome = Outcome(len(ids), round(time.monotonic() - began, 1))
    started = jobs_that_ran(cluster, ended)
    for process in ended:
        outcome.states[process.state.value] += 1
        outcome.runs[_runs(cluster, process)] += 1
        outcome.jobs[started[process.job_name]] += 1
        if process.reason:
            outcome.reasons[process.reason] += 1
    return outcome


def _submitted(client: Client, keys: list[str], *, attempts: int) -> list[str]:
    """Submit under each key, which is taken from the list when it was accepted."""
    ids: list[str] = []
    for key in list(keys):
        for attempt in range(attempts):
            try:
                ids.append(client.submit(parse_spec(SPEC), idempotency_key=key).id)
                keys.remove(key)
                break
            except (BridgeUnreachable, SiteError):
                time.sleep(1 if attempt else 0.1)
    return ids


def _end(client: Client, process_id: str, *, seconds: float) -> Process:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            process = client.get(process_id)
        except (BridgeUnreachable, SiteError):
            time.sleep(1)
            continue
        if process.state.final:
            return process
        time.sleep(0.5)
    raise AssertionError(f"{process_id} has not ended: {client.get(process_id)}")


def jobs_that_ran(cluster: Cluster, processes: list[Process]) -> Counter[str]:
    """Of each job's name, how many jobs Slurm started and that did not find their context taken."""
    names = ",".join(process.job_name for process in processes)
    ids = {process.job_name for process in processes}

    argv = ("sacct", "-XnP", "--duplicates", f"--name={names}", "--starttime=now-1days",
            "--format=JobName,State,ExitCode,NodeList")  # fmt: skip

    def recorded() -> list[list[str]] | None:
        lines = [line.split("|") for line in cluster.must("login", *argv).splitlines()]
        ended = {line[0] for line in lines if line[1] not in {"PENDING", "RUNNING"}}
        return lines if ended == ids else None

    try:
        lines = until("records", recorded, seconds=60, every=2)
    except AssertionError:
        # Accounting never learns how a job ended that the controller has lost.
        lines = [line.split("|") for line in cluster.must("login", *argv).splitlines()]
    found: Counter[str] = Counter()
    for name, _state, code, nodes in lines:
        ran = nodes != "None assigned" and code.partition(":")[0] != str(TAKEN)
        found[name] += ran
    return found


def _runs(cluster: Cluster, process: Process) -> int:
    path = f"/shared/results/processes/{process.id}/output/runs"
    result = cluster.run("bridge", "cat", path)
    return len(result.stdout.splitlines()) if result.exit_code == 0 else 0
