"""A traced program is recorded from outside, and cannot tell."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]


def trace_of(bridge: Cluster, process: Process) -> str:
    assert "trace.zst" in {file.path for file in process.outputs}, process
    path = f"/shared/results/processes/{process.id}/trace.zst"
    return bridge.must("bridge", "zstd", "-dcq", path)


@pytest.mark.parametrize("level", ["audit", "full"])
def test_the_trace_holds_what_the_program_did(bridge: Cluster, run: Run, level: str) -> None:
    bridge.write("bridge", "/shared/data/seen.csv", b"1\n")
    address = bridge.must("node1", "getent", "ahostsv4", "controller").split()[0]
    script = (
        "import os, socket; open('/input/seen.csv').read(); open('/output/made', 'w').close();"
        "os.rename('/output/made', '/output/renamed');"
        f"s = socket.socket(); s.connect_ex(('{address}', 6817)); os.system('true')"
    )
    command = ("python3", "-c", script)
    process = run(*command, trace=level, inputs=[{"source": "data:seen.csv"}])
    assert process.state is ProcessState.COMPLETE, process.reason
    text = trace_of(bridge, process)
    for seen in (
        'execve("/usr/bin/python3", ["python3", "-c"',
        '"/input/seen.csv", O_RDONLY',
        '"/output/made", O_WRONLY|O_CREAT',
        "rename",
        "ENETUNREACH",
        '"true"',
        "exited with 0",
    ):
        assert seen in text, seen


def test_without_a_level_there_is_no_trace(run: Run) -> None:
    process = run("true", trace="off")
    assert "trace.zst" not in {file.path for file in process.outputs}


def test_the_trace_is_out_of_the_program_s_reach(bridge: Cluster, run: Run) -> None:
    script = "import os; os.system('rm -rf /output/* /tmp/* / 2>/dev/null'); os.kill(-1, 9)"
    process = run("python3", "-c", script, trace="audit")
    assert 'execve("/usr/bin/python3"' in trace_of(bridge, process)


def test_twenty_busy_traced_runs_do_not_freeze(client: Client) -> None:
    """strace of a container whose image is served by a traced process froze every second time."""
    walk = "import numpy, os; print(sum(len(f) for _, _, f in os.walk('/usr/share')))"
    spec = {**SMALL, "trace": "audit", "command": ["python3", "-c", walk]}
    with ThreadPoolExecutor(4) as pool:
        ids = [process.id for process in pool.map(client.submit, [parse_spec(spec)] * 20)]
    ended = [client.wait(found, timeout_seconds=180, poll_seconds=0.5) for found in ids]
    assert {process.state for process in ended} == {ProcessState.COMPLETE}
