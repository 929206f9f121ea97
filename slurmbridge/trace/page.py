"""The report as one HTML page, for a data owner who has to decide. It needs nothing but itself.

No script, no picture, no font, nothing from elsewhere. Everything that the report tells is text
of the program, or may be: slurmbridge/trace/markup.py escapes it.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files

from slurmbridge.rules import Outcome, Place
from slurmbridge.spec import TraceLevel
from slurmbridge.trace import words
from slurmbridge.trace.drawing import timeline
from slurmbridge.trace.lists import Lists, fill, rest, table
from slurmbridge.trace.markup import Markup, joined, name, short, tag
from slurmbridge.trace.report import (
    FORBIDS_PASS,
    Doubt,
    Evidence,
    Finding,
    StreamReport,
    TraceReport,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# Nodes that are told in full; signs for all lists, for one of them, for the drawing of one node.
NODES = 64
_ROOM, _MOST, _DRAWING = 10_000_000, 250_000, 32_000
_LISTS = 30
_EVIDENCE = 20
_SIGNS = {Outcome.PASS: "✓", Outcome.ATTENTION: "!", Outcome.FAIL: "✗"}
_BLIND = (
    "In no such report: what is read and written through memory that is mapped, data in pipes "
    "between the program's own processes, and what the program computes. That a file was read and "
    "another was written is known; whether the one holds the other is not."
)
_PLACES = (Place.UNEXPECTED, *(place for place in Place if place is not Place.UNEXPECTED))


@cache
def _style() -> Markup:
    return Markup(files("slurmbridge.trace").joinpath("page.css").read_text("utf-8"))


def page(report: TraceReport) -> str:
    """The page: the same report gives the same page."""
    title = f"What Process {short(report.process_id, 64)} did: {report.verdict.outcome}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", _style()),
    )
    told = _told(report)
    room = min(_MOST, _ROOM // (_LISTS * max(len(told), 1)))
    body = tag(
        "body",
        tag("header", tag("h1", "What the Process ", name(report.process_id), " did")),
        tag(
            "main",
            _verdict(report, room),
            _doubts(report),
            _nodes(report, told, room) if len(report.streams) > 1 else Markup(),
            *(_stream(report, index, room) for index in told),
        ),
        tag("footer", _footer(report)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _told(report: TraceReport) -> list[int]:
    """The nodes that are told in full: of many, those that findings name and that have doubts."""
    named = {e.stream for finding in report.verdict.findings for e in finding.evidence}

    def rank(index: int) -> tuple[bool, bool, int]:
        stream = report.streams[index]
        return (stream.name not in named, not stream.doubts, index)

    return sorted(sorted(range(len(report.streams)), key=rank)[:NODES])


def _verdict(report: TraceReport, room: int) -> Markup:
    verdict = report.verdict
    several = len(report.streams) > 1
    shown = fill((_finding(finding, several) for finding in words.worst_first(verdict)), _MOST)
    asked = f"{words.of(verdict.rules, 'rule was', 'rules were')} asked. "
    if verdict.rules_sha256:
        asked += "SHA-256 of the site's rules: "
    return tag(
        "section",
        tag("h2", "Verdict"),
        tag("p", f"{_SIGNS[verdict.outcome]} {verdict.outcome}", class_="outcome"),
        tag("p", words.OUTCOMES[verdict.outcome]),
        tag("ol", *shown, class_="findings") if shown else Markup(),
        rest(len(verdict.findings), len(shown), 0),
        tag("p", asked, name(verdict.rules_sha256), class_="dim"),
        class_=f"verdict {verdict.outcome}",
    )


def _finding(finding: Finding, several: bool) -> Markup:
    def row(evidence: Evidence) -> tuple[str, ...]:
        line = str(evidence.line) if evidence.line else "-"
        node = (name(evidence.stream),) if several else ()
        return (line, *node, name(evidence.text))

    shown = finding.evidence[:_EVIDENCE]
    heads = ("line", *(("node",) if several else ()), "what it tells")
    lines = table(heads, map(row, shown), _MOST)[0] if shown else Markup()
    hidden = len(finding.evidence) - len(shown) + finding.left_out
    more = words.of(hidden, "more line") if hidden else ""
    sign = _SIGNS[finding.outcome]
    return tag(
        "li",
        tag("p", tag("strong", f"{sign} {finding.outcome}: "), finding.message),
        tag("p", name(finding.rule), f", {words.SOURCES[finding.source]}", class_="dim"),
        lines,
        tag("p", more, class_="rest") if more else Markup(),
        class_=f"finding {finding.outcome}",
    )


def _doubts(report: TraceReport) -> Markup:
    found = [
        (doubt, [stream.name for stream in report.streams if doubt in stream.doubts])
        for doubt in Doubt
    ]
    items = [_doubt(doubt, nodes, report) for doubt, nodes in found if nodes]
    whole = "Nothing says that anything is missing from the record."
    if not report.streams:
        whole = "There is no record at all."
    return tag(
        "section",
        tag("h2", "Whether the record tells all"),
        tag("ul", *items, class_="doubts") if items else tag("p", whole),
        tag("p", f"Level {report.level}. {words.LEVELS[report.level]}"),
        tag("p", _BLIND),
    )


def _doubt(doubt: Doubt, nodes: list[str], report: TraceReport) -> Markup:
    forbids = FORBIDS_PASS[doubt]
    where = ""
    if len(report.streams) > 1:
        more = f" and {words.number(len(nodes) - 5)} more" if len(nodes) > 5 else ""
        where = f" Nodes: {', '.join(short(node, 64) for node in nodes[:5])}{more}."
    return tag(
        "li",
        tag("strong", f"{'✗ ' if forbids else ''}{doubt}: "),
        words.DOUBTS[doubt],
        tag("strong", " Nothing can pass with this doubt.") if forbids else "",
        where,
        class_="forbids" if forbids else "mere",
    )


def _nodes(report: TraceReport, told: Iterable[int], room: int) -> Markup:
    """All nodes beside each other."""
    full = set(told)

    def row(index: int) -> tuple[str, ...]:
        stream = report.streams[index]
        title = name(stream.name)
        unexpected = sum(
            sum(files.acts.values()) + files.tried.total
            for files in stream.files
            if files.place is Place.UNEXPECTED
        )
        counts = (
            stream.processes.total,
            unexpected,
            stream.network.total + stream.network_tried.total,
            stream.refused.total,
            stream.unusual.total,
        )
        return (
            tag("a", title, href=f"#node-{index + 1}") if index in full else title,
            _duration(stream),
            *map(words.number, counts),
            ", ".join(stream.doubts) or "none",
        )

    heads = ("node", "duration", "processes", "unexpected", "network", "refused", "unusual")
    rows = map(row, range(len(report.streams)))
    body, shown = table((*heads, "doubts"), rows, max(room, _MOST))
    said = ""
    if len(full) < len(report.streams):
        said = f"{len(full)} of {words.number(len(report.streams))} nodes are told in full "
        said += "below: first those that findings name, then those with doubts."
    return tag(
        "section",
        tag("h2", "The nodes"),
        body,
        rest(len(report.streams), shown, 0),
        tag("p", said, class_="rest") if said else Markup(),
    )


def _duration(stream: StreamReport) -> str:
    if stream.began is None or stream.ended is None:
        return "unknown"
    return f"{words.seconds(stream.began, stream.ended, 3)} s"


def _date(micros: int | None) -> str:
    if micros is None:
        return "at an unknown time"
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    except OverflowError:
        return "at a time that no calendar has"
    return f"on {moment:%Y-%m-%d} at {moment:%H:%M:%S} UTC"


def _stream(report: TraceReport, index: int, room: int) -> Markup:
    stream = report.streams[index]
    several = len(report.streams) > 1
    heading, below = ("h3", "h4") if several else ("h2", "h3")
    lists = Lists(stream, room, report.level is TraceLevel.FULL)
    by_place = {files.place: files for files in stream.files}
    places = (lists.place(by_place[place], below) for place in _PLACES if place in by_place)
    parts = (
        ("What ran", (_started(stream), lists.tree(), lists.executed())),
        ("When", (timeline(stream, f"timeline-{index + 1}", max(room, _DRAWING) // 400),)),
        ("", (lists.moments(),)),
        ("Files", (lists.together(), *places, lists.joined(), lists.modes())),
        ("Network", (lists.network(),)),
        ("Refused and unusual calls", (lists.calls(),)),
        ("Signals", (lists.signals(),)),
        ("Gaps and limits", (lists.gaps(), _limits(stream))),
    )
    title = tag("h2", "Node ", name(stream.name)) if several else Markup()
    told = (joined([tag(heading, head) if head else Markup(), *inside]) for head, inside in parts)
    return tag("section", title, *told, id=f"node-{index + 1}", class_="node")


def _started(stream: StreamReport) -> Markup:
    total, ended = stream.processes.total, stream.processes_ended
    said = [
        f"It began {_date(stream.began)} and took {_duration(stream)}. ",
        f"{words.of(total, 'process', 'processes')}, {words.number(ended)} with a recorded end, ",
        f"and {words.of(stream.threads, 'further thread')}. ",
    ]
    if stream.processes_left:
        left = words.of(stream.processes_left, "process was", "processes were")
        said.append(f"{left} alive when the program had ended. ")
    if len(stream.tasks) > 1:
        said.append(f"{words.number(len(stream.tasks))} tasks. ")
    said.append("All times are seconds since that beginning.")
    return tag("p", *said)


def _limits(stream: StreamReport) -> Markup:
    limits = stream.limits
    rows = (
        ("entries in each list, of files in each place", words.number(limits.entries)),
        ("bytes of a name", words.number(limits.name_bytes)),
        ("bytes of the arguments of a program", words.number(limits.argv_bytes)),
        ("generations of processes", words.number(limits.depth)),
        ("programs of one process", words.number(limits.programs)),
        ("left out of the lists for these limits", words.number(stream.left_out)),
        ("names and arguments that were cut", words.number(stream.names_cut)),
        ("calls whose result is not known", words.number(stream.unsure)),
        ("processes whose parent is not certain", words.number(stream.uncertain)),
    )
    missing = ((words.KINDS[kind], count) for kind, count in stream.timeline_left_out.items())
    moments = ((f"moments left out: {what}", words.number(count)) for what, count in missing)
    return table(("limit of the report, or what it left out", "number"), (*rows, *moments), _MOST)[
        0
    ]


def _footer(report: TraceReport) -> Markup:
    return joined(
        [
            tag(
                "p",
                f"A page of report version {report.version}. It shows the beginning of long lists; "
                "the report itself has more. Signs beyond ASCII in names are underlined: they may "
                "look like others. Names run from left to right, whatever their script; what "
                "cannot be printed stands as \\x and a number.",
            )
        ]
    )
