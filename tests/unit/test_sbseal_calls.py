"""Calls that sbseal refuses: how it answers them, and how it notes them, whatever goes on."""

import os
import platform
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.box import PID_NAMESPACE, first_child, wait_for
from tests.support.calls import RULED, refused
from tests.support.sealing import SealBox as Box
from tests.support.sealing import assert_refused

HERE = platform.machine()
CLONE, SECCOMP = RULED[HERE][:2]
UNSHARE = next(number for number in refused(HERE) if number in {272, 97})
ESCAPES = {
    "clone with CLONE_UNTRACED": f"{CLONE}, 0x800011, 0, 0, 0, 0",
    "seccomp with a listener": f"{SECCOMP}, 1, 8, ctypes.create_string_buffer(16)",
}
CALL = "import ctypes, os, signal, threading, time; libc = ctypes.CDLL(None, use_errno=True)\n"
each_escape = pytest.mark.parametrize("what", ESCAPES)


def python(script: str) -> list[str]:
    return [str(Path(sys.executable).resolve()), "-S", "-E", "-c", CALL + script]


@each_escape
def test_what_escapes_a_tracer_ends_the_container_when_it_is_noted(box: Box, what: str) -> None:
    script = python(f"libc.syscall({ESCAPES[what]}); print('went on')")
    end = box.noting().run(script, prefix=PID_NAMESPACE)
    said = f"sbseal: ended: the program tried to escape its tracer ({what})\n"
    assert (end.code, end.out, end.err.decode()) == (137, b"", said)


@each_escape
def test_what_escapes_a_tracer_is_an_error_like_any_other_when_nobody_looks(
    box: Box, what: str
) -> None:
    script = python(f"print(libc.syscall({ESCAPES[what]}), ctypes.get_errno())")
    end = box.run(script, prefix=PID_NAMESPACE)
    assert (end.code, end.out, end.err) == (0, b"-1 1\n", b"")


def test_libseccomp_may_ask_what_the_kernel_can_do(box: Box) -> None:
    script = python(f"print(libc.syscall({SECCOMP}, 1, 8, None), ctypes.get_errno())")
    end = box.noting().run(script, prefix=PID_NAMESPACE)
    assert (end.code, end.out, end.err) == (0, b"-1 1\n", b"")


def test_the_probe_finds_the_same_in_both_forms(box: Box) -> None:
    # But for the sockets of this host, which come and go.
    both = [
        box.run(["true"], prefix=PID_NAMESPACE),
        box.noting().run(["true"], prefix=PID_NAMESPACE),
    ]
    found, noted = (re.sub(rb"sockets .*\n", b"", end.facts) for end in both)
    assert found.count(b"\ncall ") > 30
    assert noted == found


FLOOD = f"""
signals = []
signal.signal(signal.SIGALRM, lambda *_: signals.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
errors = []
def ask():
    for _ in range(2500):
        result = libc.syscall({UNSHARE}, 0x10000000)
        errors.append((result, ctypes.get_errno()))
threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
signal.setitimer(signal.ITIMER_REAL, 0)
# A signal may come before sbseal is asked; then nothing was refused, and the error is EINTR.
print(len(errors), set(errors) - {{(-1, 4)}}, len(signals) > 5, errors.count((-1, 1)) > 19000)
"""


def test_a_flood_of_refused_calls_is_answered_while_signals_arrive(box: Box) -> None:
    def meanwhile(pid: int) -> None:
        wait_for(box.marker)
        for _ in range(50):
            os.kill(first_child(pid), signal.SIGWINCH)

    script = python(f"open({str(box.marker)!r}, 'w').close()" + FLOOD)
    end = box.noting().run(script, prefix=PID_NAMESPACE, meanwhile=meanwhile)
    assert (end.code, end.err) == (0, b"")
    assert end.out == b"20000 {(-1, 1)} True True\n"


KILLED = f"""
for turn in range(300):
    child = os.fork()
    if child == 0:
        while True:
            libc.syscall({UNSHARE}, 0x10000000)
    time.sleep(turn % 7 * 0.0001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(libc.syscall({UNSHARE}, 0x10000000), ctypes.get_errno())
"""


def test_whoever_dies_while_it_asks_disturbs_nobody(box: Box) -> None:
    end = box.noting().run(python(KILLED), prefix=PID_NAMESPACE)
    assert (end.code, end.out, end.err) == (0, b"-1 1\n", b"")


def test_a_program_cannot_copy_what_the_kernel_asks_by(box: Box) -> None:
    """Not even root, to whom process 1 is open: pidfd_getfd is 438 everywhere."""
    script = (
        "first = os.pidfd_open(1)\n"
        "print({libc.syscall(438, first, number, 0) for number in range(20)}, ctypes.get_errno())"
    )
    end = box.noting().run(python(script), prefix=PID_NAMESPACE)
    assert (end.out, end.err) == (b"{-1} 1\n", b"")


# As a kernel before Linux 5.0 answers, and one before 5.19.
WITHOUT_FLAG = (
    "import ctypes, os, struct, sys\n"
    "steps = [(0x20, 0, 0, 0), (0x15, 0, 3, {number}), (0x20, 0, 0, 24), (0x45, 0, 1, {flag}),"
    " (6, 0, 0, 0x50016), (6, 0, 0, 0x7fff0000)]\n"
    "code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *step) for step in steps))\n"
    "rules = ctypes.create_string_buffer("
    "struct.pack('=HxxxxxxQ', len(steps), ctypes.addressof(code)))\n"
    "libc = ctypes.CDLL(None)\n"
    "assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, rules) == 0\n"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def without_flag(flag: int) -> tuple[str, ...]:
    return (sys.executable, "-c", WITHOUT_FLAG.format(number=SECCOMP, flag=flag))


def test_nothing_starts_where_the_kernel_cannot_tell_of_refused_calls(box: Box) -> None:
    end = box.noting().run(prefix=without_flag(8))
    assert_refused(box, end.code, end.err)
    assert b"notes refused calls (Linux 5.0): Invalid argument" in end.err


def test_a_kernel_that_lets_a_signal_ask_twice_is_good_enough(box: Box) -> None:
    end = box.noting().run(python(FLOOD), prefix=(*PID_NAMESPACE, *without_flag(32)))
    assert (end.code, end.out) == (0, b"20000 {(-1, 1)} True True\n"), end.err
