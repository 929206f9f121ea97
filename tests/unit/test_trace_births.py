"""Whose child a number is that no call of the trace has told."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmbridge.trace import Begin, Follower
from slurmbridge.trace.births import Births, Origin
from slurmbridge.trace.events import (
    Deleted,
    Ended,
    Executed,
    Happening,
    Refused,
    Started,
    ThreadStarted,
    Unreadable,
)
from slurmbridge.trace.living import Seen

RECORDED = Path(__file__).parents[1] / "recorded/strace-7.2"

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
        # One call had returned before the other began.
        b"43 2.000000 +++ exited with 0 +++",
        b"42 2.000000 +++ exited with 0 +++",
    )
    assert parents(events) == {
        40: (None, True),
        41: (40, True),
        43: (40, True),
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


def test_who_wants_the_number_told_in_its_parent_is_no_sibling() -> None:
    _, events = read(
        FIRST,
        b"7 2.000000 fork() = 8",
        b"8 2.000000 clone(child_stack=0x1, flags=CLONE_PARENT_SETTID|SIGCHLD) = 9",
        b"9 2.000000 +++ exited with 0 +++",
    )
    assert parents(events)[9] == (8, True)


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


# --- as strace 7.2 has recorded it ----------------------------------------------------------------


def recorded(name: str, *, noted: bool = True) -> list[Happening]:
    text = (RECORDED / f"{name}.trace").read_bytes()
    events = list(Follower(noted=noted).events([text]))
    assert not any(isinstance(event, Unreadable) for event in events)
    return events


def ends(events: list[Happening]) -> dict[int, int | str | None]:
    return {
        event.process.pid: event.signal or event.code
        for event in events
        if isinstance(event, Ended)
    }


def test_idle_threads_do_not_take_the_children_of_vfork() -> None:
    """A Java machine, whose threads say nothing before they end."""
    events = recorded("java-audit")
    children = dict.fromkeys((419662, 419664, 419665), (419467, True))
    assert parents(events) == {419467: (None, True), **children}
    assert ends(events) == {419662: 0, 419664: 4, 419665: "SIGKILL", 419467: 0}
    programs = {e.process.pid: e.path for e in events if isinstance(e, Executed) and not e.error}
    assert programs[419664] == b"/bin/sh"


def test_children_of_tasks_are_those_of_the_right_task() -> None:
    """Two started at the same time: nobody knows, but the order of the numbers is likely right."""
    events = recorded("three-tasks-audit")
    assert parents(events) == {
        **dict.fromkeys((121487, 121488, 121489), (None, True)),
        121491: (121487, False),
        121492: (121488, False),
        121493: (121489, True),
    }


def test_a_thread_of_the_launcher_is_none_of_the_programs_processes() -> None:
    events = recorded("launcher-threads-audit")
    assert 14488 not in parents(events)
    assert all(certain for _, certain in parents(events).values())
    assert len(parents(events)) == 13


def test_a_number_in_straces_own_counting_is_whose_the_call_says() -> None:
    """Two threads of the launcher begin others at once; the first number is given to the wrong."""
    start = (
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
        b"7 2.000000 clone(flags=CLONE_THREAD) = 50",
    )
    _, events = read(
        ENTER,
        *start,
        b"7 2.000000 clone(flags=CLONE_THREAD <unfinished ...>",
        b"50 2.000000 clone(flags=CLONE_THREAD <unfinished ...>",
        b'52 2.000000 unlink("/a") = 0',
        b"7 2.000000 <... clone resumed>) = 51",
        b"50 2.000000 <... clone resumed>) = 52",
        b'51 2.000000 unlink("/b") = 0',
    )
    assert set(parents(events)) == {40}
    assert deleted(events) == []


def test_a_clone_that_is_refused_and_never_ends_is_told_once() -> None:
    (refused,) = [
        e
        for e in recorded("untraced-full", noted=False)
        if isinstance(e, Refused)
        if e.call == "clone"
    ]
    assert (refused.error, refused.process.pid) == ("EPERM", 14341)
    assert refused.arguments.startswith(b"0x800011")


def test_a_thread_that_executes_a_program_while_it_waits() -> None:
    _, events = read(
        ENTER,
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
        b"40 2.000000 clone(flags=CLONE_THREAD) = 4",
        b"40 2.000000 clone(flags=SIGCHLD <unfinished ...>",
        b'41 2.000000 execve("/bin/b", ["b"], 0x1 /* 0 vars */ <unfinished ...>',
        b"40 2.000000 +++ superseded by execve in pid 41 +++",
        b"40 2.000000 <... execve resumed>) = 0",
    )
    assert parents(events) == {40: (None, True)}
    assert [e.process.pid for e in events if isinstance(e, Executed)] == [40, 40]


# --- random trees of processes --------------------------------------------------------------------


class Tree:
    """A kernel and strace: who starts whom, in steps that may come in any order."""

    def __init__(self, draw: Callable[[int], int], most: int = 14) -> None:
        self.draw = draw
        self.most = most
        self.lines: list[bytes] = []
        self.inner, self.outer = 3, 40
        # The process of each number; the call that each living one is in.
        self.group = {40: 40}
        self.alive: dict[int, list[int] | None] = {40: None}
        # Who may be told as its parent: the process, or the number that called.
        self.started: dict[int, set[int]] = {}

    def say(self, text: bytes, *values: int) -> None:
        self.lines.append(text % values)

    def step(self) -> None:
        """One thread goes on: it begins a call, gets a number here, then there, and returns."""
        pid = list(self.alive)[self.draw(len(self.alive))]
        call = self.alive[pid]
        if call is None:
            self.begin(pid)
            return
        stage, flags = call[0], (b"CLONE_THREAD" if call[1] else b"SIGCHLD")
        if stage == 0:
            self.inner += 1
            call += [self.inner]
        elif stage == 1:
            self.outer += 1 + self.draw(3) // 2 * self.draw(5)
            self.group[self.outer] = self.group[pid] if call[1] else self.outer
            if not call[1]:
                self.started[self.outer] = {self.group[pid], pid}
            self.alive[self.outer] = None
        else:
            whole = self.lines[-1].endswith(b"flags=%s <unfinished ...>" % flags)
            if whole and self.lines[-1].startswith(b"%d " % pid):
                self.lines.pop()
                self.say(b"%d 2.000000 clone(flags=" + flags + b") = %d", pid, call[2])
            else:
                self.say(b"%d 2.000000 <... clone resumed>) = %d", pid, call[2])
            self.alive[pid] = None
            return
        call[0] += 1

    def begin(self, pid: int) -> None:
        choice = self.draw(8)
        if choice < 4 and len(self.group) < self.most:
            thread = choice == 0
            self.alive[pid] = [0, thread]
            flags = b"CLONE_THREAD" if thread else b"SIGCHLD"
            self.say(b"%d 2.000000 clone(flags=" + flags + b" <unfinished ...>", pid)
        elif choice < 6:
            self.say(b'%d 2.000000 unlink("/a") = 0', pid)
        elif choice == 6 and self.group[pid] == pid and list(self.group.values()).count(pid) == 1:
            self.say(b'%d 2.000000 execve("/b", ["b"], 0x1 /* 0 vars */) = 0', pid)
        elif choice == 7 and pid != 40:
            self.end(pid)

    def end(self, pid: int) -> None:
        self.say(b"%d 2.000000 +++ exited with 0 +++", pid)
        del self.alive[pid]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
        for pid in sorted(self.alive, reverse=bool(self.draw(2))):
            if self.alive[pid] is None:
                self.end(pid)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(5, 90))
def test_whatever_starts_at_once_nothing_certain_is_wrong(random: Random, steps: int) -> None:
    tree = Tree(random.randrange)
    tree.run(steps)
    task = (
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
    )
    follower, events = read(ENTER, *task, *tree.lines)
    for pid, (parent, certain) in parents(events).items():
        # Of one that is itself not known for a thread, it is the number.
        assert pid == 40 or not certain or parent in tree.started.get(pid, ()), pid
    assert not any(isinstance(event, Unreadable) for event in events)
    assert len(follower._waiting) == 0


class Forgetful(Births):
    """Seeks the kinds of calls anew whenever somebody asks."""

    @property
    def changes(self) -> int:
        self._found.clear()
        return super().changes

    def several(self, seen: Seen) -> bool:
        self._found.clear()
        return super().several(seen)

    def take(self, seen: Seen, *, certain: bool = True) -> Origin:
        self._found.clear()
        return super().take(seen, certain=certain)

    def match(self, waiting: list[Seen]) -> bool:
        self._found.clear()
        return super().match(waiting)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(20, 400), st.sampled_from([FIRST, ENTER]))
def test_what_is_kept_of_those_that_wait_is_what_would_be_found(
    random: Random, steps: int, first: bytes
) -> None:
    tree = Tree(random.randrange, most=60)
    tree.run(steps)
    # Lines that are lost, lines that come late, and numbers that are given again.
    lines = [line for line in tree.lines if random.randrange(12)] * random.choice((1, 1, 2))
    for _ in range(random.randrange(12)):
        lines.insert(random.randrange(len(lines) + 1), lines.pop(random.randrange(len(lines))))
    begin = (
        b"7 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 40",
        b"20 2.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3",
        b'40 2.000000 execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0',
    )
    _, kept = read(first, *begin, *lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slurmbridge.trace.follow.Births", Forgetful)
        assert read(first, *begin, *lines)[1] == kept
