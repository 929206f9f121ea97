"""The report: what a program did, for somebody who has to decide about its data and its outputs.

Names, arguments and the kernel's words are text as slurmbridge/trace/names.py makes it. Times are
microseconds since 1970. Everything is bounded by `Limits`; what is not in a list is counted beside
it, so that the sum of the entries and of what was left out is what really happened.
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field

from slurmbridge.rules import Act as Act  # noqa: PLC0414 (a word of the report as well as of rules)
from slurmbridge.rules import Doubt as Doubt  # noqa: PLC0414
from slurmbridge.rules import Outcome, Place, Target
from slurmbridge.rules import Use as Use  # noqa: PLC0414
from slurmbridge.rules import Way as Way  # noqa: PLC0414
from slurmbridge.spec import TraceLevel
from slurmbridge.values import Value

VERSION: Literal[1] = 1
Count = Annotated[int, Field(ge=0)]


class Limits(Value):
    """How much a report may hold."""

    # Entries of each list; of files, in each place.
    entries: Count
    # Of a name before it is escaped; of a whole argv, one more for each argument.
    name_bytes: Count
    argv_bytes: Count
    # Generations below the first process; programs that one process executes.
    depth: Count
    programs: Count


USUAL = Limits(entries=1000, name_bytes=512, argv_bytes=1024, depth=100, programs=10)


@unique
class Joining(StrEnum):
    """How two names came together."""

    RENAMED = "renamed"
    EXCHANGED = "exchanged"
    HARD_LINK = "hard link"
    SYMBOLIC_LINK = "symbolic link"


@unique
class Kind(StrEnum):
    """What a moment of the timeline tells."""

    START = "start"
    PROGRAM = "program"
    END = "end"
    # The first of its act and place.
    ACCESS = "access"
    NETWORK = "network"
    UNUSUAL = "unusual"
    REFUSED = "refused"
    MISSED = "missed"


# Errors of a try that failed only because nothing was there.
NOTHING_THERE = frozenset({"ENOENT", "ENOTDIR"})
# Whether a doubt forbids every verdict that says pass.
FORBIDS_PASS: Mapping[Doubt, bool] = {
    Doubt.NO_PROGRAM: True,
    Doubt.UNREADABLE_LINES: True,
    Doubt.MISSED_CALLS: True,
    Doubt.CUT: True,
    Doubt.BROKEN: True,
    Doubt.REMARKS: True,
    Doubt.NOT_ENDED: True,
    Doubt.UNKNOWN_RESULTS: False,
    Doubt.UNCERTAIN_PARENTS: False,
    Doubt.LEFT_OUT: False,
}


class ProcessKey(Value):
    """A process of the trace: its number, and which of the trace's births it was."""

    pid: int
    birth: int


class Mark(Value):
    """Where it stands: the line of the trace, the time, the process."""

    line: int
    time: int
    process: ProcessKey


class Program(Value):
    """A program that was executed, or was tried to."""

    name: str
    place: Place
    argv: tuple[str, ...]
    argv_left_out: Count
    # False when strace itself has cut the arguments.
    whole: bool
    error: str
    line: int
    time: int


class ProcessEntry(Value):
    """A process; `ended` is None when the trace does not tell of its end."""

    key: ProcessKey
    parent: ProcessKey | None
    certain: bool
    depth: Count
    line: int
    started: int
    ended: int | None
    code: int | None
    signal: str | None
    # Beside the first.
    threads: Count
    programs: tuple[Program, ...]
    programs_left_out: Count


class FileEntry(Value):
    """What was done with a name; `unsure` of these acts have no known result."""

    name: str
    acts: Mapping[Act, int]
    # The line of the first of each.
    lines: Mapping[Act, int]
    unsure: Count
    bytes_read: Count
    bytes_written: Count
    first: Mark


class TriedEntry(Value):
    """What was tried with a name and failed."""

    name: str
    act: Act
    error: str
    times: Count
    first: Mark


class ExecutedEntry(Value):
    """A program that was executed, or was there and could not be."""

    name: str
    place: Place
    error: str
    times: Count
    first: Mark


class ModeEntry(Value):
    """A mode with set-user-id or set-group-id that a file got, or was tried to be given."""

    name: str
    mode: str
    error: str
    times: Count
    first: Mark


