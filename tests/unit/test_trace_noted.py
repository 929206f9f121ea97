"""Calls that sbseal refused and noted, and the tasks of a container: from traces, and for real."""

import errno
import platform
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.container.apptainer import recording
from slurmbridge.spec import TraceLevel
from slurmbridge.trace import Begin, Follower
from slurmbridge.trace.events import (
    Created,
    Ended,
    Executed,
    Happening,
    Key,
    Refused,
    SocketMade,
    Started,
    Unreadable,
    Unusual,
)
from slurmbridge.trace.network import socket_words
from slurmbridge.trace.readers import name_of
from tests.support import calls
from tests.support.box import PID_NAMESPACE
from tests.support.sealing import SealBox
from tests.support.traces import ENTER, EXECUTES, FIRST, RECORDED, text_of

# One task, before the program runs.
TASK = (
    b"20 1.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3\n"
    b'22 1.000000 mkdirat(-1, "sbseal task=0 pid=3", 000) = -1 EBADF (Bad file descriptor)\n'
    b"22 1.000000 " + EXECUTES
)
# The one task.
ASKER = Key(22, 4)
ARGUMENTS = b"0x10000000,0x0,0x0,0x0,0x0,0x0"
TOLD = ARGUMENTS.replace(b",", b", ")


def note(pid: int = 3, call: int = 272, error: int = 1, arch: bytes = b"c000003e") -> bytes:
    return (
        b'mkdirat(-1, "sbseal refused pid=%d call=%d arguments=%s errno=%d arch=%s", 000)'
        b" = -1 EBADF (Bad file descriptor)" % (pid, call, ARGUMENTS, error, arch)
    )


def read(
    *lines: bytes, first: bytes = TASK, noted: bool = True
) -> tuple[Follower, list[Happening]]:
    """What follows the first two events, which are the program's start."""
    follower = Follower(noted=noted)
    return follower, list(follower.events([text_of(ENTER + first, *lines)]))[2:]


def told(*lines: bytes, noted: bool = True) -> list[Happening]:
    return read(*lines, noted=noted)[1]


def recorded(name: str, *, noted: bool = True) -> tuple[Follower, list[Happening]]:
    follower = Follower(noted=noted)
    return follower, list(follower.events([(RECORDED / name).read_bytes()]))


Row = tuple[str, str, str]


def refusals(events: Iterable[Happening]) -> list[Row]:
    """Kind, call or family, and error of what was refused; not clone3, which is never noted."""
    rows: list[Row] = []
    for event in events:
        if isinstance(event, Refused | Unusual) and event.call != "clone3":
            rows.append((type(event).__name__, event.call, event.error))
        elif isinstance(event, SocketMade):
            rows.append(("SocketMade", f"{event.family} {event.kind}", event.error))
    return rows


REFUSED: list[Row] = [
    ("Unusual", "unshare", "EPERM"),
    ("Unusual", "io_uring_setup", "ENOSYS"),
    ("SocketMade", "AF_VSOCK SOCK_STREAM|SOCK_CLOEXEC", "EAFNOSUPPORT"),
    ("SocketMade", "AF_NETLINK SOCK_RAW", "EPROTONOSUPPORT"),
    ("SocketMade", "AF_INET SOCK_STREAM", "EPROTONOSUPPORT"),
    ("SocketMade", "AF_INET6 SOCK_RAW|SOCK_CLOEXEC|SOCK_NONBLOCK", "EPERM"),
    ("SocketMade", "0x63 /* AF_??? */ SOCK_DGRAM", "EAFNOSUPPORT"),
    ("SocketMade", "AF_INET SOCK_STREAM", "EPROTONOSUPPORT"),
    ("Unusual", "bpf", "EPERM"),
    ("Refused", "statmount", "ENOSYS"),
    ("Refused", "clone", "EPERM"),
    ("Refused", "clone", "EPERM"),
    ("Refused", "ioctl", "EPERM"),
    ("Refused", "syscall_0x270f", "ENOSYS"),
]
LATER: list[Row] = [("Unusual", name, "EPERM") for name in ("ptrace", "setns", "mount")]


# --- as strace 7.2 has recorded it --------------------------------------------------------------


