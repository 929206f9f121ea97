"""The report as plain text for a terminal. Whatever a report holds, no line holds a control."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from slurmbridge.trace.names import printable
from slurmbridge.trace.report import (
    FORBIDS_PASS,
    CallEntry,
    Files,
    Finding,
    Listing,
    ProcessEntry,
    StreamReport,
    TraceReport,
)
from slurmbridge.trace.words import (
    acts,
    argv,
    command,
    contact,
    end,
    in_order,
    moved,
    result,
    rule,
    seconds,
    tasks,
    together,
    worst_first,
)

# Of each list in the summary.
_SHOWN = 10


def summary(report: TraceReport) -> list[str]:
    """The verdict, then whether the record is whole, and how much of what was done."""
    return _lines([*_verdict(report), *_each_stream(report, _summary)])


def files(report: TraceReport) -> list[str]:
    """Every name, by place."""
    return _lines(_each_stream(report, _files))


def network(report: TraceReport) -> list[str]:
    """Every address and socket, with its result."""
    return _lines(_each_stream(report, _network))


def tree(report: TraceReport) -> list[str]:
    """Every process below the one that started it, with its programs and its end."""
    return _lines(_each_stream(report, _tree))


def _lines(lines: Iterable[str]) -> list[str]:
    return [printable(line).rstrip() for line in lines]


def _each_stream(
    report: TraceReport, view: Callable[[StreamReport], Iterable[str]]
) -> Iterator[str]:
    several = len(report.streams) > 1
    for stream in report.streams:
        if several:
            yield f"node {stream.name}:"
        for line in view(stream):
            yield f"  {line}" if several else line


def _times(times: int) -> str:
    return "" if times == 1 else f" ({times} times)"


def _left_out(count: int) -> list[str]:
    return [f"  ... {count} left out"] if count else []


def _rest(listing: Listing[Any]) -> list[str]:
    """What the summary does not show of a list."""
    more = max(len(listing.entries) - _SHOWN, 0)
    return ([f"  ... {more} more entries"] if more else []) + _left_out(listing.left_out)


def _verdict(report: TraceReport) -> Iterator[str]:
    verdict = report.verdict
    yield f"verdict: {verdict.outcome}"
    for finding in worst_first(verdict):
        yield from _finding(finding, len(report.streams) > 1)


def _finding(finding: Finding, several: bool) -> Iterator[str]:
    yield f"{finding.outcome}: {finding.message} ({rule(finding)})"
    for evidence in finding.evidence[:_SHOWN]:
        node = f"node {evidence.stream}" if several else ""
        line = f"line {evidence.line}" if evidence.line else ""
        where = together(node, line)
        yield f"  {where}: {evidence.text}" if where else f"  {evidence.text}"
    more = max(len(finding.evidence) - _SHOWN, 0) + finding.left_out
    if more:
        yield f"  ... {more} more lines"


def _summary(stream: StreamReport) -> Iterator[str]:
    yield from _programs(stream)
    if stream.began is not None and stream.ended is not None:
        yield f"duration: {seconds(stream.began, stream.ended)} s"
    total = stream.processes.total
    yield f"processes: {total}, ended: {stream.processes_ended}, further threads: {stream.threads}"
    if stream.processes_left:
        yield f"alive when the program had ended: {stream.processes_left}"
    for place in stream.files:
        done = together(acts(place.acts), moved(place.bytes_read, place.bytes_written))
        if done or place.tried.total:
            failed = f"{place.tried.total} failed" if place.tried.total else ""
            yield f"{place.place}: {together(done, failed)}"
    yield f"network: {stream.network.total} calls, {stream.network_tried.total} failed"
    yield from _calls("unusual", stream.unusual)
    yield from _calls("refused", stream.refused)
    for signal in stream.signals.entries[:_SHOWN]:
        to = f" to {signal.to}" if signal.to else ""
        yield f"signal {signal.way}: {signal.signal}{to}{_times(signal.times)}"
    yield from _rest(stream.signals)
    yield from _gaps(stream)


def _gaps(stream: StreamReport) -> Iterator[str]:
    """What the record does not tell, as far as it is known."""
    for mark in stream.missed.entries[:_SHOWN]:
        yield f"missed: one call after line {mark.line}, by process {mark.process.pid}"
    yield from _rest(stream.missed)
    for what, listing in (("unreadable", stream.unreadable), ("strace", stream.remarks)):
        for line in listing.entries[:_SHOWN]:
            yield f"{what}: line {line.line}: {line.text}"
        yield from _rest(listing)
    for doubt in stream.doubts:
        yield f"doubt: {doubt}{', cannot pass' if FORBIDS_PASS[doubt] else ''}"
    if stream.left_out:
        yield f"left out of the lists: {stream.left_out}"


def _programs(stream: StreamReport) -> Iterator[str]:
    """What was started: the program, or the program of each task."""
    entries = stream.processes.entries
    numbers = tasks(stream)
    if not numbers:
        yield from (f"program: {command(entry)}: {end(entry)}" for entry in entries[:1])
        return
    by_key = {entry.key: entry for entry in entries}
    for key, number in list(numbers.items())[:_SHOWN]:
        found = by_key.get(key)
        how = f"{command(found)}: {end(found)}" if found else "left out"
        yield f"task {number} of {len(stream.tasks)}: {how}"
    if len(numbers) > _SHOWN:
        yield f"  ... {len(numbers) - _SHOWN} more tasks"


def _calls(what: str, calls: Listing[CallEntry]) -> Iterator[str]:
    for call in calls.entries[:_SHOWN]:
        yield f"{what}: {call.call}({call.arguments}): {result(call.error)}{_times(call.times)}"
    yield from _rest(calls)


def _files(stream: StreamReport) -> Iterator[str]:
    for place in stream.files:
        yield from _place(place)
    if stream.joined.total:
        yield "renamed and linked:"
        for entry in stream.joined.entries:
            how = f"{entry.joining}: {result(entry.error)}{_times(entry.times)}"
            yield f"  {entry.name} <- {entry.source}: {how}"
        yield from _left_out(stream.joined.left_out)

    if stream.modes.total:
        yield "modes with set-user-id or set-group-id:"
        for mode in stream.modes.entries:
            yield f"  {mode.name}: {mode.mode}: {result(mode.error)}{_times(mode.times)}"
        yield from _left_out(stream.modes.left_out)


def _place(place: Files) -> Iterator[str]:
    left_out = together(
        acts(place.acts_left_out),
        moved(place.bytes_read_left_out, place.bytes_written_left_out),
    )
    if not (place.files or place.tried.total or left_out):
        return
    yield f"{place.place}:"
    for file in place.files:
        unsure = f"{file.unsure} with unknown result" if file.unsure else ""
        passed = moved(file.bytes_read, file.bytes_written)
        yield f"  {file.name}: {together(acts(file.acts), passed, unsure)}"
    if left_out:
        yield f"  ... left out: {left_out}"
    for tried in place.tried.entries:
        yield f"  {tried.name}: not {tried.act}: {tried.error}{_times(tried.times)}"
    yield from _left_out(place.tried.left_out)


def _network(stream: StreamReport) -> Iterator[str]:
    for title, listing in (("done", stream.network), ("failed", stream.network_tried)):
        if listing.total:
            yield f"{title}:"
            for entry in listing.entries:
                yield f"  {contact(entry)}: {result(entry.error)}{_times(entry.times)}"
            yield from _left_out(listing.left_out)
    if not (stream.network.total or stream.network_tried.total):
        yield "no network call"


def _tree(stream: StreamReport) -> Iterator[str]:
    numbers = tasks(stream)
    for process in in_order(stream):
        number = numbers.get(process.key)
        yield from _process(stream, process, f", task {number}" if number else "")
    yield from _left_out(stream.processes.left_out)


def _process(stream: StreamReport, process: ProcessEntry, task: str) -> Iterator[str]:
    indent = "  " * process.depth
    start = seconds(stream.began, process.started)
    until = "" if process.ended is None else f" to {seconds(stream.began, process.ended)} s"
    threads = f", {process.threads} further threads" if process.threads else ""
    unsure = "" if process.certain else ", parent not certain"
    yield f"{indent}{process.key.pid}{task}: {start}{until}: {end(process)}{threads}{unsure}"
    for program in process.programs:
        failed = f": {result(program.error)}" if program.error else ""
        yield f"{indent}  {program.name} [{argv(program)}]{failed}"
    if process.programs_left_out:
        yield f"{indent}  ... {process.programs_left_out} programs left out"
