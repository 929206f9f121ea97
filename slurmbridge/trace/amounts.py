"""How much of each quantity a report tells of."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from slurmbridge.rules import Act, Calls, Place, Quantity, Way
from slurmbridge.trace.case import call, contact, signal
from slurmbridge.trace.report import NOTHING_THERE, Files, StreamReport


class Amount(NamedTuple):
    """How much there surely is, how much there may be beside it, and lines in the order of both."""

    sure: int
    unknown: int
    lines: Sequence[tuple[int, str]]
    # Why the record does not tell at all.
    untold: str = ""


_NO_BYTES = "the record does not count bytes; a full trace does"


def in_place(stream: StreamReport, place: Place) -> Files:
    """The files of one place."""
    return next(files for files in stream.files if files.place is place)


def _output_files(stream: StreamReport) -> Amount:
    files = in_place(stream, Place.OUTPUT)
    made = (Act.CREATED, Act.REPLACED)
    lines = [
        (min(entry.lines[act] for act in made if act in entry.lines), entry.name)
        for entry in files.files
        if any(entry.acts.get(act) for act in made)
    ]
    unknown = sum(files.acts_left_out.get(act, 0) for act in made)
    return Amount(len(lines), unknown, lines)


def _output_bytes(stream: StreamReport) -> Amount:
    counted = any(files.bytes_read or files.bytes_written for files in stream.files)
    files = in_place(stream, Place.OUTPUT)
    written = [entry for entry in files.files if entry.bytes_written]
    lines = [(entry.first.line, f"{entry.bytes_written} to {entry.name}") for entry in written]
    return Amount(files.bytes_written, 0, lines, "" if counted else _NO_BYTES)


def _processes(stream: StreamReport) -> Amount:
    entries = stream.processes.entries
    lines = [(entry.line, f"process {entry.key.pid} starts") for entry in entries]
    return Amount(stream.processes.total, 0, lines)


def _programs(stream: StreamReport) -> Amount:
    total = sum(files.acts.get(Act.EXECUTED, 0) for files in stream.files)
    lines = [
        (program.line, f"execute {program.name}")
        for entry in stream.processes.entries
        for program in entry.programs
        if not program.error
    ]
    return Amount(total, 0, sorted(lines))


def _threads(stream: StreamReport) -> Amount:
    lines = [
        (entry.line, f"process {entry.key.pid} with {entry.threads} further threads")
        for entry in stream.processes.entries
        if entry.threads
    ]
    return Amount(stream.threads, 0, lines)


def _seconds(stream: StreamReport) -> Amount:
    if stream.began is None or stream.ended is None:
        return Amount(0, 0, ())
    # Begun seconds: at most 1 is kept by what takes 1.0 s, and not by what takes 1.1 s.
    return Amount(max(-(-(stream.ended - stream.began) // 1_000_000), 0), 0, ())


def _contacts(stream: StreamReport) -> Amount:
    entries = sorted(
        (*stream.network.entries, *stream.network_tried.entries), key=lambda e: e.first.line
    )
    lines = [(entry.first.line, contact(entry)) for entry in entries]
    return Amount(stream.network.total + stream.network_tried.total, 0, lines)


def _listed_calls(stream: StreamReport, listed: Calls) -> Amount:
    listing = stream.unusual if listed is Calls.UNUSUAL else stream.refused
    lines = [(entry.first.line, call(entry)) for entry in listing.entries]
    return Amount(listing.total, 0, lines)


def _signals_sent(stream: StreamReport) -> Amount:
    entries = [entry for entry in stream.signals.entries if entry.way is Way.SENT]
    lines = [(entry.first.line, signal(entry)) for entry in entries]
    return Amount(sum(entry.times for entry in entries), stream.signals.left_out, lines)


def _unexpected(stream: StreamReport) -> Amount:
    files = in_place(stream, Place.UNEXPECTED)
    lines = {entry.name: min(entry.lines.values()) for entry in files.files if entry.lines}
    for tried in files.tried.entries:
        if tried.error not in NOTHING_THERE:
            lines.setdefault(tried.name, tried.first.line)
    unknown = sum(files.acts_left_out.values()) + sum(files.denied_left_out.values())
    return Amount(len(lines), unknown, [(line, name) for name, line in lines.items()])


# Every quantity, and who knows it.
AMOUNTS: Mapping[Quantity, Callable[[StreamReport], Amount]] = {
    Quantity.OUTPUT_FILES: _output_files,
    Quantity.OUTPUT_BYTES: _output_bytes,
    Quantity.PROCESSES: _processes,
    Quantity.PROGRAMS: _programs,
    Quantity.THREADS: _threads,
    Quantity.SECONDS: _seconds,
    Quantity.NETWORK_CALLS: _contacts,
    Quantity.REFUSED_CALLS: lambda stream: _listed_calls(stream, Calls.REFUSED),
    Quantity.UNUSUAL_CALLS: lambda stream: _listed_calls(stream, Calls.UNUSUAL),
    Quantity.SIGNALS_SENT: _signals_sent,
    Quantity.UNEXPECTED_NAMES: _unexpected,
}
