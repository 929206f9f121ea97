"""Commands on this host: argv byte for byte, nothing inherited, and an end for what hangs."""

import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell import CLEAN_ENVIRONMENT, Command, Daemon, LineChild, LocalShell

SHELL = LocalShell()


def sh(script: str, *words: str, timeout_seconds: float = 10, stdin: str = "") -> Command:
    return Command(("/bin/sh", "-c", script, "sh", *words), stdin, timeout_seconds)


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.002)
    return False


hostile = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@settings(deadline=None, max_examples=25)
@given(st.lists(hostile))
def test_every_word_arrives_as_it_was(words: list[str]) -> None:
    reply = SHELL.run(Command(("/usr/bin/printf", "[%s]", *words)))
    assert reply.stdout == "".join(f"[{word}]" for word in words or [""])


def test_a_reply_has_exit_code_and_both_streams() -> None:
    reply = SHELL.run(sh("echo out; echo err >&2; exit 3"))
    assert (reply.exit_code, reply.stdout, reply.stderr) == (3, "out\n", "err\n")


def test_what_is_not_utf_8_is_replaced_and_not_lost() -> None:
    assert SHELL.run(sh(r"printf 'a\377b'")).stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_standard_input_is_what_was_given_and_then_ends() -> None:
    assert SHELL.run(sh("cat", stdin="ü\n#SBATCH\n")).stdout == "ü\n#SBATCH\n"
    assert SHELL.run(sh("cat")).stdout == ""


def test_a_program_that_reads_nothing_is_no_error() -> None:
    assert SHELL.run(sh("exit 0", stdin="x" * (1 << 20))).exit_code == 0


def test_nothing_of_our_environment_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("LC_ALL", "nl_NL.UTF-8")
    reply = SHELL.run(Command(("/usr/bin/env",)))
    assert dict(line.split("=", 1) for line in reply.stdout.splitlines()) == dict(CLEAN_ENVIRONMENT)


def test_an_environment_can_be_given() -> None:
    command = Command(("/usr/bin/env",), environment={"A": "b c"})
    assert SHELL.run(command).stdout == "A=b c\n"


def test_a_prefix_stands_before_every_word() -> None:
    shell = LocalShell(prefix=("/usr/bin/env", "A=1"))
    assert "A=1" in shell.run(Command(("/usr/bin/env",))).stdout.splitlines()


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(ShellUnavailable, match=r"/no/such/program cannot be started: No such file"):
        SHELL.run(Command(("/no/such/program",)))


def test_a_program_that_may_not_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShellUnavailable, match="Permission denied"):
        SHELL.run(Command((str(tmp_path),)))


def test_at_its_deadline_a_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = 'sleep 60 & echo "$!" >"$1"; (sleep 60 & echo "$!" >>"$1"); echo $$ >>"$1"; sleep 60'
    began = time.monotonic()
    with pytest.raises(ShellUnavailable, match=r"/bin/sh did not end within 0\.1 s"):
        SHELL.run(sh(script, str(pids), timeout_seconds=0.1))
    assert time.monotonic() - began < 5
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 3
    assert all(wait_until_gone(pid) for pid in started)


# --- a child that answers lines ---

ECHO = """
import os, sys, time
for line in sys.stdin:
    word = line.strip()
    if word == "hang":
        time.sleep(60)
    if word == "die":
        sys.exit(1)
    if word == "pid":
        word = str(os.getpid())
    if word == "environment":
        word = " ".join(sorted(os.environ))
    if word == "half":
        sys.stdout.write("half a li")
        sys.stdout.flush()
        sys.exit(0)
    if word == "both":
        word = "one\\ntwo"
    print(word, flush=True)
"""


@pytest.fixture
def child() -> Iterator[LineChild]:
    made = LineChild((sys.executable, "-I", "-c", ECHO), {"LC_ALL": "C.UTF-8"})
    yield made
    made.kill()


def ask(child: LineChild, line: str, *, answers: int = 1, timeout_seconds: float = 10) -> list[str]:
    return list(islice(child.request(line, timeout_seconds=timeout_seconds), answers))


def test_a_line_is_answered_by_the_same_child_each_time(child: LineChild) -> None:
    assert child.pid is None
    assert ask(child, "ü 1") == ["ü 1"]
    pid = ask(child, "pid")
    assert ask(child, "pid") == pid == [str(child.pid)]


def test_a_line_can_have_several_lines_as_its_answer(child: LineChild) -> None:
    assert ask(child, "both", answers=2) == ["one", "two"]
    assert ask(child, "next") == ["next"]


def test_a_child_inherits_nothing(child: LineChild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/elsewhere")
    [names] = ask(child, "environment")
    assert "SLURM_CONF" not in names.split()


@pytest.mark.parametrize("word", ["die", "half"])
def test_a_child_that_dies_is_told_and_replaced(child: LineChild, word: str) -> None:
    first = ask(child, "pid")
    with pytest.raises(ShellUnavailable, match="the child ended without an answer"):
        ask(child, word)
    assert child.pid is None
    second = ask(child, "pid")
    assert second != first


def test_a_child_that_hangs_is_killed_at_the_deadline_and_replaced(child: LineChild) -> None:
    [pid] = ask(child, "pid")
    began = time.monotonic()
    with pytest.raises(ShellUnavailable, match=r"no answer within 0\.05 s"):
        ask(child, "hang", timeout_seconds=0.05)
    assert time.monotonic() - began < 5
    assert wait_until_gone(int(pid))
    assert ask(child, "again") == ["again"]


def test_a_child_that_died_between_two_requests_is_replaced(child: LineChild) -> None:
    [pid] = ask(child, "pid")
    os.kill(int(pid), 9)
    assert wait_until_gone(int(pid))
    assert ask(child, "again") == ["again"]


def test_a_child_that_is_killed_answers_nothing_of_before(child: LineChild) -> None:
    assert ask(child, "both") == ["one"]
    child.kill()
    assert child.pid is None
    assert ask(child, "new") == ["new"]


def test_a_child_that_cannot_start_is_told() -> None:
    with pytest.raises(ShellUnavailable, match="/no/such/program cannot start"):
        ask(LineChild(("/no/such/program",), {}), "x")


# --- in the foreground's care ---


def test_a_daemon_runs_until_it_is_told_to_stop() -> None:
    daemon = Daemon(["/bin/sleep", "60"], {})
    assert daemon.exit_code() is None
    assert daemon.stop(grace_seconds=5) == -15
    assert daemon.exit_code() == -15


def test_a_daemon_that_does_not_stop_is_ended(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = 'trap "" TERM; : >"$1"; while :; do sleep 0.01; done'
    daemon = Daemon(["/bin/sh", "-c", script, "sh", str(ready)], {"PATH": "/usr/bin:/bin"})
    while not ready.exists():
        time.sleep(0.002)
    assert daemon.stop(grace_seconds=0.05) == -9
