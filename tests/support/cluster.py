"""The development cluster, as tests see it. It fails where it is missing; it never skips."""

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


class Cluster:
    """Commands on the nodes of the running cluster."""

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
            [str(ROOT / "ci/cluster"), "exec", "--user", user, node, "--", *argv],
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
        return (docker, "exec", "-i", "-u", user, *options, f"slurmbridge-{node}-1")


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
