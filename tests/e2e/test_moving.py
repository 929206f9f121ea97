"""Files are moved in beside everything else, before everybody's eyes, and no longer than wanted."""

from collections.abc import Iterator
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Progress
from slurmbridge.spec import ProcessSpec, parse_spec
from tests.support.cluster import WAY, WAYS, Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
# What takes some seconds. Sparse where it is read, so that it costs no disk there.
GIB = 2 if WAYS["ssh"] == WAY else 8
LARGE = "/shared/data/large.bin"


@pytest.fixture
def large(cluster: Cluster) -> Iterator[str]:
    cluster.must("bridge", "mkdir", "-p", "/shared/data")
    cluster.must("bridge", "truncate", f"--size={GIB}G", LARGE)
    yield "data:large.bin"
    cluster.must("bridge", "rm", LARGE)


def a_spec(**changes: Any) -> ProcessSpec:
    usual = {"image": "python", "command": ["true"], "partition": "short", "account": "research"}
    return parse_spec(
        {
            **usual,
            "resources": {"memory_mib": 64},
            "trace": "off",
            "time_limit_minutes": 5,
            **changes,
        }
    )


def moving(client: Client, process_id: str) -> Progress | None:
    progress = client.get(process_id).progress
    return progress if progress and progress.size_bytes else None


def test_staging_is_seen_keeps_nobody_waiting_and_ends_with_a_cancel(
    client: Client, cluster: Cluster, large: str
) -> None:
    slow = client.submit(a_spec(inputs=[{"source": large}])).id
    progress = until("progress", lambda: moving(client, slow), every=0.1)
    assert (progress.doing, progress.of_files, progress.of_bytes) == ("staging", 1, GIB << 30)
    assert 0 < progress.size_bytes <= progress.of_bytes

    quick = client.wait(client.submit(a_spec()).id, timeout_seconds=60)
    assert quick.state is ProcessState.COMPLETE, quick.reason
    assert client.get(slow).state is ProcessState.INITIALIZING

    client.cancel(slow)
    ended = client.wait(slow, timeout_seconds=15)
    assert ended.state is ProcessState.CANCELED
    assert ended.job_id is None
    assert ended.progress is None
    # Last: until the end is durable, everything can be read again.
    context = f"{cluster.way.contexts}/{slow}"
    until("end of the context", lambda: not exists(cluster, context), seconds=15)


def exists(cluster: Cluster, path: str) -> bool:
    return cluster.run(cluster.way.files_node, "test", "-e", path).exit_code == 0


def test_a_disk_that_is_full_while_staging_is_waited_for(client: Client, cluster: Cluster) -> None:
    """A file system of 16 MiB lies over the contexts for a while, on the host that has them."""
    way = cluster.way
    cluster.must("bridge", "mkdir", "-p", "/shared/data")
    cluster.must("bridge", "truncate", "--size=40M", "/shared/data/forty.bin")
    over = ("-o", "size=16m,mode=750,uid=2000,gid=2000", "tmpfs", way.contexts)
    cluster.must(way.files_node, "mount", "-t", "tmpfs", *over, user="root")
    try:
        waiting = client.submit(a_spec(inputs=[{"source": "data:forty.bin"}])).id
        told = "forty.bin could not be staged"
        until("a full disk", lambda: told in (client.get(waiting).reason or ""), seconds=60)
        assert client.get(waiting).job_id is None
    finally:
        cluster.must(way.files_node, "umount", way.contexts, user="root")
    for one in (waiting, client.submit(a_spec()).id):
        process = client.wait(one, timeout_seconds=90)
        assert process.state is ProcessState.COMPLETE, process.reason
    (file,) = client.get(waiting).inputs
    assert (file.path, file.size_bytes) == ("input/forty.bin", 40 << 20)
    contexts = cluster.must(way.files_node, "ls", "-A", way.contexts).split()
    assert waiting not in contexts
    cluster.must("bridge", "rm", "/shared/data/forty.bin")
