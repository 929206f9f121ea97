"""A Process from its specification to its end."""

import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import WAY, Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
HOSTILE = [
    "a b", "new\nline", "'single'", '"double"', "$HOME", "`id`", "$(id)", "\\", "*", "-rf", "--",
    "", ";true", "|", "&", ">x", "#", "!", "~", "ü€😀", "\t", "a\rb", "%s", "{}", "x=y", "\x7f",
]  # fmt: skip
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


@pytest.fixture(scope="module")
def over_time(client: Client) -> str:
    """A Process that will reach its time limit while other tests run."""
    command = ["sh", "-c", "echo begun; sleep 300"]
    spec = {**SMALL, "command": command, "time_limit_minutes": 1, "trace": "audit"}
    return client.submit(parse_spec(spec)).id


def test_what_is_submitted_is_known_at_once(client: Client, over_time: str) -> None:
    assert client.get(over_time).id == over_time


@pytest.mark.parametrize("trace", ["off", "audit"])
def test_the_command_arrives_byte_for_byte(client: Client, run: Run, trace: str) -> None:
    environment = {f"T_{number}": word for number, word in enumerate(HOSTILE)}
    process = run("python3", "-c", SHOW, *HOSTILE, environment=environment, trace=trace)
    assert process.state is ProcessState.COMPLETE
    arguments, variables = json.loads(client.log(process.id).data)
    assert arguments == HOSTILE
    assert {name: variables.get(name) for name in environment} == environment


@pytest.mark.parametrize("trace", ["off", "audit", "full"])
@pytest.mark.parametrize("exit_code", [0, 1, 42, 78, 200])
def test_the_exit_code_is_the_program_s_own(run: Run, exit_code: int, trace: str) -> None:
    process = run("sh", "-c", f"exit {exit_code}", trace=trace)
    assert process.exit_code == exit_code
    expected = ProcessState.EXECUTOR_ERROR if exit_code else ProcessState.COMPLETE
    assert process.state is expected
    assert process.slurm_state == ("FAILED" if exit_code else "COMPLETED")


def test_a_program_that_is_not_there_is_the_submitter_s_error(client: Client, run: Run) -> None:
    process = run("no-such-program")
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert b"no-such-program" in client.log(process.id, "stderr").data


def test_too_much_memory_is_said_so(run: Run) -> None:
    process = run("python3", "-c", "x = bytearray(10**9)")
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.slurm_state == "OUT_OF_MEMORY"
    assert process.reason == "it used more memory than it asked for"


def test_inputs_and_code_come_in_and_outputs_go_out(
    bridge: Cluster, client: Client, run: Run
) -> None:
    folder = f"test-{secrets.token_hex(4)}"
    bridge.write("bridge", f"/shared/data/{folder}/table.csv", b"1,2\n")
    bridge.write("bridge", f"/shared/data/{folder}/name with 'quotes'", b"odd\n")
    bridge.write(
        "bridge", f"/shared/code/{folder}/main.sh", b"cat /input/*/* >/output/all\nls -l\n"
    )
    process = run(
        "sh",
        "main.sh",
        code={"source": f"code:{folder}"},
        inputs=[{"source": f"data:{folder}", "target": "folder"}],
        outputs={"destination": f"results:{folder}"},
    )
    assert process.state is ProcessState.COMPLETE, process.reason
    assert process.outputs_location == f"results:{folder}/{process.id}"
    path = f"/shared/results/{folder}/{process.id}"
    assert sorted(bridge.read("bridge", f"{path}/output/all").split()) == ["1,2", "odd"]
    [kept] = [file for file in process.outputs if file.path == "output/all"]
    digest = bridge.must("bridge", "sha256sum", f"{path}/output/all").split()[0]
    assert (kept.sha256, kept.size_bytes) == (digest, 8)
    way = bridge.way
    assert bridge.run(way.files_node, "test", "-e", f"{way.contexts}/{process.id}").exit_code == 1


def test_only_plain_files_leave(bridge: Cluster, run: Run) -> None:
    script = (
        "cd /output; echo fine >fine; ln -s /etc/passwd link; mkfifo pipe; ln fine twice;"
        "mkdir -p deep/er; echo x >deep/er/file; echo no >unreadable; chmod 0 unreadable;"
        "ln -s / folder"
    )
    process = run("sh", "-c", script)
    assert process.state is ProcessState.COMPLETE, process.reason
    carried = {file.path for file in process.outputs if file.path.startswith("output/")}
    assert carried == {"output/deep/er/file"}
    ignored = {entry.partition(":")[0] for entry in process.outputs_ignored}
    assert ignored == {"link", "pipe", "fine", "twice", "unreadable", "folder"}
    listing = bridge.must("bridge", "find", f"/shared/results/processes/{process.id}", "-type", "l")
    assert listing == ""


