"""A traced Process leaves a report, a page and a verdict, and a trace has a limit."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmbridge.client import Client
from slurmbridge.errors import InvalidProcess, NotTraced
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.rules import Outcome
from slurmbridge.spec import parse_spec
from slurmbridge.trace.report import Doubt, TraceReport
from tests.conftest import SMALL
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
COMMAND = Path(sys.executable).with_name("slurmbridge")
# Each line of it opens a file that is not there: the cheapest call that is recorded.
FLOOD = (
    "import os\nfor n in range(%d):\n  try: os.open('/output/none', 0)\n  except OSError: pass\n"
    "open('/output/done', 'w').close()"
)
OUTPUTS = {"name": "few outputs", "kind": "count", "then": "fail", "of": "output files"}


def test_the_report_lies_beside_the_outputs_and_is_the_one_that_is_served(
    bridge: Cluster, client: Client, run: Run
) -> None:
    process = run("sh", "-c", "echo 1 >/output/a; cat /output/a", trace="audit")
    assert process.traced is not None
    assert process.traced.verdict is Outcome.PASS, process.traced
    folder = f"/shared/results/processes/{process.id}"
    carried = bridge.must("bridge", "cat", f"{folder}/trace-report.json")
    assert client.trace(process.id) == TraceReport.model_validate_json(carried)
    page = bridge.must("bridge", "cat", f"{folder}/trace-report.html")
    assert client.trace_page(process.id).decode() == page
    text = bridge.must("bridge", "zstd", "-dcq", f"{folder}/trace.zst")
    assert b"".join(client.raw_trace(process.id)).decode() == text
    assert [stream.name for stream in client.trace(process.id).streams] == [process.nodes]


def test_the_terminal_shows_it(client: Client, run: Run, url: str, token: str) -> None:
    process = run("sh", "-c", "echo 1 >/output/a", trace="audit")
    environment = {"SLURMBRIDGE_URL": url, "SLURMBRIDGE_TOKEN": token}

    def shown(*options: str) -> str:
        argv = [str(COMMAND), "trace", process.id, *options]
        return subprocess.run(
            argv, env=environment, check=True, capture_output=True
        ).stdout.decode()

    assert shown().splitlines()[0] == "verdict: pass"
    assert "/output/a: 1 written, 1 created" in shown("--files")
    assert "sh -c" in shown("--tree")
    assert "exited with 0" in shown("--raw")
    assert shown("--network") == "no network call\n"
    assert shown("--html").startswith("<!DOCTYPE html>")
    assert json.loads(shown("--json"))["process_id"] == process.id


def test_what_is_not_traced_has_no_report(client: Client, run: Run) -> None:
    process = run("true", trace="off")
    assert process.traced is None
    with pytest.raises(NotTraced):
        client.trace(process.id)


def test_a_trace_above_its_limit_ends_the_process(client: Client, run: Run) -> None:
    process = run("python3", "-c", FLOOD % 10**7, trace="audit", limits={"trace_mib": 1})
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.reason == "it was stopped: its trace has reached its limit of 1048576 bytes"
    assert "output/done" not in {file.path for file in process.outputs}
    assert len(b"".join(client.raw_trace(process.id))) == 1 << 20
    report = client.trace(process.id)
    assert {Doubt.CUT, Doubt.NOT_ENDED} <= set(report.streams[0].doubts)
    assert report.verdict.outcome is not Outcome.PASS


def test_a_trace_that_may_be_cut_does_not_end_the_process(client: Client, run: Run) -> None:
    limits = {"trace_mib": 1, "trace_full": "cut"}
    process = run("python3", "-c", FLOOD % 30_000, trace="audit", limits=limits)
    assert process.state is ProcessState.COMPLETE, process.reason
    assert "output/done" in {file.path for file in process.outputs}
    assert len(b"".join(client.raw_trace(process.id))) == 1 << 20
    report = client.trace(process.id)
    assert Doubt.CUT in report.streams[0].doubts
    assert report.verdict.outcome is not Outcome.PASS


@pytest.mark.parametrize(("most", "outcome"), [(2, Outcome.PASS), (1, Outcome.FAIL)])
def test_rules_of_its_own_decide_beside_the_site_s(
    client: Client, run: Run, most: int, outcome: Outcome
) -> None:
    rules = {"rules": [{**OUTPUTS, "at_most": most}]}
    process = run("sh", "-c", "echo >/output/a; echo >/output/b", trace="audit", trace_rules=rules)
    assert process.traced is not None
    assert process.traced.verdict is outcome
    found = [finding.rule for finding in client.trace(process.id).verdict.findings]
    assert found == ["few outputs"] * (outcome is Outcome.FAIL)


def test_rules_that_mean_nothing_are_refused_at_once() -> None:
    with pytest.raises(InvalidProcess, match="trace_rules"):
        parse_spec({**SMALL, "trace_rules": {"rules": [{"kind": "nonsense"}]}})


def test_what_was_staged_is_kept_with_its_checksums(bridge: Cluster, run: Run) -> None:
    bridge.write("bridge", "/shared/data/seen.csv", b"1\n")
    process = run("true", inputs=[{"source": "data:seen.csv"}])
    digest = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"
    assert [(file.path, file.size_bytes, file.sha256) for file in process.inputs] == [
        ("input/seen.csv", 2, digest)
    ]


def test_a_command_with_tasks_runs_so_often(client: Client, run: Run) -> None:
    resources = {"memory_mib": 256, "tasks_per_node": 3}
    script = "echo $SLURM_PROCID $SLURM_LOCALID $SLURM_NTASKS >/output/$SLURM_PROCID"
    process = run("sh", "-c", script, trace="audit", resources=resources)
    assert process.state is ProcessState.COMPLETE, process.reason
    files = {file.path for file in process.outputs}
    assert {"output/0", "output/1", "output/2"} <= files
    stream = client.trace(process.id).streams[0]
    assert len(stream.tasks) == 3
    assert stream.processes.total == 3


def test_one_task_that_fails_ends_the_others(run: Run) -> None:
    resources = {"memory_mib": 256, "tasks_per_node": 3}
    script = "[ $SLURM_PROCID = 1 ] && exit 9; exec sleep 300"
    process = run("sh", "-c", script, resources=resources)
    assert (process.state, process.exit_code) == (ProcessState.EXECUTOR_ERROR, 9)
