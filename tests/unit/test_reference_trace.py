"""The second reader, which only tests use, on lines that were written by hand."""

from slurmbridge.trace.fold import fold
from slurmbridge.trace.follow import Begin, Follower
from slurmbridge.trace.report import USUAL
from tests.support.reference_trace import Reference, split, unquoted
from tests.support.truth.deeds import Deeds, Executed, Reached, Tree, of_report

LINES = rb"""
7 1.000000 execve("/bin/a", ["a", "x y", "q\"", "\377\n", ""], 0x7ffe /* 3 vars */) = 0
7 1.000001 chdir("/output") = 0
7 1.000002 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>
8 1.000003 mkdir("new", 0777) = 0
8 1.000004 openat(AT_FDCWD</output>, "new/<1>", O_WRONLY|O_CREAT, 0644) = 3</output/new/\0741\76>
8 1.000005 write(3</output/new/\0741\76>, ") = 9\n"..., 6) = 6
7 1.000006 <... clone resumed>, child_tidptr=0x7f) = 8
8 1.000007 openat(AT_FDCWD</output>, "../input/none", O_RDONLY) = -1 ENOENT (No such file or directory)
8 1.000008 rename("new/<1>", "done") = 0
8 1.000009 kill(8, SIGTERM) = 0
8 1.000010 +++ killed by SIGTERM +++
7 1.000011 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_KILLED, si_pid=8} ---
7 1.000012 connect(3<socket:[5]>, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 ECONNREFUSED (Connection refused)
7 1.000013 bind(3<socket:[5]>, {sa_family=AF_UNIX, sun_path=@"hid\0den"}, 8) = 0
7 1.000014 exit_group(2) = ?
7 1.000015 +++ exited with 2 +++
""".lstrip()  # noqa: E501


def test_arguments_are_told_apart_whatever_stands_in_them() -> None:
    assert split(r'"a, \")", [b, {c=1}], 3</x,y>) = 0') == (
        [r'"a, \")"', "[b, {c=1}]", "3</x,y>"],
        " = 0",
    )


def test_escapes_stand_for_bytes() -> None:
    assert unquoted(r'"a\12b\0\377\"\\\t"') == b'a\nb\0\xff"\\\t'


def test_every_kind_of_line_is_read() -> None:
    deeds = Reference(LINES).deeds
    child = Tree((), "SIGTERM", 0, ())
    argv = (b"a", b"x y", b'q"', b"\xff\n", b"")
    assert deeds.trees == (Tree((Executed(b"/bin/a", argv, ""),), "exit 2", 0, (child,)),)
    assert set(deeds.acts) == {
        ("executed", b"/bin/a"),
        ("created", b"/output/new"),
        ("written", b"/output/new/<1>"),
        ("created", b"/output/new/<1>"),
        ("renamed", b"/output/new/<1>"),
        ("replaced", b"/output/done"),
    }
    assert dict(deeds.tried) == {("read", b"/input/none", "ENOENT"): 1}
    assert deeds.moved == {b"/output/new/<1>": (0, 6)}
    assert dict(deeds.sent) == {("SIGTERM", "kill", "process"): 1}
    assert set(deeds.network) == {
        Reached("connect", "AF_INET", b"127.0.0.1", 9, "ECONNREFUSED"),
        Reached("bind", "AF_UNIX", b"\0hid\0den", None, ""),
    }


def test_both_readers_say_the_same() -> None:
    told = of_report(fold(Follower(Begin.FIRST).events([LINES]), USUAL))
    assert told == Reference(LINES).deeds
    assert told != Deeds()
