"""The report as plain text for a terminal. Whatever a report holds, no line holds a control."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from slurmbridge.trace.names import printable
from slurmbridge.trace.report import (
    FORBIDS_PASS,
    Act,
    CallEntry,
    Files,
    Listing,
    NetworkEntry,
    ProcessEntry,
    Program,
    StreamReport,
)

_SECOND = 1_000_000
# Of each list in the summary.
_SHOWN = 10


def _lines(lines: Iterable[str]) -> list[str]:
    return [printable(line).rstrip() for line in lines]


def _seconds(since: int | None, time: int) -> str:
    micros = time - (time if since is None else since)
    sign = "-" if micros < 0 else ""
    return f"{sign}{abs(micros) // _SECOND}.{abs(micros) % _SECOND:06d}"


def _acts(acts: Mapping[Act, int]) -> str:
    return ", ".join(f"{acts[act]} {act}" for act in Act if acts.get(act))


def _bytes(read: int, written: int) -> str:
    parts = [f"{read} bytes read"] * bool(read) + [f"{written} bytes written"] * bool(written)
    return ", ".join(parts)


def _together(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _times(times: int) -> str:
    return "" if times == 1 else f" ({times} times)"


def _result(error: str) -> str:
    return {"": "done", "?": "result unknown"}.get(error, error)


def _left_out(count: int) -> list[str]:
    return [f"  ... {count} left out"] if count else []


def _rest(listing: Listing[Any]) -> list[str]:
    """What the summary does not show of a list."""
    more = max(len(listing.entries) - _SHOWN, 0)
    return ([f"  ... {more} more entries"] if more else []) + _left_out(listing.left_out)


def _argument(argument: str) -> str:
    if argument and not any(sign in " '" for sign in argument):
        return argument
    quoted = argument.replace("'", "\\x27")
    return f"'{quoted}'"


def _argv(program: Program) -> str:
    more = [] if program.whole and not program.argv_left_out else ["..."]
    return " ".join([*(_argument(argument) for argument in program.argv), *more])


def _end(process: ProcessEntry) -> str:
    if process.signal is not None:
        return f"killed by {process.signal}"
    if process.code is not None:
        return f"exit code {process.code}"
    return "no end recorded" if process.ended is None else "ended"


def summary(report: StreamReport) -> list[str]:
    """What matters first: whether the record is whole, and how much of what was done."""
    return _lines(_summary(report))


def _summary(report: StreamReport) -> Iterator[str]:
    yield from (_program(process) for process in report.processes.entries[:1])
    if report.began is not None and report.ended is not None:
        yield f"duration: {_seconds(report.began, report.ended)} s"
    total = report.processes.total
    yield f"processes: {total}, ended: {report.processes_ended}, further threads: {report.threads}"
    for files in report.files:
        done = _together(_acts(files.acts), _bytes(files.bytes_read, files.bytes_written))
        if done or files.tried.total:
            failed = f"{files.tried.total} failed" if files.tried.total else ""
            yield f"{files.place}: {_together(done, failed)}"
    yield f"network: {report.network.total} calls, {report.network_tried.total} failed"
    yield from _calls("unusual", report.unusual)
    yield from _calls("refused", report.refused)
    for signal in report.signals.entries[:_SHOWN]:
        yield f"signal {signal.way}: {signal.signal}{_times(signal.times)}"
    yield from _rest(report.signals)
    for mark in report.missed.entries[:_SHOWN]:
        yield f"missed: one call after line {mark.line}, by process {mark.process.pid}"
    yield from _rest(report.missed)
    for what, listing in (("unreadable", report.unreadable), ("strace", report.remarks)):
        for line in listing.entries[:_SHOWN]:
            yield f"{what}: line {line.line}: {line.text}"
        yield from _rest(listing)
    for doubt in report.doubts:
        yield f"doubt: {doubt}{', cannot pass' if FORBIDS_PASS[doubt] else ''}"
    if report.left_out:
        yield f"left out of the lists: {report.left_out}"


def _program(process: ProcessEntry) -> str:
    done = [program for program in process.programs if not program.error]
    return f"program: {_argv(done[0]) if done else '?'}: {_end(process)}"


def _calls(what: str, calls: Listing[CallEntry]) -> Iterator[str]:
    for call in calls.entries[:_SHOWN]:
        yield f"{what}: {call.call}({call.arguments}): {_result(call.error)}{_times(call.times)}"
    yield from _rest(calls)


def files(report: StreamReport) -> list[str]:
    """Every name, by place."""
    lines = [line for place in report.files for line in _place(place)]
    joined = [
        f"  {entry.name} <- {entry.source}: {entry.joining}: {_result(entry.error)}"
        f"{_times(entry.times)}"
        for entry in report.joined.entries
    ]
    if report.joined.total:
        lines += ["renamed and linked:", *joined, *_left_out(report.joined.left_out)]
    return _lines(lines)


def _place(place: Files) -> Iterator[str]:
    left_out = _together(
        _acts(place.acts_left_out),
        _bytes(place.bytes_read_left_out, place.bytes_written_left_out),
    )
    if not (place.files or place.tried.total or left_out):
        return
    yield f"{place.place}:"
    for file in place.files:
        unsure = f"{file.unsure} with unknown result" if file.unsure else ""
        moved = _bytes(file.bytes_read, file.bytes_written)
        yield f"  {file.name}: {_together(_acts(file.acts), moved, unsure)}"
    if left_out:
        yield f"  ... left out: {left_out}"
    for tried in place.tried.entries:
        yield f"  {tried.name}: not {tried.act}: {tried.error}{_times(tried.times)}"
    yield from _left_out(place.tried.left_out)


def network(report: StreamReport) -> list[str]:
    """Every address and socket, with its result."""
    lines: list[str] = []
    for title, listing in (("done", report.network), ("failed", report.network_tried)):
        if listing.total:
            entries = (_contact(entry) for entry in listing.entries)
            lines += [f"{title}:", *entries, *_left_out(listing.left_out)]
    return _lines(lines or ["no network call"])


def _contact(entry: NetworkEntry) -> str:
    port = "" if entry.port is None else f"port {entry.port}"
    words = (entry.use, entry.family, entry.address, port, entry.kind)
    what = " ".join(word for word in words if word)
    return f"  {what}: {_result(entry.error)}{_times(entry.times)}"


def tree(report: StreamReport) -> list[str]:
    """Every process below the one that started it, with its programs and its end."""
    children: dict[tuple[int, int] | None, list[ProcessEntry]] = {}
    known = {process.key for process in report.processes.entries}
    for process in report.processes.entries:
        parent = process.parent
        key = None if parent is None or parent not in known else (parent.pid, parent.birth)
        children.setdefault(key, []).append(process)
    lines: list[str] = []
    waiting = children.get(None, [])[::-1]
    while waiting:
        process = waiting.pop()
        lines += _process(report, process)
        waiting += children.pop((process.key.pid, process.key.birth), [])[::-1]
    return _lines([*lines, *_left_out(report.processes.left_out)])


def _process(report: StreamReport, process: ProcessEntry) -> Iterator[str]:
    indent = "  " * process.depth
    start = _seconds(report.began, process.started)
    end = "" if process.ended is None else f" to {_seconds(report.began, process.ended)} s"
    threads = f", {process.threads} further threads" if process.threads else ""
    unsure = "" if process.certain else ", parent not certain"
    yield f"{indent}{process.key.pid}: {start}{end}: {_end(process)}{threads}{unsure}"
    for program in process.programs:
        failed = f": {_result(program.error)}" if program.error else ""
        yield f"{indent}  {program.name} [{_argv(program)}]{failed}"
    if process.programs_left_out:
        yield f"{indent}  ... {process.programs_left_out} programs left out"
