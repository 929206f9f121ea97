"""The words for what a report holds: the same in the text and on the page."""

from collections.abc import Mapping

from slurmbridge.rules import Outcome, Place
from slurmbridge.spec import TraceLevel
from slurmbridge.trace.report import (
    Act,
    Doubt,
    Finding,
    Kind,
    NetworkEntry,
    ProcessEntry,
    ProcessKey,
    Program,
    StreamReport,
    Verdict,
)

_SECOND = 1_000_000

OUTCOMES: Mapping[Outcome, str] = {
    Outcome.PASS: "No rule was broken, and no doubt about the record forbids a pass. This is about "
    "the record: what stands in the outputs, somebody still has to look at.",
    Outcome.ATTENTION: "Somebody has to look at what is listed here before they decide.",
    Outcome.FAIL: "A rule was broken that has to be kept, or there is no record to go by.",
}
PLACES: Mapping[Place, str] = {
    Place.INPUT: "The data it was given: /input.",
    Place.CODE: "Its own files: /code.",
    Place.REQUIREMENT: "What was installed for it: /requirements.",
    Place.IMAGE: "The image it ran in: programs and libraries. Nothing of it can be changed.",
    Place.OUTPUT: "What it left to be carried out: /output.",
    Place.TEMPORARY: "Memory that was emptied afterwards: /tmp, /var/tmp, /dev/shm.",
    Place.SYSTEM: "What ordinary programs ask the kernel: /dev/null, processors, their own state.",
    Place.UNEXPECTED: "None of the other places. An ordinary program uses nothing here.",
}
DOUBTS: Mapping[Doubt, str] = {
    Doubt.NO_PROGRAM: "The record tells of no program. Either none was started, or the record "
    "does not show it.",
    Doubt.UNREADABLE_LINES: "Some lines of the record could not be understood. What they told is "
    "not in this report.",
    Doubt.MISSED_CALLS: "strace has missed calls that the program made. The program may have done "
    "one thing more at each of these points.",
    Doubt.CUT: "The record reached its limit. What the program did after that is not in it.",
    Doubt.BROKEN: "The file with the record is damaged or ends too early. What is missing is not "
    "known.",
    Doubt.REMARKS: "strace has said something about itself while it recorded. It may have seen "
    "less than it should have.",
    Doubt.NOT_ENDED: "The record ends before all processes did. What they did afterwards is not in "
    "it.",
    Doubt.UNKNOWN_RESULTS: "Of some calls it is not known whether they succeeded. They are counted "
    "as if they had.",
    Doubt.UNCERTAIN_PARENTS: "Of some processes it is not certain who started them. What they did "
    "is certain.",
    Doubt.LEFT_OUT: "Some lists are not whole: so much was done that not all of it is listed. The "
    "totals are whole.",
}
SOURCES: Mapping[str, str] = {
    "site": "a rule of the site",
    "process": "a rule of the Process itself",
    "record": "what every verdict rests on",
}
KINDS: Mapping[Kind, str] = {
    Kind.START: "process started",
    Kind.PROGRAM: "program executed",
    Kind.END: "process ended",
    Kind.ACCESS: "first access",
    Kind.NETWORK: "network",
    Kind.UNUSUAL: "unusual call",
    Kind.REFUSED: "refused call",
    Kind.MISSED: "call missed by strace",
}
LEVELS: Mapping[TraceLevel, str] = {
    TraceLevel.OFF: "Nothing was recorded.",
    TraceLevel.AUDIT: "Recorded were processes, files that were opened, made, renamed or removed, "
    "network calls, signals, suspicious calls, and calls that the seal refused. Not recorded: how "
    "many bytes were read and written, and which files were only asked about (their size, their "
    "being there).",
    TraceLevel.FULL: "Recorded was every system call; bytes are counted where a call moved them.",
}


def number(count: int) -> str:
    """A count, its thousands apart."""
    return f"{count:,}"


