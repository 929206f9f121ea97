"""One contract for every way to run commands: on this host, and on another by ssh."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell import CLEAN_ENVIRONMENT, Command, LocalShell, Shell
from slurmbridge.shell.connection import SshConnection
from slurmbridge.shell.ssh import SshShell
from tests.support.cluster import Cluster
from tests.support.ssh import make_login


@pytest.fixture(scope="module", params=["local", pytest.param("ssh", marks=pytest.mark.cluster)])
def shell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    if request.param == "local":
        yield LocalShell()
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    connection = SshConnection(make_login(cluster, tmp_path_factory.mktemp("ssh")).target())
    yield SshShell(connection)
    connection.close()


def sh(script: str, *words: str, timeout_seconds: float = 20, stdin: str = "") -> Command:
    return Command(("/bin/sh", "-c", script, "sh", *words), stdin, timeout_seconds)


def test_a_reply_has_exit_code_and_both_streams(shell: Shell) -> None:
    reply = shell.run(sh("echo out; echo err >&2; exit 3"))
    assert (reply.exit_code, reply.stdout, reply.stderr) == (3, "out\n", "err\n")


@pytest.mark.parametrize("exit_code", [0, 1, 124, 125, 126, 127, 137, 200, 255])
def test_every_exit_code_comes_back(shell: Shell, exit_code: int) -> None:
    assert shell.run(sh(f"exit {exit_code}")).exit_code == exit_code


def test_words_arrive_as_they_were(shell: Shell) -> None:
    words = [
        "",
        " ",
        "a b",
        "$HOME",
        "`id`",
        "$(id)",
        '"',
        "*",
        "~",
        "-n",
        "#",
        ";",
        "&",
        "|",
        ">x",
    ]
    words += ["=ls", "{a,b}", "[a]", "%s", "^a^b", "a=b", "R&D", "--", "<(id)", "?"]
    reply = shell.run(Command(("/usr/bin/printf", "[%s]", *words)))
    assert reply.stdout == "".join(f"[{word}]" for word in words)


def test_what_is_not_utf_8_is_replaced_and_not_lost(shell: Shell) -> None:
    # The first of the two bytes of this letter.
    reply = shell.run(Command(("/usr/bin/head", "-c", "2"), stdin="aü"))
    assert reply.stdout == "a\N{REPLACEMENT CHARACTER}"


def test_standard_input_is_what_was_given_and_then_ends(shell: Shell) -> None:
    assert shell.run(sh("cat", stdin="ü\n#SBATCH\n")).stdout == "ü\n#SBATCH\n"
    assert shell.run(sh("cat")).stdout == ""


def test_a_program_that_reads_nothing_is_no_error(shell: Shell) -> None:
    assert shell.run(sh("exit 0", stdin="x" * (4 << 20))).exit_code == 0
    assert shell.run(sh("exec <&-; sleep 0.2; exit 5", stdin="x" * (4 << 20))).exit_code == 5


def test_much_goes_in_and_comes_out_of_both_streams(shell: Shell) -> None:
    text = "0123456789abcdef" * (4 << 16)
    reply = shell.run(sh("tee /dev/stderr", stdin=text))
    assert reply.stdout == text
    assert reply.stderr == text


def test_nothing_is_inherited(shell: Shell) -> None:
    reply = shell.run(Command(("/usr/bin/env",)))
    assert dict(line.split("=", 1) for line in reply.stdout.splitlines()) == dict(CLEAN_ENVIRONMENT)
    command = Command(("/usr/bin/env",), environment={"A": "b c"})
    assert shell.run(command).stdout == "A=b c\n"


def test_a_program_is_looked_for_in_the_path_that_is_given(shell: Shell) -> None:
    assert shell.run(Command(("id", "-u"))).exit_code == 0
    with pytest.raises(ShellUnavailable):
        shell.run(Command(("id", "-u"), environment={"PATH": "/nowhere"}))


@pytest.mark.parametrize(
    ("program", "why"),
    [("/no/such/program", "No such file or directory"), ("/etc/passwd", "Permission denied")],
)
def test_a_program_that_cannot_be_started_is_named(shell: Shell, program: str, why: str) -> None:
    with pytest.raises(ShellUnavailable, match=f"{program} cannot be started: {why}") as caught:
        shell.run(Command((program,)))
    assert caught.value.never_started


def test_a_command_ends_at_its_deadline(shell: Shell) -> None:
    began = time.monotonic()
    with pytest.raises(ShellUnavailable, match=r"did not end within 0\.5 s") as caught:
        shell.run(sh("sleep 60", timeout_seconds=0.5))
    assert not caught.value.never_started
    assert 0.4 < time.monotonic() - began < 1.5
    assert shell.run(sh("echo on")).stdout == "on\n"


def test_what_was_printed_before_the_deadline_is_not_a_reply(shell: Shell) -> None:
    with pytest.raises(ShellUnavailable):
        shell.run(sh("echo 4711; sleep 60", timeout_seconds=0.5))


def test_several_threads_run_commands_at_once(shell: Shell) -> None:
    barrier = threading.Barrier(8)

    def ask(number: int) -> str:
        barrier.wait()
        return shell.run(sh('sleep 0.2; echo "$1"; cat', str(number), stdin="x" * 100_000)).stdout

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(ask, range(8)))
    assert replies == [f"{number}\n" + "x" * 100_000 for number in range(8)]
