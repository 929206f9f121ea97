"""Text as strace writes it: what was recorded, and how a trace begins."""

from pathlib import Path

RECORDED = Path(__file__).parents[1] / "recorded/strace-7.2"
EXECUTES = b'execve("/bin/a", ["a"], 0x1 /* 0 vars */) = 0\n'
# A process that begins to run.
FIRST = b"7 1.000000 " + EXECUTES
# The launcher, sbseal and its probe, before the first task.
ENTER = (
    b'7 1.000000 execve("/usr/bin/apptainer", ["apptainer"], 0x1 /* 0 vars */) = 0\n'
    b"7 1.000000 clone(child_stack=0x1, flags=CLONE_NEWPID|SIGCHLD) = 20\n"
    b'20 1.000000 execve("/.sb/sbseal", ["/.sb/sbseal"], 0x1 /* 0 vars */) = 0\n'
    b"20 1.000000 clone(child_stack=NULL, flags=SIGCHLD) = 2\n"
    b'21 1.000000 execve("/.sb/sbprobe", ["sbprobe"], 0x1 /* 0 vars */) = 0\n'
    b"21 1.000000 +++ exited with 0 +++\n"
)


def text_of(beginning: bytes, *lines: bytes) -> bytes:
    """A trace that goes on with these lines."""
    return beginning + b"".join(line + b"\n" for line in lines)
