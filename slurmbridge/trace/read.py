"""From kept traces to a report, its page and its summary. Runs in a process of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import BinaryIO

import zstandard

from slurmbridge.model import TraceSummary
from slurmbridge.rules import Place, TraceRules
from slurmbridge.spec import TraceLevel
from slurmbridge.trace.fold import Folding
from slurmbridge.trace.follow import Follower
from slurmbridge.trace.judge import SiteRules, judge
from slurmbridge.trace.page import page
from slurmbridge.trace.report import Act, Doubt, Limits, StreamReport, TraceReport

_PIECE = 64 * 1024
# zstd's own default; a frame that asks for more memory was not made by the script.
_WINDOW = 128 * 1024 * 1024
_TOLD = 20


@dataclass(frozen=True, slots=True)
class StreamFile:
    """What strace recorded on one node, compressed, and whether it was cut at its limit."""

    name: str
    path: Path
    cut: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be read, and by which rules it is judged."""

    process_id: str
    level: TraceLevel
    streams: tuple[StreamFile, ...]
    site: SiteRules
    own: TraceRules | None
    limits: Limits
    # Between the pods of the Process. None: there is none.
    network: IPv4Network | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The report as JSON, its page, and its summary."""

    report: bytes
    page: bytes
    summary: TraceSummary


def read(reading: Reading) -> Read:
    """Read all streams and judge them. Whatever stands in them, there is a report."""
    streams = tuple(
        read_stream(stream, reading.level, reading.limits) for stream in reading.streams
    )
    return finish(reading, streams)


def finish(reading: Reading, streams: tuple[StreamReport, ...]) -> Read:
    """The report of streams that were read; without any, it fails."""
    report = TraceReport(
        process_id=reading.process_id,
        level=reading.level,
        streams=streams,
        verdict=judge(streams, reading.site, reading.own, network=reading.network),
    )
    return Read(report.json_text().encode(), page(report).encode(), summary(report))


def read_stream(stream: StreamFile, level: TraceLevel, limits: Limits) -> StreamReport:
    """The report of one stream; what is missing or broken of it is among its doubts."""
    doubts = [Doubt.CUT] if stream.cut else []
    # At `full`, strace shows refused calls itself.
    follower = Follower(noted=level is not TraceLevel.FULL, cut=stream.cut)
    folding = Folding(limits)
    try:
        with stream.path.open("rb") as file:
            text = Decompressed(file)
            for event in follower.events(text):
                folding.add(event)
            whole = text.whole
    except OSError:
        whole = False
    if not whole:
        doubts.append(Doubt.BROKEN)
    return folding.report(stream.name, doubts=doubts, tasks=follower.tasks)


class Decompressed:
    """The text of a compressed file, in pieces; `whole` afterwards, when it came to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.whole = False

    def __iter__(self) -> Iterator[bytes]:
        frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        try:
            while piece := self._file.read(_PIECE):
                if self.whole:
                    # The script writes one frame.
                    self.whole = False
                    return
                yield frame.decompress(piece)
                self.whole = frame.eof and not frame.unused_data
        except (zstandard.ZstdError, OSError):
            self.whole = False


def summary(report: TraceReport) -> TraceSummary:
    """What stands in the database, and is shown with the Process."""
    streams = report.streams
    names = {act: sum(_names(stream, act) for stream in streams) for act in Act}
    doubts = sorted({doubt for stream in streams for doubt in stream.doubts})
    return TraceSummary(
        verdict=report.verdict.outcome,
        findings=tuple(
            f"{finding.outcome}: {finding.message}" for finding in report.verdict.findings[:_TOLD]
        ),
        doubts=tuple(str(doubt) for doubt in doubts),
        processes=sum(stream.processes.total for stream in streams),
        programs=names[Act.EXECUTED],
        files_read=names[Act.READ],
        files_written=names[Act.WRITTEN],
        files_created=names[Act.CREATED],
        files_deleted=names[Act.DELETED],
        files_renamed=names[Act.RENAMED],
        files_unexpected=sum(_unexpected(stream) for stream in streams),
        network=sum(stream.network.total + stream.network_tried.total for stream in streams),
        refused=sum(stream.refused.total for stream in streams),
        unusual=sum(stream.unusual.total for stream in streams),
    )


def _names(stream: StreamReport, act: Act) -> int:
    return sum(act in file.acts for files in stream.files for file in files.files)


def _unexpected(stream: StreamReport) -> int:
    return sum(len(files.files) for files in stream.files if files.place is Place.UNEXPECTED)