class JoinedEntry(Value):
    """One name for another, or beside it; a symbolic link's source is its text."""

    source: str
    name: str
    joining: Joining
    error: str
    times: Count
    first: Mark


class NetworkEntry(Value):
    """An address that was used or tried; of a socket, its type and protocol.

    A connection that is still being made (EINPROGRESS) is one that was used.
    """

    use: Use
    family: str
    address: str
    port: int | None
    kind: str
    error: str
    times: Count
    first: Mark


class CallEntry(Value):
    """A refused or an unusual call, with the arguments of the first."""

    call: str
    arguments: str
    error: str
    times: Count
    first: Mark


class SignalEntry(Value):
    """A signal; sent by `call` to somebody, or arrived from the kernel (no call) or a process."""

    way: Way
    signal: str
    call: str
    to: Target | None
    error: str
    times: Count
    first: Mark


class LineEntry(Value):
    """A line, or its beginning."""

    line: int
    text: str


class Moment(Value):
    """A point of the timeline."""

    kind: Kind
    at: Mark
    text: str


E = TypeVar("E")


class Listing(Value, Generic[E]):
    """The first of their kind; how often such things happened, and how often it is not listed."""

    entries: tuple[E, ...]
    total: Count
    left_out: Count


class Files(Value):
    """The files of one place."""

    place: Place
    files: tuple[FileEntry, ...]
    # All that was done, listed or not; and what of it is not listed.
    acts: Mapping[Act, int]
    bytes_read: Count
    bytes_written: Count
    acts_left_out: Mapping[Act, int]
    bytes_read_left_out: Count
    bytes_written_left_out: Count
    tried: Listing[TriedEntry]
    # Tries that failed although something was there, listed or not; and what of it is not listed.
    denied: Mapping[Act, int]
    denied_left_out: Mapping[Act, int]


class StreamReport(Value):
    """What happened in the container of one node."""

    # The node.
    name: str
    limits: Limits
    doubts: tuple[Doubt, ...]
    began: int | None
    # The time of the last event.
    ended: int | None
    program: ProcessKey | None
    # The first process of each task.
    tasks: tuple[ProcessKey, ...]
    processes: Listing[ProcessEntry]
    processes_ended: Count
    # That were alive when the first processes of all tasks had ended.
    processes_left: Count
    threads: Count
    # One for each place.
    files: tuple[Files, ...]
    joined: Listing[JoinedEntry]
    # What stands in `files` too: here, files that were only read leave room for it.
    executed: Listing[ExecutedEntry]
    modes: Listing[ModeEntry]
    network: Listing[NetworkEntry]
    network_tried: Listing[NetworkEntry]
    unusual: Listing[CallEntry]
    refused: Listing[CallEntry]
    signals: Listing[SignalEntry]
    missed: Listing[Mark]
    unreadable: Listing[LineEntry]
    remarks: Listing[LineEntry]
    # Calls whose result is not known; processes whose parent is not certain; how often a name or an
    # argument was cut.
    unsure: Count
    uncertain: Count
    names_cut: Count
    timeline: tuple[Moment, ...]
    timeline_left_out: Mapping[Kind, int]
    # Of all lists together.
    left_out: Count

    @property
    def may_pass(self) -> bool:
        """Whether a verdict may say pass at all."""
        return not any(FORBIDS_PASS[doubt] for doubt in self.doubts)


class Evidence(Value):
    """Where the record tells it: the stream, its line (0: no certain one), and what it says."""

    stream: str
    line: Count
    text: str


class Finding(Value):
    """A rule that was not kept, with the lines that decided."""

    rule: str
    # Whose rule: the site's, the Process's own, or what every verdict rests on.
    source: Literal["site", "process", "record"]
    outcome: Outcome
    message: str
    evidence: tuple[Evidence, ...]
    # How many more lines there are.
    left_out: Count


class Verdict(Value):
    """The worst of all findings; `pass` when there is none."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    # How many rules were asked, and the SHA-256 of the site's file.
    rules: Count
    rules_sha256: str


class TraceReport(Value):
    """What a Process did: one report for each node, and the verdict on all of them."""

    version: Literal[1] = VERSION
    process_id: str
    level: TraceLevel
    streams: tuple[StreamReport, ...]
    verdict: Verdict

    def json_text(self) -> str:
        """The report as JSON: the same report gives the same text."""
        return self.model_dump_json()
