"""Outputs that wait until somebody lets them out, to a server that speaks WebDAV."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.errors import Forbidden
from slurmbridge.lifecycle import ProcessState, ReviewState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import WAY, Cluster, until
from tests.support.cluster_stores import ClusterStore

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
# The account whose outputs the cluster's bridges review.
SPEC: dict[str, Any] = {
    **SMALL,
    "account": "teaching",
    "command": ["sh", "-c", "echo a,b >/output/result.csv; echo printed"],
    "outputs": {"destination": "davout:reviewed"},
}


@pytest.fixture(scope="module")
def reviewer(bridge: Cluster) -> Iterator[Client]:
    argv = ("slurmbridge", "tokens", "add", "reviewer", "--may-review")
    token = bridge.must("bridge", *argv).strip()
    with Client(f"http://127.0.0.1:{WAY.published_port}", token) as client:
        yield client


def ended(client: Client) -> Process:
    process = client.submit(parse_spec(SPEC))
    return client.wait(process.id, timeout_seconds=90, poll_seconds=0.2)


def quarantined(bridge: Cluster, process: Process) -> bool:
    return bridge.run("bridge", "test", "-d", f"/shared/quarantine/{process.id}").exit_code == 0


def test_what_waits_is_seen_by_a_reviewer_alone_and_carried_when_it_is_released(
    bridge: Cluster, client: Client, reviewer: Client
) -> None:
    store = ClusterStore(bridge, "dav")
    process = ended(client)
    assert process.state is ProcessState.COMPLETE, process.reason
    assert (process.outputs, process.outputs_location) == ((), None)
    with pytest.raises(Forbidden, match="held back"):
        client.log(process.id)
    assert store.names(f"reviewed/{process.id}") == set()
    assert reviewer.log(process.id).data == b"printed\n"
    listed = reviewer.page(review=ReviewState.WAITING).processes
    assert process.id in {entry.id for entry in listed}
    seen = reviewer.get(process.id)
    assert seen.review is not None
    assert seen.review.location == f"quarantine:{process.id}"
    reviewer.decide(process.id, release=True, reason="looked at")

    def out() -> bool:
        return client.get(process.id).outputs_location == f"davout:reviewed/{process.id}"

    until("release", out)
    manifest = json.loads(store.get(f"reviewed/{process.id}/manifest.json"))
    named = {file["path"] for file in manifest["files"]}
    assert store.names(f"reviewed/{process.id}") == named | {"manifest.json"}
    assert store.get(f"reviewed/{process.id}/output/result.csv") == b"a,b\n"
    assert client.log(process.id).data == b"printed\n"
    until("empty quarantine", lambda: not quarantined(bridge, process))


def test_what_is_rejected_is_destroyed(bridge: Cluster, client: Client, reviewer: Client) -> None:
    process = ended(client)
    assert quarantined(bridge, process)
    with pytest.raises(Forbidden, match="not one of a reviewer"):
        client.decide(process.id, release=True)
    reviewer.decide(process.id, release=False, reason="single people can be told")
    until("destruction", lambda: not quarantined(bridge, process))
    review = client.get(process.id).review
    assert review is not None
    assert (review.state, review.by, review.reason) == (
        ReviewState.REJECTED, "reviewer", "single people can be told",
    )  # fmt: skip
    assert ClusterStore(bridge, "dav").names(f"reviewed/{process.id}") == set()
    with pytest.raises(Forbidden):
        client.log(process.id)
