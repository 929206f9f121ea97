"""Whose child a number is that no call of the trace has told."""

from slurmbridge.trace import Begin, Follower
from slurmbridge.trace.events import Deleted, Happening, Refused, Started, ThreadStarted, Unreadable

FIRST = b'7 1.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0\n'
ENTER = (
    b'7 1.000000 execve("/usr/bin/apptainer", ["apptainer"], 0x1 /* 0 vars */) = 0\n'
    b"7 1.000000 clone(child_stack=0x1, flags=CLONE_NEWPID|SIGCHLD) = 20\n"
    b'20 1.000000 execve("/.sb/sbseal", ["/.sb/sbseal"], 0x1 /* 0 vars */) = 0\n'
    b"20 1.000000 clone(child_stack=NULL, flags=SIGCHLD) = 2\n"
    b'21 1.000000 execve("/.sb/sbprobe", ["sbprobe"], 0x1 /* 0 vars */) = 0\n'
    b"21 1.000000 +++ exited with 0 +++\n"
)


def read(first: bytes, *lines: bytes) -> tuple[Follower, list[Happening]]:
    follower = Follower(Begin.FIRST if first is FIRST else Begin.SEALED)
    return follower, list(follower.events([first + b"".join(line + b"\n" for line in lines)]))


def parents(events: list[Happening]) -> dict[int, tuple[int | None, bool]]:
    return {
        event.process.pid: (event.parent.pid if event.parent else None, event.certain)
        for event in events
        if isinstance(event, Started)
    }


def deleted(events: list[Happening]) -> list[tuple[int, bytes]]:
    return [(event.process.pid, event.path) for event in events if isinstance(event, Deleted)]


def test_two_processes_fork_at_once() -> None:
    _, events = read(
        FIRST,
        b"7 2.000000 fork() = 8",
        b"7 2.000000 fork( <unfinished ...>",
        b"8 2.000000 fork( <unfinished ...>",
        b"8 2.000000 <... fork resumed>) = 10",
        b"10 2.000000 +++ exited with 0 +++",
        b"9 2.000000 +++ exited with 0 +++",
        b"7 2.000000 <... fork resumed>) = 9",
    )
    # 10 is known by what the call gave; 9 is what is left.
    assert parents(events) == {7: (None, True), 8: (7, True), 10: (8, True), 9: (7, True)}


def test_what_cannot_be_known_is_said() -> None:
    _, events = read(
        FIRST,
        b"7 2.000000 fork() = 8",
        b"7 2.000000 fork( <unfinished ...>",
        b"8 2.000000 fork( <unfinished ...>",
        b"9 2.000000 +++ exited with 0 +++",
    )
    assert not parents(events)[9][1]


def test_numbers_of_a_namespace() -> None:
    _, events = read(
        ENTER,
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/nowhere/a", ["a"], 0x1 /* 0 vars */) = -1 ENOENT (No such file)',
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
        b"40 2.000000 vfork( <unfinished ...>",
        b"41 2.000000 fork() = 5",
        b"40 2.000000 <... vfork resumed>) = 4",
        b"40 2.000000 fork() = 6",
        # Both calls have returned: the distance of the last known numbers tells.
        b"43 2.000000 +++ exited with 0 +++",
        b"42 2.000000 +++ exited with 0 +++",
    )
    assert parents(events) == {
        40: (None, True),
        41: (40, True),
        43: (40, False),
        42: (41, True),
    }


def test_the_launchers_own_children_are_never_the_programs() -> None:
    follower, events = read(
        ENTER,
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
        b"7 2.000000 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD <unfinished ...>",
        b"40 2.000000 fork( <unfinished ...>",
        # It has to wait for the launcher's call to return.
        b'41 2.000000 unlink("/a") = 0',
        b'41 2.000000 unlink("/b") = 0',
        b"7 2.000000 <... clone resumed>, parent_tid=[42]) = 42",
        b'42 2.000000 unlink("/launcher") = 0',
        b"40 2.000000 <... fork resumed>) = 4",
    )
    assert deleted(events) == [(41, b"/a"), (41, b"/b")]
    assert parents(events) == {40: (None, True), 41: (40, True)}
    assert follower.counts.cut == 10


