"""Programs on several nodes: one sealed container on each, and a network of their own."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from tests.support.cluster import Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]


def pods(nodes: int, **more: Any) -> dict[str, Any]:
    """A specification of pods in which nothing is started by itself."""
    parallel = {"kind": "pods", "nodes": nodes}
    return {"parallel": parallel, "trace": "off", **more}


def test_the_program_runs_in_the_first_pod_and_reaches_the_others(
    client: Client, run: Run
) -> None:
    script = """
    for pod in sb1 sb2 sb3; do /.sb/rsh $pod hostname; done
    /.sb/rsh sb3 'echo "to stdout of $(hostname)"; echo "to stderr" >&2; exit 7'; echo "code $?"
    echo "what is sent" | /.sb/rsh sb2 cat
    """
    process = run("sh", "-c", script, **pods(3))
    out = client.log(process.id).data
    assert process.state is ProcessState.COMPLETE, (process.reason, client.log(process.id, "stderr"))
    assert out.splitlines() == [
        *("sb1", "sb2", "sb3"), "to stdout of sb3", "code 7", "what is sent",
    ]  # fmt: skip
    assert process.sealed