def test_an_audit_tells_every_refused_call_once() -> None:
    follower, events = recorded("refused-audit.trace")
    x32 = ("Refused", "syscall_0x27 (x32)", "ENOSYS")
    untraced = ("Refused", "clone", "EPERM")
    assert refusals(events) == [*REFUSED, x32, *LATER, untraced]
    assert follower.counts.unreadable == 0
    assert [event for event in events if isinstance(event, Created)] == []


def test_a_full_trace_tells_the_same_calls_as_an_audit() -> None:
    follower, events = recorded("refused-full.trace", noted=False)
    # strace has a name for x32's call. It does not see how the last one ended.
    x32, listener = ("Refused", "getpid", "ENOSYS"), ("Unusual", "seccomp", "?")
    assert refusals(events) == [*REFUSED, x32, *LATER, listener]
    assert follower.counts.unreadable == 0
    assert [event for event in events if isinstance(event, Created)] == []


def test_a_full_trace_keeps_the_arguments_of_calls_that_it_passes_over() -> None:
    _, events = recorded("refused-full.trace", noted=False)
    (terminal,) = [e for e in events if isinstance(e, Refused) and e.call == "ioctl"]
    assert terminal.arguments.startswith(b"0x0, 0x5412, ")


@pytest.mark.parametrize(("name", "noted"), [("audit", True), ("full", False)])
def test_each_refused_call_is_told_of_the_process_that_asked(name: str, noted: bool) -> None:
    follower, events = recorded(f"refused-{name}.trace", noted=noted)
    asked = {e.call: e.process for e in events if isinstance(e, Unusual)}
    _, child, of_vfork = [e.process for e in events if isinstance(e, Started)]
    assert (asked["setns"], asked["mount"]) == (child, of_vfork)
    # A thread's are its process's.
    assert asked["ptrace"] == asked["unshare"] == follower.program


@pytest.mark.parametrize("name", ["audit", "full"])
def test_an_attempt_to_escape_ends_the_trace(name: str) -> None:
    follower, events = recorded(f"refused-{name}.trace", noted=name == "audit")
    last = events[-1]
    assert isinstance(last, Ended)
    assert (last.process, last.code, last.signal) == (follower.program, None, "SIGKILL")


def test_tasks_are_told_apart() -> None:
    follower, events = recorded("tasks-audit.trace")
    starts = [e.process for e in events if isinstance(e, Started) and e.parent is None]
    assert len(follower.tasks) == 3
    assert set(follower.tasks) == set(starts)
    assert follower.program == follower.tasks[0]
    # The kernel gives numbers in the order of the forks, whatever the order of the first lines.
    assert [key.pid for key in follower.tasks] == sorted(key.pid for key in starts)
    assert [key.pid for key in starts] != sorted(key.pid for key in starts)
    programs = [e.process for e in events if isinstance(e, Executed) and e.argv[0] == b"sh"]
    assert set(programs) == set(starts)
    assert len([row for row in refusals(events) if row[1] == "unshare"]) == 3


# --- one note -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (note(), Unusual(10, 2_000_000, ASKER, "unshare", TOLD, "EPERM")),
        (note(call=457, error=38), Refused(10, 2_000_000, ASKER, "statmount", TOLD, "ENOSYS")),
        (note(call=97, arch=b"c00000b7"), Unusual(10, 2_000_000, ASKER, "unshare", TOLD, "EPERM")),
        (note(call=20, error=38, arch=b"40000003"),
         Refused(10, 2_000_000, ASKER, "syscall_0x14 (i386)", TOLD, "ENOSYS")),
        (note(call=0x4000_0027),
         Refused(10, 2_000_000, ASKER, "syscall_0x27 (x32)", TOLD, "EPERM")),
        (note(call=0xFFFF_FFFF), Refused(10, 2_000_000, ASKER, "syscall_0xbfffffff (x32)", TOLD,
                                        "EPERM")),
        (note(call=9999, error=4000), Refused(10, 2_000_000, ASKER, "syscall_0x270f", TOLD, "?")),
    ],
)  # fmt: skip
def test_one_note(line: bytes, event: Happening) -> None:
    follower, events = read(b"20 2.000000 " + line)
    assert events == [event]
    assert follower.counts.cut == 8


