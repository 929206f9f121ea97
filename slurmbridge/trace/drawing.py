"""The timeline of one node, drawn as SVG: who ran when, and what happened at which moment.

Bounded: of many processes the most telling ones have a lane, and of many moments that fall
together one mark is drawn. What is left out is said below the drawing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from slurmbridge.rules import Place
from slurmbridge.trace.markup import Markup, joined, short, tag, told
from slurmbridge.trace.report import Act, Kind, ProcessEntry, ProcessKey, StreamReport
from slurmbridge.trace.words import command, end, in_order, number, of, seconds, tasks

# Units of the drawing: its width, where the time begins and ends, the height of a row.
WIDTH, LEFT, RIGHT, ROW = 1000, 290, 980, 18
LANES = 60
_MOST_MARKS = 640
# Moments of one row that are nearer to each other than this are one mark.
_NEAR = 5
_TITLE = 100
_SIGNAL, _PROGRAM = "signal", "program"
# The shape of each mark around its place; what is not named here is a circle.
_SHAPES: Mapping[str, str] = {
    Place.UNEXPECTED: "M0-6 6 0 0 6-6 0z",
    Kind.NETWORK: "M0-5 5 4-5 4z",
    Kind.REFUSED: "M-4-4 4 4M-4 4 4-4",
    Kind.UNUSUAL: "M-4-4H4V4H-4z",
    _SIGNAL: "M0 5 5-4-5-4z",
    Kind.MISSED: "M-5 0H5M0-5V5",
    _PROGRAM: "M0-6V6",
}
_CIRCLE = "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0"
# From above to below: what matters most comes first.
_ROWS: Mapping[str, str] = {
    Place.UNEXPECTED: "unexpected files",
    Kind.NETWORK: "network",
    Kind.REFUSED: "refused calls",
    Kind.UNUSUAL: "unusual calls",
    _SIGNAL: "signals",
    Kind.MISSED: "calls missed by strace",
    **{
        place: f"{place}: first accesses"
        for place in (
            Place.INPUT,
            Place.OUTPUT,
            Place.CODE,
            Place.REQUIREMENT,
            Place.TEMPORARY,
            Place.IMAGE,
            Place.SYSTEM,
        )
    },
}
_ON_LANES = (*list(_ROWS)[:6], _PROGRAM)
_PLACE_OF = {f"{act} {place}": place for act in Act for place in Place}
_ROW_OF = {kind: kind for kind in (Kind.NETWORK, Kind.REFUSED, Kind.UNUSUAL, Kind.MISSED)}


class Note(NamedTuple):
    """Something that happened at a moment, and in which row it is drawn."""

    row: str
    time: int
    process: ProcessKey
    text: str


class Scale:
    """Where a time is drawn, by whole numbers alone: they may be of any size."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, max(high, low + 1)

    def tenths(self, time: int) -> int:
        """In tenths of a unit, from the left edge of the drawing."""
        width = 10 * (RIGHT - LEFT)
        inside = min(max(time, self.low), self.high)
        return 10 * LEFT + (inside - self.low) * width // (self.high - self.low)

    def x(self, time: int) -> str:
        """In units, as an attribute says it."""
        return _units(self.tenths(time))

    def step(self) -> int:
        """The distance of two lines of the axis: 1, 2 or 5, with zeros."""
        power = 1
        while True:
            for factor in (1, 2, 5):
                if (self.high - self.low) // (factor * power) <= 10:
                    return factor * power
            power *= 10


def _units(tenths: int) -> str:
    whole, part = divmod(tenths, 10)
    return f"{whole}.{part}" if part else str(whole)


def notes(stream: StreamReport) -> list[Note]:
    """All moments that can be drawn, in the order of their time."""
    found = []
    for moment in stream.timeline:
        row: str | None = _ROW_OF.get(moment.kind)
        if moment.kind is Kind.ACCESS:
            row = _PLACE_OF.get(moment.text.partition(": ")[0], Place.UNEXPECTED)
        elif moment.kind is Kind.PROGRAM:
            row = _PROGRAM
        if row is not None:
            found.append(Note(row, moment.at.time, moment.at.process, moment.text))
    for signal in stream.signals.entries:
        text = f"{signal.signal} {signal.way}"
        found.append(Note(_SIGNAL, signal.first.time, signal.first.process, text))
    return sorted(found, key=lambda note: note.time)


def scale_of(stream: StreamReport) -> Scale:
    """From the first to the last time of the report."""
    times = [note.time for note in notes(stream)]
    for entry in stream.processes.entries:
        times += [entry.started] if entry.ended is None else [entry.started, entry.ended]
    times += [time for time in (stream.began, stream.ended) if time is not None]
    return Scale(min(times, default=0), max(times, default=0))