def test_what_waits_at_the_end_is_read() -> None:
    _, events = read(
        ENTER,
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
        b"7 2.000000 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD <unfinished ...>",
        b"40 2.000000 fork( <unfinished ...>",
        b'41 2.000000 unlink("/a") = 0',
    )
    # In doubt it is the program's.
    assert deleted(events) == [(41, b"/a")]
    assert parents(events)[41] == (40, False)


def test_a_program_that_never_starts() -> None:
    follower, events = read(
        ENTER,
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = -1 ENOENT (No such file)',
        b"40 2.000000 +++ exited with 127 +++",
        b"20 2.000000 +++ exited with 127 +++",
    )
    assert (events, follower.program, follower.counts.cut) == ([], None, 10)


def test_a_program_that_executes_sbseal_hides_nothing() -> None:
    _, events = read(
        ENTER,
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
        b'40 2.000000 execve("/.sb/sbseal", ["a"], 0x1 /* 0 vars */) = 0',
        b'40 2.000000 unlink("/a") = 0',
        b"40 2.000000 fork() = 4",
        b'41 2.000000 unlink("/b") = 0',
    )
    assert deleted(events) == [(40, b"/a"), (41, b"/b")]


def test_a_process_out_of_nowhere_is_shown_once_the_program_runs() -> None:
    _, events = read(FIRST, b'9 2.000000 unlink("/a") = 0')
    assert parents(events)[9] == (None, False)
    assert deleted(events) == [(9, b"/a")]


def test_a_fork_that_failed_has_no_child() -> None:
    _, events = read(
        FIRST,
        b"7 2.000000 fork( <unfinished ...>",
        b"7 2.000000 <... fork resumed>) = -1 EAGAIN (Resource temporarily unavailable)",
        b"9 2.000000 +++ exited with 0 +++",
    )
    assert parents(events)[9] == (None, False)
    _, events = read(FIRST, b"7 2.000000 fork() = -1 EAGAIN (Resource temporarily unavailable)")
    assert [type(event) for event in events[2:]] == [Refused]


def test_a_child_of_a_call_that_did_not_live_to_return() -> None:
    _, events = read(
        FIRST,
        b"7 2.000000 fork() = 8",
        b"8 2.000000 fork( <unfinished ...>",
        b"8 2.000000 +++ killed by SIGKILL +++",
        b"9 2.000000 +++ killed by SIGKILL +++",
    )
    assert parents(events)[9] == (8, False)


def test_siblings_threads_and_shared_folders() -> None:
    _, events = read(
        FIRST,
        b"7 2.000000 fork() = 8",
        b"8 2.000000 clone(child_stack=0x1, flags=CLONE_PARENT|SIGCHLD) = 9",
        b"9 2.000000 clone(child_stack=0x1, flags=CLONE_THREAD|CLONE_VM|CLONE_FS) = 10",
        b'10 2.000000 chdir("/d") = 0',
        b'9 2.000000 unlink("a") = 0',
        b"10 2.000000 unshare(CLONE_FS) = 0",
        b'10 2.000000 chdir("/e") = 0',
        b'9 2.000000 unlink("b") = 0',
        b'10 2.000000 unlink("c") = 0',
        b"9 2.000000 fork() = 11",
        b'11 2.000000 chdir("f") = 0',
        b'9 2.000000 unlink("d") = 0',
        b'11 2.000000 unlink("e") = 0',
    )
    assert parents(events)[9] == (7, True)
    assert [event.thread for event in events if isinstance(event, ThreadStarted)] == [10]
    assert deleted(events) == [
        (9, b"/d/a"),
        (9, b"/d/b"),
        (9, b"/e/c"),
        (9, b"/d/d"),
        (11, b"/d/f/e"),
    ]
    assert not any(isinstance(event, Unreadable) for event in events)


def test_ten_thousand_children_that_sleep() -> None:
    """In an audit trace they are silent until they are killed."""
    forks = [b"7 2.000000 fork() = %d" % pid for pid in range(1000, 11_000)]
    ends = [b"%d 3.000000 +++ killed by SIGKILL +++" % pid for pid in range(1000, 11_000)]
    follower, events = read(FIRST, *forks, *ends)
    assert all(parent == (7, True) for pid, parent in parents(events).items() if pid != 7)
    assert follower.counts.most_living == 2
