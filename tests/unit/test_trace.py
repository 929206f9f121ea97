"""What is read from traces that strace 7.2 really wrote, and from single lines."""

from collections.abc import Iterable

import pytest

from slurmbridge.trace import Begin, Follower
from slurmbridge.trace.events import (
    Access,
    Address,
    Change,
    Changed,
    Contact,
    Contacted,
    Created,
    Deleted,
    Ended,
    Executed,
    Happening,
    Key,
    Linked,
    Listening,
    Made,
    Missed,
    Opened,
    Refused,
    Remarked,
    Renamed,
    Signalled,
    SignalSent,
    SocketMade,
    Started,
    ThreadStarted,
    Transferred,
    Unreadable,
    Unusual,
)
from tests.support.traces import FIRST, RECORDED, text_of

KEY = Key(7, 1)


def told(*lines: bytes, begin: Begin = Begin.FIRST) -> list[Happening]:
    """What one process, which has begun to run, then does."""
    return list(Follower(begin).events([text_of(FIRST, *lines)]))[2:]


def of(kind: type[Happening], events: Iterable[Happening]) -> list[Happening]:
    return [event for event in events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def acts() -> list[Happening]:
    """A shell compiles tests/recorded/strace-7.2/acts.c and runs it."""
    return list(Follower().events([(RECORDED / "acts-audit.trace").read_bytes()]))


def test_the_launcher_and_the_helpers_are_cut_away(acts: list[Happening]) -> None:
    started, executed = acts[:2]
    assert isinstance(started, Started)
    assert isinstance(executed, Executed)
    assert (started.process.pid, started.parent) == (11150, None)
    assert executed.path == b"/usr/bin/sh"
    assert executed.argv[:2] == (b"sh", b"-c")
    text = (RECORDED / "acts-audit.trace").read_bytes().split(b"\n")
    # The three tries along PATH before it are the helper's.
    assert b"execve" in text[executed.line - 2]
    ends = [event for event in acts if isinstance(event, Ended)]
    assert (ends[-1].process, ends[-1].code) == (started.process, 0)


def test_every_line_is_either_cut_or_read(acts: list[Happening]) -> None:
    follower = Follower()
    list(follower.events([(RECORDED / "acts-audit.trace").read_bytes()]))
    counts = follower.counts
    assert (counts.unreadable, counts.living) == (0, 0)
    outside = {b"11092", b"11101", b"11104", b"11108", b"11109", b"11131", b"11130", b"11136"}
    text = (RECORDED / "acts-audit.trace").read_bytes().splitlines()
    started = next(i for i, line in enumerate(text) if b'"/usr/bin/sh"' in line)
    after = sum(line.split()[0] in outside for line in text[started:])
    assert started < counts.cut <= started + after + 10


def test_processes_and_their_ends(acts: list[Happening]) -> None:
    ends = [(event.code, event.signal) for event in acts if isinstance(event, Ended)]
    for end in [(7, None), (4, None), (3, None), (None, "SIGTERM"), (None, "SIGABRT")]:
        assert end in ends
    for signal in ("SIGSEGV", "SIGKILL", "SIGINT", "SIGUSR1"):
        assert (None, signal) in ends
    starts = [event for event in acts if isinstance(event, Started)]
    assert len(starts) == len(ends)
    assert len({event.process for event in starts}) == len(starts)
    parents = {event.process.pid: event.parent.pid for event in starts if event.parent}
    # A daemon; the shell of posix_spawn, and its pipeline.
    assert (parents[11167], parents[11166]) == (11166, 11159)
    assert {pid for pid, parent in parents.items() if parent == 11162} == {11163, 11164, 11165}
    assert len(of(ThreadStarted, acts)) == 4


def test_programs(acts: list[Happening]) -> None:
    programs = {(event.path, event.argv): event for event in acts if isinstance(event, Executed)}
    # From a thread: strace prints ENOSYS for it when it filters, and loses the call after it.
    (missed,) = [event for event in acts if isinstance(event, Missed)]
    assert missed.process.pid == 11178
    assert programs[b"/bin/true", (b"true", b"from-thread")].error == ""
    assert programs[b"/bin/true", (b"true", b"from-thread")].process.pid == 11178
    assert programs[b"/nothing/here", (b"nothing",)].error == "ENOENT"
    assert programs[b"/code/acts.c", (b"acts",)].error == "EACCES"
    assert programs[b"/usr/bin/true", (b"viafd",)].error == ""
    assert programs[b"/memfd:in memory", (b"memfd",)].whole
    (cut,) = [event for event in programs.values() if not event.whole]
    assert (cut.argv[0], cut.argv[2]) == (b'tr"ue', b"z\n\xff")


def test_names(acts: list[Happening]) -> None:
    made = {event.path for event in acts if isinstance(event, Opened) and event.creates}
    for name in (
        b"relative",
        b"up",
        b"by-dirfd",
        b"line\nfeed",
        b'quo"te',
        b"a>b<c",
        b"not\xff\xfeutf",
        b"back\\slash",
        b"a, b) = 3",
        b"tab\tesc\x1b7",
        b"\xc3\xa9t\xc3\xa9",
        b"a>b\n/inner",
        b"er/by-clone",
        b"by-chdirer",
    ):
        assert b"/tmp/deep/" + name in made
    assert made >= {b"/tmp/by-clone", b"/tmp/shared-cwd", b"/tmp/own-cwd", b"/tmp/daemon"}
    assert b"/output/result" in made


def test_renamed_linked_and_deleted(acts: list[Happening]) -> None:
    renamed = [(e.source, e.path) for e in acts if isinstance(e, Renamed)]
    assert renamed == [
        (b"/tmp/deep/relative", b"/tmp/deep/renamed"),
        (b"/tmp/deep/renamed", b"/tmp/out"),
        (b"/tmp/out", b"/tmp/deep/er/back"),
        (b"/tmp/deep/er", b"/tmp/moved"),
    ]
    linked = [(e.source, e.path, e.symbolic) for e in acts if isinstance(e, Linked)]
    assert linked == [
        (b"/tmp/deep/up", b"/tmp/deep/hard", False),
        (b"up", b"/tmp/deep/soft", True),
        (b"/proc/self/fd/5", b"/tmp/linked", False),
    ]
    deleted = [(e.path, e.error) for e in acts if isinstance(e, Deleted)][-5:]
    assert deleted == [
        (b"/tmp/moved", "ENOTEMPTY"),
        (b"/tmp/moved/by-clone", ""),
        (b"/tmp/moved/back", ""),
        (b"/tmp/moved/gone", "ENOENT"),
        (b"/tmp/moved", ""),
    ]
    assert (b"/tmp/deep/a>b<c", Change.MODE, b"0640") in {
        (e.path, e.change, e.value) for e in acts if isinstance(e, Changed)
    }
    assert (b"/tmp/deep/fifo", Made.FIFO) in {
        (e.path, e.made) for e in acts if isinstance(e, Created)
    }


def test_what_could_not_be_opened(acts: list[Happening]) -> None:
    failed = {(e.path, e.error) for e in acts if isinstance(e, Opened) and e.error}
    assert failed >= {
        (b"/tmp/deep/missing", "ENOENT"),
        (b"/etc/passwd", "EROFS"),
        (b"/proc/1/mem", "EACCES"),
        (b"?", "EFAULT"),
        (b"/tmp/moved/in-deleted", "ENOENT"),
    }


def test_the_network(acts: list[Happening]) -> None:
    contacts = [(e.contact, e.address, e.error) for e in acts if isinstance(e, Contacted)]
    loopback = Address("AF_INET", b"127.0.0.1", 54843)
    assert contacts == [
        (Contact.CONNECT, Address("AF_INET", b"192.0.2.1", 80), "ENETUNREACH"),
        (Contact.BIND, Address("AF_INET", b"127.0.0.1", 0), ""),
        (Contact.CONNECT, loopback, ""),
        (Contact.ACCEPT, Address("AF_INET", b"", None), ""),
        (Contact.SEND, Address("AF_INET6", b"2001:db8::1", 53), "ENETUNREACH"),
        (Contact.CONNECT, Address("AF_INET6", b"fe80::1", 53), "ENETUNREACH"),
        (Contact.SEND, loopback, ""),
        (Contact.SEND, loopback, ""),
        (Contact.BIND, Address("AF_UNIX", b'/tmp/so"ck', None), ""),
        (Contact.CONNECT, Address("AF_UNIX", b'/tmp/so"ck', None), "ECONNREFUSED"),
        (Contact.CONNECT, Address("AF_UNIX", b"\0abstract", None), "ECONNREFUSED"),
    ]
    assert len(of(Listening, acts)) == 1
    sockets = [(e.family, e.kind) for e in acts if isinstance(e, SocketMade)]
    assert ("AF_NETLINK", "SOCK_RAW") in sockets


def test_signals(acts: list[Happening]) -> None:
    sent = [(e.call, e.signal) for e in acts if isinstance(e, SignalSent)]
    assert ("tgkill", "SIGABRT") in sent
    assert ("kill", "SIGSTOP") in sent
    arrived = {e.signal for e in acts if isinstance(e, Signalled)}
    assert arrived >= {"SIGTERM", "SIGABRT", "SIGSEGV", "SIGSTOP", "SIGCONT", "SIGUSR1"}
    assert "SIGCHLD" not in arrived
    unusual = [(e.call, e.error) for e in acts if isinstance(e, Unusual)]
    assert unusual == [("unshare", "EPERM"), ("memfd_create", "")]


def test_a_thread_executes_a_program() -> None:
    text = (RECORDED / "thread-executes-full.trace").read_bytes()
    events = list(Follower(Begin.FIRST).events([text]))
    programs = [(e.process.pid, e.argv, e.error) for e in events if isinstance(e, Executed)]
    assert programs == [(11322, (b"/tmp/acts",), ""), (11341, (b"true", b"from-thread"), "")]
    assert of(Missed, events) == []
    assert [e.thread for e in events if isinstance(e, ThreadStarted)] == [11342]
    assert [e.process.pid for e in events if isinstance(e, Ended)] == [11341]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_size_of_the_pieces_makes_no_difference(acts: list[Happening], size: int) -> None:
    text = (RECORDED / "acts-audit.trace").read_bytes()
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    assert list(Follower().events(pieces)) == acts


def opened(path: bytes, error: str, access: Access = Access.READ) -> Opened:
    return Opened(2, 2_000_000, KEY, path, None, access, False, False, error)


@pytest.mark.parametrize(
    ("call", "event"),
    [
        (b'open("x", O_RDONLY) = -1 ENOENT (No such file)', opened(b"?/x", "ENOENT")),
        (b'openat(AT_FDCWD</w>, "./a/../b//c/", O_RDONLY) = ?', opened(b"/w/b/c", "?")),
        (b'openat(3</d (deleted)>, "x", O_PATH) = ?', opened(b"/d/x", "?", Access.NOTHING)),
        (b'openat(3</d>(deleted), "x", O_RDONLY) = ?', opened(b"/d/x", "?")),
        (b'openat(-1, "x", O_RDONLY) = -1 EBADF (Bad)', opened(b"?/x", "EBADF")),
        (b'openat(-1, "/x", O_RDWR) = -1 EIO (Bad)', opened(b"/x", "EIO", Access.BOTH)),
        (
            b'openat2(AT_FDCWD</w>, "a", {flags=O_RDONLY, resolve=RESOLVE_BENEATH}, 24) = ?',
            opened(b"/w/a", "?"),
        ),
        (
            b'openat(AT_FDCWD</w>, "a", O_RDONLY) = 3</r, "b", O_RDWR) = 4\\76>',
            Opened(
                2, 2_000_000, KEY, b"/w/a", b'/r, "b", O_RDWR) = 4>', Access.READ, False, False, ""
            ),
        ),
        (
            b'renameat2(AT_FDCWD</w>, "a", 3</v>, "b", RENAME_EXCHANGE) = 0',
            Renamed(2, 2_000_000, KEY, b"/w/a", b"/v/b", True, ""),
        ),
        (
            b"io_uring_setup(1, NULL) = -1 ENOSYS (Function not implemented)",
            Unusual(2, 2_000_000, KEY, "io_uring_setup", b"1, NULL", "ENOSYS"),
        ),
        (
            b"syscall_0x270f(0x1, 0x2) = -1 ENOSYS (Function not implemented)",
            Refused(2, 2_000_000, KEY, "syscall_0x270f", b"0x1, 0x2", "ENOSYS"),
        ),
        (
            b"clone3({flags=CLONE_NEWUSER}, 88) = -1 EPERM (Operation not permitted)",
            Refused(2, 2_000_000, KEY, "clone3", b"{flags=CLONE_NEWUSER}, 88", "EPERM"),
        ),
        (
            b"socket(0x2e /* AF_??? */, SOCK_STREAM, htons(0 /* ETH_P_??? */)) = -1 EPERM (No)",
            SocketMade(
                2,
                2_000_000,
                KEY,
                "0x2e /* AF_??? */",
                "SOCK_STREAM",
                "htons(0 /* ETH_P_??? */)",
                "EPERM",
            ),
        ),
    ],
)
def test_one_line(call: bytes, event: Happening) -> None:
    assert told(b"7 2.000000 " + call) == [event]


def test_sent_text_is_never_taken_for_an_address() -> None:
    text = rb'sendto(3<socket:[1]>, "{sa_family=AF_INET, sin_port=htons(1)}", 9, 0, NULL, 0) = 9'
    assert told(b"7 2.000000 " + text) == []


def test_bytes_are_counted_for_each_file() -> None:
    events = told(
        b'7 2.000000 read(3</a\\76>, "= 99", 100) = 4',
        b'7 2.000000 write(4</b>, "x"..., 3 <unfinished ...>',
        b"7 2.000000 <... write resumed>) = 3",
        b'7 2.000000 read(3</a\\76>, ""..., 100) = 5',
        b'7 2.000000 read(5<pipe:[1]>, ""..., 100) = 5',
        b"7 2.000000 +++ exited with 0 +++",
    )
    assert events == [
        Transferred(7, 2_000_000, KEY, b"/a>", 9, 0),
        Transferred(7, 2_000_000, KEY, b"/b", 0, 3),
        Ended(7, 2_000_000, KEY, 0, None),
    ]


def test_a_call_that_never_ended_is_told_with_an_unknown_end() -> None:
    call = b'7 2.000000 unlink("/output/x" <unfinished ...>'
    killed = b"7 3.000000 +++ killed by SIGKILL (core dumped) +++"
    assert told(call, killed) == [
        Deleted(3, 3_000_000, KEY, b"/output/x", "?"),
        Ended(3, 3_000_000, KEY, None, "SIGKILL"),
    ]
    assert told(call) == [Deleted(2, 2_000_000, KEY, b"/output/x", "?")]


def test_a_number_that_is_given_again_is_another_process() -> None:
    events = told(
        b"7 2.000000 fork() = 9",
        b"9 2.000000 +++ exited with 1 +++",
        b"7 2.000000 vfork( <unfinished ...>",
        b'9 2.000000 unlink("/a") = 0',
        b"7 2.000000 <... vfork resumed>) = 9",
        b"9 2.000000 +++ exited with 2 +++",
    )
    assert [(e.process, e.code) for e in events if isinstance(e, Ended)] == [
        (Key(9, 2), 1),
        (Key(9, 3), 2),
    ]


def test_what_strace_says_for_itself_and_what_nobody_understands() -> None:
    lines = (
        b"7 2.000000 strace: [ Process PID=7 runs in 32 bit mode. ]",
        b"strace: Process 9 attached",
        b"",
        b"7 2.000000 <... openat resumed>) = 3",
        b"7 2.000000 openat(AT_FDCWD) = 3",
        b'7 2.000000 read(3, "ab',
    )
    events = told(*lines)
    assert [type(event) for event in events] == [Remarked] * 2 + [Unreadable] * 4
    assert [event.line for event in events] == [2, 3, 4, 5, 6, 7]


def test_a_last_line_without_an_end_is_not_believed() -> None:
    follower = Follower(Begin.FIRST)
    events = list(follower.events([FIRST, b'7 2.000000 unlink("/a") = 0']))
    assert isinstance(events[-1], Unreadable)
    assert (follower.counts.lines, follower.counts.unreadable) == (2, 1)


def test_a_trace_that_was_cut_at_its_limit_ends_within_a_line() -> None:
    follower = Follower(Begin.FIRST, cut=True)
    events = list(follower.events([FIRST, b'7 2.000000 unlink("/a") = 0']))
    assert not any(isinstance(event, Unreadable | Deleted) for event in events)
    assert (follower.counts.lines, follower.counts.unreadable) == (1, 0)


@pytest.mark.parametrize(
    "call",
    [
        b"sendfile(4</b>, 3</a>, NULL, 100) = 9",
        b"sendfile(4</b>, 3</a>, [0] => [9], 100) = 9",
        b"copy_file_range(3</a>, NULL, 4</b>, NULL, 100, 0) = 9",
        b"copy_file_range(3</a>, [0] => [9], 4</b>, [1] => [10], 100, 0) = 9",
        b"splice(3</a>, [0] => [9], 4</b>(deleted), NULL, 100, 0) = 9",
    ],
)
def test_bytes_that_the_kernel_copies_are_counted_for_both_files(call: bytes) -> None:
    events = told(b"7 2.000000 " + call, b"7 2.000000 +++ exited with 0 +++")
    moved = {(e.path, e.read, e.written) for e in events if isinstance(e, Transferred)}
    assert moved == {(b"/a", 9, 0), (b"/b", 0, 9)}


def test_bytes_between_a_file_and_a_pipe_are_those_of_the_file() -> None:
    events = told(
        b"7 2.000000 splice(3</a>, NULL, 4<pipe:[5]>, NULL, 100, 0 <unfinished ...>",
        b"7 2.000000 <... splice resumed>) = 9",
        b"7 2.000000 sendfile(4<socket:[5]>, 3</a>, NULL, 100) = -1 EAGAIN (Resource)",
        b"7 2.000000 +++ exited with 0 +++",
    )
    moved = [(e.path, e.read, e.written) for e in events if isinstance(e, Transferred)]
    assert moved == [(b"/a", 9, 0)]


def test_who_accepts_without_asking_for_an_address_is_told() -> None:
    events = told(
        b"7 2.000000 socket(AF_UNIX, SOCK_STREAM, 0) = 3<socket:[5]>",
        b"7 2.000000 accept(3<socket:[5]>, NULL, NULL) = 4<socket:[6]>",
        b"7 2.000000 fork() = 8",
        b"8 2.000000 accept4(3<socket:[5]>, NULL, NULL, SOCK_CLOEXEC) = 4<socket:[7]>",
        b"7 2.000000 accept(9<socket:[8]>, NULL, NULL) = 4<socket:[9]>",
        b"7 2.000000 accept(3<socket:[5]>, NULL, NULL) = -1 EAGAIN (Resource)",
    )
    contacts = [e for e in events if isinstance(e, Contacted)]
    assert [e.contact for e in contacts] == [Contact.ACCEPT] * 3
    families = [e.address.family for e in contacts]
    assert families == ["AF_UNIX", "AF_UNIX", "AF_UNSPEC"]
    assert {e.address.host for e in contacts} == {b""}