def drawn(stream: StreamReport) -> list[ProcessEntry]:
    """The processes with a lane: first those of tasks, then with marks, then the longest."""
    entries = in_order(stream)
    if len(entries) <= LANES:
        return entries
    firsts = {stream.program, *stream.tasks}
    marked = {note.process for note in notes(stream) if note.row != _PROGRAM}
    last = scale_of(stream).high

    def rank(entry: ProcessEntry) -> tuple[bool, bool, int, int]:
        length = (last if entry.ended is None else entry.ended) - entry.started
        return (entry.key not in firsts, entry.key not in marked, -length, entry.line)

    best = {entry.key for entry in sorted(entries, key=rank)[:LANES]}
    return [entry for entry in entries if entry.key in best]


class _Drawing:
    def __init__(self, stream: StreamReport, room: int) -> None:
        self._stream = stream
        self._scale = scale_of(stream)
        self._marks_left = min(_MOST_MARKS, room)
        self.marks_left_out = 0
        self._parts: list[Markup] = []
        self._y = ROW + 8

    def _time(self, time: int) -> str:
        return f"{seconds(self._stream.began, time, 3)} s"

    def _label(self, text: str, indent: int = 0) -> Markup:
        """Clipped by an svg of its own: no sign is too wide or too high for it."""
        label = tag("text", short(text, 41 - indent), x=6 + 6 * indent, y=13)
        return tag("svg", label, class_="label", y=self._y, width=LEFT - 8, height=ROW)

    def _marks(self, row: str, marks: Sequence[Note]) -> None:
        """One mark for those that fall together."""
        groups: list[tuple[int, list[Note]]] = []
        for note in marks:
            at = self._scale.tenths(note.time)
            if groups and at - groups[-1][0] < 10 * _NEAR:
                groups[-1][1].append(note)
            else:
                groups.append((at, [note]))
        fitting = groups[: max(self._marks_left, 0)]
        self._marks_left -= len(fitting)
        self.marks_left_out += sum(len(group) for _, group in groups[len(fitting) :])
        self._parts += [self._mark(row, at, group) for at, group in fitting]

    def _mark(self, row: str, at: int, group: Sequence[Note]) -> Markup:
        first = group[0]
        times = "" if len(group) == 1 else f" and {len(group) - 1} more beside it"
        what = short(first.text, _TITLE) or "a call"
        title = f"{self._time(first.time)}, process {first.process.pid}: {what}{times}"
        return tag(
            "path",
            tag("title", title),
            class_=f"m {row}",
            transform=f"translate({_units(at)} {self._y + ROW // 2})",
            d=_SHAPES.get(row, _CIRCLE),
        )

    def row(self, row: str, marks: Sequence[Note]) -> None:
        """What happened of one sort."""
        self._parts.append(self._label(_ROWS[row]))
        y = self._y + ROW // 2
        self._parts.append(tag("path", class_="thread", d=f"M{LEFT} {y}H{RIGHT}"))
        self._marks(row, marks)
        self._y += ROW

    def gap(self, text: str) -> None:
        """What the following rows are."""
        self._parts.append(tag("text", text, class_="head", x=6, y=self._y + ROW))
        self._y += ROW + 8

    def lane(self, entry: ProcessEntry, indent: int, task: str, marks: Sequence[Note]) -> None:
        """A process."""
        what = short(command(entry), 200) if entry.programs else "(copy of its parent)"
        until = "" if entry.ended is None else f" to {self._time(entry.ended)}"
        title = f"process {entry.key.pid}{task}, {self._time(entry.started)}{until}, {end(entry)}"
        start = self._scale.tenths(entry.started)
        stop = 10 * RIGHT if entry.ended is None else self._scale.tenths(entry.ended)
        bar = tag(
            "rect",
            tag("title", f"{title}: {what}"),
            class_="bar open" if entry.ended is None else "bar",
            x=_units(start),
            y=self._y + 4,
            width=_units(max(stop - start, 10)),
            height=ROW - 8,
        )
        self._parts += [self._label(f"{entry.key.pid}{task} {what}", indent), bar]
        if entry.signal is not None or entry.code:
            x, y = _units(max(stop, start + 10)), self._y + 2
            self._parts.append(tag("path", class_="badend", d=f"M{x} {y}v{ROW - 4}"))
        for row in _ON_LANES:
            self._marks(row, [note for note in marks if note.row == row])
        self._y += ROW

    def alive(self, entries: Iterable[ProcessEntry]) -> None:
        """How many processes there were at each time."""
        low, width = 10 * LEFT, RIGHT - LEFT
        changes = [0] * (width + 2)
        for entry in entries:
            stop = 10 * RIGHT if entry.ended is None else self._scale.tenths(entry.ended)
            changes[(self._scale.tenths(entry.started) - low) // 10] += 1
            changes[max((stop - low) // 10, 0) + 1] -= 1
        alive, most = [], 0
        for change in changes[: width + 1]:
            most += change
            alive.append(most)
        top, height = max([*alive, 1]), 3 * ROW
        self._parts.append(self._label(f"listed processes at a time, up to {top}"))
        base, path = self._y + height, [f"M{LEFT} {self._y + height}"]
        for x, count in enumerate(alive):
            if x == 0 or count != alive[x - 1]:
                path.append(f"H{LEFT + x}V{base - max(count, 0) * height // top}")
        self._parts.append(tag("path", class_="alive", d=f"{''.join(path)}H{RIGHT}V{base}z"))
        self._y += height + 6

    def _axis(self) -> Iterable[Markup]:
        scale, began = self._scale, self._stream.began
        base = scale.low if began is None else began
        step = scale.step()
        time = base - (base - scale.low) // step * step
        digits = next(n for n in range(7) if step * 10**n % 10**6 == 0)
        while time <= scale.high:
            x = scale.x(time)
            yield tag("path", class_="grid", d=f"M{x} {ROW + 4}V{self._y}")
            for y in (ROW, self._y + ROW - 4):
                label = seconds(base, time, digits)
                yield tag("text", label, class_="tick", x=x, y=y, text_anchor="middle")
            time += step

    def svg(self, title: str, desc: str, name: str) -> Markup:
        """The whole drawing."""
        axis = list(self._axis())
        unit = tag("text", "seconds", class_="tick", x=6, y=ROW)
        return tag(
            "svg",
            tag("title", title, id=f"{name}-title"),
            tag("desc", desc, id=f"{name}-desc"),
            unit,
            *axis,
            *self._parts,
            role="img",
            aria_labelledby=f"{name}-title {name}-desc",
            viewBox=f"0 0 {WIDTH} {self._y + ROW + 4}",
            class_="timeline",
        )


def timeline(stream: StreamReport, name: str, room: int) -> Markup:
    """The drawing with what it leaves out; `room` bounds its marks."""
    entries, lanes = in_order(stream), drawn(stream)
    by_row: dict[str, list[Note]] = {}
    by_process: dict[ProcessKey, list[Note]] = {}
    for note in notes(stream):
        by_row.setdefault(note.row, []).append(note)
        by_process.setdefault(note.process, []).append(note)
    drawing = _Drawing(stream, room)
    for row in _ROWS:
        if row in by_row:
            drawing.row(row, by_row[row])
    drawing.gap("processes: from start to end")
    if len(lanes) < len(entries):
        drawing.alive(entries)
    numbers, levels = tasks(stream), levels_of(entries)
    for entry in lanes:
        task = f" task {numbers[entry.key]}" if entry.key in numbers else ""
        drawing.lane(entry, min(levels[entry.key], 8), task, by_process.get(entry.key, []))
    desc = (
        f"{len(lanes)} of {stream.processes.total} processes as bars from start to end, and marks "
        "where something happened. The same is told in the tables."
    )
    svg = drawing.svg("What happened when", desc, name)
    return tag("figure", tag("div", svg, class_="wide"), _caption(stream, lanes, drawing))


def levels_of(entries: Iterable[ProcessEntry]) -> dict[ProcessKey, int]:
    """How deep each process is in the tree."""
    levels: dict[ProcessKey, int] = {}
    for entry in entries:
        levels[entry.key] = 0 if entry.parent is None else levels.get(entry.parent, -1) + 1
    return levels


def _caption(stream: StreamReport, lanes: Sequence[ProcessEntry], drawing: _Drawing) -> Markup:
    said = [
        "A bar that is closed by a thick line ended with an error or by a signal; a dashed one "
    ]
    said.append("has no recorded end. A short line on a bar is a program that was executed. ")
    said.append("Moments that are close together share one mark. ")
    listed, total = len(stream.processes.entries), stream.processes.total
    if len(lanes) < listed:
        said.append(
            f"{len(lanes)} of {number(total)} processes are drawn: the first, those with marks, "
            f"and those that lived longest. The curve counts the {number(listed)} that the report "
            "lists. "
        )
    if listed < total:
        said.append(
            f"{of(total - listed, 'process is', 'processes are')} not listed in the report at all. "
        )
    if drawing.marks_left_out:
        said.append(f"{of(drawing.marks_left_out, 'moment is', 'moments are')} not drawn. ")
    if missing := sum(stream.timeline_left_out.values()):
        said.append(f"{of(missing, 'moment is', 'moments are')} not listed in the report. ")
    return tag("figcaption", joined(map(told, said)))
