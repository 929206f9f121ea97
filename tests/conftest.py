"""For every test: no setting of the caller leaks in. For those that need it: the cluster."""

import os
import subprocess

import pytest
from pytest_docker.plugin import Services

from slurmbridge.model import Helpers
from tests.support.cluster import ROOT, Cluster
from tests.support.sealing import builder

for _name in [name for name in os.environ if name.startswith("SLURMBRIDGE_")]:
    if _name not in {"SLURMBRIDGE_PORT", "SLURMBRIDGE_SSH_PORT"}:
        del os.environ[_name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cheap ones first: a broken unit is known before a cluster is started."""
    order = ("unit", "contract", "cluster", "e2e")
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
