"""For every test: no setting of the caller leaks in. For those that need it: the cluster."""

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_docker.plugin import Services

from slurmbridge.client import Client
from slurmbridge.errors import BridgeUnreachable
from slurmbridge.model import Helpers, Process
from slurmbridge.spec import parse_spec
from tests.support.cluster import ROOT, WAY, Cluster, provide_image, until
from tests.support.sealing import builder

SMALL: dict[str, Any] = {
    "image": "python",
    "resources": {"memory_mib": 256},
    "time_limit_minutes": 5,
    "partition": "short",
    "account": "research",
    "trace": "off",
}


KEPT = {"SLURMBRIDGE_PORT", "SLURMBRIDGE_FAR_PORT", "SLURMBRIDGE_SSH_PORT", "SLURMBRIDGE_WAY"}
for _name in [name for name in os.environ if name.startswith("SLURMBRIDGE_")]:
    if _name not in KEPT:
        del os.environ[_name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cheap ones first: a broken unit is known before a cluster is started."""
    order = ("unit", "contract", "simulation", "cluster", "e2e")
    items.sort(key=lambda item: order.index(item.path.relative_to(ROOT / "tests").parts[0]))


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    """Through ci/cluster, which knows the image and its configuration."""
    return f"{ROOT}/ci/cluster compose"


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    """The one that `ci/cluster` uses."""
    return str(ROOT / "ci/slurm/compose.yaml")


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    """The one that `ci/cluster` uses: there is one development cluster."""
    return "slurmbridge"


@pytest.fixture(scope="session")
def docker_setup() -> str:
    """Engine, image, containers and a wait for health are what `ci/cluster up` is for."""
    subprocess.run([str(ROOT / "ci/cluster"), "up"], check=True)
    return "up --detach --no-recreate"


@pytest.fixture(scope="session")
def docker_cleanup() -> str:
    """It stays up, so that the next run starts at once; `ci/cluster down` ends it."""
    return "ps --quiet"


@pytest.fixture(scope="session")
def cluster(docker_services: Services) -> Cluster:
    """The running cluster."""
    assert docker_services
    return Cluster()


@pytest.fixture(scope="session")
def sealing_helpers(tmp_path_factory: pytest.TempPathFactory) -> Helpers:
    """sbseal and sbprobe, compiled on this host. Their folder is `path`; leave it as it is."""
    return builder(tmp_path_factory.mktemp("helpers")).build()


@pytest.fixture(scope="session")
def url() -> str:
    return f"http://127.0.0.1:{WAY.published_port}"


@pytest.fixture(scope="session")
def bridge(cluster: Cluster, url: str) -> Cluster:
    """The bridge with the code of this checkout, its image built, and ready."""
    cluster.run("bridge", "pkill", "-f", "slurmbridge.cli up")
    provide_image(cluster, "python")
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
def programs(bridge: Cluster) -> str:
    """The name of an image with compilers, Java and more; built once, in some minutes."""
    definitions = "SLURMBRIDGE_DEFINITIONS=/opt/slurmbridge/src/tests/definitions"
    provide_image(bridge, "programs", definitions)
    return "programs"


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
