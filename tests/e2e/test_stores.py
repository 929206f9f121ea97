"""Processes whose data come from, and go to, servers that speak WebDAV and S3, and that fail."""

import hashlib
import time
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster, until
from tests.support.cluster_stores import ClusterStore, is_whole

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
PROGRAM = b"""
import pathlib
found = {
    str(path.relative_to("/input")): path.read_bytes()
    for path in pathlib.Path("/input").rglob("*") if path.is_file()
}
out = pathlib.Path("/output")
(out / "below").mkdir()
(out / "below/names.txt").write_text(",".join(sorted(found)))
(out / "large.bin").write_bytes(bytes(20_000_000))
(out / "an odd name, (1) ~ 100%.csv").write_text("a,b")
print(sum(len(content) for content in found.values()))
"""
FILES = {"part/a.csv": b"a" * 1000, "part/b c.csv": b"b" * 2000, "part/deep/er/c.csv": b"c"}


def made(bridge: Cluster, kind: str) -> ClusterStore:
    found = ClusterStore(bridge, kind)
    found.put("code/main.py", PROGRAM)
    for path, content in FILES.items():
        found.put(path, content)
    return found


@pytest.fixture(params=["dav", "s3"])
def store(bridge: Cluster, request: pytest.FixtureRequest) -> ClusterStore:
    return made(bridge, request.param)


def asked(client: Client, store: ClusterStore, **changes: Any) -> str:
    wanted = {
        **SMALL,
        "command": ["python3", "main.py"],
        "code": {"source": f"{store.kind}:code/main.py"},
        "inputs": [{"source": f"{store.kind}:part"}],
        "outputs": {"destination": f"{store.kind}out:results"},
        "trace": "audit",
    }
    return client.submit(parse_spec({**wanted, **changes})).id


def ended(client: Client, process_id: str, seconds: float = 120) -> Process:
    return client.wait(process_id, timeout_seconds=seconds, poll_seconds=0.3)


def reason(client: Client, process_id: str, said: str) -> Process:
    def look() -> Process | None:
        process = client.get(process_id)
        return process if said in (process.reason or "") else None

    return until(f"reason with {said!r}", look, seconds=60)


def test_data_come_from_a_store_and_go_to_one(client: Client, store: ClusterStore) -> None:
    process = ended(client, asked(client, store))
    assert process.state is ProcessState.COMPLETE, process.reason
    assert client.log(process.id).data == b"3001\n"
    assert {file.path for file in process.outputs} >= {
        "output/below/names.txt",
        "output/large.bin",
        "output/an odd name, (1) ~ 100%.csv",
        "stdout.txt",
        "trace.zst",
        "trace-report.json",
    }
    assert process.outputs_location == f"{store.kind}out:results/{process.id}"
    assert {file.path for file in process.inputs} == {
        "code/main.py", *(f"input/{path}" for path in FILES),
    }  # fmt: skip
    is_whole(store, process)


def test_neither_the_job_nor_its_container_knows_a_credential(
    client: Client, bridge: Cluster, store: ClusterStore
) -> None:
    secret = bridge.must("stores", "cat", "/etc/slurmbridge/stores/password", user="root").strip()
    key = bridge.must("stores", "cat", "/etc/slurmbridge/stores/s3", user="root").split()[-1]
    process_id = asked(client, store, command=["sleep", "20"])
    until("context", lambda: client.get(process_id).state is ProcessState.RUNNING)
    where = f"{bridge.way.contexts}/{process_id}"
    command = f"grep -rlaF -e {secret} -e {key} {where} || true"
    assert bridge.must(bridge.way.files_node, "sh", "-c", command) == ""
    assert secret not in (client.script(process_id) or "")
    client.cancel(process_id)
    ended(client, process_id)