def test_a_note_in_two_lines_and_one_that_never_ended() -> None:
    begun, _, _ = note().partition(b")")
    unfinished = b"20 2.000000 " + begun + b" <unfinished ...>"
    resumed = b"20 3.000000 <... mkdirat resumed>) = -1 EBADF (Bad file descriptor)"
    killed = b"20 3.000000 +++ killed by SIGKILL +++"
    event = Unusual(11, 3_000_000, ASKER, "unshare", TOLD, "EPERM")
    assert told(unfinished, resumed) == [event]
    assert told(unfinished, killed) == [event]


def test_where_strace_has_recorded_the_call_the_note_tells_nothing() -> None:
    lines = (
        b"22 2.000000 unshare(CLONE_NEWUSER <unfinished ...>",
        b"20 2.000000 " + note(),
        b"22 2.000000 <... unshare resumed>) = -1 EPERM (Operation not permitted)",
    )
    once = [Unusual(12, 2_000_000, ASKER, "unshare", b"CLONE_NEWUSER", "EPERM")]
    assert told(*lines) == told(*lines, noted=False) == once


def test_one_recorded_call_hides_one_note_and_no_other() -> None:
    asking = b"22 2.000000 unshare(CLONE_NEWUSER <unfinished ...>"
    assert len(refusals(told(asking, *[b"20 2.000000 " + note()] * 3))) == 3
    # Another one's.
    assert len(refusals(told(asking, *[b"20 2.000000 " + note(pid=99)] * 3))) == 4


def test_a_note_of_somebody_unknown_is_that_of_a_recorded_call_if_any_such_is_refused() -> None:
    unknown = b"".join(line for line in TASK.splitlines(keepends=True) if b"mkdirat" not in line)
    for call, number, count in ((b"unshare(CLONE_NEWUSER", 272, 1), (b"socket(AF_UNIX", 41, 2)):
        asking = b"22 2.000000 " + call + b", 0, 0 <unfinished ...>"
        _, events = read(asking, b"20 2.000000 " + note(99, number), first=unknown)
        assert len(refusals(events)) == count


def test_a_note_of_somebody_unknown_is_told_of_the_first_task() -> None:
    (event,) = told(b"20 2.000000 " + note(pid=99))
    assert isinstance(event, Unusual)
    assert event.process == ASKER


def test_a_child_is_known_once_its_number_is() -> None:
    lines = (
        b"22 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 4",
        b'23 2.000000 execve("/bin/b", ["b"], 0x1 /* 0 vars */) = 0',
        b"20 2.000000 " + note(pid=4),
        b"23 2.000000 +++ exited with 0 +++",
        # The number may be given again.
        b"20 2.000000 " + note(pid=4),
    )
    follower, events = read(*lines)
    askers = [event.process for event in events if isinstance(event, Unusual)]
    assert askers == [Key(23, 5), ASKER]
    assert len(follower._numbers) == 1


def test_a_thread_that_executes_a_program_takes_the_first_ones_number() -> None:
    events = told(
        b"22 2.000000 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD) = 4",
        b'23 2.000000 execve("/bin/b", ["b"], 0x1 /* 0 vars */ <unfinished ...>',
        b"22 2.000000 +++ superseded by execve in pid 23 +++",
        b"22 2.000000 <... execve resumed>) = 0",
        b"20 2.000000 " + note(pid=3),
    )
    assert refusals(events) == [("Unusual", "unshare", "EPERM")]
    assert {event.process for event in events if isinstance(event, Unusual)} == {ASKER}


@pytest.mark.parametrize(
    "line",
    [
        b"22 2.000000 " + note(),
        b'22 2.000000 mkdirat(-1, "sbseal task=0 pid=9", 000) = -1 EBADF (Bad file descriptor)',
    ],
)
def test_a_program_that_says_the_same_has_said_nothing_of_calls(line: bytes) -> None:
    (event,) = told(line)
    assert isinstance(event, Created)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"errno=1", b"errno=x"),
        lambda line: line.replace(b"EBADF", b"EPERM"),
        lambda line: line.replace(b"-1,", b"3</x>,"),
        lambda line: line.replace(b"sbseal refused", b"something"),
        lambda line: line.replace(b",0x0,", b","),
    ],
)
def test_what_sbseal_would_never_say_is_not_understood(damage: object) -> None:
    assert callable(damage)
    (event,) = told(damage(b"20 2.000000 " + note()))
    assert isinstance(event, Unreadable)


