"""The commands, with the API in this process and a site that is played."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slurmbridge import __version__
from slurmbridge.cli import app, output, progress
from slurmbridge.cli.root import Session
from slurmbridge.client import Client
from slurmbridge.errors import BridgeUnreachable
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from slurmbridge.store import Change, ProcessStore
from tests.support.bench import Bench, PlayedSite, refused
from tests.support.builders import EQUIPMENT
from tests.support.front import NOW, SPEC, opened


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened() as front:
        yield Bench(front, PlayedSite(front, folder=tmp_path), tmp_path)


TOML = 'image = "python"\ncommand = ["sh", "-c", "echo $(x) `y` \'z\'"]\n'


def test_submit_prints_the_id(bench: Bench) -> None:
    result = bench.run("submit", bench.spec(TOML))
    assert result.exit_code == 0, result.output
    (process,) = bench.front.desk.page()
    assert result.stdout == f"{process.id}\n"
    assert process.spec.command == ("sh", "-c", "echo $(x) `y` 'z'")


def test_submit_takes_json_from_a_file_and_from_stdin(bench: Bench) -> None:
    document = json.dumps(SPEC)
    shown = bench.json("submit", bench.spec(document, "spec.JSON"))
    assert shown["state"] == "QUEUED"
    assert bench.run("submit", "-", stdin=document.encode()).exit_code == 0
    assert len(bench.front.desk.page()) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.toml", b"image = \xff", "not valid UTF-8"),
        ("a.toml", b"{}", "not readable TOML"),
        ("a.json", b"image = 1", "not readable JSON"),
        ("a.json", b"", "not readable JSON"),
        ("a.toml", b"when = 2025-01-01", "not readable TOML"),
        ("a.yaml", b"image: python", ".toml or .json"),
        ("a", b"", ".toml or .json"),
        ("a.toml", b"#" * (1 << 20) + b"\n", "1048576 bytes"),
        ("a.toml", b'image = "python"\n', "command: is missing"),
        ("a.toml", TOML.encode() + b"colour = 1\n", "colour: is not a field"),
        ("a.json", b'{"image": "python", "command": ["\\ud800"]}', "not valid UTF-8"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a\nb.toml", b"{}", "a\\nb.toml"),
    ],
)
def test_a_bad_file_is_one_sentence(bench: Bench, name: str, content: bytes, said: str) -> None:
    assert said in refused(bench.run("submit", bench.spec(content, name)))
    assert bench.front.desk.page() == []


def test_a_file_that_cannot_be_read_is_one_sentence(bench: Bench) -> None:
    assert "No such file" in refused(bench.run("submit", "missing.toml"))
    (bench.folder / "folder.toml").mkdir()
    assert "directory" in refused(bench.run("submit", str(bench.folder / "folder.toml")))
    assert "1048576" in refused(bench.run("submit", "-", stdin=b" " * 2_000_000))


def test_what_the_bridge_refuses_is_one_sentence(bench: Bench) -> None:
    spec = bench.spec('image = "missing"\ncommand = ["a"]\naccount = "missing"\n')
    said = refused(bench.run("submit", spec))
    assert "image: no image 'missing'" in said
    assert "account: there is no account 'missing'" in said


@pytest.mark.parametrize(
    "words",
    [["ps", "--wrong"], ["nonsense"], ["show"], ["ps", "--limit", "0"], ["ps", "--state", "DONE"],
     ["logs", "x", "--stream", "other"], ["images"], ["--url"], ["show", "x"], ["wait", "x"],
     ["logs", "x"], ["cancel", "x"], ["script", "x"], ["logs", "-f", "--json", "x"]],
)  # fmt: skip
def test_a_wrong_call_is_one_sentence(bench: Bench, words: list[str]) -> None:
    refused(bench.run(*words))


def test_without_a_token_it_is_said_where_one_is_looked_for(bench: Bench) -> None:
    assert "SLURMBRIDGE_TOKEN_FILE" in refused(bench.run("ps", SLURMBRIDGE_TOKEN=None))
    assert "not known" in refused(bench.run("ps", SLURMBRIDGE_TOKEN="wrong"))


def test_a_token_file_counts_in_either_way(bench: Bench) -> None:
    file = bench.spec(f"{bench.front.token}\n", "token")
    named: Any = {"SLURMBRIDGE_TOKEN": None, "SLURMBRIDGE_TOKEN_FILE": file}
    assert bench.run("ps", **named).exit_code == 0
    other: Any = {"SLURMBRIDGE_TOKEN": "wrong"}
    assert bench.run("--token-file", file, "ps", **other).exit_code == 0
    assert bench.run("ps", f"--token-file={file}", **other).exit_code == 0
    assert "No such file" in refused(bench.run("ps", "--token-file", "missing"))
    assert "not text" in refused(bench.run("ps", "--token-file", bench.spec(b"\xff", "bad")))


def test_the_address_may_stand_after_the_command(bench: Bench) -> None:
    seen: list[str] = []

    def connect(url: str, token: str) -> Client:
        seen.append(url)
        return bench.front.client(token)

    def run(*words: str, **environment: str) -> None:
        variables = {"SLURMBRIDGE_TOKEN": bench.front.token} | environment
        result = CliRunner().invoke(app, words, env=variables, obj=Session(connect=connect))
        assert result.exit_code == 0, result.output

    run("ps")
    run("ps", SLURMBRIDGE_URL="http://a")
    run("ps", "--url", "http://b", "--json", SLURMBRIDGE_URL="http://a")
    assert seen == ["http://127.0.0.1:8642", "http://a", "http://b"]


def test_a_bridge_that_does_not_answer_is_no_fault_of_the_caller(bench: Bench) -> None:
    def connect(_url: str, _token: str) -> Client:
        raise BridgeUnreachable("it does not answer")

    variables = {"SLURMBRIDGE_TOKEN": "sb_x"}
    session = Session(connect=connect)
    refused(CliRunner().invoke(app, ["ps"], env=variables, obj=session), code=1)


def test_an_interrupt_ends_with_130(bench: Bench) -> None:
    def connect(_url: str, _token: str) -> Client:
        raise KeyboardInterrupt

    variables = {"SLURMBRIDGE_TOKEN": "sb_x"}
    result = CliRunner().invoke(app, ["ps"], env=variables, obj=Session(connect=connect))
    assert (result.exit_code, result.output) == (130, "")


def test_ps_lists_the_newest_first(bench: Bench) -> None:
    ids = [bench.submit() for _ in range(3)][::-1]
    bench.front.end(ids[1])
    listed = bench.json("ps", "--limit", "2")["processes"]
    assert [process["id"] for process in listed] == ids[:2]
    assert len(bench.json("ps", "--all")["processes"]) == 3
    assert len(bench.json("ps", "--limit", "501")["processes"]) == 3
    listed = bench.json("ps", "--state", "complete", "--state", "CANCELED")["processes"]
    assert [process["id"] for process in listed] == [ids[1]]
    lines = bench.run("ps").stdout.splitlines()
    assert lines[0].split() == ["ID", "STATE", "JOB", "SLURM", "CREATED", "BY", "IMAGE"]
    assert lines[2].split()[:4] == [ids[1], "COMPLETE", "-", "-"]


def test_show_tells_what_is_known(bench: Bench) -> None:
    process_id = bench.submit()
    bench.front.end(process_id, ProcessState.EXECUTOR_ERROR, exit_code=3, reason="bad\x1b[2J\nx")
    text = bench.run("show", process_id, "--events").stdout
    assert "state: EXECUTOR_ERROR\n" in text
    assert "reason: bad\\x1b[2J\\nx\n" in text
    assert "accepted from tester" in text
    shown = bench.json("show", process_id, "--events")
    assert (shown["exit_code"], len(shown["events"])) == (3, 2)
    assert "events" not in bench.json("show", process_id)


def test_show_tells_what_was_installed_in_a_line(bench: Bench) -> None:
    process_id = bench.submit()
    bench.front.end(process_id, requirements=EQUIPMENT.found.model_dump(mode="json"))
    text = bench.run("show", process_id).stdout
    assert f"requirements: alpha==1.0 (image {'7' * 64})\n" in text
    assert bench.json("show", process_id)["requirements"]["lock"] == [
        {"name": "alpha", "version": "1.0", "hashes": {"sha256": "8" * 64}, "requested": True}
    ]


@pytest.mark.parametrize(
    ("state", "program", "code"),
    [
        (ProcessState.COMPLETE, 0, 0),
        (ProcessState.EXECUTOR_ERROR, 3, 3),
        (ProcessState.EXECUTOR_ERROR, 125, 125),
        (ProcessState.EXECUTOR_ERROR, 126, 1),
        (ProcessState.EXECUTOR_ERROR, 0, 1),
        (ProcessState.EXECUTOR_ERROR, None, 1),
        (ProcessState.CANCELED, None, 1),
        (ProcessState.SYSTEM_ERROR, -9, 1),
        (ProcessState.UNKNOWN, 0, 1),
    ],
)
def test_the_exit_code_is_that_of_the_program(
    bench: Bench, state: ProcessState, program: int | None, code: int
) -> None:
    process = bench.front.desk.inspect(bench.submit())
    good = process.model_copy(update={"state": ProcessState.COMPLETE})
    ended = process.model_copy(update={"state": state, "exit_code": program})
    assert progress.exit_code([good, ended]) == code


def test_submit_and_wait_shows_each_change_on_stderr(
    bench: Bench, sleeps: list[Callable[[], None]]
) -> None:
    def end() -> None:
        (process,) = bench.front.desk.page()
        bench.front.end(
            process.id, ProcessState.EXECUTOR_ERROR, exit_code=7, reason="it exited with 7"
        )

    sleeps += [lambda: None, end]
    result = bench.run("submit", "--wait", bench.spec(TOML))
    (process,) = bench.front.desk.page()
    assert result.exit_code == 7
    assert result.stdout == f"{process.id}\n"
    first, last = result.stderr.splitlines()
    assert first[8:].rstrip() == " QUEUED"
    assert last[8:] == " EXECUTOR_ERROR it exited with 7"


def test_waiting_for_several_names_each(bench: Bench) -> None:
    good, bad = bench.submit(), bench.submit()
    bench.front.end(good, exit_code=0, job_id=17, slurm_state="COMPLETED")
    bench.front.end(bad, ProcessState.CANCELED)
    result = bench.run("wait", good, bad)
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stderr.splitlines()] == [good, bad]
    assert "COMPLETE job 17 COMPLETED" in result.stderr
    assert [entry["id"] for entry in bench.json("wait", good)["processes"]] == [good]
    assert bench.run("wait", good).exit_code == 0


def test_on_a_terminal_the_wait_is_alive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    process_id = bench.submit()
    bench.front.end(process_id, job_id=17, nodes="node[1-2]", slurm_reason="None")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    process: Process = progress.wait(bench.front.client(), process_id)
    assert process.state is ProcessState.COMPLETE
    assert "job 17 on node[1-2]" in terminal.getvalue()


def test_logs_are_printed_byte_for_byte(bench: Bench) -> None:
    process_id = bench.submit()
    printed = b"\xff\xfe\0 one\r\n\x1b[31mtwo"
    bench.front.print(process_id, printed)
    assert bench.run("logs", process_id).stdout_bytes == printed
    bench.front.end(process_id)
    assert bench.run("logs", "-f", process_id).stdout_bytes == printed
    assert bench.run("logs", process_id, "--stream", "stderr").stdout_bytes == b""
    shown = bench.json("logs", process_id)
    assert (shown["bytes"], shown["state"]) == (len(printed), "COMPLETE")
    assert shown["text"].startswith("\\xff\\xfe\0 one")


def test_cancel_goes_on_after_a_refusal(bench: Bench) -> None:
    ended, open_one = bench.submit(), bench.submit()
    bench.front.end(ended)
    result = bench.run("cancel", ended, "x", open_one)
    assert result.exit_code == 2
    assert result.stdout == f"{open_one} CANCELED\n"
    assert "already ended" in result.stderr
    assert "no Process 'x'" in result.stderr
    assert bench.json("cancel", open_one)["processes"][0]["state"] == "CANCELED"


def test_what_the_site_offers_is_listed(bench: Bench) -> None:
    assert bench.json("capabilities")["cluster"] == "test"
    text = bench.run("capabilities").stdout
    assert "accounts: research\n" in text
    assert text.splitlines()[-1].split() == [
        "short", "yes", "yes", "2", "0", "0", "4", "8000", "120",
    ]  # fmt: skip
    assert bench.json("images", "list")["images"][0]["name"] == "python"
    assert bench.run("images", "list").stdout.splitlines()[1].startswith("python")


def test_the_script_is_printed_as_it_is(bench: Bench) -> None:
    process_id = bench.submit()
    assert "not rendered yet" in refused(bench.run("script", process_id))
    state = ProcessState.QUEUED
    values = {"script": "#!/bin/sh\n[bold]x\n"}
    change = Change(process_id, state, state, Phase.ACCEPTED, Phase.SUBMITTING, "test", "x", values)
    ProcessStore(bench.front.database).apply([change], runner=None, now=NOW)
    assert bench.run("script", process_id).stdout == "#!/bin/sh\n[bold]x\n"
    assert bench.json("script", process_id) == values


def test_a_terminal_without_utf_8_is_survived(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(labels={"k": "ü世"})
    process_id = bench.submit(labels={"k": "ü世"})
    session = Session(connect=lambda _url, token: bench.front.client(token))
    variables = {"SLURMBRIDGE_TOKEN": bench.front.token}
    runner = CliRunner(charset="ascii")
    for words in (["ps"], ["show", process_id], ["show", process_id, "--json"], ["--help"]):
        result = runner.invoke(app, words, env=variables, obj=session)
        assert result.exit_code == 0, result.output


def test_a_reader_that_has_gone_ends_quietly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_arguments: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(output, "table", gone)
    result = bench.run("ps")
    assert (result.exit_code, result.output) == (1, "")


def test_the_package_is_a_program() -> None:
    argv = [sys.executable, "-W", "error", "-m", "slurmbridge.cli", "--version"]
    reply = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert reply.stdout == f"slurmbridge {__version__}\n"
    assert reply.stderr == ""


def test_commands_for_submitters_load_no_server() -> None:
    code = (
        "import sys; from slurmbridge.cli import app\n"
        "found = {'fastapi', 'uvicorn', 'sqlalchemy', 'jinja2', 'alembic'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_why_tells_the_state_and_each_move_with_its_evidence(bench: Bench) -> None:
    process = bench.front.desk.submit(parse_spec(SPEC), by="alice")
    moves = [
        (ProcessState.QUEUED, ProcessState.RUNNING, Phase.SUBMITTED, "squeue", "job 7 is RUNNING"),
        (ProcessState.RUNNING, ProcessState.RUNNING, Phase.SUBMITTED, "runner", "no move"),
        (ProcessState.RUNNING, ProcessState.COMPLETE, Phase.DONE, "runner", "it is over"),
    ]
    phase = Phase.ACCEPTED
    for before, after, next_phase, source, detail in moves:
        values = {"job_id": 7, "exit_code": 0, "slurm_state": "COMPLETED"}
        entry = Change(process.id, before, after, phase, next_phase, source, detail, values)
        ProcessStore(bench.front.database).apply([entry], runner=None, now=NOW)
        phase = next_phase
    text = bench.run("show", process.id, "--why").stdout
    first, _, *lines = text.splitlines()
    assert first == (
        f"{process.id} is COMPLETE: the program ended with exit code 0 (job 7, COMPLETED)"
    )
    assert [line.split()[2] for line in lines[1:]] == ["QUEUED", "RUNNING", "COMPLETE"]
    assert "squeue" in text
    assert "no move" not in text
    shown = bench.json("show", process.id, "--why")
    assert [move["source"] for move in shown["transitions"]] == ["api", "squeue", "runner"]
    assert refused(bench.run("show", process.id, "--why", "--events"))