def test_what_was_declared_otherwise_is_refused(client: Client, store: ClusterStore) -> None:
    inputs = [{"source": f"{store.kind}:part/a.csv", "sha256": "0" * 64}]
    process = ended(client, asked(client, store, inputs=inputs))
    assert process.state is ProcessState.EXECUTOR_ERROR
    found = hashlib.sha256(FILES["part/a.csv"]).hexdigest()
    assert f"its SHA-256 is {found}, and {'0' * 64} was declared" in (process.reason or "")


def test_what_is_not_there_is_the_submitter_s_to_mend(client: Client, store: ClusterStore) -> None:
    process = ended(client, asked(client, store, inputs=[{"source": f"{store.kind}:nothing"}]))
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.reason == f"{store.kind}:nothing does not exist"


READING = [
    ("dav", "PROPFIND-503", "503 Service Unavailable"),
    ("dav", "GET-401", "401 Unauthorized"),
    ("dav", "GET-423", "423 Locked"),
    ("dav", "GET-503", "503 Service Unavailable"),
    ("s3", "HEAD-503", "503"),
    ("s3", "GET-401", "401"),
    ("s3", "GET-503", "503"),
]


@pytest.mark.parametrize(("kind", "fault", "said"), READING)
def test_a_store_that_is_not_read_lets_a_process_wait(
    bridge: Cluster, client: Client, kind: str, fault: str, said: str
) -> None:
    store = made(bridge, kind)
    with store.answering(fault):
        process_id = asked(client, store, outputs={"destination": "results:processes"})
        waiting = reason(client, process_id, said)
        assert waiting.job_id is None
        assert not waiting.state.final
    process = ended(client, process_id)
    assert process.state is ProcessState.COMPLETE, process.reason


WRITING = [
    ("dav", "PUT-401", "401 Unauthorized"),
    ("dav", "PUT-423", "423 Locked"),
    ("dav", "PUT-507", "the store is full, or a quota is used up"),
    ("dav", "MKCOL-507", "the store is full, or a quota is used up"),
    ("s3", "PUT-401", "401"),
    ("s3", "PUT-503", "503"),
    ("s3", "PUT-507", "the store is full, or a quota is used up"),
]


@pytest.mark.parametrize(("kind", "fault", "said"), WRITING)
def test_a_store_that_takes_nothing_lets_a_process_wait_for_its_end(
    bridge: Cluster, client: Client, kind: str, fault: str, said: str
) -> None:
    store = made(bridge, kind)
    process_id = asked(client, store, command=["sh", "-c", "sleep 3; exec python3 main.py"])
    until("running", lambda: client.get(process_id).state is ProcessState.RUNNING)
    with store.answering(fault):
        assert not reason(client, process_id, said).state.final
    process = ended(client, process_id)
    assert process.state is ProcessState.COMPLETE, process.reason
    is_whole(store, process)
    assert sum("carried to" in event.detail for event in client.events(process_id)) == 1


def test_what_is_cut_in_the_middle_is_gone_on_with(client: Client, store: ClusterStore) -> None:
    store.put("cut/large.bin", bytes(range(256)) * 40_000)
    with store.answering("slow"):
        process_id = asked(
            client,
            store,
            command=["sha256sum", "/input/large.bin"],
            inputs=[{"source": f"{store.kind}:cut/large.bin"}],
            outputs={"destination": "results:processes"},
        )
        until("staging", lambda: (now := client.get(process_id).progress) and now.size_bytes)
        store.cut()
        time.sleep(1)
    process = ended(client, process_id)
    assert process.state is ProcessState.COMPLETE, process.reason
    expected = hashlib.sha256(bytes(range(256)) * 40_000).hexdigest()
    assert client.log(process_id).data.decode().split()[0] == expected


def test_a_store_that_says_nothing_keeps_no_other_process_waiting(
    client: Client, store: ClusterStore
) -> None:
    with store.frozen():
        silent = asked(client, store)
        local = asked(client, store, code=None, inputs=[], command=["true"], outputs=None)
        process = ended(client, local, seconds=60)
        assert process.state is ProcessState.COMPLETE, process.reason
        assert client.get(silent).job_id is None
    assert ended(client, silent, seconds=180).state is ProcessState.COMPLETE
