"""Specifications, an image and a capability that tests share."""

from datetime import UTC, datetime
from typing import Any

from slurmbridge.model import (
    ComputeCapability,
    Helpers,
    Image,
    Partition,
    ProcessSpec,
    parse_spec,
)

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
MINIMAL: dict[str, Any] = {"image": "python", "command": ["true"]}
IMAGE = Image(
    name="python",
    sha256="1" * 64,
    definition_sha256="2" * 64,
    path="/shared/images/python-1111111111111111.sif",
    size_bytes=1 << 20,
    squashfs_offset=32768,
    labels={"org.opencontainers.image.title": "python"},
    built_at=START,
)
HELPERS = Helpers(
    architecture="x86_64",
    path="/shared/images/helpers-x86_64-5555555555555555",
    sbseal_sha256="3" * 64,
    sbprobe_sha256="4" * 64,
    source_sha256="5" * 64,
    built_at=START,
)
CAPABILITY = ComputeCapability(
    cluster="test",
    slurm_version="26.05.5",
    partitions=(
        Partition(
            name="main",
            default=True,
            up=True,
            nodes=3,
            cpus_per_node=4,
            memory_mib_per_node=4000,
            time_limit_minutes=1440,
        ),
    ),
    accounts=("research", "teaching"),
    default_account="research",
)


def spec(**changes: Any) -> ProcessSpec:
    """The smallest specification, with these fields changed."""
    return parse_spec({**MINIMAL, **changes})


def process_id(number: int) -> str:
    """The id of the n-th Process: 26 characters that sort by number."""
    return f"{number:026}"
