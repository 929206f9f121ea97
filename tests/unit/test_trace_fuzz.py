"""Arbitrary bytes never stop the reading of a trace, and its memory is that of what lives."""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmbridge.trace import Begin, Follower
from slurmbridge.trace.events import Remarked, Started, Unreadable
from slurmbridge.trace.living import Process
from tests.support.traces import EXECUTES, RECORDED

LINES = [
    line
    for name in ("acts-audit", "refused-audit", "refused-full", "tasks-audit")
    for line in (RECORDED / f"{name}.trace").read_bytes().splitlines(keepends=True)
]
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
begins = st.sampled_from(Begin)


def agrees(text: bytes, begin: Begin) -> None:
    """Every line has one number, and those that nobody can read are counted and told."""
    follower = Follower(begin)
    events = list(follower.events([text]))
    counts = follower.counts
    assert counts.lines == text.count(b"\n") + (not text.endswith(b"\n") and text != b"")
    unreadable = [event for event in events if isinstance(event, Unreadable)]
    assert counts.unreadable == len({event.line for event in unreadable}) == len(unreadable)
    assert counts.remarks == sum(isinstance(event, Remarked) for event in events)
    assert all(1 <= event.line <= counts.lines for event in events)
    assert 0 <= counts.cut <= counts.lines - counts.unreadable


@quick
@given(st.binary(max_size=400), begins)
def test_arbitrary_bytes(text: bytes, begin: Begin) -> None:
    agrees(text, begin)


@quick
@given(st.lists(st.binary(max_size=60), max_size=12), begins)
def test_arbitrary_calls(rests: list[bytes], begin: Begin) -> None:
    names = (b"openat(", b"<... clone resumed>", b"--- SIG", b"+++ ", b"execve(", b"connect(")
    first = b'7 1.000000 execve("/.sb/sbseal", ["a"], 0x1 /* 0 vars */) = 0\n'
    lines = (b"7 2.000000 " + names[i % 6] + rest + b"\n" for i, rest in enumerate(rests))
    agrees(first + b"".join(lines), begin)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Lines of a real trace: some left out, moved, cut, with bytes changed."""
    start = draw(st.integers(0, len(LINES) - 1))
    lines = LINES[start : start + draw(st.integers(1, 60))]
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        place = draw(st.integers(0, len(line)))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            lines[at] = line[:place]
        elif kind == 1:
            lines[at] = line[:place] + draw(st.binary(max_size=5)) + line[place:]
        elif kind == 2:
            lines[at] = line[:place] + draw(st.binary(min_size=1, max_size=1)) + line[place + 1 :]
        else:
            lines.insert(draw(st.integers(0, len(lines))), line)
    return b"".join(lines)


@settings(quick, max_examples=300)
@given(damaged(), begins)
def test_damaged_traces(text: bytes, begin: Begin) -> None:
    agrees(text, begin)


@quick
@given(st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_pieces_of_any_size(sizes: list[int]) -> None:
    text = b"".join(LINES[-60:])

    def pieces() -> Iterator[bytes]:
        start, turn = 0, 0
        while start < len(text):
            size = sizes[turn % len(sizes)]
            yield text[start : start + size]
            start, turn = start + size, turn + 1

    assert list(Follower().events(pieces())) == list(Follower().events([text]))


def churn(rounds: int) -> Iterator[bytes]:
    """Processes that come and go, each opening files of its own; and some that leave calls open."""
    yield b"5 1.000000 " + EXECUTES
    for turn in range(rounds):
        pid = 100 + turn % 30_000
        yield (
            b"5 2.000000 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n"
            b'%d 2.000000 chdir("d%d") = 0\n'
            b'%d 2.000000 openat(AT_FDCWD</d%d>, "f%d", O_RDONLY) = 3</d/f%d>\n'
            b'%d 2.000000 read(3</d/f%d>, ""..., 8) = 8\n'
            b"5 2.000000 <... clone resumed>) = %d\n"
            b'%d 2.000000 unlink("x" <unfinished ...>\n'
            b"%d 2.000000 +++ killed by SIGKILL +++\n"
        ) % (pid, turn, pid, turn, turn, turn, pid, turn, turn % 900, pid, pid)


def test_memory_is_that_of_what_lives() -> None:
    def used(rounds: int) -> int:
        follower = Follower(Begin.FIRST)
        started = 0
        tracemalloc.start()
        for event in follower.events(churn(rounds)):
            started += isinstance(event, Started)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (started, follower.counts.living) == (rounds + 1, 1)
        assert follower.counts.most_living == 2
        assert len(follower._numbers) + len(follower._numbers.unknown) == 1
        assert follower.counts.unreadable == 0
        return size

    # The caches are full by then.
    small = used(900)
    assert used(2700) < small + 50_000


def test_generations_that_are_gone_are_forgotten() -> None:
    """Each process starts one more and ends: a chain of daemons."""
    first = b"1 1.000000 " + EXECUTES
    chain = (
        b"%d 1.000000 fork() = %d\n%d 1.000000 +++ exited with 0 +++\n" % (n, n + 1, n)
        for n in range(1, 500)
    )
    follower = Follower(Begin.FIRST)
    list(follower.events([first, *chain]))
    gc.collect()
    assert sum(isinstance(thing, Process) for thing in gc.get_objects()) < 5


def test_a_line_without_an_end_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurmbridge.trace.follow.LONGEST_LINE", 1000)
    follower = Follower()
    events = list(follower.events([b"x" * 600] * 5 + [b"\n", b"y\n", b"z" * 2000]))
    assert [event.line for event in events] == [1, 2, 3]
    assert follower.counts.unreadable == 3
