"""Whatever a program does against its recording: it ends, it is told, and nothing says pass."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.rules import Doubt, Outcome
from slurmbridge.spec import parse_spec
from slurmbridge.trace.report import TraceReport
from tests.conftest import SMALL
from tests.support.cluster import ROOT, Cluster, until
from tests.support.tampering.cases import CASES, RUNS

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
NODES = ("node1", "node2", "node3")
SOURCE = ROOT / "tests/support/tampering/tamper.c"
HARMFUL = [(name, level) for name, level in RUNS if level not in CASES[name].harmless_at]
MARKER = f"tampering-{uuid4().hex}"
# What is staged cannot be executed itself.
START = ("/lib64/ld-linux-x86-64.so.2", "/code/tamper")
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("begun", flush=True)
while True:
    open("/output/again", "w").close()
    time.sleep(0.1)
"""
# Which numbers belong to a Process: by its context.
FIND = '[[ $(readlink "/proc/$pid/cwd") != *"$1" ]] || kill "-$2" "$pid"'
KILL = f'for pid in $(pgrep -x "$3"); do {FIND}; done'
LEFT = 'grep -lzs -- "$1" /proc/[0-9]*/environ /proc/[0-9]*/cmdline || true'
# What happens to it from outside, and the minutes that it has: command, signal.
OUTSIDE = {
    "strace is killed": ("strace", "KILL", 5),
    "strace is stopped until the time is over": ("strace", "STOP", 1),
    "the writer of the trace is killed": ("zstd", "KILL", 5),
    "it is canceled, and does not listen": (None, "", 5),
    "its time is over": (None, "", 1),
}


class Ended(NamedTuple):
    process: Process
    report: TraceReport


def specification(name: str, level: str) -> dict[str, Any]:
    case = CASES[name]
    return {
        **SMALL,
        "command": [*START, case.name, MARKER],
        "code": {"source": "code:tampering"},
        "environment": {"MARKER": MARKER},
        "trace": level,
        "time_limit_minutes": 2,
        **case.changes,
    }


def stubborn(minutes: int) -> dict[str, Any]:
    command = ["python3", "-c", STUBBORN]
    more = {"environment": {"MARKER": MARKER}, "time_limit_minutes": minutes}
    return {**SMALL, "command": command, "trace": "audit", **more}


def wait(client: Client, process_id: str) -> Ended:
    process = client.wait(process_id, timeout_seconds=200, poll_seconds=0.3)
    return Ended(process, client.trace(process_id))


