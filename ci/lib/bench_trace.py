"""How many lines of a trace are read in a second on one core, and whether memory grows.

usage: bench_trace.py [LINES]     of `full`, default 10 million; a twentieth of `audit`

The stream is made of recorded lines: a Process in which one program after the other does what
tests/recorded/strace-7.2/acts.c does, each under numbers of its own. `full` has 15 times as many
lines of calls that tell nothing, which is the share in the trace of a Python program with threads.
Making the stream is not counted. Prints one JSON list.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from slurmbridge.trace import Follower

RECORDED = Path(__file__).resolve().parents[2] / "tests/recorded/strace-7.2"
QUIET = re.compile(rb"\d+ +\S+ (?:<\.\.\. )?(?:rt_sig|futex|brk|mmap|access|close|rseq|set_robust)")
# The numbers that strace counts, and those that the container does.
NUMBER = re.compile(rb"^\d+|(?<=execve in pid )\d+")
GIVEN = re.compile(rb"((?:fork|clone)(?: resumed>|\().*\) = )(\d+)$")
BEGIN = b"""2 1.000000 execve("/usr/bin/apptainer", ["apptainer"], 0x1 /* 0 vars */) = 0
2 1.000000 clone(child_stack=0x1, flags=CLONE_NEWPID|SIGCHLD) = 3
3 1.000000 execve("/.sb/sbseal", ["sbseal"], 0x1 /* 0 vars */) = 0
3 1.000000 clone(child_stack=NULL, flags=SIGCHLD) = 2
4 1.000000 +++ exited with 0 +++
3 1.000000 clone(child_stack=NULL, flags=SIGCHLD) = 3
5 1.000000 execve("/bin/sh", ["sh"], 0x1 /* 0 vars */) = 0
"""


class Stream:
    """A trace without end; `seconds` is the time that making it took."""

    def __init__(self, quiet_share: int) -> None:
        self.seconds = 0.0
        lines = (RECORDED / "acts-audit.trace").read_bytes().splitlines(keepends=True)
        begin = next(i for i, line in enumerate(lines) if b'execve("/tmp/acts"' in line)
        # The program's own: the launcher's processes began before it.
        self._lines = [line for line in lines[begin:] if int(line.split()[0]) >= 11159]
        full = (RECORDED / "thread-executes-full.trace").read_bytes().splitlines(keepends=True)
        quiet = [line.split(b" ", 1)[1] for line in full if QUIET.match(line)]
        wanted = quiet_share * len(self._lines)
        self._quiet = [quiet[i % len(quiet)] for i in range(wanted)]

    def _round(self, turn: int) -> bytes:
        shift = turn * 32 % 4_000_000

        def later(found: re.Match[bytes]) -> bytes:
            return b"%d" % (int(found[0]) + shift)

        def given(found: re.Match[bytes]) -> bytes:
            return b"%s%d" % (found[1], int(found[2]) + shift)

        shifted = [GIVEN.sub(given, NUMBER.sub(later, line)) for line in self._lines]
        fork = (
            b"5 1.000000 fork( <unfinished ...>\n",
            b"5 1.000000 <... fork resumed>) = %d\n" % (21 + shift),
        )
        executed = next(i for i, line in enumerate(shifted) if b"execve resumed" in line)
        quiet = (b"%d %s" % (11159 + shift, line) for line in self._quiet)
        return b"".join(
            [fork[0], *shifted[: executed + 1], fork[1], *quiet, *shifted[executed + 1 :]]
        )

    def pieces(self, lines: int) -> Iterator[bytes]:
        """At least so many lines."""
        yield BEGIN
        made = turn = 0
        while made < lines:
            begin = time.process_time()
            text = self._round(turn)
            made += text.count(b"\n")
            turn += 1
            self.seconds += time.process_time() - begin
            yield text


def peak_kib() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(lines: int, quiet_share: int) -> dict[str, float]:
    """Read a stream; the first hundredth of it is left to the caches."""
    for _ in Follower().events(Stream(quiet_share).pieces(max(lines // 100, 20_000))):
        pass
    stream, follower, before = Stream(quiet_share), Follower(), peak_kib()
    begin, events = time.process_time(), 0
    for _ in follower.events(stream.pieces(lines)):
        events += 1
    seconds = time.process_time() - begin - stream.seconds
    if follower.counts.unreadable or follower.counts.living > 4:
        raise SystemExit(f"the stream was not understood: {follower.counts}")
    return {
        "lines": follower.counts.lines,
        "lines_per_s": follower.counts.lines / seconds,
        "events_per_line": events / follower.counts.lines,
        "growth_kib": peak_kib() - before,
    }


def main() -> int:
    """Both kinds, one after the other."""
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    run: dict[str, float] = {}
    for kind, share, count in (("audit", 0, lines // 20), ("full", 15, lines)):
        run |= {f"{kind}_{name}": value for name, value in measure(count, share).items()}
    print(json.dumps([run]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
