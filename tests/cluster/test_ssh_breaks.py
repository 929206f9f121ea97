"""Many calls on one connection, and everything that can break it."""

import re
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from slurmbridge.errors import FilesUnavailable, ShellUnavailable
from slurmbridge.shell import Command
from slurmbridge.shell.connection import SshConnection
from slurmbridge.shell.sftp import SftpFiles
from slurmbridge.shell.ssh import SshShell
from slurmbridge.shell.target import SshTarget
from tests.support.cluster import Cluster, until
from tests.support.ssh import (
    Login,
    answers,
    connected,
    further_address,
    make_login,
    running,
)

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def login(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Login:
    return make_login(cluster, tmp_path_factory.mktemp("ssh"))


def sh(script: str, *words: str, timeout_seconds: float = 15, stdin: str = "") -> Command:
    return Command(("/bin/sh", "-c", script, "sh", *words), stdin, timeout_seconds)


# --- one connection for many ---


def test_more_threads_than_sessions_share_one_connection(login: Login) -> None:
    with running(login, "MaxSessions 3") as sshd, connected(sshd.target()) as connection:
        shell, files = SshShell(connection), SftpFiles(connection)

        def work(number: int) -> str:
            files.look(Path("/tmp"))
            return shell.run(sh('sleep 0.1; echo "$1"', str(number))).stdout

        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(work, range(36)))
        assert found == [f"{number}\n" for number in range(36)]
        assert sshd.log().count("Accepted publickey") == 1


def test_channels_are_waited_for_no_longer_than_a_call_may_take(login: Login) -> None:
    with connected(replace(login.target(), channels=1)) as connection:
        shell = SshShell(connection)
        shell.run(sh("true"))
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(shell.run, sh("sleep 1; echo done"))
            time.sleep(0.2)
            began = time.monotonic()
            with pytest.raises(ShellUnavailable, match="all its 1 channels in use") as caught:
                shell.run(sh("true", timeout_seconds=0.3))
            assert time.monotonic() - began < 0.7
            assert caught.value.never_started
            assert long.result().stdout == "done\n"
        files = SftpFiles(connection)
        files.look(Path("/tmp"))
        assert shell.run(sh("echo spare")).stdout == "spare\n"


def test_too_much_output_is_cut_off(login: Login) -> None:
    with connected(login.target()) as connection:
        shell = SshShell(connection)
        with pytest.raises(ShellUnavailable, match="printed more than"):
            shell.run(sh("head -c 70000000 /dev/zero"))
        assert shell.run(sh("echo on")).stdout == "on\n"


# --- what breaks ---


def left_over(login: Login, mark: str) -> str:
    return login.root('pgrep -af -- "$1" | grep -v pgrep | grep -v "sh -c" || true', mark)