def test_tasks_of_which_nothing_was_noted_are_told_by_their_order() -> None:
    """A container whose refusals are silent, or a trace of before."""
    lines = b"".join(
        b"20 1.000000 clone(child_stack=NULL, flags=SIGCHLD) = %d\n"
        b"%d 1.000000 %b" % (3 + task, 22 + task, EXECUTES)
        for task in range(3)
    )
    follower, events = read(first=lines)
    assert follower.tasks == (Key(22, 4), Key(23, 5), Key(24, 6))
    assert follower.program == Key(22, 4)
    assert [event.process for event in events if isinstance(event, Started)] == [
        Key(23, 5), Key(24, 6),
    ]  # fmt: skip


def test_the_task_of_a_trace_without_sbseal_is_its_first_process() -> None:
    follower = Follower(Begin.FIRST)
    list(follower.events([FIRST]))
    assert follower.tasks == (Key(7, 1),) == (follower.program,)


# --- names and words ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", calls.AUDIT)
def test_every_call_that_is_refused_has_its_name(architecture: str) -> None:
    audit = calls.AUDIT[architecture]
    named = {name_of(number, audit) for number in calls.refused(architecture)}
    assert named <= calls.NAMES
    assert len(named) == len(calls.refused(architecture))
    ruled = [name_of(number, audit) for number in calls.RULED[architecture]]
    assert ruled == ["clone", "seccomp", "socket", "socketpair", "ioctl"]


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_any_numbers_of_a_socket_have_words(family: int, kind: int, protocol: int) -> None:
    assert all(socket_words(family, kind, protocol))


# --- for real -----------------------------------------------------------------------------------

ASKS = """
import ctypes, os, signal, threading
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
errors = []
def ask():
    for _ in range(100):
        libc.syscall({keyctl}, 1, 2, 3, 4, 5)
        errors.append(ctypes.get_errno())
threads = [threading.Thread(target=ask) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
signal.setitimer(signal.ITIMER_REAL, 0)
open(os.environ["MADE"], "w").close()
# A signal may come before sbseal is asked; then nothing was refused, and the error is EINTR.
assert set(errors) <= {{1, 4}} and len(errors) == 400
os.write(1, b"%d " % errors.count(1))
"""


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_real_strace_has_each_refused_call_once_and_in_order(box: SealBox, tasks: int) -> None:
    record = recording(TraceLevel.AUDIT)
    assert record is not None
    box.noting()
    made, trace = box.marker.parent / "made", box.folder / "trace"
    box.tasks = f"tasks={tasks}"
    box.set_environment([f"MADE={made}", "SLURM_PROCID=0"])
    # An older strace does not know all of them.
    names = ",".join(n if n.startswith("%") else f"?{n}" for n in record.calls.split(","))
    strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-ttt", "-y", f"-etrace={names}")
    keyctl = next(n for n in calls.refused(platform.machine()) if n in {250, 219})
    script = ASKS.format(keyctl=keyctl)
    end = box.run(
        [sys.executable, "-S", "-E", "-c", script],
        prefix=(*strace, f"-o{trace}", *PID_NAMESPACE),
    )
    assert (end.err, end.code) == (b"", 0)
    text = trace.read_bytes().replace(bytes(box.folder / "sbseal"), b"/.sb/sbseal")
    follower = Follower()
    events = list(follower.events([text]))
    asked = [(n, e) for n, e in enumerate(events) if isinstance(e, Unusual) and e.call == "keyctl"]
    assert len(asked) == sum(map(int, end.out.split())) > 300 * tasks
    assert {event.error for _, event in asked} == {errno.errorcode[errno.EPERM]}
    assert {event.process for _, event in asked} <= set(follower.tasks)
    assert len(follower.tasks) == tasks
    assert follower.counts.unreadable == 0
    if tasks == 1:
        (after,) = [n for n, e in enumerate(events) if getattr(e, "path", b"") == bytes(made)]
        assert after > max(number for number, _ in asked)
