"""What programs do against their recording, how each has to end, and what has to be told of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from slurmbridge.lifecycle import ProcessState
from slurmbridge.rules import Act, Doubt, Target, Way
from slurmbridge.trace.report import Listing, StreamReport

COMPLETE, FAILED = ProcessState.COMPLETE, ProcessState.EXECUTOR_ERROR
LIMIT = "it was stopped: its trace has reached its limit"
Told = Callable[[StreamReport], object]
# What is refused is noted in another way at level full.
BOTH = ("audit", "full")


@dataclass(frozen=True)
class Case:
    """`name` is what tamper.c calls it; `told` holds of the report."""

    name: str
    state: ProcessState
    code: int | None
    told: Told
    changes: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    # Whether it gets as far as to leave its last file.
    after: bool | None = None
    levels: tuple[str, ...] = ("audit",)
    # At these, nothing is done that the default rules mind: only the record has to be whole.
    harmless_at: tuple[str, ...] = ()


def signals(stream: StreamReport, signal: str, to: Target | None = None) -> int:
    """How often it was sent, with success or without."""
    return sum(
        entry.times
        for entry in stream.signals.entries
        if entry.way is Way.SENT and entry.signal == signal and to in {None, entry.to}
    )


def arrived(stream: StreamReport, signal: str) -> int:
    """How often it arrived."""
    return sum(
        entry.times
        for entry in stream.signals.entries
        if entry.way is Way.ARRIVED and entry.signal == signal
    )


def called(listing: Listing[Any], call: str) -> int:
    """How often a call stands in a list."""
    return sum(entry.times for entry in listing.entries if entry.call == call)


def done(stream: StreamReport, act: Act, name: str) -> int:
    """How often something was done with a name."""
    return sum(
        file.acts.get(act, 0) for files in stream.files for file in files.files if file.name == name
    )


def ended(stream: StreamReport, code: int) -> bool:
    """Whether a process has ended so."""
    return any(entry.code == code for entry in stream.processes.entries)


def executed(stream: StreamReport, name: str) -> bool:
    """Whether a program was executed, or somebody tried."""
    return any(
        program.name == name for entry in stream.processes.entries for program in entry.programs
    )


def _kill_every(stream: StreamReport) -> bool:
    all_of_them = 65535 - 1
    return (
        signals(stream, "SIGKILL", Target.PROCESS) + signals(stream, "SIGKILL", Target.FIRST)
        >= all_of_them
        and signals(stream, "SIGSTOP") >= all_of_them
        and signals(stream, "SIGKILL", Target.GROUP) >= 1
    )


def _flooded(stream: StreamReport) -> bool:
    return Doubt.CUT in stream.doubts


def _own_filter(stream: StreamReport) -> bool:
    return (
        called(stream.unusual, "seccomp") == 1
        and done(stream, Act.CREATED, "/output/after") == 1
        and not done(stream, Act.CREATED, "/output/hidden")
    )


def _io_uring(stream: StreamReport) -> bool:
    calls = ("io_uring_setup", "io_uring_enter", "io_uring_register")
    return all(called(stream.unusual, call) == 1 for call in calls)


def _set_user_id(stream: StreamReport) -> bool:
    names = ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd")
    return stream.modes.total == 1 and all(executed(stream, name) for name in names)


def _daemons(stream: StreamReport) -> bool:
    kept = stream.processes.entries
    return (
        stream.processes_left == 5
        and stream.processes.total == 11
        and sum(entry.signal == "SIGKILL" for entry in kept) == 5
        and done(stream, Act.CREATED, "/output/daemon") >= 5
    )


def _many_arguments(stream: StreamReport) -> bool:
    argvs = [
        program
        for entry in stream.processes.entries
        for program in entry.programs
        if program.name == "/bin/true"
    ]
    return len(argvs) == 2 and not any(
        program.whole and not program.argv_left_out for program in argvs
    )


def _long_names(stream: StreamReport) -> bool:
    long = {
        tried.name
        for files in stream.files
        for tried in files.tried.entries
        if "\\...4095:" in tried.name
    }
    line = r"/output/\x0a12345 1.000000 +++ exited with 0 +++\x0a"
    return len(long) == 27 and done(stream, Act.WRITTEN, line) == 26


def _thread_executes(stream: StreamReport) -> bool:
    [task] = [e for e in stream.processes.entries if e.key == stream.program]
    return task.code == 6 and task.programs[-1].name == "/bin/sh"


def _forged(stream: StreamReport) -> bool:
    return done(stream, Act.CREATED, "/output/trace-report.json") == 1


CASES = {
    "it kills everything that it can reach": Case(
        "kill-all", COMPLETE, 0, lambda s: signals(s, "SIGKILL", Target.ALL) == 1, after=True
    ),
    "it kills, stops and ends the first process": Case(
        "kill-first", FAILED, 143,
        lambda s: all(
            signals(s, name, Target.FIRST) == 1 for name in ("SIGKILL", "SIGSTOP", "SIGTERM")
        ),
        after=True,
    ),
    "it kills and stops every number, its session and its group": Case(
        "kill-every", FAILED, 137, _kill_every, after=True
    ),
    "it floods the trace where that ends it": Case(
        "flood", FAILED, None, _flooded, {"limits": {"trace_mib": 1}}, LIMIT
    ),
    "it floods the trace where that cuts it": Case(
        "flood-a-little", COMPLETE, 0, _flooded,
        {"limits": {"trace_mib": 1, "trace_full": "cut"}}, after=True,
    ),
    # More often than there are numbers, on a node that has the usual 32,768.
    "it forks forty thousand times": Case(
        "forks", COMPLETE, 0, lambda s: s.processes.total == s.processes_ended == 40_001,
        # What the kernel has not yet given back of those that are gone counts as well.
        {"resources": {"memory_mib": 1024}},
    ),
    "it takes more memory than it may": Case(
        "memory", FAILED, None, lambda s: s.processes.total == 1, harmless_at=BOTH
    ),
    "it forks as often as it may at once": Case(
        "forks-at-once", COMPLETE, 0, lambda s: 300 < s.processes.total <= 500,
        {"limits": {"processes": 500}},
    ),
    "vforks within vforks": Case(
        "vfork-bomb", COMPLETE, 0, lambda s: s.processes.total > 300,
        {"limits": {"processes": 500}},
    ),
    "it starts two thousand threads": Case(
        "threads", COMPLETE, 0, lambda s: s.threads == 2000, harmless_at=BOTH
    ),
    "it runs programs with set-user-id": Case("set-user-id", COMPLETE, 0, _set_user_id),
    "daemons that ignore every signal try to outlive it": Case("daemons", COMPLETE, 0, _daemons),
    "it clones past the tracer": Case(
        "untraced", FAILED, 137, lambda s: called(s.refused, "clone") == 1, after=False,
        levels=BOTH,
    ),
    "it asks for io_uring": Case("io-uring", COMPLETE, 0, _io_uring, levels=BOTH),
    "it answers its own calls as a seccomp listener": Case(
        "listener", FAILED, 137, lambda s: called(s.unusual, "seccomp") == 1, after=False,
        levels=BOTH,
    ),
    "its own filter refuses what strace looks at": Case(
        "filter-errno", FAILED, 3, _own_filter, after=True, levels=BOTH
    ),
    "its own filter traps what strace looks at": Case(
        "filter-traps", FAILED, 3, _own_filter, after=True
    ),
    "its own filter hands what strace looks at to a tracer": Case(
        "filter-trace", COMPLETE, 0,
        lambda s: called(s.unusual, "seccomp") == 1
        and done(s, Act.CREATED, "/output/hidden") == 1,
        after=True,
    ),
    # There, strace does not ask to be told of what a filter hands over, and the kernel refuses it.
    "its own filter hands calls to a tracer that takes none": Case(
        "filter-trace", FAILED, 3, _own_filter, after=True, levels=("full",)
    ),
    "its own filter kills it where strace looks": Case(
        "filter-kill", FAILED, 159, lambda s: called(s.unusual, "seccomp") == 1, after=False
    ),
    "it debugs its child and the first process": Case(
        "debugger", COMPLETE, 0, lambda s: called(s.unusual, "ptrace") == 5, levels=BOTH
    ),
    "it writes lines of a trace to every descriptor, and reports to every folder": Case(
        "forge", COMPLETE, 0, _forged, after=None
    ),
    "it executes with thousands of arguments that look like lines": Case(
        "many-arguments", COMPLETE, 0, _many_arguments, harmless_at=BOTH
    ),
    "its names are long, and look like lines": Case(
        "long-names", COMPLETE, 0, _long_names, harmless_at=BOTH
    ),
    "its thread executes a program": Case(
        "thread-executes", FAILED, 6, _thread_executes, levels=BOTH,
        harmless_at=("full",),
    ),
    "it faults twenty thousand times": Case(
        "segfaults", COMPLETE, 0, lambda s: arrived(s, "SIGSEGV") == 20_000, after=True,
        harmless_at=BOTH,
    ),
    "it stops itself until its time is over": Case(
        "stop-itself", FAILED, None, lambda s: signals(s, "SIGSTOP", Target.PROCESS) == 1,
        {"time_limit_minutes": 1}, harmless_at=("audit",),
    ),
}  # fmt: skip
RUNS = [(name, level) for name, case in CASES.items() for level in case.levels]