def is_gone(login: Login, mark: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while left_over(login, mark):
        if time.monotonic() > deadline:
            return False
    return True


@pytest.mark.parametrize("trap", ["", 'trap "" TERM; '])
def test_a_command_does_not_outlive_its_deadline_there(login: Login, trap: str) -> None:
    mark = f"9{secrets.randbelow(10**9):09}"
    script = f"{trap}sleep {mark} & sleep {mark}; sleep {mark}"
    with (
        connected(login.target()) as connection,
        pytest.raises(ShellUnavailable, match="did not end within 1 s"),
    ):
        SshShell(connection).run(sh(script, timeout_seconds=1))
    assert is_gone(login, mark, 4)


def test_a_command_does_not_outlive_its_deadline_when_the_connection_is_lost(
    login: Login,
) -> None:
    mark = f"9{secrets.randbelow(10**9):09}"
    with connected(login.target()) as connection, ThreadPoolExecutor(1) as pool:
        running_there = pool.submit(
            SshShell(connection).run, sh(f"sleep {mark}", timeout_seconds=2)
        )
        until("command", lambda: left_over(login, mark), every=0.05)
        connection.close()
        with pytest.raises(ShellUnavailable, match="connection was lost") as caught:
            running_there.result()
        assert not caught.value.never_started
    assert is_gone(login, mark, 5)


def test_an_sshd_that_dies_is_noticed_and_found_again(login: Login) -> None:
    with running(login) as sshd, connected(sshd.target()) as connection:
        shell, files = SshShell(connection), SftpFiles(connection)
        files.look(Path("/tmp"))
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(shell.run, sh("sleep 30", timeout_seconds=40))
            time.sleep(0.3)
            sshd.signal("KILL")
            with pytest.raises(ShellUnavailable, match="connection was lost") as caught:
                long.result(timeout=5)
            assert not caught.value.never_started
        with pytest.raises(ShellUnavailable, match="cannot be reached: Connection refused"):
            shell.run(sh("true"))
        began = time.monotonic()
        with pytest.raises(ShellUnavailable, match="Connection refused; the next attempt is in"):
            shell.run(sh("true"))
        with pytest.raises(FilesUnavailable, match="the next attempt is in"):
            files.look(Path("/tmp"))
        assert time.monotonic() - began < 0.2
        sshd.start()
        time.sleep(1.1)
        assert shell.run(sh("echo back")).stdout == "back\n"
        assert files.look(Path("/tmp")).name == "tmp"


def test_a_connection_that_was_closed_while_idle_is_replaced_within_a_call(login: Login) -> None:
    with running(login) as sshd, connected(sshd.target()) as connection:
        shell, files = SshShell(connection), SftpFiles(connection)
        files.look(Path("/tmp"))
        sshd.signal("KILL")
        sshd.start()
        assert files.look(Path("/tmp")).name == "tmp"
        assert shell.run(sh("echo on")).stdout == "on\n"


def test_when_packets_are_dropped_a_call_ends_at_its_deadline(login: Login) -> None:
    with running(login) as sshd, further_address(sshd) as (there, way):
        target = replace(there, connect_seconds=2)
        with connected(target) as connection:
            shell = SshShell(connection)
            shell.run(sh("true"))
            way.block()
            for stdin in ("", "x" * 20_000_000):
                began = time.monotonic()
                with pytest.raises(ShellUnavailable):
                    shell.run(sh("cat >/dev/null", timeout_seconds=1, stdin=stdin))
                assert time.monotonic() - began < 2
            way.open()
            time.sleep(1)
            reply = _sooner_or_later(shell, sh("echo back"))
            assert reply == "back\n"


def test_packets_that_are_dropped_in_the_middle_end_calls_at_their_deadlines(login: Login) -> None:
    mark = f"9{secrets.randbelow(10**9):09}"
    with running(login) as sshd, further_address(sshd) as (there, way):
        target = replace(there, connect_seconds=2)
        with connected(target) as connection, ThreadPoolExecutor(3) as pool:
            shell, files = SshShell(connection), SftpFiles(connection, answer_seconds=1.5)
            began = time.monotonic()
            silent = pool.submit(shell.run, sh(f"sleep {mark}", timeout_seconds=2))
            busy = pool.submit(
                shell.run, sh("sleep 60", timeout_seconds=2.5, stdin="x" * 20_000_000)
            )
            path = Path(f"/tmp/dropped-{mark}")
            writing = pool.submit(_write_for_ever, files, path)
            time.sleep(0.7)
            way.block()
            for call in (silent, busy):
                with pytest.raises(ShellUnavailable) as caught:
                    call.result(timeout=10)
                assert not caught.value.never_started
            with pytest.raises(FilesUnavailable):
                writing.result(timeout=10)
            assert time.monotonic() - began < 5
            way.open()
            assert _sooner_or_later(shell, sh("echo back")) == "back\n"
            files.remove_file(path)
    assert is_gone(login, mark, 5)


def _write_for_ever(files: SftpFiles, path: Path) -> None:
    with files.create(path, mode=0o600) as file:
        while True:
            file.write(bytes(1_000_000))
            time.sleep(0.01)


def _sooner_or_later(shell: SshShell, command: Command) -> str:
    """What a command prints, as soon as one can be begun."""

    def look() -> str | None:
        try:
            return shell.run(command).stdout
        except ShellUnavailable as error:
            if not error.never_started:
                raise
            return None

    return until("connection", look, seconds=10, every=0.1)


def test_a_host_that_falls_silent_is_noticed_without_a_call(login: Login) -> None:
    with running(login) as sshd, further_address(sshd) as (there, way):
        target = replace(there, keepalive_seconds=0.5, connect_seconds=2)
        with connected(target) as connection:
            shell = SshShell(connection)
            shell.run(sh("true"))
            keeper = f"ssh {target}"
            time.sleep(1.5)
            assert keeper in {thread.name for thread in threading.enumerate()}
            way.block()
            until(
                "end", lambda: keeper not in {one.name for one in threading.enumerate()}, seconds=5
            )
            way.open()
            assert _sooner_or_later(shell, sh("echo back")) == "back\n"


def test_an_sshd_that_accepts_and_says_nothing_ends_calls_in_time(login: Login) -> None:
    with running(login) as sshd, connected(sshd.target()) as connection:
        shell = SshShell(connection)
        sshd.signal("STOP", sessions=False)
        began = time.monotonic()
        with pytest.raises(ShellUnavailable, match="did not answer in time") as caught:
            shell.run(sh("true", timeout_seconds=1))
        assert caught.value.never_started
        assert time.monotonic() - began < 1.5
        sshd.signal("CONT", sessions=False)
        assert shell.run(sh("echo on", timeout_seconds=15)).stdout == "on\n"


def test_waiting_grows_by_chance_and_has_a_limit(tmp_path: Path) -> None:
    now = [1000.0]
    (tmp_path / "known_hosts").touch()
    target = SshTarget("127.0.0.1", "nobody", tmp_path / "known_hosts", port=1)
    connection = SshConnection(target, clock=lambda: now[0], chance=lambda: 0.5)
    shell = SshShell(connection)
    waits = []
    for _ in range(10):
        with pytest.raises(ShellUnavailable, match=r"refused$"):
            shell.run(sh("true"))
        with pytest.raises(ShellUnavailable, match="the next attempt is in") as caught:
            shell.run(sh("true"))
        assert caught.value.never_started
        [wait] = re.findall(r"in (\d+) s$", str(caught.value))
        waits.append(int(wait))
        now[0] += 60
    assert waits == [1, 2, 3, 6, 12, 24, 45, 45, 45, 45]
    connection.close()
    with pytest.raises(ShellUnavailable, match="is closed"):
        shell.run(sh("true"))


def test_nothing_is_left_of_many_connections(login: Login) -> None:
    for _ in range(3):
        assert answers(login.target()) == "slurmbridge"
    deadline = time.monotonic() + 5
    while names := [thread.name for thread in threading.enumerate() if "ssh " in thread.name]:
        assert time.monotonic() < deadline, names
        time.sleep(0.05)
