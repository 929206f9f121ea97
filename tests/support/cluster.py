"""The development cluster, as tests see it. It fails where it is missing; it never skips."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from slurmbridge.scheduler.native import NativeScheduler
from slurmbridge.shell import LocalShell

ROOT = Path(__file__).resolve().parents[2]
SERVICE_USER = "slurmbridge"
T = TypeVar("T")
BRIDGE_PYTHON = "/opt/slurmbridge/venv/bin/python"


@dataclass(frozen=True)
class Result:
    """What a command in the cluster gave."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Way:
    """A bridge, and how it reaches Slurm."""

    # The container in which it runs, whatever a test calls it: to tests it is "bridge".
    node: str
    # Where the cluster's nodes find images and contexts, and a host that sees them.
    images: str
    contexts: str
    files_node: str
    port: int
    port_variable: str
    # Who tells events.
    sources: frozenset[str]

    @property
    def published_port(self) -> int:
        """Of this host."""
        return int(os.environ.get(self.port_variable, self.port))


# One with pyslurm, SQLite and a shared folder; one with ssh, PostgreSQL and nothing shared.
WAYS = {
    "shared": Way(
        "bridge",
        "/shared/images",
        "/shared/contexts",
        "bridge",
        8642,
        "SLURMBRIDGE_PORT",
        frozenset({"api", "runner", "pyslurm"}),
    ),
    "ssh": Way(
        "far",
        "/shared/far/images",
        "/shared/far/contexts",
        "login",
        8643,
        "SLURMBRIDGE_FAR_PORT",
        frozenset({"api", "runner", "ssh", "squeue"}),
    ),
}
WAY = WAYS[os.environ.get("SLURMBRIDGE_WAY", "shared")]


class Cluster:
    """Commands on the nodes of the running cluster."""

    def __init__(self, way: Way = WAY) -> None:
        self.way = way

    def at(self, node: str) -> str:
        """The container that is meant."""
        return self.way.node if node == "bridge" else node

    def argv(self, node: str, *argv: str, user: str = SERVICE_USER) -> list[str]:
        """The command that runs a command on a node."""
        return [str(ROOT / "ci/cluster"), "exec", "--user", user, self.at(node), "--", *argv]

    def run(
        self,
        node: str,
        *argv: str,
        user: str = SERVICE_USER,
        stdin: bytes = b"",
        timeout_seconds: float = 120,
    ) -> Result:
        """Run a command on a node through `ci/cluster exec`."""
        done = subprocess.run(
            self.argv(node, *argv, user=user),
            input=stdin,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def must(
        self,
        node: str,
        *argv: str,
        user: str = SERVICE_USER,
        stdin: bytes = b"",
        timeout_seconds: float = 120,
    ) -> str:
        """Run a command that has to succeed; what it printed."""
        result = self.run(node, *argv, user=user, stdin=stdin, timeout_seconds=timeout_seconds)
        assert result.exit_code == 0, f"{argv} on {node}: {result.stderr or result.stdout}"
        return result.stdout

    def write(self, node: str, path: str, content: bytes, *, mode: str = "644") -> None:
        """Write a file as the service user; its folder is made."""
        self.must(node, "mkdir", "-p", str(Path(path).parent))
        self.must(node, "sh", "-c", 'cat >"$1" && chmod "$2" "$1"', "sh", path, mode, stdin=content)

    def read(self, node: str, path: str) -> str:
        """Read a file as the service user."""
        return self.must(node, "cat", path)

    def shell(self, node: str, user: str = SERVICE_USER) -> LocalShell:
        """A Shell whose commands run on a node."""
        return LocalShell(self._docker(node, user, ("-e", "TZ=UTC", "-e", "LC_ALL=C.UTF-8")))

    def native_scheduler(self, *, timeout_seconds: float = 30) -> NativeScheduler:
        """pyslurm on the bridge, in a child that is reached through the engine."""
        file = "/opt/slurmbridge/src/slurmbridge/scheduler/native_child.py"
        child = (BRIDGE_PYTHON, "-I", file)
        return NativeScheduler(
            self.shell("bridge"),
            timeout_seconds=timeout_seconds,
            child_argv=(*self._docker("bridge", SERVICE_USER), *child),
        )

    def _docker(self, node: str, user: str, options: Sequence[str] = ()) -> tuple[str, ...]:
        docker = shutil.which("docker")
        assert docker, "the docker client is missing"
        return (docker, "exec", "-i", "-u", user, *options, f"slurmbridge-{self.at(node)}-1")


def until(
    what: str, look: "Callable[[], T | None]", *, seconds: float = 60, every: float = 0.2
) -> "T":
    """Look again and again until there is something; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(every)
    raise AssertionError(f"after {seconds:g} s there is no {what}")


def provide_image(cluster: Cluster, name: str, *environment: str) -> None:
    """See to it that the bridge has an image: built by the one on the shared folder, and added by
    one that has none.
    """
    builder = Cluster(WAYS["shared"])
    command = ("env", *environment, "slurmbridge", "images", "build", name)
    built = builder.run("bridge", *command, timeout_seconds=1500)
    assert built.exit_code == 0, built.stderr[-2000:]
    if cluster.way == builder.way:
        return
    sha256 = built.stdout.split()[-1]
    path = f"/shared/images/{name}-{sha256[:16]}.sif"
    copy = f"/tmp/{name}.sif"
    if cluster.run("bridge", "test", "-e", path).exit_code == 0:
        return
    with subprocess.Popen(builder.argv("bridge", "cat", path), stdout=subprocess.PIPE) as source:
        target = cluster.argv("bridge", "sh", "-c", f"cat >{copy}")
        subprocess.run(target, stdin=source.stdout, check=True)
    cluster.must("bridge", "slurmbridge", "images", "add", name, copy, "--sha256", sha256)
    cluster.must("bridge", "rm", copy)


def copy_folder(cluster: Cluster, folder: Path, target: str) -> None:
    """Copy what a folder of this host holds to the cluster's login node."""
    cluster.must("login", "mkdir", "-p", target)
    inside = cluster.argv("login", "tar", "-xC", target, "--no-same-owner")
    pack = ("tar", "-cC", str(folder), ".")
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packed:
        subprocess.run(inside, stdin=packed.stdout, check=True)
    assert packed.returncode == 0