def test_an_input_that_is_a_link_is_refused_and_nothing_runs(bridge: Cluster, run: Run) -> None:
    bridge.must("bridge", "ln", "-sfn", "/etc/passwd", "/shared/data/link")
    process = run("true", inputs=[{"source": "data:link"}])
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.reason == "data:link cannot be staged: link is a symbolic link"
    assert process.job_id is None


def test_the_job_is_known_to_accounting_by_its_token(bridge: Cluster, run: Run) -> None:
    process = run("true")

    def look() -> str | None:
        argv = ("sacct", "-XnP", f"--name=sb-{process.id}", "--format=JobIDRaw,State,Account")
        return bridge.must("login", *argv).strip() or None

    assert until("record", look) == f"{process.job_id}|COMPLETED|research"


def test_the_script_that_is_shown_is_the_one_that_slurm_ran(
    bridge: Cluster, client: Client, run: Run
) -> None:
    process = run("true", trace="audit")
    argv = ("sacct", "-n", "--batch-script", "-j", str(process.job_id))
    ran = until("script", lambda: bridge.must("login", *argv))
    script = client.script(process.id)
    assert script
    assert script.strip() in ran


def test_render_prints_what_would_be_submitted(bridge: Cluster, client: Client, run: Run) -> None:
    process = run("true", trace="audit")
    bridge.write("bridge", "/tmp/spec.json", process.spec.model_dump_json().encode())
    rendered = bridge.must("bridge", "slurmbridge", "render", "/tmp/spec.json")
    script = client.script(process.id)
    assert script
    assert rendered == script.replace(process.id, "0" * 26)


def test_every_event_names_its_source(client: Client, run: Run) -> None:
    process = run("true")
    until("destruction", lambda: client.get(process.id).context_destroyed_at)
    events = client.events(process.id)
    assert events[-1].detail == "context destroyed"
    assert [event.state for event in events][:3] == [
        ProcessState.QUEUED, ProcessState.INITIALIZING, ProcessState.QUEUED,
    ]  # fmt: skip
    assert events[-1].state is ProcessState.COMPLETE
    assert {event.source for event in events} == WAY.sources
    assert events == sorted(events, key=lambda event: event.at)


def test_a_log_can_be_followed_while_the_program_runs(client: Client) -> None:
    command = ["sh", "-c", "for n in 1 2 3; do echo line $n; sleep 1; done; echo end"]
    process = client.submit(parse_spec({**SMALL, "command": command}))
    early = until("first line", lambda: client.log(process.id).data)
    assert early.startswith(b"line 1\n")
    assert not early.endswith(b"end\n")
    followed = b"".join(client.follow_log(process.id, poll_seconds=0.2))
    assert followed == b"line 1\nline 2\nline 3\nend\n"


def test_a_running_process_is_canceled_with_its_trace_kept(client: Client) -> None:
    spec: dict[str, Any] = {
        **SMALL,
        "trace": "audit",
        "command": ["sh", "-c", "echo on; sleep 200"],
    }
    process = client.submit(parse_spec(spec))
    until("output", lambda: client.log(process.id).data)
    assert client.cancel(process.id).cancel_requested
    ended = client.wait(process.id, timeout_seconds=40, poll_seconds=0.2)
    assert ended.state is ProcessState.CANCELED
    assert {file.path for file in ended.outputs} >= {"stdout.txt", "trace.zst"}


def test_a_waiting_process_is_canceled(client: Client) -> None:
    process = client.submit(parse_spec({**SMALL, "partition": "parked", "command": ["true"]}))
    until("job", lambda: client.get(process.id).job_id)
    client.cancel(process.id)
    ended = client.wait(process.id, timeout_seconds=40, poll_seconds=0.2)
    assert ended.state is ProcessState.CANCELED
    assert ended.started_at is None


def test_a_process_over_its_time_limit_is_said_so(
    bridge: Cluster, client: Client, over_time: str
) -> None:
    ended = client.wait(over_time, timeout_seconds=150, poll_seconds=0.5)
    assert ended.state is ProcessState.EXECUTOR_ERROR
    assert (ended.slurm_state, ended.reason) == ("TIMEOUT", "its time limit was reached")
    assert client.log(over_time).data == b"begun\n"
    trace = f"/shared/results/processes/{over_time}/trace.zst"
    assert "execve(" in bridge.must("bridge", "zstd", "-dcq", trace)
