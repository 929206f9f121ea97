"""Specifications, an image and a capability that tests share."""

import string
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from slurmbridge.model import ComputeCapability, Gres, Helpers, Image, Partition
from slurmbridge.spec import ProcessSpec, parse_spec

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
            gres=(Gres(name="gpu", kind="a", count=2), Gres(name="shard", count=8)),
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


def specifications() -> st.SearchStrategy[ProcessSpec]:
    """Anything that a submitter may ask for."""
    sign = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    argument, size = st.text(sign, max_size=20), st.integers(1, 1 << 20)
    command = st.tuples(st.text(sign, min_size=1), st.lists(argument, max_size=4))
    # No name of the platform's begins with V.
    name = st.text(string.ascii_letters + "_", max_size=6).map("V{}".format)
    labels = st.sampled_from(["a", "title", "org.x/y-z"])
    return st.fixed_dictionaries(
        {"command": command.map(lambda words: [words[0], *words[1]])},
        optional={
            "environment": st.dictionaries(name, argument, max_size=3),
            "labels": st.dictionaries(labels, argument, max_size=2),
            "trace": st.sampled_from(["off", "audit", "full"]),
            "code": st.just({"source": "data:code"}),
            "inputs": st.just([{"source": "data:a"}, {"source": "data:b", "target": "c/d"}]),
            "outputs": st.just({"destination": "results:there"}),
            "time_limit_minutes": st.integers(2, 1000),
            "warn": st.fixed_dictionaries(
                {"seconds": st.integers(1, 119)},
                optional={"signal": st.sampled_from(["HUP", "INT", "USR1", "USR2"])},
            ),
            "resources": st.fixed_dictionaries(
                {"memory_mib": st.integers(16, 1 << 20)},
                optional={"tmp_mib": size, "shm_mib": size},
            ),
            "limits": st.fixed_dictionaries(
                {},
                optional={
                    "processes": st.integers(16, 1_000_000),
                    "open_files": st.integers(64, 1_000_000),
                    "file_size_mib": size,
                },
            ),
        },
    ).map(lambda wanted: spec(**wanted))
