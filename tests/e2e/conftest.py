"""A client of the bridge that runs on the cluster."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.errors import BridgeUnreachable
from slurmbridge.model import Process, parse_spec
from tests.support.cluster import Cluster, until

SMALL: dict[str, Any] = {
    "image": "python",
    "resources": {"memory_mib": 256},
    "time_limit_minutes": 5,
    "partition": "short",
    "account": "research",
    "trace": "off",
}


@pytest.fixture(scope="session")
def url() -> str:
    return f"http://127.0.0.1:{os.environ.get('SLURMBRIDGE_PORT', '8642')}"


@pytest.fixture(scope="session")
def bridge(cluster: Cluster, url: str) -> Cluster:
    """The bridge with the code of this checkout, its image built, and ready."""
    cluster.run("bridge", "pkill", "-f", "slurmbridge.cli up")
    result = cluster.run("bridge", "slurmbridge", "images", "build", "python", timeout_seconds=900)
    assert result.exit_code == 0, result.stderr[-2000:]
    token = cluster.must("bridge", "slurmbridge", "tokens", "add", "readiness").strip()

    def ready() -> bool:
        with Client(url, token) as client:
            try:
                return client.ready() and bool(client.capability())
            except BridgeUnreachable:
                return False

    until("ready bridge", ready)
    return cluster


@pytest.fixture(scope="session")
def token(bridge: Cluster) -> str:
    return bridge.must("bridge", "slurmbridge", "tokens", "add", "e2e").strip()


@pytest.fixture(scope="session")
def client(url: str, token: str) -> Iterator[Client]:
    with Client(url, token) as found:
        yield found


@pytest.fixture(scope="session")
def run(client: Client) -> Callable[..., Process]:
    """Submit a small Process and wait for its end."""

    def submit_and_wait(*command: str, **changes: Any) -> Process:
        spec = parse_spec({**SMALL, "command": list(command), **changes})
        return client.wait(client.submit(spec).id, timeout_seconds=90, poll_seconds=0.2)

    return submit_and_wait
