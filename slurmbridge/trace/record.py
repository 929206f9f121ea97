"""What a record is worth that is missing, or not whole. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slurmbridge.rules import Doubt, Outcome
from slurmbridge.trace.case import Case
from slurmbridge.trace.report import FORBIDS_PASS, Finding, Listing, StreamReport

# What a record is worth that gives rise to a doubt, without any rule. `fail`: there is no record of
# the program, or what was kept is not what strace wrote. The rest happens to honest programs
# too, as when a job reaches its time limit: somebody has to look.
RECORD: Mapping[Doubt, Outcome] = {
    Doubt.NO_PROGRAM: Outcome.FAIL,
    Doubt.UNREADABLE_LINES: Outcome.ATTENTION,
    Doubt.MISSED_CALLS: Outcome.ATTENTION,
    Doubt.CUT: Outcome.ATTENTION,
    Doubt.BROKEN: Outcome.FAIL,
    Doubt.REMARKS: Outcome.ATTENTION,
    Doubt.NOT_ENDED: Outcome.ATTENTION,
    Doubt.UNKNOWN_RESULTS: Outcome.PASS,
    Doubt.UNCERTAIN_PARENTS: Outcome.PASS,
    Doubt.LEFT_OUT: Outcome.PASS,
}


def of_record(streams: Sequence[StreamReport]) -> Iterator[Finding | None]:
    """What the streams say of themselves, without any rule."""
    if not streams:
        yield Case("there is no record", sure=1).finding("record", "record", Outcome.FAIL)
    for doubt in Doubt:
        if FORBIDS_PASS[doubt]:
            case = doubted(streams, doubt)
            yield case.finding(f"record: {doubt}", "record", RECORD[doubt])


def doubted(streams: Sequence[StreamReport], doubt: Doubt) -> Case:
    """Which streams give rise to a doubt, and where."""
    case = Case(str(doubt))
    for stream in streams:
        if doubt not in stream.doubts:
            continue
        lines = list(_lines_of(stream, doubt))
        if not lines:
            case.against(stream, 0, str(doubt))
        for line, text in lines:
            case.against(stream, line, text)
        listing = _LISTINGS[doubt](stream) if doubt in _LISTINGS else None
        case.unlisted(listing.left_out if listing else 0, sure=True)
    return case


_LISTINGS: Mapping[Doubt, Callable[[StreamReport], Listing[Any]]] = {
    Doubt.UNREADABLE_LINES: lambda stream: stream.unreadable,
    Doubt.MISSED_CALLS: lambda stream: stream.missed,
    Doubt.REMARKS: lambda stream: stream.remarks,
}


def _lines_of(stream: StreamReport, doubt: Doubt) -> Iterator[tuple[int, str]]:
    """Where a doubt comes from, if there is such a line."""
    if doubt is Doubt.UNREADABLE_LINES:
        yield from ((entry.line, entry.text) for entry in stream.unreadable.entries)
    elif doubt is Doubt.REMARKS:
        yield from ((entry.line, entry.text) for entry in stream.remarks.entries)
    elif doubt is Doubt.MISSED_CALLS:
        for mark in stream.missed.entries:
            yield mark.line, f"one call of process {mark.process.pid} after this line"
    elif doubt is Doubt.NOT_ENDED:
        for entry in stream.processes.entries:
            if entry.ended is None:
                yield entry.line, f"process {entry.key.pid} starts, and its end is not told"