def of(count: int, one: str, many: str = "") -> str:
    """So many of them."""
    return f"{number(count)} {one if count == 1 else many or f'{one}s'}"


def seconds(since: int | None, time: int, digits: int = 6) -> str:
    """Seconds since a moment."""
    micros = time - (time if since is None else since)
    sign = "-" if micros < 0 else ""
    whole, part = divmod(abs(micros), _SECOND)
    return f"{sign}{whole}.{f'{part:06d}'[:digits]}".rstrip(".")


def acts(done: Mapping[Act, int]) -> str:
    """How often which act was done."""
    return ", ".join(f"{number(done[act])} {act}" for act in Act if done.get(act))


def moved(read: int, written: int) -> str:
    """How many bytes passed."""
    return together(
        f"{number(read)} bytes read" if read else "",
        f"{number(written)} bytes written" if written else "",
    )


def together(*parts: str) -> str:
    """Those that say something."""
    return ", ".join(part for part in parts if part)


def result(error: str) -> str:
    """How a call ended."""
    return {"": "done", "?": "result unknown"}.get(error, error)


def _argument(argument: str) -> str:
    if argument and not any(sign in " '" for sign in argument):
        return argument
    quoted = argument.replace("'", "\\x27")
    return f"'{quoted}'"


def argv(program: Program) -> str:
    """The arguments; it ends with dots when there were more."""
    more = [] if program.whole and not program.argv_left_out else ["..."]
    return " ".join([*(_argument(argument) for argument in program.argv), *more])


def command(process: ProcessEntry) -> str:
    """The first program that it really became."""
    done = [program for program in process.programs if not program.error]
    return argv(done[0]) if done else "?"


def end(process: ProcessEntry) -> str:
    """How a process ended."""
    if process.signal is not None:
        return f"killed by {process.signal}"
    if process.code is not None:
        return f"exit code {process.code}"
    return "no end recorded" if process.ended is None else "ended"


def contact(entry: NetworkEntry) -> str:
    """An address, and what was done with it."""
    port = "" if entry.port is None else f"port {entry.port}"
    words = (entry.use, entry.family, entry.address, port, entry.kind)
    return " ".join(word for word in words if word)


def rule(finding: Finding) -> str:
    """Which rule it was, and whose."""
    return f"{finding.rule}, {SOURCES[finding.source]}"


def worst_first(verdict: Verdict) -> list[Finding]:
    """The findings; among those that weigh the same, in the order of the verdict."""
    order = tuple(Outcome)
    return sorted(verdict.findings, key=lambda finding: -order.index(finding.outcome))


def tasks(stream: StreamReport) -> Mapping[ProcessKey, int]:
    """The number of each task, from 1, by its first process; none when there is but one task."""
    if len(stream.tasks) < 2:
        return {}
    return {key: number for number, key in enumerate(stream.tasks, 1)}


def in_order(stream: StreamReport) -> list[ProcessEntry]:
    """The processes as a tree is read: each is followed by those below it."""
    entries = stream.processes.entries
    known = {(entry.key.pid, entry.key.birth) for entry in entries}
    below: dict[tuple[int, int] | None, list[ProcessEntry]] = {}
    for entry in entries:
        parent = None if entry.parent is None else (entry.parent.pid, entry.parent.birth)
        below.setdefault(parent if parent in known else None, []).append(entry)
    found: list[ProcessEntry] = []
    numbers = tasks(stream)
    first = sorted(below.pop(None, []), key=lambda entry: numbers.get(entry.key, len(numbers) + 1))
    waiting = first[::-1]
    while waiting:
        entry = waiting.pop()
        found.append(entry)
        waiting += below.pop((entry.key.pid, entry.key.birth), [])[::-1]
    # No trace makes a circle, but nothing that is in a report may be missing here.
    return found + [entry for rest in below.values() for entry in rest if entry not in found]
