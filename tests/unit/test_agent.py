"""The agent of a pod, run on this host: what it starts, for whom, and how it ends."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurmbridge.model import Helpers

SECRET = "0123456789abcdef" * 4
# A network of its own, so that its port is nobody else's, and processes that end with the first.
OWN = (
    *(
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ),
    *("sh", "-c"),
)


@pytest.fixture
def pod(sealing_helpers: Helpers, tmp_path: Path) -> Path:
    """The folder of the agent."""
    shutil.copy(Path(sealing_helpers.path) / "sbseal", tmp_path / "sbseal")
    (tmp_path / "rsh").symlink_to("sbseal")
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path


def first(pod: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as the program of a first and only pod."""
    begin = f'ip link set lo up; exec {pod}/sbseal first 1 5 /bin/sh -c "$SCRIPT"'
    return subprocess.run(
        [*OWN, begin],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SCRIPT": script, "RSH": str(pod / "rsh")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


# --- the first pod ---


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_it_ends_as_its_program_does(pod: Path, code: int) -> None:
    assert first(pod, f"exit {code}").returncode == code
    assert first(pod, f"$RSH 127.0.0.1 'exit {code}'").returncode == code


def test_the_end_by_a_signal_is_told_as_shells_tell_it(pod: Path) -> None:
    assert first(pod, "kill -KILL $$").returncode == 137
    assert first(pod, "$RSH 127.0.0.1 'kill -TERM $$'").returncode == 143


def test_a_program_that_is_not_there_is_said_so(pod: Path) -> None:
    begin = f"ip link set lo up; exec {pod}/sbseal first 1 5 no-such-program"
    end = subprocess.run([*OWN, begin], capture_output=True, text=True, check=False, timeout=30)
    assert (end.returncode, end.stderr) == (127, "no-such-program: No such file or directory\n")


def test_a_pod_that_does_not_come_is_not_waited_for_without_end(pod: Path) -> None:
    begin = f"ip link set lo up; exec {pod}/sbseal first 2 0 true"
    end = subprocess.run([*OWN, begin], capture_output=True, text=True, check=False, timeout=30)
    assert end.returncode == 78
    assert "sb2 is no node of this job" in end.stderr


# --- rsh ---


def test_output_errors_and_input_go_their_ways(pod: Path) -> None:
    end = first(pod, "echo given | $RSH 127.0.0.1 'cat; echo out; echo wrong >&2'")
    assert (end.stdout, end.stderr, end.returncode) == ("given\nout\n", "wrong\n", 0)


def test_words_are_put_together_as_by_ssh(pod: Path) -> None:
    end = first(pod, "$RSH -x -l somebody -o A=b 127.0.0.1 echo '$((1 + 1))' '\"a  b\"'")
    assert end.stdout == "2 a  b\n"


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_every_byte_goes_both_ways(pod: Path, size: int) -> None:
    script = f"head -c {size} /dev/urandom >{pod}/sent; $RSH 127.0.0.1 cat <{pod}/sent >{pod}/got"
    assert first(pod, script).returncode == 0
    assert (pod / "got").read_bytes() == (pod / "sent").read_bytes()


def test_a_command_that_reads_nothing_does_not_stand_in_the_way(pod: Path) -> None:
    script = (
        "head -c 3000000 /dev/zero | $RSH 127.0.0.1 'echo done; head -c 2000000 /dev/zero' | wc -c"
    )
    assert first(pod, script).stdout == "2000005\n"


def test_many_at_once_do_not_mix(pod: Path) -> None:
    script = 'for i in $(seq 40); do $RSH 127.0.0.1 "echo $i; exit 0" & done; wait'
    assert sorted(map(int, first(pod, script).stdout.split())) == list(range(1, 41))


def test_what_it_ran_ends_with_who_asked(pod: Path) -> None:
    script = f"""
    $RSH 127.0.0.1 'echo $$ >{pod}/pid; exec sleep 300' & asked=$!
    until [ -s {pod}/pid ]; do sleep 0.05; done
    kill -KILL $asked; wait $asked
    for i in $(seq 100); do kill -0 $(cat {pod}/pid) 2>/dev/null || exit 0; sleep 0.05; done
    exit 1
    """
    assert first(pod, script).returncode == 0


def test_who_hears_nothing_at_the_place_is_told_so(pod: Path) -> None:
    end = subprocess.run(
        [*OWN, f"ip link set lo up; exec {pod}/rsh 127.0.0.1 true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (end.returncode, end.stderr) == (255, "rsh: 127.0.0.1: Connection refused\n")


# --- the secret and the other pods ---

TALK = """
import socket, struct, subprocess, sys, time
pod, said = sys.argv[1], sys.argv[2]
agent = subprocess.Popen([pod + "/sbseal", "next"])
def connect():
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", 48791), 10)
        except OSError:
            time.sleep(0.05)
def frame(letter, data=b""):
    return letter + struct.pack(">I", len(data)) + data
secret = open(pod + "/secret", "rb").read()
"""


def talk(pod: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that talks to the agent of a further pod."""
    (pod / "talk.py").write_text(TALK + program)
    words = " ".join((sys.executable, str(pod / "talk.py"), str(pod), *arguments))
    return subprocess.run(
        [*OWN, f"ip link set lo up; exec {words}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize(("said", "code"), [("q", 0), ("", 70), ("x", 70)])
def test_a_pod_ends_with_the_first_one(pod: Path, said: str, code: int) -> None:
    program = """
with connect() as s:
    s.sendall(secret + frame(b"w"))
    assert s.recv(5) == frame(b"k")
    if said != "-":
        s.sendall(frame(said.encode()))
print(agent.wait(20))
"""
    assert talk(pod, program, said or "-").stdout == f"{code}\n"


KNOCKS = """
def answer(said):
    with connect() as s:
        try:
            s.sendall(said)
            # Who was refused may be gone already.
            s.shutdown(socket.SHUT_WR)
            return s.recv(100)
        except OSError:
            return b""
command = frame(b"r", b"echo opened")
wrong = [bytes([secret[0] ^ 1]) + secret[1:], secret[:-1] + b"!", b"0" * 64, b"\\0" * 64]
print([answer(one + command) for one in wrong])
broken = [b"", secret[:63], secret, secret + b"r\\xff\\xff\\xff\\xff", secret + b"zzzzz"]
print([answer(said) for said in (*broken, secret + frame(b"o", b"x"))])
with connect() as s:
    s.sendall(secret + command)
    size = struct.unpack(">xI", s.recv(5, socket.MSG_WAITALL))[0]
    print(s.recv(size, socket.MSG_WAITALL))
agent.kill()
"""


def test_nothing_is_started_for_who_does_not_hold_the_secret(pod: Path) -> None:
    refused, broken, control = talk(pod, KNOCKS, "-").stdout.splitlines()
    assert refused == str([b""] * 4)
    assert broken == str([b""] * 6)
    assert control == str(b"opened\n")