@pytest.fixture(scope="module")
def staged(bridge: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """tamper.c, compiled here."""
    gcc = shutil.which("gcc")
    assert gcc, "gcc is missing"
    program = tmp_path_factory.mktemp("tampering") / "tamper"
    options = ("-O1", "-Wl,-z,now", "-Wall", "-Werror", "-pthread")
    subprocess.run([gcc, *options, "-o", str(program), str(SOURCE)], check=True)
    bridge.write("bridge", "/shared/code/tampering/tamper", program.read_bytes())
    return bridge


def meddle(cluster: Cluster, client: Client, process_id: str, what: str) -> None:
    """Do what `OUTSIDE` says, as soon as the program runs."""
    victim, signal, minutes = OUTSIDE[what]
    until(f"output of {what}", lambda: client.log(process_id).data, seconds=150)
    if victim is not None:
        node = client.get(process_id).nodes
        assert node
        arguments = ("bash", process_id, signal, victim)
        cluster.must(node, "bash", "-c", KILL, *arguments, user="root")
    elif minutes > 1:
        client.cancel(process_id)


@pytest.fixture(scope="module")
def submitted(staged: Cluster, client: Client) -> dict[str, dict[Any, str]]:
    """All of them at once; first those that wait for their time to be over."""
    assert staged
    slow = sorted(OUTSIDE, key=lambda what: OUTSIDE[what][2])
    outside = {what: client.submit(parse_spec(stubborn(OUTSIDE[what][2]))).id for what in slow}
    order = sorted(RUNS, key=lambda run: "time_limit_minutes" not in CASES[run[0]].changes)
    inside = {run: client.submit(parse_spec(specification(*run))).id for run in order}
    for what, process_id in outside.items():
        meddle(staged, client, process_id, what)
    return {"inside": inside, "outside": outside}


@pytest.fixture(scope="module")
def ended(submitted: dict[str, dict[Any, str]], client: Client) -> dict[tuple[str, str], Ended]:
    return {run: wait(client, found) for run, found in submitted["inside"].items()}


@pytest.fixture(scope="module")
def meddled(submitted: dict[str, dict[Any, str]], client: Client) -> dict[str, Ended]:
    return {what: wait(client, found) for what, found in submitted["outside"].items()}


@pytest.mark.parametrize(("name", "level"), RUNS)
def test_it_comes_to_its_end(
    ended: dict[tuple[str, str], Ended], client: Client, name: str, level: str
) -> None:
    process, case = ended[name, level].process, CASES[name]
    complaint = client.log(process.id, "stderr").data[-500:]
    assert process.state is case.state, (process.reason, complaint)
    if case.code is not None:
        assert process.exit_code == case.code, complaint
    if case.reason is not None:
        assert process.reason is not None
        assert case.reason in process.reason
    left = {file.path for file in process.outputs}
    if case.after is not None:
        assert ("output/after" in left) is case.after
    assert "output/unseen" not in left


@pytest.mark.parametrize(("name", "level"), RUNS)
def test_the_report_tells_what_it_did(
    ended: dict[tuple[str, str], Ended], name: str, level: str
) -> None:
    process, report = ended[name, level]
    assert report.process_id == process.id
    [stream] = report.streams
    assert stream.program is not None
    assert CASES[name].told(stream)
    # Where a trace is cut, its last line may be.
    assert stream.unreadable.total <= (Doubt.CUT in stream.doubts)


@pytest.mark.parametrize(("name", "level"), HARMFUL)
def test_nothing_says_pass(ended: dict[tuple[str, str], Ended], name: str, level: str) -> None:
    report = ended[name, level].report
    assert report.verdict.outcome is not Outcome.PASS
    assert report.verdict.findings


@pytest.mark.parametrize(("name", "level"), [run for run in RUNS if run not in HARMFUL])
def test_what_is_only_too_much_is_recorded_whole(
    ended: dict[tuple[str, str], Ended], name: str, level: str
) -> None:
    report = ended[name, level].report
    [stream] = report.streams
    assert stream.may_pass
    assert report.verdict.findings == ()


@pytest.mark.parametrize("what", OUTSIDE)
def test_a_recording_that_is_disturbed_from_outside_ends_the_program(
    meddled: dict[str, Ended], what: str
) -> None:
    process, report = meddled[what]
    assert process.state.final
    assert process.state is not ProcessState.COMPLETE
    assert report.verdict.outcome is not Outcome.PASS
    if OUTSIDE[what][0] == "zstd":
        # How much zstd had written when it was killed is chance: mostly nothing, sometimes a frame
        # that breaks off.
        assert all(Doubt.BROKEN in stream.doubts for stream in report.streams)
        assert not any(stream.may_pass for stream in report.streams)
        return
    [stream] = report.streams
    assert stream.program is not None
    assert Doubt.NOT_ENDED in stream.doubts


def test_the_report_is_the_bridge_s_own(
    ended: dict[tuple[str, str], Ended], client: Client, bridge: Cluster
) -> None:
    [run] = [(name, level) for name, level in RUNS if CASES[name].name == "forge"]
    process, report = ended[run]
    folder = Path(f"/shared/results/processes/{process.id}")
    kept = json.loads(bridge.read("bridge", str(folder / "trace-report.json")))
    assert kept["process_id"] == process.id
    assert kept == json.loads(report.json_text())
    forged = bridge.read("bridge", str(folder / "output/trace-report.json"))
    assert json.loads(forged) == {"verdict": {"outcome": "pass"}}
    text = b"".join(client.raw_trace(process.id))
    assert b"\n99 1.000000 +++ exited with 0 +++\n" not in text
    assert process.exit_code == 0


def test_nothing_of_them_is_left_on_a_node(
    ended: dict[tuple[str, str], Ended], meddled: dict[str, Ended], bridge: Cluster
) -> None:
    assert ended
    assert meddled
    for node in NODES:
        # Not by its arguments: it would find itself.
        found = bridge.must(node, "bash", "-c", LEFT, "bash", f"MARKER={MARKER}", user="root")
        own = [line for line in found.split() if not line.endswith("/cmdline")]
        assert own == []


def test_bridge_and_nodes_go_on_working(
    ended: dict[tuple[str, str], Ended], meddled: dict[str, Ended], client: Client
) -> None:
    assert ended
    assert meddled
    assert client.ready()
    plain = parse_spec({**SMALL, "command": ["sleep", "1"], "trace": "audit"})
    for found in [client.submit(plain).id for _ in NODES for _ in range(2)]:
        process, report = wait(client, found)
        assert process.state is ProcessState.COMPLETE, process.reason
        assert report.verdict.outcome is Outcome.PASS
